import importlib.util
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from workloads.data import photo_patches, photo_patches_jpeg
from workloads.data.image_transforms import decode
from workloads.workload import DataError


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cache that a first process has filled."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        photo_patches_jpeg.find()
    return cache


@pytest.fixture
def cache(shared, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    return shared


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def names(stream):
    return [record["file_name"].decode() for record in stream.records]


def place(name):
    label, top, left = name.removeprefix("photograph").removesuffix(".jpg").split("_")
    return int(label), int(top), int(left)


def test_tiles_are_those_of_the_photographs(cache):
    splits = photo_patches_jpeg.streams(3, 64)
    records = [*splits.train.records, *splits.validation.records]
    assert len(records) == 534
    assert len({record["file_name"] for record in records}) == 534
    for record in records[::10]:
        label, top, left = place(record["file_name"].decode())
        tile = photo_patches.load()[label][top : top + 64, left : left + 64]
        assert record["label"] == label
        assert np.abs(decode(record["image"], "x").astype(int) - tile).mean() < 10


def test_statistics_are_those_of_the_tiles():
    tiles = [tile for _, tile in photo_patches_jpeg._tiles()]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(tile["image"])), np.float64) for tile in tiles])
    np.testing.assert_allclose(photo_patches_jpeg.MEAN, pixels.mean((0, 1, 2)), atol=0.2)
    np.testing.assert_allclose(photo_patches_jpeg.DEVIATION, pixels.std((0, 1, 2)), atol=0.5)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_tiles_are_held_out_as_of_photo_patches(cache, seed):
    splits = photo_patches_jpeg.streams(seed, 64)
    found = [{place(name) for name in names(part)} for part in (splits.train, splits.validation)]
    expected = [{tuple(row) for row in part} for part in photo_patches._places(seed, 64)]
    assert [len(names(part)) for part in (splits.train, splits.validation)] == [427, 107]
    assert found == expected


def test_the_split_seed_decides_what_is_held_out(cache):
    first, again, other = (names(photo_patches_jpeg.streams(seed, 64).validation) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("side", [8, 64])
def test_examples(cache, side):
    for stream in (splits := photo_patches_jpeg.streams(3, side)).train, splits.validation:
        example = stream.prepare(stream.records[9], np.random.default_rng(0))
        assert set(example) == {"image", "label"}
        assert example["image"].shape == (side, side, 3)
        assert example["image"].dtype == np.uint8
        assert example["label"].dtype == np.int32
        assert example["label"] == place(names(stream)[9])[0]
    images = [splits.train.prepare(splits.train.records[9], np.random.default_rng(seed)) for seed in range(20)]
    assert len({image["image"].tobytes() for image in images}) == 20
    images = [
        splits.validation.prepare(splits.validation.records[9], np.random.default_rng(seed)) for seed in range(20)
    ]
    assert len({image["image"].tobytes() for image in images}) == 1


def test_streams_travel(cache):
    splits = photo_patches_jpeg.streams(3, 16)
    travelled = pickle.loads(pickle.dumps(splits))
    assert names(travelled.train) == names(splits.train)
    record = splits.train.records[0]
    images = [s.train.prepare(record, np.random.default_rng(1))["image"] for s in (splits, travelled)]
    np.testing.assert_array_equal(*images)


PROCESS = """
import sys
from workloads.data import photo_patches_jpeg as tiles
hash = tiles.content_hash()
assert len(tiles.streams(0, 16).train.records) == 427
assert not {"tensorflow", "jax"} & set(sys.modules)
print(hash)
"""


def test_two_processes_may_come_first(empty_cache):
    both = [
        subprocess.Popen([sys.executable, "-c", PROCESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    (first, first_error), (second, second_error) = (process.communicate() for process in both)
    assert [process.returncode for process in both] == [0, 0], first_error + second_error
    assert first == second == photo_patches_jpeg.content_hash() + "\n"  # and nothing else on standard output
    folder = photo_patches_jpeg.find()
    assert folder == empty_cache / "playbook-bench" / "tensorflow_datasets" / "photo_patches_jpeg" / "1.0.0"
    assert [path.name for path in folder.parent.iterdir()] == ["1.0.0"]


def test_a_damaged_folder_names_its_mend(empty_cache):
    folder = photo_patches_jpeg.find()
    (shard,) = folder.glob("*.array_record-*")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=f"^photo_patches_jpeg: half prepared: {shard} is cut .*remove {folder} and run"
    ):
        photo_patches_jpeg.content_hash()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"/photo_patches_jpeg/1\.0\.0 cannot be written \(.*\); .*XDG_CACHE_HOME"):
        photo_patches_jpeg.find()


def test_missing_packages(empty_cache, monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "array_record" else known(name))
    with pytest.raises(DataError, match=r"^photo_patches_jpeg: the package array_record .*playbook-bench\[data\]"):
        photo_patches_jpeg.find()


def test_an_image_that_does_not_decode(cache):
    stream = photo_patches_jpeg.streams(0, 16).train
    record = {**stream.records[4], "image": b"\xff\xd8\xff" + bytes(50)}
    with pytest.raises(DataError, match=rf"^photo_patches_jpeg: image {record['file_name'].decode()} does not decode"):
        stream.prepare(record, np.random.default_rng(0))
