import pickle

import numpy as np
import pytest

from workloads.data import cifar, prepared, synthetic_cifar
from workloads.workload import DataError

TRAIN = 40


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    for name in cifar.CLASSES:
        synthetic_cifar.prepare(directory, name, TRAIN, 4)
    return directory


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request, directory, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(directory))
    return request.param


def identity(stream):
    return [record["id"] for record in stream.records]


def test_a_tenth_is_held_out(name):
    splits = cifar.streams(name, 3)
    train, held_out = identity(splits.train), identity(splits.validation)
    assert [len(train), len(held_out)] == [36, 4]
    assert sorted(train + held_out) == [f"train_{i:05d}".encode() for i in range(TRAIN)]


def test_the_split_seed_decides_what_is_held_out(name):
    first, again, other = (identity(cifar.streams(name, seed).validation) for seed in (3, 3, 4))
    assert first == again != other


def test_validation_images_are_the_stored_ones(name):
    stream = cifar.streams(name, 3).validation
    for record in stream.records:
        example = stream.prepare(record, np.random.default_rng(0))
        number = int(record["id"].split(b"_")[1])
        np.testing.assert_array_equal(example["image"], synthetic_cifar.pixels(number))
        assert example["image"].dtype == np.uint8
        assert example["label"] == number % cifar.CLASSES[name]
        assert example["label"].dtype == np.int32
        assert example["label"].shape == ()


def test_training_images_are_shifted_and_every_other_one_flipped(name):
    stream = cifar.streams(name, 3).train
    record = stream.records[0]
    stored = synthetic_cifar.pixels(int(record["id"].split(b"_")[1]))
    padded = np.pad(stored, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    crops = {padded[i : i + 32, j : j + 32].tobytes(): (i, j) for i in range(9) for j in range(9)}
    flips = {padded[i : i + 32, j : j + 32][:, ::-1].tobytes(): (i, j) for i in range(9) for j in range(9)}
    found = [stream.prepare(record, np.random.default_rng(seed))["image"].tobytes() for seed in range(200)]
    assert all((each in crops) != (each in flips) for each in found)
    assert 70 < sum(each in flips for each in found) < 130
    assert len(set(found)) > 80


def test_streams_travel(name):
    splits = cifar.streams(name, 3)
    travelled = pickle.loads(pickle.dumps(splits))
    assert identity(travelled.train) == identity(splits.train)
    record = travelled.train.records[2]
    images = [s.train.prepare(record, np.random.default_rng(5))["image"] for s in (splits, travelled)]
    np.testing.assert_array_equal(*images)


def test_content_hash(name, directory):
    assert cifar.content_hash(name) == prepared.content_hash(directory / name / "3.0.2")
    assert cifar.content_hash("cifar10") != cifar.content_hash("cifar100")


def test_other_version(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    synthetic_cifar.prepare(tmp_path, "cifar10", TRAIN, 4, version="3.0.1")
    with pytest.raises(DataError, match=r"^cifar10: .* holds version 3\.0\.1, expected 3\.0\.2; .*cifar10:3\.0\.2"):
        cifar.streams("cifar10", 0)


def test_an_image_that_does_not_decode(name):
    for stream in (cifar.streams(name, 0).train, cifar.streams(name, 0).validation):
        record = {**stream.records[0], "image": stream.records[0]["image"][:90]}
        with pytest.raises(DataError, match=rf"^{name}: image {record['id'].decode()} does not decode \("):
            stream.prepare(record, np.random.default_rng(0))
