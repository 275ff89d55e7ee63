import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.data.resize import resize

CHANNELS = pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])


@given(side=st.integers(1, 28), channels=st.sampled_from([(), (1,), (3,)]), seed=st.integers(0, 100))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_shrinking_averages_areas(side, channels, seed):
    images = np.random.default_rng(seed).random((3, 28, 28, *channels), np.float32)
    small = resize(images, side)
    assert small.shape == (3, side, side, *channels)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(resize(np.full((1, 28, 28, *channels), 0.25, np.float32), side), 0.25, rtol=1e-5)


@CHANNELS
def test_shrinking_by_a_whole_factor_averages_blocks(channels):
    images = np.random.default_rng(0).random((2, 28, 28, *channels), np.float32)
    blocks = images.reshape(2, 14, 2, 14, 2, *channels).mean(axis=(2, 4))
    np.testing.assert_allclose(resize(images, 14), blocks, rtol=1e-5)


def test_shrinking_splits_pixels_that_lie_across_an_edge():
    image = np.float32([[[0, 0, 0], [0, 9, 0], [0, 0, 0]]])
    np.testing.assert_allclose(resize(image, 2), np.ones((1, 2, 2)), rtol=1e-5)


@CHANNELS
@pytest.mark.parametrize(("side", "before"), [(28, 0), (29, 0), (32, 2), (33, 2)])
def test_enlarging_pads_with_background(side, before, channels):
    images = np.random.default_rng(0).random((2, 28, 28, *channels), np.float32)
    padded = resize(images, side)
    assert padded.shape == (2, side, side, *channels)
    np.testing.assert_array_equal(padded[:, before : before + 28, before : before + 28], images)
    assert padded.sum(dtype=np.float64) == pytest.approx(images.sum(dtype=np.float64))


@pytest.mark.parametrize("side", [14, 19, 28, 33])
def test_channels_are_resized_apart(side):
    images = np.random.default_rng(0).random((2, 28, 28, 3), np.float32)
    apart = np.stack([resize(images[..., channel], side) for channel in range(3)], axis=-1)
    np.testing.assert_allclose(resize(images, side), apart, rtol=1e-5)
