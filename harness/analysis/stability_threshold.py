"""The sharpness above which an optimizer oscillates ever wider on a quadratic: its stability threshold.

Along an eigenvector of the Hessian with eigenvalue h the gradient is h x, and every rule below is a linear recurrence
in x. As h grows from 0 it becomes unstable where a root of its characteristic polynomial passes -1 (shown of each):

* `sgd`: x' = (1 - rate h) x. Root -1 at h = 2 / rate.
* `heavy_ball`, v' = b v + h x, x' = x - rate v': z^2 - (1 + b - rate h) z + b. At z = -1: h = 2 (1 + b) / rate.
* `nesterov`, x' = x - rate (b v' + h x): z^2 - (1 + b - rate (1 + b) h) z + b - rate b h. At z = -1:
  h = 2 (1 + b) / ((1 + 2 b) rate).
* `adam`: with the preconditioner P held fixed and m' = b m + (1 - b) g it is heavy ball at rate (1 - b) on the
  preconditioned Hessian, so that P^-1 H is stable below 2 (1 + b) / ((1 - b) rate), which is 38 / rate at b = .9.
* `nadam`: likewise Nesterov at rate (1 - b), 2 (1 + b) / ((1 + 2 b) (1 - b) rate).
* `adamw`: as `adam`. Its decay makes the 2 a 2 - rate decay, under a thousandth less, which is left out.

Gradient descent and momentum are in Cohen et al. 2021 (arXiv 2103.00065), Adam in Cohen et al. 2022 (arXiv 2207.14484).
The threshold explains and does not judge: networks train past it, since their loss is no quadratic, and fail below it.
"""

from __future__ import annotations

import numpy as np

from harness.records import InputError, TrialRecord, did_you_mean

RULES = ("sgd", "heavy_ball", "nesterov", "adam", "nadam", "adamw")
"""Update rules that have a threshold here; of the last three it is that of the preconditioned sharpness."""


def stability_threshold(optimizer: str, learning_rate: np.ndarray | float, momentum: float = 0.0) -> np.ndarray:
    """Computes the stability threshold of an optimizer.

    Args:
      optimizer: one of `RULES`.
      learning_rate: one, or of each step, any shape; at 0 everything is stable.
      momentum: b above, at least 0 and less than 1: `momentum` of heavy ball and Nesterov, `beta1` of the Adam rules;
        `sgd` has none.

    Returns:
      Sharpness in nats per squared parameter (of `adam`, `nadam`, `adamw` the preconditioned one), of the rate's shape.

    Raises:
      InputError: an optimizer without a threshold, or a momentum out of its range.
    """
    if optimizer not in RULES:
        near = did_you_mean(optimizer, RULES)
        raise InputError(
            f"optimizer {optimizer!r} has no stability threshold{near}; those that have: {', '.join(RULES)}"
        )
    if not 0 <= momentum < 1:
        raise InputError(f"momentum {momentum!r}: expected at least 0 and less than 1")
    if optimizer == "sgd" and momentum:
        raise InputError(f"momentum {momentum!r} of sgd: expected 0; with momentum it is heavy_ball or nesterov")
    factor = 2 * (1 + momentum)
    if optimizer in ("nesterov", "nadam"):
        factor /= 1 + 2 * momentum
    if optimizer in ("adam", "nadam", "adamw"):
        factor /= 1 - momentum
    with np.errstate(divide="ignore"):
        return factor / np.asarray(learning_rate, np.float64)


def adam_threshold(trial: TrialRecord) -> np.ndarray:
    """Threshold of the preconditioned sharpness at every step of a trial of Adam, float64 (steps,)."""
    return stability_threshold("adam", trial.curves["learning_rate"], trial.hyperparameters["beta1"])
