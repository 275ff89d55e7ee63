import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workloads.data import photo_patches
from workloads.workload import DataError

SEEDS = st.integers(0, 2**32 - 1)
ASTRONAUT, CHINA = Path("skimage", "data", "astronaut.png"), Path("sklearn", "datasets", "images", "china.jpg")
SKIMAGE, SKLEARN = "pip install scikit-image==0.26.0", "pip install scikit-learn==1.9.1"
BOTH = f"{SKIMAGE} scikit-learn==1.9.1"


@pytest.fixture
def fake_packages(tmp_path, monkeypatch):
    """A folder with packages `skimage` and `sklearn` that shadow the installed ones, filled with their photographs."""
    for path, (package, file, _, _) in zip(photo_patches.find(), photo_patches._PHOTOGRAPHS, strict=True):
        copy = tmp_path / package / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    for package in ("skimage", "sklearn"):
        (tmp_path / package / "__init__.py").touch()
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def load_afresh():
    return photo_patches.load.__wrapped__()


def assert_refused(mend, *words):
    with pytest.raises(DataError) as caught:
        load_afresh()
    message = str(caught.value)
    assert message.startswith("photo_patches: ")
    assert message.endswith(f"with: {mend}")
    assert "\n" not in message
    assert all(word in message for word in words)


def covered(places, window):
    """Which pixels of each photograph are in a crop."""
    masks = [np.zeros(photograph.shape[:2], bool) for photograph in photo_patches.load()]
    for label, top, left in places:
        masks[label][top : top + window, left : left + window] = True
    return masks


def windows(places, window):
    photographs = photo_patches.load()
    return np.stack([photographs[p][top : top + window, left : left + window] for p, top, left in places])


def assert_standardised(images, pixels):
    """Each channel of the images is that of the pixels, shifted and scaled."""
    for channel in range(3):
        found, expected = images[..., channel].ravel(), pixels[..., channel].ravel().astype(np.float64)
        slope, intercept = np.polyfit(expected, found, 1)
        assert slope > 0
        np.testing.assert_allclose(found, slope * expected + intercept, atol=1e-4)


def test_content():
    photographs = load_afresh()
    assert len(photographs) == photo_patches.CLASSES
    assert all(photograph.dtype == np.uint8 and photograph.shape[2] == 3 for photograph in photographs)
    assert all(28 <= len(photo_patches._tiles(photograph)) <= 80 for photograph in photographs)
    hubble, retina, rocket, china = (photographs[i].astype(np.float64) for i in (3, 6, 7, 8))
    assert hubble.mean() < 30  # space is dark
    assert retina.min(axis=(0, 1))[0] > 100 > retina[..., 2].mean()  # red everywhere, no black around the eye
    assert rocket[50, 200, 2] > rocket[50, 200, 0] + 20  # a blue sky
    assert china[:20, 300:].mean() > 200  # a bright sky at the top


