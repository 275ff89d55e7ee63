"""The plain data that every part of the harness shares: claims, verdicts, trial tables and their columns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class InputError(Exception):
    """Bad input: one line that names the value, what was expected and the mend; the command exits with 2."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Ends an error message with the nearest valid name.

    Args:
      name: what was given.
      known: the valid names.

    Returns:
      `; did you mean 'NAME'?`, or an empty string where nothing is near.
    """
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True)
class Claim:
    """One empirical statement of the playbook and the rule that judges it.

    Attributes:
      id: name within the catalogue, such as `stride.warmup-fixes`.
      text: what is claimed, one sentence.
      rule: which effect, which interval, which threshold, one sentence fixed before the run.
    """

    id: str
    text: str
    rule: str


@dataclass(frozen=True)
class Verdict:
    """A claim judged on finished trials; the row of `claims` in `result.json`.

    Attributes:
      claim: what was judged.
      verdict: `reproduced`, `contradicted` or `inconclusive`.
      reason: for `inconclusive`, one of `interval`, `power`, `range`; otherwise None.
      effect: the estimate, in the units that the rule names; of a compound claim, the worst part's.
      interval: (lower, upper) limits of the effect.
      level: confidence level of the interval.
      n: number of independent units (paired seeds) behind the effect.
    """

    claim: Claim
    verdict: str
    reason: str | None
    effect: float
    interval: tuple[float, float]
    level: float
    n: int


COLUMN_CLASSES = ("hyperparameter", "seed", "result", "timing")
"""What a column of a trial table is; timings stay out of fingerprints."""


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial: a row of a trial table.

    Attributes:
      study: name of the study that planned it.
      arm: name of the arm.
      replicate: which repetition; arms of one replicate share their seeds.
      address: sha256 of the trial's specification.
      hyperparameters: name to value, the workload's configuration under `workload.<field>`.
      seeds: purpose to seed.
      status: `complete` or `infeasible`.
      reason: why it is infeasible, otherwise None.
      results: name to number.
      curves: name to float32 array.
      timings: name to seconds.
    """

    study: str
    arm: str
    replicate: int
    address: str
    hyperparameters: Mapping[str, Any]
    seeds: Mapping[str, int]
    status: str
    reason: str | None
    results: Mapping[str, float]
    curves: Mapping[str, np.ndarray]
    timings: Mapping[str, float]

    def columns(self) -> Iterator[tuple[str, str, Any]]:
        """Yields (column, class, value) of the row, in the order of the table."""
        for name in ("study", "arm", "address"):
            yield name, "hyperparameter", getattr(self, name)
        yield from ((name, "hyperparameter", value) for name, value in sorted(self.hyperparameters.items()))
        yield "replicate", "seed", self.replicate
        yield from ((f"seed.{purpose}", "seed", seed) for purpose, seed in sorted(self.seeds.items()))
        yield from (("status", "result", self.status), ("reason", "result", self.reason))
        yield from ((name, "result", value) for name, value in sorted(self.results.items()))
        yield from ((f"curve.{name}", "result", curve) for name, curve in sorted(self.curves.items()))
        yield from ((name, "timing", seconds) for name, seconds in sorted(self.timings.items()))


class Curve(NamedTuple):
    """A measurement along one trial.

    Attributes:
      steps: training steps, ascending, float64 (m,).
      values: float64 (m,); NaN or infinite where the measurement was.
    """

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class TrialTable:
    """Finished trials of one study by column: what importers give and the analysis of anybody's studies reads.

    Attributes:
      trials: name of each of the n trials, such as its number or folder.
      hyperparameters: name to column: float64 (n,), or object (n,) of strings and booleans for a category; NaN or None
        where a hyperparameter does not apply to a trial.
      objective: value of each trial at its best step, float64 (n,); NaN where it is infeasible.
      infeasible: which trials diverged or failed, bool (n,).
      objective_name: as the source has it.
      goal: `min` or `max`.
      seeds: name to column, float64 (n,), or object (n,) of strings where float64 would not keep them apart: what sets
        repeated runs of a setting apart.
      curves: name to one `Curve` or None per trial; empty where the source has none.
      ranges: name of a hyperparameter to (low, high, scale), scale being `linear`, `log` or `reverse_log`, where the
        source says how it was searched.
      skipped: one line for every trial that could not be read.
      warnings: one line for every doubt about what was read.
      seconds: that each trial took, float64 (n,), NaN where that is not known; None where the source does not say.
    """

    trials: tuple[str, ...]
    hyperparameters: Mapping[str, np.ndarray]
    objective: np.ndarray
    infeasible: np.ndarray
    objective_name: str
    goal: str
    seeds: Mapping[str, np.ndarray]
    curves: Mapping[str, tuple[Curve | None, ...]]
    ranges: Mapping[str, tuple[float, float, str]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: np.ndarray | None = None
