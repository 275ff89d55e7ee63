from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from workloads.convolution import LOWERINGS, Conv, convolve_by_matrix_product, lowering_of


def convolve_by_xla(images, kernel, stride):
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def draw(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3, 4, 5]),
    features=st.integers(1, 3),
    size=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2, 3]),
)
@settings(derandomize=True, deadline=None, max_examples=25)
def test_the_lowerings_agree(height, width, channels, features, size, stride):
    """In values and in the gradients by the images and by the kernel."""
    shape = (2, -(-height // stride), -(-width // stride), features)
    images, kernel, direction = draw(
        [height, width, channels, features, size, stride],
        (2, height, width, channels),
        (size, size, channels, features),
        shape,
    )

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


CASES = pytest.mark.parametrize(
    ("side", "channels", "stride"),
    [(6, 5, 1), (6, 5, 2), (6, 1, 1), (2, 5, 1)],
    ids=["stride_1", "stride_2", "few_channels", "tiny_map"],
)


@CASES
def test_second_order(side, channels, stride):
    """The Jacobian-vector product of a gradient, by images and kernel at once."""
    images, kernel, *tangents = draw(0, *[(2, side, side, channels), (3, 3, channels, 2)] * 2)

    @jax.jit
    def both(images, kernel, tangents):
        def product(convolve):
            gradient = jax.grad(lambda x, k: jnp.sum(jnp.tanh(convolve(x, k, stride))), (0, 1))
            return jax.jvp(gradient, (images, kernel), tuple(tangents))[1]

        return product(convolve_by_xla), product(convolve_by_matrix_product)

    for one, other in zip(*both(images, kernel, tangents), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)


@CASES
def test_in_lanes(side, channels, stride):
    """Under vmap with a kernel a lane, as packs of trials have it."""
    images, kernels = draw(0, (3, 2, side, side, channels), (3, 3, 3, channels, 2))
    convolve = partial(convolve_by_matrix_product, stride=stride)
    together = jax.jit(jax.vmap(convolve))(images, kernels)
    for lane, values in enumerate(together):
        np.testing.assert_allclose(values, jax.jit(convolve)(images[lane], kernels[lane]), rtol=1e-5, atol=1e-5)


@CASES
def test_bfloat16_under_strict_promotion(side, channels, stride):
    images, kernel = (jnp.asarray(x, jnp.bfloat16) for x in draw(0, (2, side, side, channels), (3, 3, channels, 2)))
    with jax.numpy_dtype_promotion("strict"):
        value, pullback = jax.vjp(partial(convolve_by_matrix_product, stride=stride), images, kernel)
        gradients = pullback(value)
    assert [x.dtype for x in (value, *gradients)] == [jnp.bfloat16] * 3
    expected = convolve_by_xla(images.astype(jnp.float32), kernel.astype(jnp.float32), stride)
    np.testing.assert_allclose(value.astype(jnp.float32), expected, rtol=0.03, atol=0.1)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize(
    ("length", "stride", "expected"),
    [(4, 1, [3, 6, 9, 7]), (4, 2, [6, 7]), (5, 2, [3, 9, 9]), (1, 2, [1])],
)
def test_same_padding_by_hand(length, stride, expected, channels):
    """Sums of three neighbours along a row 1, 2, 3, ...: an even map pads after it only where the stride is 2."""
    row = jnp.zeros((1, 1, length, channels)).at[0, 0, :, 0].set(jnp.arange(1.0, length + 1))
    kernel = jnp.zeros((3, 3, channels, 1)).at[1, :, 0, 0].set(1.0)
    if stride == 2:  # a map of height 1 is padded by one row above and below at either stride
        assert convolve_by_matrix_product(row, kernel, 2).shape == (1, 1, len(expected), 1)
    np.testing.assert_array_equal(convolve_by_matrix_product(row, kernel, stride).ravel(), expected)


def test_both_lowerings_initialise_alike():
    images = jnp.zeros((1, 4, 4, 2))
    kernels = [Conv(3, lowering=lowering).init(jax.random.key(0), images)["params"]["kernel"] for lowering in LOWERINGS]
    assert kernels[0].shape == (3, 3, 2, 3)
    np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu", "another"])
def test_the_lowering_of_a_backend(backend):
    """What the measurements chose, unless a configuration names one."""
    assert lowering_of("by_backend", backend) == ("matrix_product" if backend == "cpu" else "xla")
    assert [lowering_of(lowering, backend) for lowering in LOWERINGS] == list(LOWERINGS)
