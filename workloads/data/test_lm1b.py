import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from workloads.data import lm1b, synthetic_text
from workloads.data.subwords import BEGIN, END, PADDING
from workloads.transformer.workload import Transformer
from workloads.workload import DataError, configure, workload_scale

LENGTH = 40
TRAIN = [f"{german} heißt {english}" for german, english in synthetic_text.pairs(60)]
TEST = [english for _, english in synthetic_text.pairs(20, first=60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The prepared data set, an own cache beside it."""
    root = tmp_path_factory.mktemp("lm1b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(root / "data"))
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield synthetic_text.prepare_lm1b(root / "data", TRAIN, TEST)


@pytest.fixture
def own(folder, tmp_path, monkeypatch):
    """A copy that may be damaged."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(folder, tmp_path / "data" / "lm1b" / folder.name)


@pytest.fixture(scope="module")
def splits(folder):
    return lm1b.streams(LENGTH)


def examples(stream):
    random = np.random.default_rng(0)
    return [stream.prepare(record, random) for record in stream.records]


def sentences(part):
    """The sentences of all examples, and what the model reads of each."""
    found = []
    for example in examples(part):
        for segment in range(1, example["segment"].max() + 1):
            there = example["segment"] == segment
            found.append((lm1b.vocabulary().decode(example["label"][there]), example["input"][there]))
    return found


@pytest.mark.parametrize("part", ["train", "validation"])
def test_examples_hold_every_sentence_once(splits, part):
    found = sentences(getattr(splits, part))
    longest = max(len(inputs) for _, inputs in found)
    assert longest <= LENGTH
    whole = [text for text, inputs in found if len(inputs) < LENGTH]
    texts = TRAIN if part == "train" else TEST
    assert len(found) == len(texts)
    assert set(whole) <= set(texts)
    assert all(any(text.startswith(start) for text in texts) for start, _ in found)
    assert 0 < len(getattr(splits, part).records) < len(texts)


def test_fields(splits):
    for example in examples(splits.validation):
        assert example.keys() == {"input", "label", "segment", "position"}
        assert all(values.shape == (LENGTH,) and values.dtype == np.int32 for values in example.values())
        padding = example["segment"] == 0
        assert all(np.all(values[padding] == PADDING) for values in example.values())
        starts = (example["position"] == 0) & ~padding
        assert np.all(example["input"][starts] == BEGIN)
        inside = np.flatnonzero(~padding & ~starts)
        np.testing.assert_array_equal(example["input"][inside], example["label"][inside - 1])
        assert np.all(example["label"][~padding] > BEGIN)
    assert sum(np.count_nonzero(example["label"] == END) for example in examples(splits.validation)) == len(TEST)


def test_streams_travel(splits):
    copy = pickle.loads(pickle.dumps(splits.train))
    for one, two in zip(examples(copy), examples(splits.train), strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in two)


def test_the_workload_takes_this_road(splits):
    workload = configure(workload_scale("transformer", "paper").workload, {"length": LENGTH})
    hashes = workload.data_hashes()
    assert hashes == {"lm1b": hashes["lm1b"], "lm1b vocabulary": lm1b.vocabulary().sha256}
    first, second = workload.data(0), workload.data(1)
    np.testing.assert_array_equal(first.train.records, splits.train.records)
    np.testing.assert_array_equal(second.train.records, splits.train.records)
    assert first.train.prepare == splits.train.prepare
    ids = np.concatenate([example["label"] for example in examples(first.train)])
    assert ids.max() < workload.classes == 30_000


def test_not_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for ask in (lambda: Transformer().data(0), Transformer().data_hashes):
        with pytest.raises(DataError, match=r"^lm1b: not prepared in .*; prepare it with: .*lm1b:1\.1\.0"):
            ask()


def test_another_version(own):
    own.rename(own.parent / "1.0.0")
    with pytest.raises(DataError, match=r"^lm1b: .* holds version 1\.0\.0, expected 1\.1\.0; prepare it with: "):
        lm1b.streams(LENGTH)


def test_a_damaged_vocabulary(own):
    path = lm1b.vocabulary().folder / "subwords.model"
    path.write_bytes(path.read_bytes()[:-100])
    for ask in (Transformer().data_hashes, lambda: Transformer().data(0)):
        with pytest.raises(DataError, match=r"damaged or foreign vocabulary .* remove the folder and run again$"):
            ask()


def test_damaged_tokens(own):
    path = lm1b.streams(LENGTH).train.prepare.tokens.folder / "text.ids"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"damaged tokens \(text\.ids has .* remove the folder and run again$"):
        lm1b.streams(LENGTH)


def test_nothing_imports_tensorflow(folder):
    code = (
        "import sys; from workloads.data import lm1b; stream = lm1b.streams(24).train; "
        "assert stream.prepare(stream.records[0], None)['label'].any(); "
        "assert not {'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
