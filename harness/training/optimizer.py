"""Update rules by the playbook's equations (its section on update rules), built from optax's parts."""

import jax
import optax


def velocity(optimizer: str, momentum: jax.Array) -> optax.GradientTransformation:
    """Builds the transformation from gradients to the direction that the learning rate multiplies.

    With v_0 = 0 and v_{t+1} = momentum v_t + g_t, not damped by 1 - momentum:
    `heavy_ball` steps along v_{t+1}, `nesterov` along momentum v_{t+1} + g_t, and
    theta_{t+1} = theta_t - rate_t times the direction, so that a change of rate acts at once.
    (`optax.sgd` is the same; `optax.ema` would be damped.)

    Args:
      optimizer: `heavy_ball` or `nesterov`.
      momentum: gamma in the playbook, float32 (), may be traced.
    """
    return optax.trace(decay=momentum, nesterov=optimizer == "nesterov")
