import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from workloads.data import imagenet2012, prepared, synthetic_imagenet
from workloads.data.image_transforms import centre_crop, random_flip, random_resized_crop
from workloads.workload import DataError

TRAIN, VALIDATION = 30, 8


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return synthetic_imagenet.prepare(tmp_path_factory.mktemp("original"), TRAIN, VALIDATION)


@pytest.fixture
def folder(original, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return Path(shutil.copytree(original, tmp_path / "imagenet2012" / "5.1.0"))


def examples(stream, seed=0):
    return [stream.prepare(record, np.random.default_rng(seed + i)) for i, record in enumerate(stream.records)]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one["label"] == other["label"]
        np.testing.assert_array_equal(one["image"], other["image"])


def test_streams(folder):
    splits = imagenet2012.streams(3, 48)
    for stream, count in ((splits.train, TRAIN), (splits.validation, VALIDATION)):
        assert len(stream.records) == count
        for record, example in zip(stream.records, examples(stream), strict=True):
            assert set(example) == {"image", "label"}
            assert example["image"].shape == (48, 48, 3)
            assert example["image"].dtype == np.uint8
            assert example["label"].shape == ()
            assert example["label"].dtype == np.int32
            assert example["label"] == record["label"] == int(record["file_name"][1:9])


def test_augmentation(folder):
    splits = imagenet2012.streams(3, 48)
    record = splits.train.records[5]
    for seed in range(4):
        random = np.random.default_rng(seed)
        expected = random_flip(random_resized_crop(record["image"], 48, random, "x"), random)
        np.testing.assert_array_equal(splits.train.prepare(record, np.random.default_rng(seed))["image"], expected)
    record = splits.validation.records[5]
    found = {splits.validation.prepare(record, np.random.default_rng(seed))["image"].tobytes() for seed in range(4)}
    assert found == {centre_crop(record["image"], 48, "x").tobytes()}


def test_the_split_seed_decides_nothing(folder):
    one, other = imagenet2012.streams(3, 48), imagenet2012.streams(4, 48)
    assert_equal(examples(one.train), examples(other.train))
    assert_equal(examples(one.validation), examples(other.validation))


def test_streams_travel(folder):
    splits = imagenet2012.streams(3, 48)
    assert_equal(examples(pickle.loads(pickle.dumps(splits)).train, 7), examples(splits.train, 7))


def test_the_version_without_test_images_will_do(folder):
    older = folder.parent / "5.0.0"
    folder.rename(older)
    assert imagenet2012.find() == older
    assert imagenet2012.content_hash() == prepared.content_hash(older)


def test_not_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for ask in (imagenet2012.find, imagenet2012.content_hash, lambda: imagenet2012.streams(0, 224)):
        with pytest.raises(DataError, match=r"^imagenet2012: not prepared in .*ILSVRC2012_img_train.tar.*5\.1\.0"):
            ask()


@pytest.mark.parametrize("part", ["train", "validation"])
def test_an_image_that_does_not_decode(folder, part):
    stream = getattr(imagenet2012.streams(0, 48), part)
    record = {**stream.records[2], "image": stream.records[2]["image"][:500]}
    name = record["file_name"].decode()
    with pytest.raises(DataError, match=rf"^imagenet2012: image {name} does not decode \(.*\); prepare"):
        stream.prepare(record, np.random.default_rng(0))


def test_statistics_are_those_of_torchvision():
    np.testing.assert_allclose(np.array(imagenet2012.MEAN) / 255, [0.485, 0.456, 0.406])
    np.testing.assert_allclose(np.array(imagenet2012.DEVIATION) / 255, [0.229, 0.224, 0.225])
