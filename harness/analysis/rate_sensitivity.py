"""Learning-rate sensitivity (Wortsman et al. 2023, arXiv 2309.14322, section 2.2): what a badly chosen rate costs.

With the final validation loss l(A(rate)) of training at a rate, the loss l0 at initialisation and the loss l* at the
best rate of the range,

    sensitivity = E over the range of [min(l(A(rate)), l0) - l*],

in nats: 0 where every rate does as well as the best, l0 - l* at most, since a diverged run counts with l0. The
expectation is over a range that is uniform in the logarithm of the rate; published are ranges such as 3e-4 to 1e-1.
It is comparable between arms over one range alone, and grows with a range that reaches further.

Each seed is a sweep of its own, as published, with its own best rate: seeds are then independent, which a t interval
of their mean needs. (With the best rate from the other seeds they are not: on a flat valley of 20 seeds such an
interval held the true value in 65 of 100 simulated experiments.) The price is that l* is the lowest of several noisy
losses, so that noise alone gives a sensitivity: 1.35 times the standard deviation between seeds for 7 rates that are
all alike. Arms of like noise share that, and their paired difference is free of it.

Of 4,000 simulated experiments each (7 rates; 3 to 20 seeds; valleys and flat ones; normal, exponential and diverging
losses) the 95% interval held the mean in 94.0 to 95.7%. Where what decides is whether a rate diverges, which half of
the seeds do, it holds the mean in 87% with 3 seeds, 93% with 5 and 94% from 8 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.intervals import LEVEL
from harness.records import InputError


@dataclass(frozen=True)
class RateSensitivity:
    """Learning-rate sensitivity of one arm.

    Attributes:
      value: mean over seeds, nats.
      interval: its (lower, upper) limits; infinite of a single seed.
      level: confidence level of the interval.
      by_seed: of every seed, float64 (seeds,); paired arms compare by the differences of these.
      best_rate: the rate of the lowest mean loss.
    """

    value: float
    interval: tuple[float, float]
    level: float
    by_seed: np.ndarray
    best_rate: float


def rate_sensitivity(
    rates: Sequence[float], losses: np.ndarray, initial: np.ndarray | float, level: float = LEVEL
) -> RateSensitivity:
    """Computes the learning-rate sensitivity of an arm.

    Args:
      rates: ascending, (rates,). Each stands for the part of the range that is nearest to it in the logarithm; the
        first and the last reach as far out of the range as into it, so that equally spaced rates weigh alike.
      losses: final validation loss in nats of each rate and seed, (rates, seeds); not finite where training diverged.
      initial: validation loss before training, of each seed (seeds,) or of all.
      level: two-sided confidence level.

    Returns:
      The sensitivity.

    Raises:
      InputError: fewer than 2 rates, rates that do not ascend from above 0, or losses of another shape.
    """
    from scipy.special import stdtrit

    rates = np.asarray(rates, np.float64)
    losses = np.asarray(losses, np.float64)
    if rates.ndim != 1 or len(rates) < 2 or not rates[0] > 0 or not np.all(np.diff(rates) > 0):
        raise InputError(f"rates {rates.tolist()!r}: expected 2 or more, ascending, above 0, such as 1e-3, 1e-2, 1e-1")
    if losses.ndim != 2 or len(losses) != len(rates) or not losses.shape[1]:
        raise InputError(f"losses of shape {losses.shape}: expected ({len(rates)}, seeds), a row per rate")
    initial = np.asarray(initial, np.float64)
    if not np.all(np.isfinite(initial)) or initial.shape not in ((), losses.shape[1:]):
        raise InputError(f"initial {initial.tolist()!r}: expected a finite loss, or one per seed ({losses.shape[1]})")
    capped = np.where(np.isfinite(losses), np.minimum(losses, initial), initial)
    gaps = np.diff(np.log(rates))
    weights = (np.concatenate([gaps[:1], gaps]) + np.concatenate([gaps, gaps[-1:]])) / 2
    by_seed = weights @ capped / weights.sum() - capped.min(axis=0)
    count = len(by_seed)
    value, half = float(by_seed.mean()), float("inf")
    if count > 1:
        half = float(stdtrit(count - 1, (1 + level) / 2) * by_seed.std(ddof=1) / np.sqrt(count))
    best_rate = float(rates[np.argmin(capped.mean(axis=1))])
    return RateSensitivity(value, (value - half, value + half), level, by_seed, best_rate)
