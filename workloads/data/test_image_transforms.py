import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workloads.data import photo_patches, synthetic_imagenet
from workloads.data.image_transforms import (
    _random_box,
    centre_crop,
    decode,
    random_flip,
    random_resized_crop,
    random_shift,
)
from workloads.workload import DataError

SIDES = st.integers(1, 700)
SEEDS = st.integers(0, 2**32 - 1)


def encode(pixels, file_format="PNG", **options):
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, file_format, **options)
    return encoded.getvalue()


def gradient(height, width):
    """Red grows to the right and green downwards, in equal steps."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 255 / width, rows * 255 / height, 0 * rows], -1).astype(np.uint8)


def photograph():
    return photo_patches.load()[8]


def generator(seed=0):
    return np.random.default_rng(seed)


def box_in(crop, width, height):
    """Left, top, right and bottom of the crop of a `gradient`, read off its colours, in pixels."""
    crop = crop.astype(np.float64)
    red, green = crop[..., 0] * width / 255, crop[..., 1] * height / 255
    step = [(values[-2] - values[1]) / (len(values) - 3) for values in (red.mean(0), green.mean(1))]
    left, top = (values[1] - 1.5 * each for values, each in zip((red.mean(0), green.mean(1)), step, strict=True))
    return left, top, left + step[0] * crop.shape[1], top + step[1] * crop.shape[0]


class TestDecode:
    def test_png_is_exact(self):
        pixels = photograph()[:50, :70]
        decoded = decode(encode(pixels), "x")
        np.testing.assert_array_equal(decoded, pixels)
        assert decoded.flags.writeable

    def test_jpeg_is_close(self):
        pixels = photograph()[:64, :72]
        decoded = decode(encode(pixels, "JPEG", quality=95), "x")
        assert decoded.shape == pixels.shape
        assert decoded.dtype == np.uint8
        assert np.abs(decoded.astype(int) - pixels).mean() < 8

    @pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
    def test_other_modes_become_rgb(self, mode):
        image, encoded = Image.fromarray(photograph()[:40, :48]).convert(mode), io.BytesIO()
        image.save(encoded, "JPEG" if mode in ("L", "CMYK") else "PNG")
        assert decode(encoded.getvalue(), "x").shape == (40, 48, 3)
        assert centre_crop(encoded.getvalue(), 8, "x").shape == (8, 8, 3)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
    @pytest.mark.parametrize(
        "damage",
        [lambda b: b"", lambda b: b"no image", lambda b: b[:10], lambda b: b[: len(b) // 2], lambda b: b"\0" + b[1:]],
        ids=["empty", "other", "header", "cut", "first byte"],
    )
    def test_broken_images_are_named(self, file_format, damage):
        broken = damage(encode(photograph()[:40, :40], file_format))
        name = "imagenet2012: image n01440764_18.JPEG"
        for read in (
            lambda: decode(broken, name),
            lambda: centre_crop(broken, 16, name),
            lambda: random_resized_crop(broken, 16, generator(), name),
        ):
            with pytest.raises(
                DataError, match=f"^{name} does not decode \\(.+\\); prepare the data set again"
            ) as caught:
                read()
            assert "\n" not in str(caught.value)

    @given(seed=SEEDS)
    @settings(derandomize=True, deadline=None, max_examples=200)
    def test_damaged_bytes_are_pixels_or_an_error(self, seed):
        random = generator(seed)
        encoded = bytearray(encode(gradient(20, 24), "PNG" if seed % 2 else "JPEG"))
        for place in random.integers(len(encoded), size=random.integers(1, 6)):
            encoded[place] = random.integers(256)
        try:
            assert centre_crop(bytes(encoded), 8, "x").shape == (8, 8, 3)
        except DataError as error:
            assert str(error).startswith("x does not decode (")


class TestRandomResizedCrop:
    @given(width=SIDES, height=SIDES, seed=SEEDS)
    @settings(derandomize=True, deadline=None, max_examples=200)
    def test_boxes_lie_inside(self, width, height, seed):
        left, top, right, bottom = _random_box(width, height, generator(seed))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height

    @given(width=st.integers(100, 700), height=st.integers(100, 700), seed=SEEDS)
    @settings(derandomize=True, deadline=None, max_examples=200)
    def test_boxes_have_the_stated_areas_and_shapes(self, width, height, seed):
        left, top, right, bottom = _random_box(width, height, generator(seed))
        assert 0.72 < (right - left) / (bottom - top) < 1.39  # .75 to 1.33, but for rounding
        if max(width, height) < 2 * min(width, height):  # a box of enough area fits
            assert 0.07 < (right - left) * (bottom - top) / (width * height) <= 1

    def test_areas_and_ratios_are_spread_evenly(self):
        """Of a square the ones that fit; below half of its area every one does."""
        boxes = np.array([_random_box(1000, 1000, generator(seed)) for seed in range(2000)])
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        area = width * height / 1e6
        small = area[area < 0.5]
        assert area.min() < 0.09
        assert area.max() > 0.95
        assert np.mean(small < 0.29) == pytest.approx(0.5, abs=0.05)
        assert np.median(np.log(width / height)) == pytest.approx(0, abs=0.02)
        assert np.mean(boxes[:, 0] / (1000 - width + 1)) == pytest.approx(0.5, abs=0.02)

    def test_a_long_image_gives_its_middle(self):
        assert _random_box(30, 3000, generator()) == (0, 1480, 30, 1520)
        assert _random_box(3000, 30, generator()) == (1480, 0, 1520, 30)

    @pytest.mark.parametrize("seed", range(8))
    def test_pixels_are_those_of_the_box(self, seed):
        height, width = 210, 160
        crop = random_resized_crop(encode(gradient(height, width)), 50, generator(seed), "x")
        assert crop.shape == (50, 50, 3)
        assert crop.dtype == np.uint8
        np.testing.assert_allclose(box_in(crop, width, height), _random_box(width, height, generator(seed)), atol=2)

    @pytest.mark.parametrize("side", [8, 21, 64])
    def test_a_jpeg_decoded_small_looks_the_same(self, side):
        """A PNG has no shortcut. The two differ by less than JPEGs of equal quality do from their originals."""
        pixels = photograph()[:420, :600]
        jpeg = encode(pixels, "JPEG", quality=95)
        png = encode(decode(jpeg, "x"))
        for seed in range(6):
            small, whole = (random_resized_crop(e, side, generator(seed), "x").astype(int) for e in (jpeg, png))
            assert np.abs(small - whole).mean() < 4
            assert abs(np.mean(small - whole)) < 0.5

    def test_is_a_function_of_bytes_and_seed(self):
        images = [synthetic_imagenet.encoded_image(i, (80, 120)) for i in range(2)]
        first = [random_resized_crop(e, 24, generator(s), "x").tobytes() for e in images for s in (1, 2)]
        again = [random_resized_crop(bytes(e), 24, generator(s), "y").tobytes() for e in images for s in (1, 2)]
        assert first == again
        assert len(set(first)) == 4


class TestCentreCrop:
    @pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 240), (240, 100)])
    @pytest.mark.parametrize("side", [16, 56, 224])
    def test_is_of_the_middle(self, height, width, side):
        crop = centre_crop(encode(gradient(height, width)), side, "x")
        half = min(height, width) * 224 / 256 / 2
        expected = width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half
        assert crop.shape == (side, side, 3)
        np.testing.assert_allclose(box_in(crop, width, height), expected, atol=2.5)

    def test_keeps_pixels_where_it_resizes_nothing(self):
        pixels = photograph()[:64, :64]
        np.testing.assert_array_equal(centre_crop(encode(pixels), 56, "x"), pixels[4:60, 4:60])


class TestFlip:
    def test_every_other_image(self):
        image, random = photograph()[:6, :5].copy(), generator()
        flipped = [random_flip(image, random) for _ in range(1000)]
        mirrored = [np.array_equal(each, image[:, ::-1]) for each in flipped]
        assert 430 < sum(mirrored) < 570
        assert all(np.array_equal(f, image) for f, m in zip(flipped, mirrored, strict=True) if not m)
        assert all(each.flags.c_contiguous for each in flipped)


class TestShift:
    def test_is_one_of_the_81_places(self):
        image = generator(1).integers(0, 256, (7, 9, 3), np.uint8)
        rows, columns = ([*range(4, 0, -1), *range(n), *range(n - 2, n - 6, -1)] for n in (7, 9))
        known = {
            image[np.ix_(rows[top : top + 7], columns[left : left + 9])].tobytes(): (top, left)
            for top, left in itertools.product(range(9), range(9))
        }
        random = generator()
        shifts = [random_shift(image, random) for _ in range(2000)]
        assert {each.shape for each in shifts} == {(7, 9, 3)}
        assert {each.dtype for each in shifts} == {np.dtype(np.uint8)}
        assert {known[each.tobytes()] for each in shifts} == set(known.values())
        assert len(known) == 81
