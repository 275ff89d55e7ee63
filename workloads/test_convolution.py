import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.convolution import LOWERINGS, Conv, convolve_by_matrix_product


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 3),
    features=st.integers(1, 3),
    size=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
)
@settings(derandomize=True, deadline=None, max_examples=15)
def test_the_lowerings_agree(height, width, channels, features, size, stride):
    """In values and in the gradients by the images and by the kernel."""
    random = np.random.default_rng([height, width, channels, features, size, stride])
    images = random.standard_normal((2, height, width, channels)).astype(np.float32)
    kernel = random.standard_normal((size, size, channels, features)).astype(np.float32)
    shape = (2, -(-height // stride), -(-width // stride), features)
    direction = random.standard_normal(shape).astype(np.float32)

    @jax.jit
    def both(images, kernel):
        results = []
        for lowering in LOWERINGS:
            module = Conv(features, size, stride, lowering)
            value, pullback = jax.vjp(lambda x, k, m=module: m.apply({"params": {"kernel": k}}, x), images, kernel)
            results.append((value, *pullback(direction)))
        return results

    expected, actual = both(images, kernel)
    assert actual[0].shape == shape
    for one, other in zip(expected, actual, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("length", "stride", "expected"),
    [(4, 1, [3, 6, 9, 7]), (4, 2, [6, 7]), (5, 2, [3, 9, 9]), (1, 2, [1])],
)
def test_same_padding_by_hand(length, stride, expected):
    """Sums of three neighbours along a row 1, 2, 3, ...: an even map pads after it only where the stride is 2."""
    row = jnp.arange(1.0, length + 1).reshape(1, 1, length, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, :, 0, 0].set(1.0)
    if stride == 2:  # a map of height 1 is padded by one row above and below at either stride
        assert convolve_by_matrix_product(row, kernel, 2).shape == (1, 1, len(expected), 1)
    np.testing.assert_array_equal(convolve_by_matrix_product(row, kernel, stride).ravel(), expected)


def test_both_lowerings_initialise_alike():
    images = jnp.zeros((1, 4, 4, 2))
    kernels = [Conv(3, lowering=lowering).init(jax.random.key(0), images)["params"]["kernel"] for lowering in LOWERINGS]
    assert kernels[0].shape == (3, 3, 2, 3)
    np.testing.assert_array_equal(*kernels)
