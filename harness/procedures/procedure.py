"""What a procedure is: rounds of trials of one workload, and the decision that the playbook draws from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.analysis.comparison import compare
from harness.analysis.findings import SEVERITIES, Finding, number
from harness.records import InputError, TrialRecord
from harness.studies.rounds import Rounds
from harness.studies.study import PlannedTrial
from harness.training.trial import Trial, derive_seeds

PAIRS = 8
"""Paired seeds of a comparison, as many as the experiments' verdicts have at least.

Six wins of six are the least that show anything by the interval of `harness.analysis.comparison`, eight of eight have
a lower limit of .63. Where neither side is better, one is taken for better in 1 of 128 comparisons without ties.
"""

FRESH = 1000
"""First replicate of the seeds on which a rate that was picked from a sweep is judged afresh."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a procedure found.

    Attributes:
      decided: whether there is what was looked for.
      values: JSON-ready but for values that are not finite.
      findings: worst first, at least one.
    """

    decided: bool
    values: Mapping[str, Any]
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, decided: bool, values: Mapping[str, Any], findings: Sequence[Finding]) -> Decision:
        """Sorts the findings, those of one severity as they come."""
        return cls(decided, values, tuple(sorted(findings, key=lambda one: SEVERITIES.index(one.severity))))


@dataclasses.dataclass(frozen=True)
class Procedure:
    """A procedure with its settings.

    Attributes:
      name: as the command line has it.
      settings: name to value, as they stand in `result.json`.
      rounds: (trial of the workload's settings, seed) to its rounds, which return a `Decision`.
    """

    name: str
    settings: Mapping[str, Any]
    rounds: Callable[[Trial, int], Rounds]


def runs(
    study: str,
    trial: Trial,
    seed: int,
    replicates: Sequence[int],
    hyperparameters: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[PlannedTrial]:
    """Plans the runs of one setting, evaluated as often as the trial it comes from.

    Args:
      study: name of the round's part.
      trial: what to start from.
      seed: of the procedure.
      replicates: numbers of the repetitions; equal numbers share their seeds, which pairs them.
      hyperparameters: those that differ.
      **fields: of the trial that differ.
    """
    changed = dataclasses.replace(trial, hyperparameters={**trial.hyperparameters, **(hyperparameters or {})}, **fields)
    # From the end, which is evaluated even if nothing else is.
    spread = np.linspace(changed.total_steps, 0, len(trial.evaluation_steps)).round().astype(int)
    changed = dataclasses.replace(changed, evaluation_steps=tuple(sorted(set(spread.tolist()))))
    return [
        PlannedTrial(study, trial.workload.name, number, dataclasses.replace(changed, seeds=derive_seeds(seed, number)))
        for number in replicates
    ]


def of(records: Sequence[TrialRecord], study: str) -> list[TrialRecord]:
    """The records of one part, in the order of the plan."""
    return [record for record in records if record.study == study]


def check_free(trial: Trial, *names: str) -> None:
    """Refuses hyperparameters whose value the procedure looks for."""
    for name in names:
        if trial.hyperparameters.get(name):
            raise InputError(
                f"{name} {trial.hyperparameters[name]:g}: expected none, since this procedure looks for it; "
                f"leave it out, or set it to 0 where it is the workload's default"
            )


def check_seeds(seeds: int) -> None:
    """Refuses fewer than two seeds."""
    if seeds < 2:
        raise InputError(f"--seeds {seeds}: expected at least 2, since one run says nothing of the next")


def objective_values(records: Sequence[TrialRecord], objective: str) -> np.ndarray:
    """The best evaluation of each run, selected in retrospect by the objective, (n,); NaN where it is infeasible."""
    return np.array([r.results[f"best_{objective}"] if r.status == "complete" else np.nan for r in records], np.float64)


def comparison(candidate: np.ndarray, baseline: np.ndarray, objective: str) -> dict[str, Any]:
    """Compares paired runs by the two-threshold rule of `harness.analysis.comparison`; an infeasible run is the worst.

    Args:
      candidate: objective of each run, (n,), lower is better; NaN where it is infeasible.
      baseline: the same of the same seeds.
      objective: `error` or `loss`, of evaluations.

    Returns:
      `objective`; of `candidate` and `baseline` the `mean` of the feasible runs (None without any) and the number of
      `infeasible` ones; `pairs`; `probability_better`, its `interval` and `improvement` of the candidate; `verdict`:
      `better`, `worse` or `undecided`.
    """
    better, worse = compare(candidate, baseline, "min", paired=True), compare(baseline, candidate, "min", paired=True)
    arms = {"candidate": candidate[np.isfinite(candidate)], "baseline": baseline[np.isfinite(baseline)]}
    return {
        "objective": f"best_{objective}",
        **{
            name: {"mean": float(one.mean()) if len(one) else None, "infeasible": len(candidate) - len(one)}
            for name, one in arms.items()
        },
        "pairs": len(candidate),
        "probability_better": better.probability,
        "interval": list(better.interval),
        "improvement": better.improvement,
        "verdict": "better" if better.adopt else "worse" if worse.adopt else "undecided",
    }


def arm_mean(arm: Mapping[str, Any]) -> str:
    """The mean of an arm of a `comparison` as text, with its infeasible runs."""
    infeasible = f" ({arm['infeasible']} runs infeasible)" if arm["infeasible"] else ""
    return ("none feasible" if arm["mean"] is None else number(arm["mean"])) + infeasible


def how_often_better(found: Mapping[str, Any]) -> str:
    """The chance that the candidate of a `comparison` is better, as text."""
    low, high = found["interval"]
    return (
        f"better in {found['probability_better']:.0%} of {found['pairs']} pairs (95% interval {low:.2f} to {high:.2f}, "
        "ties half)"
    )
