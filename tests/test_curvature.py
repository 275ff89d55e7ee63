import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from harness.training.curvature import largest_eigenvalue


def symmetric(eigenvalues, seed):
    """A matrix of the given eigenvalues in random directions."""
    size = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return ((basis * np.asarray(eigenvalues)) @ basis.T).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    """The flat parameters of a small network and its loss as a function of them."""
    random = np.random.default_rng(0)
    inputs = random.standard_normal((20, 3)).astype(np.float32)
    targets = random.standard_normal((20, 2)).astype(np.float32)
    parameters = {
        "first": random.standard_normal((3, 5)).astype(np.float32),
        "bias": random.standard_normal(5).astype(np.float32),
        "second": random.standard_normal((5, 2)).astype(np.float32),
    }
    flat, unravel = ravel_pytree(parameters)

    def loss(flat):
        p = unravel(flat)
        return jnp.mean((jnp.tanh(inputs @ p["first"] + p["bias"]) @ p["second"] - targets) ** 2)

    return flat, loss


def test_agrees_with_the_dense_hessian(network):
    flat, loss = network
    eigenvalues = np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64))
    assert eigenvalues[0] < 0 < eigenvalues[-1]
    product = jax.jit(lambda vector: jax.jvp(jax.grad(loss), (flat,), (vector,))[1])
    assert largest_eigenvalue(product, flat.size, 0) == pytest.approx(eigenvalues[-1], rel=1e-2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("eigenvalues", "largest"),
    [
        (np.r_[-10.0, np.linspace(-1, 3, 39)], 3),
        (np.linspace(-5, -1, 40), -1),
        (np.r_[np.linspace(-1, 1, 38), 1000, -2000], 1000),
        ([-4, 1, 2], 2),
    ],
)
def test_is_the_algebraically_largest(eigenvalues, largest, seed):
    matrix = symmetric(eigenvalues, seed)
    assert largest_eigenvalue(lambda v: matrix @ v, len(matrix), seed) == pytest.approx(largest, rel=1e-2)


def test_products_are_of_flat_float32():
    seen = set()

    def product(vector):
        seen.add((vector.dtype, vector.shape))
        return 2 * vector

    assert largest_eigenvalue(product, 30, 0) == pytest.approx(2, rel=1e-2)
    assert seen == {(np.dtype(np.float32), (30,))}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_products_that_are_not_finite_give_nan(value):
    matrix = symmetric(np.arange(20), 0)
    calls = []

    def product(vector):
        calls.append(vector)
        result = matrix @ vector
        result[3] = value if len(calls) == 4 else result[3]
        return result

    assert np.isnan(largest_eigenvalue(product, 20, 0))
    assert len(calls) == 4


@pytest.mark.parametrize("eigenvalues", [np.linspace(-1, 3, 40), np.ones(40), np.r_[np.zeros(39), 3]])
def test_is_deterministic(eigenvalues):
    """Also where the iteration exhausts an invariant subspace and starts anew from a random vector."""
    diagonal = np.asarray(eigenvalues, np.float32)
    assert len({largest_eigenvalue(lambda v: diagonal * v, 40, 1) for _ in range(4)}) == 1
