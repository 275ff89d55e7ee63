"""Malformed files: good ones that something has happened to, for hypothesis."""

from hypothesis import strategies as st

_TEXTS = [
    "", " ", "\n", "\r\n", "\0", ",", ",,", '"', '""', "'", "=", "[", "]", "[[", "{", "}", "#", ".", "/", "../", "\\",
    "nan", "inf", "-inf", "1e999", "-1", "0", "1e-400", "9" * 400, "0x10", "true", "null", "None", "[]", "{}", "[1, 2]",
    "../../escaped", "/tmp/escaped", "a/b", "é", "\ufeff", "\u202e", "\U0001f600", "\ud7ff", "low", "high", "values",
    "scale", "log", "when", "role", "name", "trials", "learning_rate", "learning_rate = 1", "[space.x]", "x" * 5000,
    "2026-01-01", "__class__", "%s", "{0}", "<script>",
]  # fmt: skip
"""What lies in wait of readers."""


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """One to four changes of a good file: bytes lost, repeated, swapped, put in, and lines or fields treated so."""
    content = good
    for _ in range(draw(st.integers(1, 4))):
        content = draw(_changed(content))
    return content


@st.composite
def _changed(draw: st.DrawFn, content: bytes) -> bytes:
    kind = draw(st.sampled_from(["cut", "drop", "repeat", "insert", "replace", "line", "field", "bytes"]))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind in ("line", "field"):
        apart = b"\n" if kind == "line" else draw(st.sampled_from([b",", b" ", b"=", b'"', b":"]))
        parts = content.split(apart)
        place = draw(st.integers(0, len(parts) - 1))
        other = draw(st.one_of(st.sampled_from(parts), _nasty()))
        parts[place : place + draw(st.integers(0, 2))] = [other] * draw(st.integers(0, 3))
        return apart.join(parts)
    start = draw(st.integers(0, len(content)))
    stop = min(len(content), start + draw(st.integers(0, 40)))
    between = {
        "cut": content[start:start],
        "drop": b"",
        "repeat": content[start:stop] * draw(st.integers(2, 5)),
        "insert": content[start:stop] + draw(_nasty()),
        "replace": draw(_nasty()),
    }[kind]
    return content[:start] + between + (b"" if kind == "cut" else content[stop:])


def _nasty() -> st.SearchStrategy[bytes]:
    texts = st.one_of(st.sampled_from(_TEXTS), st.text(max_size=20), st.floats().map(repr), st.integers().map(str))
    return st.one_of(texts.map(lambda text: text.encode("utf-8", "replace")), st.binary(max_size=8))
