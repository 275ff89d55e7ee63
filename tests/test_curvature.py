import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from harness.training.curvature import adam_preconditioner, largest_eigenvalue
from harness.training.optimizer import update_rule


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


@pytest.mark.parametrize("spread", [1, 1e3])
def test_agrees_with_the_dense_preconditioned_hessian(network, spread):
    flat, loss = network
    hessian = np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64)
    root = np.sqrt(spread ** np.random.default_rng(1).uniform(-1, 1, flat.size))
    product = jax.jit(lambda vector: jax.jvp(jax.grad(loss), (flat,), (vector,))[1])
    found = largest_eigenvalue(lambda v: np.asarray(product((v / root).astype(np.float32))) / root, flat.size, 0)
    assert found == pytest.approx(np.linalg.eigvalsh(hessian / root / root[:, None])[-1], rel=1e-2)


@pytest.mark.parametrize("optimizer", ["adam", "nadam", "adamw"])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_preconditioner_is_what_the_update_divides_by(optimizer, steps):
    random = np.random.default_rng(steps)
    settings = {"beta1": 0.9, "beta2": 0.98, "epsilon": 1e-3, "weight_decay": 0.0}
    rule = update_rule(optimizer, settings, 0.5)
    parameters = {"kernel": jnp.zeros(6)}
    state = rule.init(parameters)
    for _ in range(steps):
        gradient = random.standard_normal(6).astype(np.float32)
        updates, state = rule.update({"kernel": jnp.asarray(gradient)}, state, parameters)
    moments = state[0]
    m = np.asarray(moments.mu["kernel"], np.float64)
    if optimizer == "nadam":
        m = 0.9 * m + 0.1 * gradient
    preconditioner = adam_preconditioner(moments.nu["kernel"], steps, np.full(6, np.nan), settings)
    np.testing.assert_allclose(updates["kernel"], -0.5 * m / preconditioner, rtol=1e-4)
    if steps == 1:  # which a measurement before the first step foresees
        foreseen = adam_preconditioner(np.zeros(6), 0, gradient, settings)
        np.testing.assert_allclose(foreseen, preconditioner, rtol=1e-4)


def test_the_gradient_before_the_first_step_is_clipped():
    settings = {"beta1": 0.9, "beta2": 0.98, "epsilon": 0.0, "clip_threshold": 1.0}
    clipped = adam_preconditioner(np.zeros(2), 0, np.array([3.0, -4.0]), settings)
    np.testing.assert_allclose(clipped, [0.06, 0.08])
    np.testing.assert_allclose(adam_preconditioner(np.zeros(2), 0, np.array([0.3, 0.4]), settings), [0.03, 0.04])


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
