import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.training.optimizer import clip_by_global_norm, decays, polyak_average, update_rule
from harness.training.trial import OPTIMIZERS

STEPS, SIZE = 6, 3
FEWER_THAN_64_ROUNDINGS = 64 * 2.0**-24
"""Of the sum of magnitudes: six steps round each of m, v and theta some 18 times, b, root and quotient a few more."""


def floats(least, most):
    return st.floats(float(np.float32(least)), float(np.float32(most)), width=32, allow_subnormal=False)


NUMBERS = floats(-10, 10)  # which draws 0 often
RANGES = {
    "momentum": floats(0, 1),
    "rho": floats(0, 1),
    "beta1": floats(0, 0.9999),
    "beta2": floats(0, 0.9999),
    "epsilon": floats(1e-8, 10),  # with less, squares of gradients that underflow would be seen
    "weight_decay": floats(0, 1),
}


def arrays(shape, elements=NUMBERS):
    return hnp.arrays(np.float32, shape, elements=elements)


def draws(optimizer):
    names = (*OPTIMIZERS[optimizer], "weight_decay")
    return st.fixed_dictionaries({name: RANGES[name].map(np.float32) for name in names})


@pytest.fixture(scope="module", params=OPTIMIZERS)
def optimizer(request):
    return request.param


