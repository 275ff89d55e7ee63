import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.training.optimizer import velocity
from harness.training.trial import OPTIMIZERS

STEPS, SIZE = 6, 3
NUMBERS = st.floats(-10, 10, width=32, allow_subnormal=False)


@pytest.fixture(scope="module", params=OPTIMIZERS)
def optimizer(request):
    return request.param


@pytest.fixture(scope="module")
def descend(optimizer):
    """Parameters after each step, the momentum and the rates traced."""

    @jax.jit
    def run(momentum, rates, parameters, gradients):
        transformation = velocity(optimizer, momentum)
        state = transformation.init(parameters)
        path = []
        for rate, gradient in zip(rates, gradients, strict=True):
            direction, state = transformation.update(gradient, state)
            parameters = parameters - rate * direction
            path.append(parameters)
        return jnp.stack(path)

    return run


def by_the_playbook(optimizer, momentum, rates, parameters, gradients):
    """The equations of the playbook's section on update rules, in float64."""
    parameters, v, path = parameters.astype(np.float64), 0.0, []
    for rate, g in zip(rates.astype(np.float64), gradients.astype(np.float64), strict=True):
        v = momentum * v + g
        step = v if optimizer == "heavy_ball" else momentum * v + g
        parameters = parameters - rate * step
        path.append(parameters)
    return np.stack(path)


def test_equations_of_the_playbook(optimizer, descend):
    @given(
        momentum=st.floats(0, 1, width=32),
        rates=hnp.arrays(np.float32, STEPS, elements=st.floats(0, 2, width=32)),
        parameters=hnp.arrays(np.float32, SIZE, elements=NUMBERS),
        gradients=hnp.arrays(np.float32, (STEPS, SIZE), elements=NUMBERS),
    )
    @settings(derandomize=True, deadline=None, max_examples=200)
    def check(momentum, rates, parameters, gradients):
        expected = by_the_playbook(optimizer, momentum, rates, parameters, gradients)
        actual = descend(np.float32(momentum), rates, parameters, gradients)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-3)

    check()
    assert descend._cache_size() == 1


def test_three_steps_by_hand(optimizer, descend):
    """Momentum 1/2, gradient 1: v = 1, 3/2, 7/4; a rate acts on its own step alone."""
    rates = np.array([1, 0, 2, 0, 0, 0], np.float32)
    path = descend(np.float32(0.5), rates, np.zeros(SIZE, np.float32), np.ones((STEPS, SIZE), np.float32))[:3, 0]
    expected = {"heavy_ball": [-1, -1, -4.5], "nesterov": [-1.5, -1.5, -5.25]}
    np.testing.assert_array_equal(path, expected[optimizer])
