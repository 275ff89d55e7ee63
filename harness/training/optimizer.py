"""Update rules by the playbook's equations (its section on update rules), built from optax's parts.

Also what stands around a rule in a training step: which parameters decay, gradient clipping, Polyak averaging.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

ADAM_RULES = ("adam", "nadam", "adamw")
"""Update rules whose state begins with Adam's moments."""


def update_rule(
    optimizer: str, hyperparameters: Mapping[str, jax.Array], learning_rate: jax.Array
) -> optax.GradientTransformation:
    """Builds the transformation from gradients to the updates that are added to the parameters.

    With the gradient g and the learning rate of this step, and m and v starting at 0 unless said:

    - `sgd`: theta -= rate g.
    - `heavy_ball`: v = momentum v + g; theta -= rate v. Not damped by 1 - momentum, and the rate is outside v, so
      that its change acts at once. As in `optax.sgd`.
    - `nesterov`: v likewise; theta -= rate (momentum v + g), with the new v. As in `optax.sgd`.
    - `rmsprop`: v = rho v + (1 - rho) g^2 from v = 1; m = momentum m + rate g / sqrt(v + epsilon); theta -= m.
      `optax.rmsprop` has epsilon inside the root and the rate inside m as well, but v starts at 0 and there is no
      momentum by default; its Nesterov form, centring and bias correction are not the playbook's.
    - `adam`: m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; b = sqrt(1 - beta2^t) / (1 - beta1^t) at
      the t-th step, from 1; theta -= rate b m / (sqrt(v) + epsilon). `optax.adam` adds its eps to the corrected
      root, sqrt(v / (1 - beta2^t)); the same step needs eps = epsilon / sqrt(1 - beta2^t).
    - `nadam`: as `adam` with beta1 m + (1 - beta1) g, with the new m, for m in the step. `optax.nadam` differs in
      epsilon likewise, and it divides m by 1 - beta1^(t+1), one step ahead, where b divides both terms by
      1 - beta1^t.
    - `adamw`: as `adam`, and theta -= rate weight_decay theta, with the old theta, on the leaves that `decays` picks.
      Not in the playbook. `optax.adamw` multiplies the decay by the rate as well (Loshchilov & Hutter, 2019, only by
      the schedule), but decays every leaf, by 1e-4, by default, and differs in epsilon likewise.

    Args:
      optimizer: one of `harness.training.trial.OPTIMIZERS`.
      hyperparameters: those that the optimizer takes, with `weight_decay` for `adamw`, float32 (), may be traced; the
        betas are less than 1. Others are ignored.
      learning_rate: of this step, float32 (), may be traced.

    Returns:
      The transformation. The structure of its state depends on the optimizer and the parameters alone, so that a rule
      built with another rate takes the state over; `update` needs the parameters for `adamw`.
    """
    if optimizer == "sgd":
        return optax.sgd(learning_rate)
    if optimizer in ("heavy_ball", "nesterov"):
        return optax.sgd(learning_rate, hyperparameters["momentum"], nesterov=optimizer == "nesterov")
    epsilon = hyperparameters["epsilon"]
    if optimizer == "rmsprop":
        rho, momentum = hyperparameters["rho"], hyperparameters["momentum"]
        return optax.rmsprop(learning_rate, decay=rho, eps=epsilon, initial_scale=1.0, momentum=momentum)
    parts = [_scale_by_adam(hyperparameters["beta1"], hyperparameters["beta2"], epsilon, optimizer == "nadam")]
    if optimizer == "adamw":
        parts.append(optax.add_decayed_weights(hyperparameters["weight_decay"], decays))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))


def _scale_by_adam(
    beta1: jax.Array, beta2: jax.Array, epsilon: jax.Array, nesterov: bool
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with the playbook's epsilon and correction; its state is optax's."""

    def update(gradients, state, parameters=None):
        count = state.count + 1
        m = optax.tree.update_moment(gradients, state.mu, beta1, 1)
        v = optax.tree.update_moment_per_elem_norm(gradients, state.nu, beta2, 2)
        b = jnp.sqrt(_one_minus_power(beta2, count)) / _one_minus_power(beta1, count)
        numerator = optax.tree.update_moment(gradients, m, beta1, 1) if nesterov else m
        scaled = jax.tree.map(lambda n, v: b * n / (jnp.sqrt(v) + epsilon), numerator, v)
        return scaled, optax.ScaleByAdamState(count, m, v)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def _one_minus_power(base: jax.Array, count: jax.Array) -> jax.Array:
    # In float32 the plain 1 - 0.9999^count is off by 1e-4 of itself, this by 4e-7.
    return -jnp.expm1(count * jnp.log(base))


def decays(parameters: Any) -> Any:
    """Says which leaves weight decay acts on: those whose own key is `kernel`.

    Args:
      parameters: nested dict.

    Returns:
      The same structure, of bool.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", parameters)


def clip_by_global_norm(gradients: Any, norm: jax.Array, threshold: jax.Array) -> tuple[Any, jax.Array]:
    """Scales gradients down to a global norm, by the playbook's section on gradient clipping.

    g' = threshold g / |g| where |g| >= threshold. (`optax.clip_by_global_norm` is the same, but computes the norm
    itself and does not say whether it clipped.) A norm that is NaN makes all gradients NaN.

    Args:
      gradients: pytree of float32.
      norm: their global norm, float32 ().
      threshold: more than 0, float32 (), may be traced.

    Returns:
      The clipped gradients, and 0 where the norm was below the threshold, else 1, float32 ().
    """
    below = norm < threshold
    return optax.tree.scale(jnp.where(below, 1.0, threshold / norm), gradients), 1.0 - below.astype(jnp.float32)


def polyak_average(average: Any, parameters: Any, decay: jax.Array, count: jax.Array) -> Any:
    """Updates the exponential moving average of the parameters after each step.

    The average after step t is the sum of decay^(t-i) theta_i over i = 1..t, divided by the sum of the weights, so that
    the parameters before the first step have none; Polyak & Juditsky (1992) weigh all steps alike, which is the limit
    of decay 1. (`optax.ema` with `debias` is the same in exact arithmetic, but keeps the average undebiased, and
    at decay 0.9999 its float32 weights sum to 1 only within 1e-4.)

    Args:
      average: after the step before, pytree of float32; at the first step anything finite of the same structure.
      parameters: after this step, pytree of float32.
      decay: at least 0, less than 1, float32 (), may be traced.
      count: number of this step, from 1, int32 (), may be traced.

    Returns:
      The new average, pytree of float32.
    """
    return optax.incremental_update(parameters, average, (1.0 - decay) / _one_minus_power(decay, count))
