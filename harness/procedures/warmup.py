"""The warmup search: the shortest warmup that makes a rate usable which is ten times an unstable one.

The playbook (L1012-1022): find the rate at which training becomes unstable, `unstable_base_learning_rate`; take ten
times it as the peak; try warmups over orders of magnitude, of at most 10% of `max_train_steps`, each followed by twice
as many steps at the peak; prepend the shortest that does not blow up to the schedule (10,000 + 1,000 = 11,000 steps)
and compare with the baseline by the best checkpoint; where it takes more than 5%, consider to raise `max_train_steps`.

Ours: two steps after a warmup of one show nothing, so the steps at the peak have a floor; a run that collapses to
chance without a spike has not survived, so that it must also make progress; and what survived is judged afresh, on
other seeds and through the whole training: where most of it fails, the next longer one is tried.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.analysis.findings import Finding
from harness.analysis.instability import UNSTABLE_SHARE
from harness.analysis.intervals import clopper_pearson
from harness.procedures.labels import STUCK, count_failed, label, median_loss, progress
from harness.procedures.procedure import (
    FRESH,
    PAIRS,
    Decision,
    Procedure,
    arm_mean,
    check_free,
    check_seeds,
    comparison,
    how_often_better,
    objective_values,
    of,
    runs,
)
from harness.procedures.sweep import SEEDS, Rate, best, lowest_unstable, read_sweep, share, sweep, sweep_rates
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
        steady = best_stable(swept).rate
        reference = median_loss([r for r in records if r.hyperparameters["learning_rate"] == steady])
        lived = [survival(group, reference, trial.steps) for group in _by_length(of(records, "warmups"))]
        fresh = range(FRESH, FRESH + PAIRS)
        planned = runs("baseline", trial, seed, fresh, {"learning_rate": steady})
        for one in lived:
            if one.survives:
                settings = {"learning_rate": peak, "warmup_steps": one.warmup_steps}
                records = yield planned + runs("prepended", trial, seed, fresh, settings)
                planned = []
                if is_confirmed(afresh(of(records, "baseline"), of(records, "prepended"))[one.warmup_steps]):
                    break
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


@dataclasses.dataclass(frozen=True)
class Survival:
    """How the runs of one warmup length went.

    Attributes:
      warmup_steps: its length.
      post_warmup_steps: steps at the peak after it.
      runs: how many.
      unstable: of them, those whose training loss is unstable.
      stuck: of the others, those that are stuck, see `harness.procedures.labels`.
      progress: median of the runs' shares of the reference's fall; NaN where the reference does not fall.
    """

    warmup_steps: int
    post_warmup_steps: int
    runs: int
    unstable: int
    stuck: int
    progress: float

    @property
    def failed(self) -> int:
        """Runs that are unstable or stuck."""
        return self.unstable + self.stuck

    @property
    def survives(self) -> bool:
        """Whether at most `UNSTABLE_SHARE` of the runs failed."""
        return self.failed <= UNSTABLE_SHARE * self.runs

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
    types = [label(record, max_train_steps, reference).type for record in records]
    stuck = types.count(STUCK)
    shares = [progress(record.curves["train_loss"], reference) for record in records]
    settings = records[0].hyperparameters
    return Survival(
        int(settings["warmup_steps"]),
        int(settings["steps"]),
        len(records),
        len(records) - types.count("stable") - stuck,
        stuck,
        float(np.median(shares)),
    )


def afresh(baseline: Sequence[TrialRecord], prepended: Sequence[TrialRecord]) -> dict[int, int]:
    """Counts the whole trainings that fail, for each length of the warmup, ascending.

    Args:
      baseline: runs of the best stable rate, whose progress is that of training.
      prepended: runs with warmups, of one or several lengths.
    """
    reference = median_loss(baseline) if baseline else None
    return {
        int(group[0].hyperparameters["warmup_steps"]): count_failed(
            group, int(group[0].hyperparameters["steps"]), reference
        )
        for group in _by_length(prepended)
    }


def is_confirmed(failed: int) -> bool:
    """Whether so many failures of `PAIRS` whole trainings on fresh seeds let a warmup stand."""
    return failed <= UNSTABLE_SHARE * PAIRS


def decide(
    max_train_steps: int,
    swept: Sequence[Rate],
    peak: float | None,
    lived: Sequence[Survival],
    baseline: Sequence[TrialRecord],
    prepended: Sequence[TrialRecord],
    objective: str,
) -> Decision:
    """Says which warmup to prepend: the shortest that survives, and does so again in whole trainings on fresh seeds.

    Args:
      max_train_steps: without warmup.
      swept: rates without warmup.
      peak: rate that warmups were tried for; None where no rate is unstable.
      lived: how each length went, ascending.
      baseline: runs of the best stable rate on fresh seeds; none where nothing survived.
      prepended: runs of the whole training with the warmups that survived, of the same seeds, up to the first that is
        confirmed.
      objective: `error` or `loss`, of evaluations.
    """
    unstable = lowest_unstable(swept)
    failed = afresh(baseline, prepended)
    chosen = next((one for one in lived if one.warmup_steps in failed and is_confirmed(failed[one.warmup_steps])), None)
    values = {
        "unstable_base_learning_rate": unstable and unstable.rate,
        "base_learning_rate": peak,
        "best_stable_rate": best_stable(swept).rate,
        "warmup_steps": chosen and chosen.warmup_steps,
        "max_train_steps": max_train_steps,
        "total_steps": chosen and max_train_steps + chosen.warmup_steps,
        "sweep": [rate.describe() for rate in swept],
        "warmups": [{**one.describe(), "failed_afresh": failed.get(one.warmup_steps)} for one in lived],
        "comparison": None,
        "adopt": None,
    }
    found = list(_of_sweep(swept, unstable))
    if unstable is not None:
        found += _of_lengths(lived, failed, chosen, peak, max_train_steps)
    if chosen is not None:
        candidate = [run for run in prepended if run.hyperparameters["warmup_steps"] == chosen.warmup_steps]
        compared = comparison(objective_values(candidate, objective), objective_values(baseline, objective), objective)
        values |= {"comparison": compared, "adopt": compared["verdict"] == "better"}
        found.append(_of_comparison(values))
    return Decision.of(chosen is not None, values, found)


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
        f"unstable_base_learning_rate {unstable.rate:g}: {share(unstable)} fail without warmup; "
        f"the best stable rate is {best_stable(swept).rate:g}",
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
    lived: Sequence[Survival], failed: dict[int, int], chosen: Survival | None, peak: float, max_train_steps: int
) -> Iterator[Finding]:
    tried = ", ".join(_told(one, failed.get(one.warmup_steps)) for one in lived)
    if chosen is None:
        yield Finding(
            "warmup",
            "serious",
            f"no warmup of up to {LONGEST:.0%} of {max_train_steps:,} steps makes the rate {peak:g} usable: {tried}",
            "try a smaller --factor, more steps (--set steps=N), clipping (playbook clip), or another architecture or "
            "optimizer",
        )
        return
    steps = chosen.warmup_steps
    yield Finding(
        "warmup",
        "good",
        f"{steps} steps of warmup are the shortest with which the rate {peak:g} trains: {tried}; prepended to the "
        f"schedule {max_train_steps:,} + {steps:,} = {max_train_steps + steps:,} steps",
        f"use --set learning_rate={peak:g} --set warmup_steps={steps}",
    )
    low, high = clopper_pearson(failed[steps], PAIRS)
    evidence = (
        f"of {PAIRS} whole trainings with {steps} steps of warmup, on fresh seeds, {failed[steps]} fail (95% interval "
        f"of the share {low:.2f} to {high:.2f})"
    )
    if failed[steps] or chosen.failed:
        yield Finding("afresh", "warning", evidence, "to be safe take the next longer one, or a smaller --factor")
    else:
        yield Finding("afresh", "good", evidence, "")
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


def _told(one: Survival, failed: int | None) -> str:
    stuck = f", {one.stuck} of them stuck" if one.stuck else ""
    again = "" if failed is None else f"; afresh {failed} of {PAIRS}"
    return f"{one.warmup_steps} ({one.failed} of {one.runs} fail{stuck}{again})"


def _of_comparison(values: dict[str, Any]) -> Finding:
    compared = values["comparison"]
    evidence = (
        f"{compared['objective']} {arm_mean(compared['candidate'])} at rate {values['base_learning_rate']:g} with "
        f"warmup, {arm_mean(compared['baseline'])} at the best stable rate {values['best_stable_rate']:g} without; "
        f"with warmup it is {how_often_better(compared)}"
    )
    severity, advice = {
        "better": ("good", "adopt the warmup"),
        "worse": ("warning", "not better at this rate: tune it again with this warmup (playbook tune)"),
        "undecided": ("note", "no difference is shown: tune the rate with this warmup (playbook tune)"),
    }[compared["verdict"]]
    return Finding("against the baseline", severity, evidence, advice)
