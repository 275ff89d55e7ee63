"""Where in training the best checkpoints of a study's trials lie, and what that says of `max_train_steps`.

The playbook (L588-590): never tune `max_train_steps`; plot the steps that retrospective selection of the best
checkpoint found. Where the best step is always in the first tenth of training, `max_train_steps` is too high; where it
is always in the last quarter, it may pay to train longer and to tune the decay schedule again. A schedule that decays
to 0 puts the best step near the end whatever the length, so that the second says little of it.

*Always* is every feasible trial with a curve, of `FEWEST` at least. Share of 4,000 null studies whose curves are flat,
so that noise alone places the best step (11 evaluations from step 0 on, the worst case; at 101 most shares are
smaller), and which get a reading, all in the first tenth / all in the last quarter:

    trials                                              1           2           3           5           8
    independent noise                           17% / 28%     3% / 9%     1% / 2%     0% / 0%     0% / 0%
    wandering noise (a random walk)             27% / 34%    7% / 12%     2% / 4%     0% / 0%     0% / 0%
    the same, half of it shared by all trials   28% / 33%   13% / 17%    8% / 11%     4% / 6%     2% / 3%
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.training_curves import MIN_POINTS
from harness.records import Curve, InputError

EARLY, LATE = 0.1, 0.75
"""End of the first tenth and start of the last quarter of training, as the playbook has them (L589, L590)."""

FEWEST = 5
"""Trials from which a reading is made: chance makes it in at most .5% of studies of independent trials, see above."""

BINS = 20
"""Of the histogram: a twentieth of training each, so that both thresholds are edges."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class BestSteps:
    """Best steps of a study.

    Attributes:
      shares: where each trial's best step lies, 0 at the start and 1 at the end of its training, float64 (n,).
      early: trials whose best step lies in the first tenth.
      late: those whose best step lies in the last quarter.
      reading: `too long`, `too short`, or None where neither holds for every trial, or there are too few.
    """

    shares: np.ndarray
    early: int
    late: int
    reading: str | None

    def histogram(self) -> np.ndarray:
        """Trials in each of `BINS` equal parts of training, int64; each part holds its upper end."""
        parts = np.ceil(self.shares * BINS - _ROUNDING).astype(int) - 1
        return np.bincount(np.clip(parts, 0, BINS - 1), minlength=BINS)


def best_steps(
    curves: Sequence[Curve | None],
    goal: str,
    early: float = EARLY,
    late: float = LATE,
    fewest: int = FEWEST,
) -> BestSteps:
    """Finds the best steps and reads them.

    Args:
      curves: of the feasible trials, or None; those with under `MIN_POINTS` finite points are left out, as a tenth of
        training does not show in them. Of equal points the first is the best.
      goal: `min` or `max`.
      early: see `EARLY`.
      late: see `LATE`.
      fewest: see `FEWEST`.

    Raises:
      InputError: a goal that is none.
    """
    if goal not in ("min", "max"):
        raise InputError(f"goal {goal!r} is not a goal; give 'min' or 'max'")
    found = []
    for curve in curves:
        if curve is None:
            continue
        values, steps = np.asarray(curve.values, np.float64), np.asarray(curve.steps, np.float64)
        finite = np.isfinite(values)
        if np.count_nonzero(finite) < MIN_POINTS or not steps[-1] > 0:
            continue
        worth = np.where(finite, values if goal == "min" else -values, np.inf)
        found.append(steps[int(np.argmin(worth))] / steps[-1])
    shares = np.array(found, np.float64)
    is_early, is_late = shares <= early + _ROUNDING, shares >= late - _ROUNDING
    reading = None
    if len(shares) >= fewest:
        reading = "too long" if is_early.all() else "too short" if is_late.all() else None
    return BestSteps(shares, int(is_early.sum()), int(is_late.sum()), reading)
