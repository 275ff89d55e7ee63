"""The warmup search: the shortest warmup that makes a rate usable which is ten times an unstable one.

The playbook (L1012-1022): find the rate at which training becomes unstable, `unstable_base_learning_rate`; take ten
times it as the peak; try warmups over orders of magnitude, of at most 10% of `max_train_steps`, each followed by twice
as many steps at the peak; prepend the shortest that does not blow up to the schedule (10,000 + 1,000 = 11,000 steps)
and compare with the baseline by the best checkpoint; where it takes more than 5%, consider to raise `max_train_steps`.

Ours: two steps after a warmup of one show nothing, so the steps at the peak have a floor; and a run that collapses to
chance without a spike has not survived, so that it must also make progress.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.analysis.comparison import Comparison, compare
from harness.analysis.findings import Finding, number
from harness.analysis.instability import UNSTABLE_SHARE
from harness.procedures.procedure import (
    FRESH,
    PAIRS,
    Decision,
    Procedure,
    check_free,
    check_seeds,
    label,
    objective_values,
    of,
    runs,
)
from harness.procedures.sweep import SEEDS, STUDY, Rate, best, lowest_unstable, read_sweep, share, sweep, sweep_rates
from harness.records import InputError, TrialRecord
from harness.studies.rounds import Rounds
from harness.studies.study import PlannedTrial
from harness.training.trial import Trial

FACTOR = 10.0
"""Of the unstable rate: the playbook's default (L1014)."""

LONGEST = 0.1
"""Longest warmup, as a share of `max_train_steps` (L1019)."""

LONG = 0.05
"""Share of `max_train_steps` above which they may have to be raised (L1021)."""

AT_PEAK = 2
"""Steps at the peak per step of warmup (L1018)."""

FLOOR_SHARE, FLOOR_STEPS = 0.1, 100
"""Steps at the peak are at least this share of `max_train_steps`, and at least so many: failures of a short warmup show
within hundreds of steps (figure 6: after 500 of 200,000), which twice a warmup of one step would not reach."""

LEAST_PROGRESS = 0.5
"""Share of the fall of the loss that the best stable rate has made after as many steps, which a run that survives makes
at least: one that collapses to chance makes almost none, one that is merely delayed by its warmup most of it."""


def warmup(rates: str | None = None, factor: float = FACTOR, seeds: int = SEEDS) -> Procedure:
    """The procedure that finds a warmup length.

    Args:
      rates: of the sweep, as `harness.procedures.sweep.sweep_rates` reads them.
      factor: of the unstable rate, above 1.
      seeds: runs of every rate and length, at least 2.

    Raises:
      InputError: a value out of its range.
    """
    if not (factor > 1 and math.isfinite(factor)):
        raise InputError(f"--factor {factor:g}: expected more than 1, such as 10")
    check_seeds(seeds)

    def rounds(trial: Trial, seed: int) -> Rounds:
        check_free(trial, "warmup_steps")
        tried = lengths(trial.steps)
        records = yield sweep(trial, seed, sweep_rates(rates, trial.hyperparameters["learning_rate"]), seeds)
        objective = trial.workload.objective
        swept = read_sweep(records, objective)
        unstable = lowest_unstable(swept)
        if unstable is None:
            return decide(trial.steps, swept, None, [], [], [], objective)
        peak = factor * unstable.rate
        records = yield [place for steps in tried for place in _at_peak(trial, seed, peak, steps, seeds)]
        reference = _reference(records, swept)
        lived = [survival(group, reference, trial.steps) for group in _by_length(of(records, "warmups"))]
        shortest = next((one for one in lived if one.survives), None)
        if shortest is not None:
            prepended = {"learning_rate": peak, "warmup_steps": shortest.warmup_steps}
            baseline = {"learning_rate": best_stable(swept).rate}
            fresh = range(FRESH, FRESH + PAIRS)
            records = yield [
                *runs("baseline", trial, seed, fresh, baseline),
                *runs("prepended", trial, seed, fresh, prepended),
            ]
        return decide(trial.steps, swept, peak, lived, of(records, "baseline"), of(records, "prepended"), objective)

    return Procedure("warmup", {"rates": rates, "factor": factor, "seeds": seeds}, rounds)


def lengths(max_train_steps: int) -> list[int]:
    """Warmup lengths to try: half orders of magnitude (1, 3, 10, 30, ...) up to `LONGEST`, and that itself.

    Raises:
      InputError: so few steps that the longest warmup is none.
    """
    longest = int(LONGEST * max_train_steps + 1e-9)
    if longest < 1:
        least = round(1 / LONGEST)
        raise InputError(
            f"steps {max_train_steps}: expected at least {least}, of which {LONGEST:.0%} are a step; "
            f"use --set steps={least * 10} or a larger --scale"
        )
    powers = (m * 10**power for power in range(len(str(longest))) for m in (1, 3))
    return sorted({steps for steps in powers if steps <= longest} | {longest})


