"""Steps to a target against the batch size, by the protocol of Shallue et al. (arXiv 1811.03600), and its regimes.

At every batch size the learning rate and its kin are tuned apart; the steps of a batch size are those of its best
setting. Doubling the batch halves them at first (perfect scaling), then brings less and less (diminishing returns),
then nothing. McCandlish et al. 2018 (arXiv 1812.06162, equation 2.11) give the curve: S(B) = S_min (1 + B_crit / B);
at the critical batch size B_crit training takes twice the least steps and twice the least examples.

Runs that end before the target are censored: a batch size where none of the settings reaches it says only that its
steps exceed the budget, and pulls the fit where it falls short of that alone. Settings whose training diverged are
counted, and are never the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.intervals import LEVEL
from harness.records import InputError

PERFECT, MAXIMAL = 1.8, 1.1
"""A doubling that divides the steps by at least the first is called perfect scaling, by at most the second maximal data
parallelism; on the fitted curve that is up to B_crit / 8 and from 4.5 B_crit on."""

RESAMPLES = 1_000
"""Of the settings of every batch size, for intervals."""


@dataclass(frozen=True)
class StepsToTarget:
    """What the settings of one batch size took to reach the target.

    Attributes:
      best: index of the best setting; None where none reaches the target with every seed.
      steps: geometric mean over seeds of the best setting's steps; the budget where there is none.
      censored: whether there is none.
      infeasible: settings of which a seed diverged.
    """

    best: int | None
    steps: float
    censored: bool
    infeasible: int


@dataclass(frozen=True)
class Scaling:
    """The fitted curve S(B) = S_min (1 + B_crit / B).

    Attributes:
      critical: B_crit, in examples.
      interval: its (lower, upper) limits; infinite above where the curve does not level off, 0 below where it is flat.
      level: confidence level of the interval.
      least_steps: S_min.
    """

    critical: float
    interval: tuple[float, float]
    level: float
    least_steps: float

    def steps(self, batch_size: float | np.ndarray) -> float | np.ndarray:
        """Steps to the target of the fitted curve at a batch size."""
        return self.least_steps * (1 + self.critical / batch_size)

    @property
    def regimes(self) -> tuple[float, float]:
        """Batch size up to which scaling is perfect, and from which it brings next to nothing; see `PERFECT`."""
        return tuple(self.critical * (2 - gain) / (2 * (gain - 1)) for gain in (PERFECT, MAXIMAL))


def first_reach(steps: np.ndarray, values: np.ndarray, target: float) -> float:
    """The first evaluation step at which a measurement that is minimised is at most the target; infinite if at none."""
    reached = np.asarray(values) <= target
    return float(np.asarray(steps)[np.argmax(reached)]) if reached.any() else float("inf")


def steps_to_target(reached: np.ndarray, infeasible: np.ndarray, budget: float) -> StepsToTarget:
    """Picks the best setting of a batch size.

    Args:
      reached: first step at the target of each setting and seed, (settings, seeds); infinite where not reached.
      infeasible: which runs diverged, bool of the same shape.
      budget: steps after which runs were stopped.

    Returns:
      Its steps, or that they exceed the budget.
    """
    reached = np.where(infeasible, np.inf, reached)
    means = np.exp(np.log(np.maximum(reached, 1)).mean(axis=1))
    best = int(np.argmin(means))
    count = int(np.sum(np.any(infeasible, axis=1)))
    if not np.isfinite(means[best]):
        return StepsToTarget(None, float(budget), True, count)
    return StepsToTarget(best, float(means[best]), False, count)


def fit_scaling(
    reached: Mapping[int, np.ndarray],
    infeasible: Mapping[int, np.ndarray],
    budgets: Mapping[int, float],
    seed: int,
    level: float = LEVEL,
) -> Scaling:
    """Fits the curve to the best setting of every batch size, in the logarithm of the steps.

    The interval comes from resampling the settings of each batch size: it holds what the luck of the search adds, of a
    best among few, beside the fit's own scatter. It is wide rather than narrow, since a resampled study has fewer
    settings: it held the truth in 40 of 40 simulated studies of a linear regression (12 rates x 3 seeds x 8 sizes).

    Args:
      reached: batch size to `steps_to_target`'s argument.
      infeasible: batch size to `steps_to_target`'s argument.
      budgets: batch size to the steps after which its runs were stopped.
      seed: of the resampling.
      level: two-sided confidence level.

    Raises:
      InputError: fewer than 3 batch sizes reach the target.
    """
    sizes = sorted(reached)
    chosen = [steps_to_target(reached[size], infeasible[size], budgets[size]) for size in sizes]
    count = sum(not one.censored for one in chosen)
    if count < 3:
        raise InputError(
            f"{count} of {len(sizes)} batch sizes reach the target: expected at least 3; choose an easier target or "
            "train for more steps"
        )
    critical, least = fit_curve(sizes, [one.steps for one in chosen], [one.censored for one in chosen])
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(RESAMPLES):
        again = []
        for size in sizes:
            rows = rng.integers(len(reached[size]), size=len(reached[size]))
            again.append(steps_to_target(reached[size][rows], infeasible[size][rows], budgets[size]))
        if sum(not one.censored for one in again) >= 3:
            resampled.append(fit_curve(sizes, [one.steps for one in again], [one.censored for one in again])[0])
    side = (1 - level) / 2
    lower, upper = np.quantile(resampled, (side, 1 - side)) if resampled else (0.0, np.inf)
    return Scaling(critical, (float(lower), float(upper)), level, least)


def fit_curve(sizes: Sequence[float], steps: Sequence[float], censored: Sequence[bool]) -> tuple[float, float]:
    """Fits S_min (1 + B_crit / B) by least squares of log steps; a censored size counts where the fit is below it.

    Args:
      sizes: batch sizes, (sizes,).
      steps: to the target, or the budget, (sizes,).
      censored: which are budgets, (sizes,).

    Returns:
      B_crit, between a hundredth of the least size and a hundred times the largest, and S_min.
    """
    sizes, log_steps = np.asarray(sizes, np.float64), np.log(np.asarray(steps, np.float64))
    censored = np.asarray(censored, bool)

    def least(log_critical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best log S_min at each log B_crit (m,), and what is left of the squares."""
        shape = np.log1p(np.exp(log_critical)[:, None] / sizes)
        gaps = log_steps - shape  # log S_min of each size by itself
        level = np.sort(gaps[:, censored], axis=1)[:, ::-1]
        total, count = gaps[:, ~censored].sum(axis=1), np.full(len(gaps), (~censored).sum())
        best = total / count
        for column in level.T:  # the censored sizes that the curve falls short of join, worst first
            joins = column > best
            total, count = total + joins * column, count + joins
            best = total / count
        residuals = gaps - best[:, None]
        residuals[:, censored] = np.maximum(residuals[:, censored], 0)
        return best, np.sum(residuals**2, axis=1)

    low, high = np.log(sizes.min() / 100), np.log(sizes.max() * 100)
    for _ in range(4):  # each round looks ten times closer
        grid = np.linspace(low, high, 61)
        level, squares = least(grid)
        at = int(np.argmin(squares))
        low, high = grid[max(at - 3, 0)], grid[min(at + 3, 60)]
    return float(np.exp(grid[at])), float(np.exp(level[at]))


def is_on_edge(values: Sequence[float], best: int, low: float, high: float, log: bool, share: float = 0.1) -> bool:
    """Whether the best setting of a batch size lies in the outer tenths of a searched range, which voids its steps.

    Args:
      values: of the hyperparameter, one per setting.
      best: index of the best.
      low: end of the range.
      high: end of the range.
      log: whether the range was searched on a log scale.
      share: of the range at each end.
    """
    scale = np.log if log else np.asarray
    place = float((scale(values[best]) - scale(low)) / (scale(high) - scale(low)))
    return not share <= place <= 1 - share
