"""How soon runs at a constant learning rate fit the training set perfectly, and where the fastest rate lies (L600-613).

*Perfect training performance.* By the playbook (L593-594) it is an informal word for a very low training loss, such as
with the first training error of 0. Trials record the training loss of each step's batch, not the error. A run has
fitted the set once the mean loss of its last pass over the set is at most `FIT` nats: every example has been seen once,
and one that is classified wrongly has a loss of log 2 at least, so that at most .7% of them were wrong on the way, and
fewer at the end of the pass, as the loss falls. On the embedded digits (MLP and Wide ResNet, two rates each) that is 16
to 201 steps after the first evaluation with a training error of 0, which came after 820 to 4,640.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.records import TrialRecord

FIT = 0.005
"""Mean training loss of a pass, in nats, at which the training set is fitted, see above."""


class Pace(NamedTuple):
    """How soon the runs of one rate fit the training set.

    Attributes:
      rate: learning rate.
      runs: how many.
      infeasible: of them, those whose loss was no longer finite; they have not fitted the set.
      steps: after warmup, of each run that fitted the set, ascending.
      loss: mean training loss of the last pass, median over the runs, in nats; infinite where most are infeasible.
    """

    rate: float
    runs: int
    infeasible: int
    steps: tuple[int, ...]
    loss: float

    @property
    def median(self) -> float:
        """Steps by which more than half of the runs have fitted the set; infinite where they have not."""
        half = self.runs // 2
        return float(self.steps[half]) if half < len(self.steps) else math.inf

    def describe(self) -> dict[str, Any]:
        """The fields, `fitted` and `median`."""
        return {**self._asdict(), "fitted": len(self.steps), "median": self.median}


def steps_to_fit(loss: np.ndarray, fit: float, window: int) -> int | None:
    """Steps after which the mean loss of the last `window` steps is first at most `fit`; None where it never is.

    Args:
      loss: training loss of each step, (n,) nats.
      fit: in nats.
      window: steps of a pass over the training set.
    """
    means = pass_means(loss, window)
    below = np.flatnonzero(means <= fit)
    return int(below[0]) + window if len(below) else None


def pass_means(loss: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` steps at each step from there on, float64 (n - window + 1,); empty if n is smaller."""
    total = np.cumsum(np.pad(np.asarray(loss, np.float64), (1, 0)))
    return np.maximum(total[window:] - total[: max(len(total) - window, 0)], 0.0) / window


def read_paces(records: Sequence[TrialRecord], fit: float, window: int) -> list[Pace]:
    """Reads runs, rate by rate, ascending; arguments as `steps_to_fit`."""
    groups: dict[float, list[TrialRecord]] = {}
    for record in records:
        groups.setdefault(float(record.hyperparameters["learning_rate"]), []).append(record)
    return [_pace(rate, members, fit, window) for rate, members in sorted(groups.items())]


def _pace(rate: float, records: Sequence[TrialRecord], fit: float, window: int) -> Pace:
    steps, ends = [], []
    for record in records:
        if record.status != "complete":
            ends.append(math.inf)
            continue
        loss = record.curves["train_loss"][int(record.hyperparameters["warmup_steps"]) :]
        ends.append(float(pass_means(loss, window)[-1]))
        if (found := steps_to_fit(loss, fit, window)) is not None:
            steps.append(found)
    infeasible = sum(record.status != "complete" for record in records)
    return Pace(rate, len(records), infeasible, tuple(sorted(steps)), float(np.sort(ends)[len(ends) // 2]))


def fastest_first(paces: Sequence[Pace]) -> list[Pace]:
    """The rates of which more than half of the runs fit, the fastest first."""
    return sorted((pace for pace in paces if math.isfinite(pace.median)), key=lambda pace: pace.median)


def boundary_of(paces: Sequence[Pace], rate: float) -> str | None:
    """Which end of an ascending sweep a rate is, `low` or `high`, or None: at `high` all may be too small (L612)."""
    return {paces[0].rate: "low", paces[-1].rate: "high"}.get(rate)
