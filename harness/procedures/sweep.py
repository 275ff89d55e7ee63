"""The sweep of learning rates that finds the best one and those that are unstable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.analysis.instability import UNSTABLE_SHARE
from harness.analysis.intervals import clopper_pearson
from harness.procedures.labels import label, median_loss
from harness.procedures.procedure import objective_values, runs
from harness.records import InputError, TrialRecord
from harness.studies.study import PlannedTrial
from harness.training.trial import Trial

STUDY = "sweep"

STEPS = range(-3, 5)
"""Half decades from the workload's own rate at which a sweep is taken, unless rates are given: rates further apart miss
a best rate beside an unstable one, and twenty times the best rate is unstable for nearly every workload."""

SEEDS = 5
"""Runs of each rate: where 1 run in 20 is wrongly called unstable, more than half of 5 are at 1 rate in 860."""


class Rate(NamedTuple):
    """The runs of one rate.

    Attributes:
      rate: learning rate at the peak.
      seeds: runs.
      unstable: of them, those whose training loss is unstable, or which are stuck at a rate above the best one.
      infeasible: of them, those whose loss was no longer finite.
      interval: exact 95% limits of the unstable share.
      types: type of instability, or `harness.procedures.labels.STUCK`, to its number of runs.
      objective: mean of the best evaluations; NaN where a run is infeasible.
    """

    rate: float
    seeds: int
    unstable: int
    infeasible: int
    interval: tuple[float, float]
    types: Mapping[str, int]
    objective: float

    @property
    def is_unstable(self) -> bool:
        """Whether the rate is called unstable: more than `UNSTABLE_SHARE` of its runs are."""
        return self.unstable > UNSTABLE_SHARE * self.seeds

    def describe(self) -> dict[str, Any]:
        """The fields and `is_unstable`."""
        return {**self._asdict(), "is_unstable": self.is_unstable}


def sweep_rates(text: str | None, default: float) -> list[float]:
    """Reads the rates of a sweep, ascending.

    Args:
      text: `0.01,0.1,1`, or None for `STEPS` half decades around the default.
      default: the workload's own rate.

    Raises:
      InputError: no number, not positive, or fewer than 3.
    """
    if text is None:
        if default <= 0:
            raise InputError(f"learning_rate {default:g}: expected more than 0; name the rates with --rates 0.01,0.1,1")
        return [float(f"{default * 10 ** (step / 2):.3g}") for step in STEPS]
    try:
        rates = sorted({float(word) for word in text.split(",")})
    except ValueError:
        raise InputError(f"--rates {text!r}: expected numbers with commas between, such as 0.01,0.1,1") from None
    if len(rates) < 3 or not all(0 < rate < np.inf for rate in rates):
        raise InputError(f"--rates {text!r}: expected at least 3 different rates above 0, such as 0.01,0.1,1")
    return rates


def sweep(trial: Trial, seed: int, rates: Sequence[float], seeds: int) -> list[PlannedTrial]:
    """Plans the runs of a sweep."""
    return [place for rate in rates for place in runs(STUDY, trial, seed, range(seeds), {"learning_rate": rate})]


def read_sweep(records: Sequence[TrialRecord], objective: str) -> list[Rate]:
    """Reads the runs of a sweep, rate by rate, ascending.

    Args:
      records: of the sweep alone.
      objective: `error` or `loss`, of evaluations.

    Raises:
      InputError: no rate is stable, so that there is none to start from.
    """
    groups: dict[float, list[TrialRecord]] = {}
    for record in records:
        groups.setdefault(record.hyperparameters["learning_rate"], []).append(record)
    rates = [_rate(rate, members, objective) for rate, members in sorted(groups.items())]
    top = best(rates).rate
    # Rates below the best one are slow, and none the worse for it.
    reference = median_loss(groups[top])
    rates = [_rate(one.rate, groups[one.rate], objective, reference) if one.rate > top else one for one in rates]
    if all(rate.is_unstable for rate in rates):
        low, high = rates[0].rate, rates[-1].rate
        raise InputError(
            f"--rates from {low:g} to {high:g}: expected a stable one among them, but each is unstable in more than "
            f"half of its runs; name lower ones, such as --rates {low / 1000:g},{low / 100:g},{low / 10:g}"
        )
    return rates


def _rate(rate: float, records: Sequence[TrialRecord], objective: str, reference: np.ndarray | None = None) -> Rate:
    settings = records[0].hyperparameters
    steps = int(settings["steps"] + settings["warmup_steps"])
    kinds = Counter(label(record, steps, reference).type for record in records)
    unstable = len(records) - kinds.pop("stable", 0)
    return Rate(
        rate=rate,
        seeds=len(records),
        unstable=unstable,
        infeasible=sum(record.status != "complete" for record in records),
        interval=clopper_pearson(unstable, len(records)),
        types=dict(kinds),
        objective=float(np.mean(objective_values(records, objective))),
    )


def best(rates: Sequence[Rate]) -> Rate:
    """The rate of the lowest objective; one with infeasible runs only where all have them."""
    return min(rates, key=lambda rate: (not np.isfinite(rate.objective), rate.objective))


def lowest_unstable(rates: Sequence[Rate], above: float = 0.0) -> Rate | None:
    """The lowest rate above one that is called unstable; None where there is none."""
    return next((rate for rate in rates if rate.rate > above and rate.is_unstable), None)


def share(rate: Rate) -> str:
    """The unstable runs of a rate, as text."""
    low, high = rate.interval
    return f"{rate.unstable} of {rate.seeds} runs (95% interval of the share {low:.2f} to {high:.2f})"
