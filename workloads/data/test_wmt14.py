import pickle
from importlib import util

import numpy as np
import pytest

from workloads.data import synthetic_text, wmt14
from workloads.data.subwords import BEGIN, END
from workloads.seq2seq_transformer.workload import Seq2SeqTransformer
from workloads.workload import DataError, workload_scale

LENGTH = 96
TRAIN = synthetic_text.pairs(60)
VALIDATION = synthetic_text.pairs(20, first=60)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Streams of the prepared data set, an own cache beside it."""
    root = tmp_path_factory.mktemp("wmt14")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(root / "data"))
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        synthetic_text.prepare_wmt14(root / "data", TRAIN, VALIDATION)
        yield wmt14.streams(LENGTH)


def examples(stream):
    return [stream.prepare(record, np.random.default_rng(0)) for record in stream.records]


@pytest.mark.parametrize(("part", "expected"), [("train", TRAIN), ("validation", VALIDATION)])
def test_examples_hold_every_pair_once(splits, part, expected):
    decode, found = wmt14.vocabulary().decode, []
    for example in examples(getattr(splits, part)):
        assert example["segment"].max() == example["source_segment"].max() > 0
        for segment in range(1, example["segment"].max() + 1):
            source = example["source"][example["source_segment"] == segment]
            target = example["label"][example["segment"] == segment]
            assert source[-1] == target[-1] == END
            found.append((decode(source), decode(target)))
    assert sorted(found) == sorted(expected)
    assert len(getattr(splits, part).records) < len(expected) / 2


def test_fields(splits):
    for example in examples(splits.validation):
        sides = ("source", "source_segment", "source_position"), ("input", "label", "segment", "position")
        assert example.keys() == set(sides[0] + sides[1])
        assert all(values.shape == (LENGTH,) and values.dtype == np.int32 for values in example.values())
        for names in sides:
            padding = example[names[1] if names[0] == "source" else "segment"] == 0
            assert all(not np.any(example[name][padding]) for name in names)
        starts = (example["position"] == 0) & (example["segment"] > 0)
        assert np.all(example["input"][starts] == BEGIN)
        inside = np.flatnonzero((example["segment"] > 0) & ~starts)
        np.testing.assert_array_equal(example["input"][inside], example["label"][inside - 1])


def test_streams_travel(splits):
    copy = pickle.loads(pickle.dumps(splits.train))
    for one, two in zip(examples(copy), examples(splits.train), strict=True):
        assert all(np.array_equal(one[name], two[name]) for name in two)


def test_pairs_are_those_of_the_split(splits):
    assert sorted(wmt14.pairs("validation")) == sorted(VALIDATION)


def test_the_workload_takes_this_road(splits):
    workload = workload_scale("seq2seq_transformer", "paper").workload
    hashes = workload.data_hashes()
    assert hashes == {
        "wmt14_translate/de-en": hashes["wmt14_translate/de-en"],
        "wmt14_translate/de-en vocabulary": wmt14.vocabulary().sha256,
    }
    train = workload.data(3).train
    example = train.prepare(train.records[0], None)
    assert example["source"].shape == example["label"].shape == (256,)
    assert max(example["source"].max(), example["label"].max()) < workload.classes == 32_000


def test_not_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for ask in (lambda: Seq2SeqTransformer().data(0), Seq2SeqTransformer().data_hashes):
        with pytest.raises(DataError, match=r"^wmt14_translate/de-en: not prepared in .*; prepare it with: .*de-en:1"):
            ask()


@pytest.mark.parametrize("package", ["sacrebleu", "sentencepiece"])
def test_what_the_end_of_a_training_needs_is_missed_at_its_beginning(monkeypatch, package):
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest))
    with pytest.raises(DataError, match=rf"^wmt14_translate/de-en: the package {package} is missing; install it with"):
        wmt14.find()