def steps_at_peak(warmup_steps: int, max_train_steps: int) -> int:
    """Steps at the peak rate after a warmup: `AT_PEAK` times it, not below the floor."""
    return max(AT_PEAK * warmup_steps, FLOOR_STEPS, math.ceil(FLOOR_SHARE * max_train_steps))


def _at_peak(trial: Trial, seed: int, peak: float, warmup_steps: int, seeds: int) -> list[PlannedTrial]:
    return runs(
        "warmups",
        trial,
        seed,
        range(seeds),
        {"learning_rate": peak, "warmup_steps": warmup_steps},
        steps=steps_at_peak(warmup_steps, trial.steps),
        schedule="constant",
    )


def _by_length(records: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    groups: dict[int, list[TrialRecord]] = {}
    for record in records:
        groups.setdefault(int(record.hyperparameters["warmup_steps"]), []).append(record)
    return [members for _, members in sorted(groups.items())]


def best_stable(swept: Sequence[Rate]) -> Rate:
    """The best of the rates that are not called unstable."""
    return best([rate for rate in swept if not rate.is_unstable])


def _reference(records: Sequence[TrialRecord], swept: Sequence[Rate]) -> np.ndarray:
    """Training loss at the best stable rate, the median of its runs at each step, (steps,) nats."""
    rate = best_stable(swept).rate
    curves = [r.curves["train_loss"] for r in of(records, STUDY) if r.hyperparameters["learning_rate"] == rate]
    longest = max(map(len, curves))
    return np.median([curve for curve in curves if len(curve) == longest], axis=0)


@dataclasses.dataclass(frozen=True)
class Survival:
    """How the runs of one warmup length went.

    Attributes:
      warmup_steps: its length.
      post_warmup_steps: steps at the peak after it.
      runs: how many.
      unstable: of them, those whose training loss is unstable.
      stuck: of the others, those that make too little progress, see `LEAST_PROGRESS`.
      progress: median of the runs' shares of the reference's fall; NaN where the reference does not fall.
    """

    warmup_steps: int
    post_warmup_steps: int
    runs: int
    unstable: int
    stuck: int
    progress: float

    @property
    def survives(self) -> bool:
        """Whether at most `UNSTABLE_SHARE` of the runs are unstable or stuck."""
        return self.unstable + self.stuck <= UNSTABLE_SHARE * self.runs

    def describe(self) -> dict[str, Any]:
        """The fields and `survives`."""
        return {**dataclasses.asdict(self), "survives": self.survives}


def survival(records: Sequence[TrialRecord], reference: np.ndarray, max_train_steps: int) -> Survival:
    """Judges the runs of one warmup length.

    Args:
      records: of one length.
      reference: training loss of a run that trains, (steps,) nats.
      max_train_steps: of the whole training, without warmup.
    """
    stable = [label(record, max_train_steps).type == "stable" for record in records]
    shares = [progress(record.curves["train_loss"], reference) for record in records]
    stuck = sum(one and share < LEAST_PROGRESS for one, share in zip(stable, shares, strict=True))
    settings = records[0].hyperparameters
    return Survival(
        int(settings["warmup_steps"]),
        int(settings["steps"]),
        len(records),
        stable.count(False),
        stuck,
        float(np.median(shares)),
    )


def progress(loss: np.ndarray, reference: np.ndarray) -> float:
    """The fall of a loss as a share of the reference's fall after as many steps, by medians of the last tenth.

    Args:
      loss: training loss, (n,) nats.
      reference: training loss, (m,) nats.

    Returns:
      1 for the same fall, 0 for none; NaN where the reference does not fall, or a value is not finite.
    """
    steps = min(len(loss), len(reference))
    tenth = max(1, steps // 10)
    fall = reference[0] - np.median(reference[steps - tenth : steps])
    own = loss[0] - np.median(loss[-max(1, len(loss) // 10) :])
    return float(own / fall) if fall > 0 and np.isfinite(own) else float("nan")


def decide(
    max_train_steps: int,
    swept: Sequence[Rate],
    peak: float | None,
    lived: Sequence[Survival],
    baseline: Sequence[TrialRecord],
    prepended: Sequence[TrialRecord],
    objective: str,
) -> Decision:
    """Says which warmup to prepend.

    Args:
      max_train_steps: without warmup.
      swept: rates without warmup.
      peak: rate that warmups were tried for; None where no rate is unstable.
      lived: how each length went, ascending.
      baseline: runs of the best stable rate on fresh seeds; none where nothing survived.
      prepended: runs of the whole training with the shortest warmup that survived, of the same seeds.
      objective: `error` or `loss`, of evaluations.
    """
    unstable = lowest_unstable(swept)
    shortest = next((one for one in lived if one.survives), None)
    values = {
        "unstable_base_learning_rate": unstable and unstable.rate,
        "base_learning_rate": peak,
        "best_stable_rate": best_stable(swept).rate,
        "warmup_steps": shortest and shortest.warmup_steps,
        "max_train_steps": max_train_steps,
        "total_steps": shortest and max_train_steps + shortest.warmup_steps,
        "sweep": [rate.describe() for rate in swept],
        "warmups": [one.describe() for one in lived],
        "comparison": None,
        "adopt": None,
    }
    found = list(_of_sweep(swept, unstable))
    if unstable is not None:
        found += _of_lengths(lived, shortest, peak, max_train_steps)
    if shortest is not None:
        pair = objective_values(prepended, objective), objective_values(baseline, objective)
        better, worse = compare(*pair, "min", paired=True), compare(*pair[::-1], "min", paired=True)
        values["comparison"] = {
            "objective": f"best_{objective}",
            "baseline": float(np.mean(pair[1])),
            "prepended": float(np.mean(pair[0])),
            "probability_better": better.probability,
            "interval": list(better.interval),
            "improvement": better.improvement,
        }
        values["adopt"] = better.adopt
        found.append(_of_comparison(values, better, worse))
    return Decision.of(shortest is not None, values, found)


def _of_sweep(swept: Sequence[Rate], unstable: Rate | None) -> Iterator[Finding]:
    low, high = swept[0].rate, swept[-1].rate
    if unstable is None:
        yield Finding(
            "unstable rate",
            "serious",
            f"no rate from {low:g} to {high:g} is unstable in more than half of its runs, so there is no "
            "unstable_base_learning_rate and nothing for warmup to mend in this range",
            f"sweep higher rates, such as --rates {high:g},{high * 10:g},{high * 100:g}",
        )
        return
    yield Finding(
        "unstable rate",
        "note",
        f"unstable_base_learning_rate {unstable.rate:g}: {share(unstable)} are unstable without warmup; the best "
        f"stable rate is {best_stable(swept).rate:g}",
        "",
    )
    above = [rate for rate in swept if rate.rate > unstable.rate and not rate.is_unstable]
    if above:
        yield Finding(
            "edge of stability",
            "warning",
            f"higher rates are not called unstable: {', '.join(f'{rate.rate:g}' for rate in above)}",
            "the edge is not sharp; take more --seeds, or rates closer together",
        )


def _of_lengths(
    lived: Sequence[Survival], shortest: Survival | None, peak: float, max_train_steps: int
) -> Iterator[Finding]:
    tried = ", ".join(f"{one.warmup_steps} ({one.unstable + one.stuck} of {one.runs} fail)" for one in lived)
    if shortest is None:
        stuck = " (those that are not unstable make too little progress)" if any(one.stuck for one in lived) else ""
        yield Finding(
            "warmup",
            "serious",
            f"no warmup of up to {LONGEST:.0%} of {max_train_steps:,} steps makes the rate {peak:g} usable{stuck}: "
            f"{tried}",
            "try a smaller --factor, more steps (--set steps=N), clipping (playbook clip), or another architecture or "
            "optimizer",
        )
        return
    steps = shortest.warmup_steps
    yield Finding(
        "warmup",
        "good",
        f"{steps} steps of warmup are the shortest at which the rate {peak:g} trains: {tried}; prepended to the "
        f"schedule {max_train_steps:,} + {steps:,} = {max_train_steps + steps:,} steps",
        f"--set learning_rate={peak:g} --set warmup_steps={steps}",
    )
    if failed := shortest.unstable + shortest.stuck:
        yield Finding(
            "survivors",
            "warning",
            f"{failed} of {shortest.runs} runs fail even with {steps} steps of warmup",
            "take the next longer one, or a smaller --factor",
        )
    longer = [one.warmup_steps for one in lived if one.warmup_steps > steps and not one.survives]
    if longer:
        yield Finding(
            "longer warmups",
            "warning",
            f"longer warmups fail: {', '.join(map(str, longer))}",
            f"that {steps} steps are enough may be luck: take more --seeds",
        )
    if steps > LONG * max_train_steps:
        yield Finding(
            "long warmup",
            "warning",
            f"{steps:,} steps are {steps / max_train_steps:.1%} of {max_train_steps:,}, more than {LONG:.0%}",
            "the steps after it may no longer be enough: consider to raise max_train_steps (--set steps=N)",
        )


def _of_comparison(values: dict[str, Any], better: Comparison, worse: Comparison) -> Finding:
    measured = values["comparison"]
    low, high = better.interval
    peak, stable = values["base_learning_rate"], values["best_stable_rate"]
    evidence = (
        f"{measured['objective']} {number(measured['prepended'])} at rate {peak:g} with warmup, "
        f"{number(measured['baseline'])} at the best stable rate {stable:g} without; with warmup it is better in {better.probability:.0%} of {better.runs[0]} pairs of fresh seeds (95% interval {low:.2f} to "
        f"{high:.2f}, ties half)"
    )
    if better.adopt:
        return Finding("against the baseline", "good", evidence, "adopt the warmup")
    if worse.adopt:
        advice = "the rate is usable, but not better: tune it again with this warmup (playbook tune)"
        return Finding("against the baseline", "warning", evidence, advice)
    return Finding("against the baseline", "note", evidence, "no difference is shown: tune the rate with this warmup")
