import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harness.analysis.stability_threshold import RULES, stability_threshold
from harness.records import InputError
from harness.training.optimizer import update_rule

RATE, BETA, EPSILON = 0.01, 0.9, 1e8


def growth(optimizer, sharpness, steps=3000):
    """Final over initial distance on a quadratic, by the harness's own update rule.

    An epsilon far above every gradient is all of Adam's preconditioner, which so stays fixed.
    """
    adam = optimizer in ("adam", "nadam", "adamw")
    curvature = sharpness * EPSILON if adam else sharpness
    settings = {"momentum": BETA, "beta1": BETA, "beta2": 0.0, "epsilon": EPSILON, "weight_decay": 0.0}
    rule = update_rule(optimizer, settings, RATE)

    @jax.jit
    def run(x):
        def step(_, carry):
            x, state = carry
            updates, state = rule.update({"kernel": curvature * x["kernel"]}, state, x)
            return optax.apply_updates(x, updates), state

        return jax.lax.fori_loop(0, steps, step, (x, rule.init(x)))[0]

    start = 1e-20  # so that gradients stay under epsilon while the correction of m fades
    return float(run({"kernel": jnp.float32(start)})["kernel"]) / start


@pytest.mark.parametrize("optimizer", RULES)
def test_training_on_a_quadratic_ends_at_the_threshold(optimizer):
    threshold = float(stability_threshold(optimizer, RATE, 0.0 if optimizer == "sgd" else BETA))
    assert abs(growth(optimizer, 0.995 * threshold)) < 0.1
    assert not abs(growth(optimizer, 1.005 * threshold)) < 10


@pytest.mark.parametrize(
    ("optimizer", "momentum", "expected"),
    [
        ("sgd", 0.0, 20.0),
        ("heavy_ball", 0.9, 38.0),
        ("heavy_ball", 0.0, 20.0),
        ("nesterov", 0.9, 38 / 2.8),
        ("adam", 0.9, 380.0),
        ("adamw", 0.9, 380.0),
        ("nadam", 0.9, 380 / 2.8),
    ],
)
def test_published_values(optimizer, momentum, expected):
    assert stability_threshold(optimizer, 0.1, momentum) == pytest.approx(expected)


def test_a_schedule_has_a_threshold_at_each_step():
    np.testing.assert_allclose(stability_threshold("adam", np.array([0.0, 1.0, 2.0]), 0.9), [np.inf, 38, 19])


@pytest.mark.parametrize(
    ("optimizer", "momentum", "told"),
    [
        ("heavyball", 0.9, "optimizer 'heavyball' has no stability threshold; did you mean 'heavy_ball'?"),
        ("rmsprop", 0.9, "optimizer 'rmsprop' has no stability threshold"),
        ("adam", 1.0, "momentum 1.0: expected at least 0 and less than 1"),
        ("sgd", 0.9, "momentum 0.9 of sgd: expected 0; with momentum it is heavy_ball or nesterov"),
    ],
)
def test_bad_input_is_named(optimizer, momentum, told):
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        stability_threshold(optimizer, 0.1, momentum)
    assert told in str(caught.value)