@pytest.fixture(scope="module")
def descend(optimizer):
    """Parameters after each step, hyperparameters and rates traced; the bias starts and is pulled as the kernel."""

    @jax.jit
    def run(hyperparameters, rates, parameters, gradients):
        def step(carry, inputs):
            parameters, state = carry
            rate, gradient = inputs
            rule = update_rule(optimizer, hyperparameters, rate)
            updates, state = rule.update({"dense": {"kernel": gradient, "bias": gradient}}, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
            return (parameters, state), parameters["dense"]

        parameters = {"dense": {"kernel": parameters, "bias": parameters}}
        state = update_rule(optimizer, dict.fromkeys(hyperparameters, 0.0), 0.0).init(parameters)
        return jax.lax.scan(step, (parameters, state), (rates, gradients))[1]

    return run


def by_the_playbook(optimizer, hyperparameters, rates, parameters, gradients, weight_decay):
    """The equations of the playbook's section on update rules, in float64, with decoupled decay."""
    h = {name: np.float64(value) for name, value in hyperparameters.items()}
    theta, path = parameters.astype(np.float64), []
    m, v = 0.0, 1.0 if optimizer == "rmsprop" else 0.0
    for t, (rate, g) in enumerate(zip(rates.astype(np.float64), gradients.astype(np.float64), strict=True)):
        if optimizer == "sgd":
            step = rate * g
        elif optimizer == "heavy_ball":
            v = h["momentum"] * v + g
            step = rate * v
        elif optimizer == "nesterov":
            v = h["momentum"] * v + g
            step = rate * (h["momentum"] * v + g)
        elif optimizer == "rmsprop":
            v = h["rho"] * v + (1 - h["rho"]) * g**2
            m = h["momentum"] * m + rate / np.sqrt(v + h["epsilon"]) * g
            step = m
        else:
            m = h["beta1"] * m + (1 - h["beta1"]) * g
            v = h["beta2"] * v + (1 - h["beta2"]) * g**2
            b = np.sqrt(1 - h["beta2"] ** (t + 1)) / (1 - h["beta1"] ** (t + 1))
            numerator = h["beta1"] * m + (1 - h["beta1"]) * g if optimizer == "nadam" else m
            step = rate * numerator / (np.sqrt(v) + h["epsilon"]) * b
        theta = theta - step - rate * np.float64(weight_decay) * theta
        path.append(theta)
    return np.stack(path)


def test_equations_of_the_playbook(optimizer, descend):
    @given(
        hyperparameters=draws(optimizer),
        rates=arrays(STEPS, floats(0, 2)),
        parameters=arrays(SIZE),
        gradients=arrays((STEPS, SIZE)),
    )
    @settings(derandomize=True, deadline=None, max_examples=100)
    def check(hyperparameters, rates, parameters, gradients):
        actual = descend(hyperparameters, rates, parameters, gradients)
        for leaf in ("kernel", "bias"):
            decay = hyperparameters["weight_decay"] if optimizer == "adamw" and leaf == "kernel" else 0.0
            expected = by_the_playbook(optimizer, hyperparameters, rates, parameters, gradients, decay)
            # The same equations with every term of one sign: what the terms' rounding errors are relative to.
            scale = by_the_playbook(optimizer, hyperparameters, rates, np.abs(parameters), -np.abs(gradients), -decay)
            error = np.abs(actual[leaf] - expected)
            assert np.all(error <= FEWER_THAN_64_ROUNDINGS * scale + 1e-20)  # 1e-20: underflow, divided by epsilon

    check()
    assert descend._cache_size() == 1  # one compilation serves all values


S = np.sqrt(37)
THREE_STEPS = {
    # Rates 1, 0, 2; gradient 1; momentum = beta1 = rho = 1/2, beta2 = 3/4.
    "sgd": [-1, -1, -3],
    # v = 1, 3/2, 7/4; a rate acts on its own step alone.
    "heavy_ball": [-1, -1, -4.5],
    "nesterov": [-1.5, -1.5, -5.25],
    # Epsilon 3: v = 1 stays, the root is 2 and m = 1/2, 1/4, 9/8: here a rate acts on later steps.
    "rmsprop": [-0.5, -0.75, -1.875],
    # Epsilon 1/2: with the gradient 1 a step is s / (s + epsilon), s = sqrt(1 - beta2^t) = 1/2, .., sqrt(37) / 8.
    "adam": [-1 / 2, -1 / 2, -1 / 2 - 2 * S / (S + 4)],
    # The same times (1 - beta1^(t+1)) / (1 - beta1^t) = 3/2, .., 15/14.
    "nadam": [-3 / 4, -3 / 4, -3 / 4 - 15 / 7 * S / (S + 4)],
    # Weight decay 1/2 at rate 2 takes the whole of the old value off in the third step.
    "adamw": [-1 / 2, -1 / 2, -2 * S / (S + 4)],
}


def test_three_steps_by_hand(optimizer, descend):
    values = {"momentum": 0.5, "rho": 0.5, "beta1": 0.5, "beta2": 0.75, "weight_decay": 0.5}
    values["epsilon"] = 3.0 if optimizer == "rmsprop" else 0.5
    hyperparameters = {name: np.float32(values[name]) for name in (*OPTIMIZERS[optimizer], "weight_decay")}
    rates = np.array([1, 0, 2, 0, 0, 0], np.float32)
    path = descend(hyperparameters, rates, np.zeros(SIZE, np.float32), np.ones((STEPS, SIZE), np.float32))
    undecayed = THREE_STEPS["adam" if optimizer == "adamw" else optimizer]
    np.testing.assert_allclose(path["kernel"][:3, 0], THREE_STEPS[optimizer], rtol=1e-6)
    np.testing.assert_allclose(path["bias"][:3, 0], undecayed, rtol=1e-6)


def test_the_state_has_one_structure(optimizer):
    """Before and after an update, whatever the values: a step takes over the state of a rule with another rate."""
    parameters = {"dense": {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}}
    names = (*OPTIMIZERS[optimizer], "weight_decay")

    def states(value):
        rule = update_rule(optimizer, dict.fromkeys(names, value), value)
        state = rule.init(parameters)
        return state, rule.update(parameters, state, parameters)[1]

    before, after = jax.eval_shape(states, jax.ShapeDtypeStruct((), np.float32))
    blank = jax.eval_shape(lambda: update_rule(optimizer, dict.fromkeys(names, 0.0), 0.0).init(parameters))
    assert before == after == blank


def one_step(rule):
    """The first step along the gradient 1 at rate 1."""
    updates, _ = rule.update({"kernel": np.float32(1)}, rule.init({"kernel": np.float32(0)}), {"kernel": np.float32(0)})
    return -float(updates["kernel"])


@pytest.mark.parametrize(
    ("optimizer", "epsilon", "ours", "theirs", "optax_rule"),
    [
        # Epsilon beside the uncorrected root 1/2, in optax beside the corrected root 1.
        ("adam", 0.5, 1 / 2, 2 / 3, lambda e: optax.adam(1.0, 0.5, 0.75, e)),
        ("adam", 0.0, 1, 1, lambda e: optax.adam(1.0, 0.5, 0.75, e)),
        # Optax divides beta1 m by 1 - beta1^2: 1/4 / (3/4) + 1/2 / (1/2), not (1/4 + 1/2) / (1/2).
        ("nadam", 0.0, 3 / 2, 4 / 3, lambda e: optax.nadam(1.0, 0.5, 0.75, e)),
        # v = 1, in optax 1/2.
        ("rmsprop", 3.0, 1 / 2, 1 / np.sqrt(3.5), lambda e: optax.rmsprop(1.0, 0.5, e, momentum=0.5)),
    ],
)
def test_where_the_defaults_of_optax_differ(optimizer, epsilon, ours, theirs, optax_rule):
    hyperparameters = {"momentum": 0.5, "rho": 0.5, "beta1": 0.5, "beta2": 0.75, "epsilon": epsilon}
    assert one_step(update_rule(optimizer, hyperparameters, 1.0)) == pytest.approx(ours, rel=1e-6)
    assert one_step(optax_rule(epsilon)) == pytest.approx(theirs, rel=1e-6)


def test_only_kernels_decay():
    parameters = {
        "embed": {"embedding": 1.0},
        "norm": {"scale": 1.0, "bias": 1.0},
        "kernel": {"bias": 1.0, "kernel": 1.0},
    }
    expected = {
        "embed": {"embedding": False},
        "norm": {"scale": False, "bias": False},
        "kernel": {"bias": False, "kernel": True},
    }
    assert decays(parameters) == expected


@jax.jit
def clip(gradients, threshold):
    norm = optax.tree.norm(gradients)
    return *clip_by_global_norm(gradients, norm, threshold), norm


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


GRADIENTS = st.fixed_dictionaries({"kernel": arrays((2, SIZE)), "bias": arrays(SIZE)})


@given(gradients=GRADIENTS, threshold=floats(1e-3, 100).map(np.float32))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_clipping_bounds_the_norm_and_keeps_the_direction(gradients, threshold):
    clipped_gradients, clipped, norm = clip(gradients, threshold)
    assert (clipped.dtype, clipped.shape) == (np.float32, ())
    assert clipped == (norm >= threshold)
    if norm < threshold:
        np.testing.assert_array_equal(flat(clipped_gradients), flat(gradients))
    else:
        # The norm, the quotient and the product each round by a few 2^-24.
        assert np.linalg.norm(flat(clipped_gradients)) <= threshold * (1 + 1e-6)
        expected = threshold.astype(np.float64) * flat(gradients) / np.linalg.norm(flat(gradients))
        np.testing.assert_allclose(flat(clipped_gradients), expected, rtol=1e-6, atol=1e-30)


@given(gradients=GRADIENTS.filter(lambda tree: np.linalg.norm(flat(tree)) > 1e-3))
@settings(derandomize=True, deadline=None)
def test_a_norm_at_the_threshold_counts_as_clipped_and_stays(gradients):
    norm = clip(gradients, np.float32(1))[2]
    clipped_gradients, clipped, _ = clip(gradients, norm)
    assert clipped == 1
    np.testing.assert_array_equal(flat(clipped_gradients), flat(gradients))
    above = np.nextafter(np.float32(norm), np.float32(np.inf))
    assert clip(gradients, above)[1] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_clipping_does_not_hide_what_is_not_finite(bad):
    gradients = {"kernel": np.array([[1, bad, 1], [1, 1, 1]], np.float32), "bias": np.ones(SIZE, np.float32)}
    assert not np.all(np.isfinite(flat(clip(gradients, np.float32(1))[0])))


def test_clipping_by_hand():
    """The norm is 5."""
    gradients = {"kernel": np.array([3.0], np.float32), "bias": np.array([4.0], np.float32)}
    clipped_gradients, clipped = clip_by_global_norm(gradients, np.float32(5), np.float32(2.5))
    assert clipped == 1
    np.testing.assert_array_equal(flat(clipped_gradients), [2, 1.5])


@jax.jit
def averages(initial, parameters, decay):
    def step(average, inputs):
        average = polyak_average(average, *inputs)
        return average, average

    counts = jnp.arange(1, len(parameters) + 1)
    inputs = (parameters, jnp.broadcast_to(decay, counts.shape), counts)
    return jax.lax.scan(step, initial, inputs)[1]


@given(initial=arrays(SIZE), parameters=arrays((STEPS, SIZE)), decay=floats(0, 0.9999).map(np.float32))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_polyak_average_has_normalised_weights(initial, parameters, decay):
    actual = averages(initial, parameters, decay)
    steps = np.arange(STEPS)
    weights = np.tril(np.float64(decay) ** np.abs(steps[:, None] - steps))
    weights /= weights.sum(axis=1, keepdims=True)
    # Every step's two weights are off by a few 2^-24 of their sum, 1; the initial parameters' first one is only that.
    scale = max(np.abs(initial).max(), np.abs(parameters).max())
    assert np.all(np.abs(actual - weights @ parameters.astype(np.float64)) <= FEWER_THAN_64_ROUNDINGS * scale)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 0.9999])
def test_polyak_average_of_a_constant_is_the_constant(decay):
    """Over 1000 steps; debiased `optax.ema` is off by 1e-4 at the largest of these decays."""
    actual = averages(np.zeros(SIZE, np.float32), np.full((1000, SIZE), 3, np.float32), np.float32(decay))
    np.testing.assert_allclose(actual, 3, rtol=1e-6)


def test_polyak_average_by_hand():
    """Decay 1/2 of 3, 6, 14: 3; (3/2 + 6) / (3/2); (3/4 + 3 + 14) / (7/4)."""
    parameters = np.array([[3], [6], [14]], np.float32)
    np.testing.assert_allclose(averages(np.zeros(1, np.float32), parameters, np.float32(0.5))[:, 0], [3, 5, 71 / 7])