def test_large_photographs_are_shrunken_by_means_of_blocks():
    with Image.open(photo_patches.find()[3]) as image:
        blocks = np.asarray(image).astype(np.float64).reshape(436, 2, 500, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(photo_patches.load()[3], np.floor(blocks + 0.5))


def test_splits():
    splits = photo_patches.splits(3, 32)
    for part, count in ((splits.train, 500), (splits.validation, 100)):
        assert {name: values.shape for name, values in part.items()} == {
            "image": (10 * count, 32, 32, 3),
            "label": (10 * count,),
        }
        assert part["image"].dtype == np.float32
        assert part["label"].dtype == np.int32
        np.testing.assert_array_equal(np.bincount(part["label"]), np.full(10, count))
        assert np.bincount(part["label"][: 2 * count], minlength=10).min() > 0  # shuffled


@pytest.mark.parametrize("side", [8, 33])
def test_images_are_standardised_per_channel_by_the_training_images(side):
    splits = photo_patches.splits(3, side)
    train, validation = splits.train["image"], splits.validation["image"]
    assert train.shape[1:] == validation.shape[1:] == (side, side, 3)
    for channel in range(3):
        assert train[..., channel].mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
        assert train[..., channel].std(dtype=np.float64) == pytest.approx(1, abs=1e-5)
        assert abs(validation[..., channel].mean(dtype=np.float64)) > 1e-4


@given(seed=SEEDS, window=st.integers(32, 64))
@settings(derandomize=True, deadline=None, max_examples=10)
def test_no_pixel_is_in_training_and_validation(seed, window):
    train, validation = photo_patches._places(seed, window)
    for label, (mine, theirs) in enumerate(zip(covered(train, window), covered(validation, window), strict=True)):
        assert mine.any()
        assert theirs.any()
        assert not np.any(mine & theirs), label


@given(seed=SEEDS, window=st.integers(32, 64))
@settings(derandomize=True, deadline=None, max_examples=10)
def test_a_fifth_of_the_tiles_is_held_out_whatever_the_size_of_crops(seed, window):
    tiles = [{tuple(row) for row in places // [1, 64, 64]} for places in photo_patches._places(seed, window)]
    assert tiles[0].isdisjoint(photo_patches._places(seed, 32)[1] // [1, 64, 64] @ [10**6, 10**3, 1])
    for label, photograph in enumerate(photo_patches.load()):
        held_out, known = sum(tile[0] == label for tile in tiles[1]), len(photo_patches._tiles(photograph))
        assert held_out == pytest.approx(known / 5, abs=0.5)


@given(seed=SEEDS, window=st.integers(32, 60))
@settings(derandomize=True, deadline=None, max_examples=10)
def test_crops_lie_inside_one_tile_and_at_different_places(seed, window):
    for places in photo_patches._places(seed, window):
        assert np.all(places[:, 1:] % 64 + window <= 64)
        assert len(np.unique(places, axis=0)) == len(places)


@pytest.mark.parametrize("side", [8, 32])
def test_no_two_images_are_identical(side):
    splits = photo_patches.splits(4, side)
    images = [image.tobytes() for part in (splits.train, splits.validation) for image in part["image"]]
    assert len(set(images)) == 6000


def test_crops_of_the_largest_size_repeat_within_a_part_only():
    train, validation = (np.unique(places, axis=0) for places in photo_patches._places(4, 64))
    tiles = sum(len(photo_patches._tiles(photograph)) for photograph in photo_patches.load())
    assert len(train) + len(validation) == len(np.unique(np.concatenate([train, validation]), axis=0)) == tiles


@pytest.mark.parametrize(("seed", "side"), [(0, 8), (2**32 - 1, 17)])
def test_splits_are_a_function_of_the_seed(seed, side):
    first, second, other = (photo_patches.splits(s, side) for s in (seed, seed, seed + 1))
    for part in ("train", "validation"):
        for name, values in getattr(first, part).items():
            assert values.tobytes() == getattr(second, part)[name].tobytes()
            assert values.tobytes() != getattr(other, part)[name].tobytes()


@pytest.mark.parametrize("side", [32, 33])
def test_crops_stem_from_their_photograph(side):
    splits = photo_patches.splits(5, side)
    for part, places in zip((splits.train, splits.validation), photo_patches._places(5, side), strict=True):
        np.testing.assert_array_equal(part["label"], places[:, 0])
        assert_standardised(part["image"][:300], windows(places[:300], side))


def test_small_crops_are_shrunken_windows_of_the_same_places():
    splits, (_, places) = photo_patches.splits(5, 16), photo_patches._places(5, 32)
    np.testing.assert_array_equal(splits.validation["label"], places[:, 0])
    blocks = windows(places, 32).reshape(1000, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    assert_standardised(splits.validation["image"], blocks)


@pytest.mark.parametrize("side", [7, 65])
def test_sides_out_of_range(side):
    with pytest.raises(ValueError, match=f"^side={side}: expected 8 to 64$"):
        photo_patches.splits(0, side)


def test_the_installed_content_is_accepted_wherever_it_lies(fake_packages):
    assert all(path.is_relative_to(fake_packages) for path in photo_patches.find())
    for found, expected in zip(load_afresh(), photo_patches.load(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_png_may_be_packed_anew(fake_packages):
    path = fake_packages / ASTRONAUT
    content = path.read_bytes()
    with Image.open(path) as image:
        image.load()
    image.save(path, compress_level=1)
    assert path.read_bytes() != content
    load_afresh()


@pytest.mark.parametrize(("package", "mend"), [("skimage", SKIMAGE), ("sklearn", SKLEARN)])
def test_missing_package(monkeypatch, package, mend):
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else known(name))
    assert_refused(mend, f"the package {package} is missing")


@pytest.mark.parametrize(("file", "mend"), [(ASTRONAUT, SKIMAGE), (CHINA, SKLEARN)])
def test_missing_file(fake_packages, file, mend):
    (fake_packages / file).unlink()
    assert_refused(mend, str(fake_packages / file), "cannot be read")


@pytest.mark.parametrize("file", [ASTRONAUT, CHINA])
def test_other_content(fake_packages, file):
    path = fake_packages / file
    with Image.open(path) as image:
        image.load()
    image.putpixel((0, 0), (1, 2, 3))
    image.save(path)
    assert_refused(BOTH, "sha256", photo_patches.SHA256[:12])


def test_appended_content_of_a_jpeg(fake_packages):
    with open(fake_packages / CHINA, "ab") as file:
        file.write(b"\0")
    assert_refused(BOTH, "sha256", photo_patches.SHA256[:12])


@pytest.mark.parametrize(("file", "mend"), [(ASTRONAUT, SKIMAGE), (CHINA, SKLEARN)])
@pytest.mark.parametrize(
    "damage",
    [lambda b: b"", lambda b: b"no photograph", lambda b: b[:20], lambda b: b[:5000]],
    ids=["empty", "other", "header", "cut"],
)
def test_damaged_file(fake_packages, file, mend, damage):
    path = fake_packages / file
    path.write_bytes(damage(path.read_bytes()))
    assert_refused(mend, str(path), "cannot be read")


@pytest.mark.parametrize("start", [18, 35, 40, 3000], ids=["size", "chunk", "name", "pixels"])
def test_damaged_bytes_of_a_png(fake_packages, start):
    path = fake_packages / ASTRONAUT
    content = path.read_bytes()
    path.write_bytes(content[:start] + b"\xff" * 50 + content[start + 50 :])
    assert_refused(SKIMAGE, str(path), "cannot be read")
