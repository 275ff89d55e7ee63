"""A first `max_train_steps`: how soon a constant learning rate fits the training set perfectly.

The playbook (L600-613): assume that the training set can be fitted perfectly at a constant rate in N steps; sweep
constant rates over N steps, without augmentation and regularisation; the steps of the fastest trial to perfect training
performance are the first guess. Where the best rate lies on the boundary of the sweep all rates may be too small, and
the guess far too large.

What perfect training performance is, says `harness.analysis.full_fit`.

Ours: several seeds, so that a rate counts where more than half of its runs fit, with the median of their steps; and the
fastest rate is judged afresh on other seeds, since the fastest of several looks faster than it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.analysis.findings import Finding, number
from harness.analysis.full_fit import FIT, Pace, boundary_of, fastest_first, read_paces
from harness.procedures.procedure import FRESH, PAIRS, Decision, Procedure, check_seeds, of, runs
from harness.procedures.sweep import sweep_rates
from harness.records import InputError
from harness.studies.rounds import Rounds
from harness.training.trial import Trial
from workloads.workload import DataError, Stream

SEEDS = 3
"""Runs of each rate: the sweep has to rank rates half a decade apart, the fastest is run again on `PAIRS` seeds."""

CONFIRMED = 0.5
"""Share of the fresh runs that must fit, else the next fastest rate is tried."""

_REGULARISERS = ("label_smoothing", "bad_batch_step")
_OF_A_SCHEDULE = ("constant_steps",)


def max_steps(rates: str | None = None, fit: float = FIT, seeds: int = SEEDS) -> Procedure:
    """The procedure that finds a first `max_train_steps`.

    Args:
      rates: of the sweep, as `harness.procedures.sweep.sweep_rates` reads them.
      fit: see `FIT`.
      seeds: runs of every rate, at least 2.

    Raises:
      InputError: a value out of its range.
    """
    if not (fit > 0 and math.isfinite(fit)):
        raise InputError(f"--fit {fit:g}: expected a training loss above 0, such as {FIT:g}")
    check_seeds(seeds)

    def rounds(trial: Trial, seed: int) -> Rounds:
        plain, switched_off = without_regularisation(trial)
        examples, augments = training_set(trial)
        window = math.ceil(examples / trial.batch_size)
        if trial.steps < window:
            raise InputError(
                f"steps {trial.steps}: expected at least {window}, one pass over the {examples} training examples in "
                f"batches of {trial.batch_size}; use --set steps={10 * window}"
            )
        swept = sweep_rates(rates, trial.hyperparameters["learning_rate"])
        records = yield [
            place for rate in swept for place in runs("sweep", plain, seed, range(seeds), {"learning_rate": rate})
        ]
        paces = read_paces(of(records, "sweep"), fit, window)
        fresh: list[Pace] = []
        for pace in fastest_first(paces):
            settings = {"learning_rate": pace.rate}
            records = yield runs("afresh", plain, seed, range(FRESH, FRESH + PAIRS), settings)
            fresh = read_paces(of(records, "afresh"), fit, window)
            if is_confirmed(next(one for one in fresh if one.rate == pace.rate)):
                break
        return decide(paces, fresh, fit, window, trial.steps, switched_off, augments)

    return Procedure("max-steps", {"rates": rates, "fit": fit, "seeds": seeds}, rounds)


def without_regularisation(trial: Trial) -> tuple[Trial, dict[str, Any]]:
    """The trial at a constant rate without regularisation and augmentation, as far as they are known by name.

    Weight decay is 0, and label smoothing left out; of the workload's fields, those whose name holds `dropout` or
    `augment` become 0 or false. Warmup stays, as the steps are counted after it, and so does clipping.

    Args:
      trial: of the workload's settings.

    Returns:
      The trial, and what was switched off: name to the value that it had.
    """
    hyperparameters = dict(trial.hyperparameters)
    off = {name: hyperparameters.pop(name) for name in _REGULARISERS if name in hyperparameters}
    for name in _OF_A_SCHEDULE:
        hyperparameters.pop(name, None)
    off["weight_decay"], hyperparameters["weight_decay"] = hyperparameters["weight_decay"], 0.0
    fields = {}
    for field in dataclasses.fields(trial.workload):
        value = getattr(trial.workload, field.name)
        if ("dropout" in field.name or "augment" in field.name) and isinstance(value, bool | int | float) and value:
            off[field.name], fields[field.name] = value, type(value)(0)
    workload = dataclasses.replace(trial.workload, **fields)
    plain = dataclasses.replace(trial, workload=workload, schedule="constant", hyperparameters=hyperparameters)
    return plain, {name: value for name, value in off.items() if value}


def training_set(trial: Trial) -> tuple[int, bool]:
    """How many training examples there are, and whether they are a stream, which may augment them.

    Raises:
      InputError: the data are missing.
    """
    try:
        train = trial.workload.data(trial.seeds["split"]).train
    except DataError as error:
        raise InputError(str(error)) from None
    is_stream = isinstance(train, Stream)
    return len(train.records if is_stream else next(iter(train.values()))), is_stream


def is_confirmed(pace: Pace) -> bool:
    """Whether so many fresh runs fit that a rate can stand."""
    return len(pace.steps) > CONFIRMED * pace.runs


def decide(
    paces: Sequence[Pace],
    fresh: Sequence[Pace],
    fit: float,
    window: int,
    steps: int,
    switched_off: Mapping[str, Any],
    augments: bool,
) -> Decision:
    """Says which `max_train_steps` to start with: the median steps of the fastest rate on fresh seeds.

    Args:
      paces: of the sweep, ascending by rate.
      fresh: of the rates that were run again.
      fit: see `FIT`.
      window: steps of a pass over the training set.
      steps: of each run, after warmup.
      switched_off: see `without_regularisation`.
      augments: whether the examples are a stream, which may augment them.
    """
    again = {pace.rate: pace for pace in fresh}
    tried = [pace for pace in fastest_first(paces) if pace.rate in again]
    chosen = next((again[pace.rate] for pace in tried if is_confirmed(again[pace.rate])), None)
    best = chosen.rate if chosen else min(paces, key=lambda pace: pace.loss).rate
    boundary = boundary_of(paces, best)
    values = {
        "max_train_steps": chosen and int(chosen.median),
        "steps_of_the_fastest": chosen and chosen.steps[0],
        "steps_of_the_slowest": chosen and (chosen.steps[-1] if len(chosen.steps) == chosen.runs else None),
        "learning_rate": best,
        "boundary": boundary,
        "fit": fit,
        "window": window,
        "steps": steps,
        "switched_off": dict(switched_off),
        "sweep": [pace.describe() for pace in paces],
        "fresh": [pace.describe() for pace in fresh],
    }
    found = [*_of_steps(chosen, paces, fit, window, steps), *_of_boundary(paces, best, boundary, chosen)]
    found += [*_of_fresh(tried, again, chosen), *_of_what_is_off(switched_off, augments)]
    return Decision.of(chosen is not None, values, found)


def _of_steps(chosen: Pace | None, paces: Sequence[Pace], fit: float, window: int, steps: int) -> Iterator[Finding]:
    swept = ", ".join(_told(pace) for pace in paces)
    if chosen is None:
        nearest = min(paces, key=lambda pace: pace.loss)
        yield Finding(
            "max_train_steps",
            "serious",
            f"no rate fits the training set within {steps:,} steps in more than half of its runs (mean loss of a pass "
            f"of {window:,} steps at most {fit:g}): {swept}; the lowest loss is {number(nearest.loss)}, at rate "
            f"{nearest.rate:g}",
            f"take more steps (--set steps={10 * steps}); where none are enough, training is bound by compute, and "
            "the playbook's rounds of growing length apply: playbook next-round",
        )
        return
    yield Finding(
        "max_train_steps",
        "good",
        f"{int(chosen.median):,} steps fit the training set (mean loss of a pass of {window:,} steps at most {fit:g}) "
        f"at a constant rate of {chosen.rate:g}: median of {chosen.runs} fresh runs, {_spread(chosen)}; in the sweep "
        f"{swept}",
        f"start with --set steps={int(chosen.median)}; in doubt, train longer: best checkpoints make up for it, and "
        "augmentation, dropout or a smaller batch will need more",
    )


def _told(pace: Pace) -> str:
    bad = f", {pace.infeasible} infeasible" if pace.infeasible else ""
    if math.isfinite(pace.median):
        return f"{pace.rate:g} ({int(pace.median):,} steps, {len(pace.steps)} of {pace.runs} fit{bad})"
    return f"{pace.rate:g} ({len(pace.steps)} of {pace.runs} fit{bad})"


def _spread(pace: Pace) -> str:
    missed = pace.runs - len(pace.steps)
    upto = f"{pace.steps[-1]:,}" if not missed else f"{pace.steps[-1]:,}, and {missed} not within the steps"
    return f"{pace.steps[0]:,} to {upto}"


def _of_boundary(paces: Sequence[Pace], best: float, boundary: str | None, chosen: Pace | None) -> Iterator[Finding]:
    low, high = paces[0].rate, paces[-1].rate
    what = "the fastest rate" if chosen else "the rate of the lowest loss"
    if boundary == "high":
        yield Finding(
            "boundary",
            "warning",
            f"{what}, {best:g}, is the highest of the sweep: all of them may be too small, and the steps far too many",
            f"sweep higher rates, such as --rates {high / 10**0.5:.3g},{high:.3g},{high * 10**0.5:.3g},{high * 10:.3g}",
        )
    elif boundary == "low":
        yield Finding(
            "boundary",
            "warning",
            f"{what}, {best:g}, is the lowest of the sweep: lower ones may need fewer steps",
            f"sweep lower rates, such as --rates {low / 10:.3g},{low / 10**0.5:.3g},{low:.3g},{low * 10**0.5:.3g}",
        )
    else:
        yield Finding("boundary", "good", f"{what}, {best:g}, lies inside the sweep, {low:g} to {high:g}", "")


def _of_fresh(tried: Sequence[Pace], again: Mapping[float, Pace], chosen: Pace | None) -> Iterator[Finding]:
    failed = [again[pace.rate] for pace in tried if not is_confirmed(again[pace.rate])]
    if failed:
        told = ", ".join(f"{pace.rate:g} ({len(pace.steps)} of {pace.runs} fit)" for pace in failed)
        yield Finding(
            "afresh",
            "warning",
            f"faster rates of the sweep do not fit on fresh seeds: {told}",
            "take more --seeds, or more steps",
        )
    if chosen is not None and len(chosen.steps) < chosen.runs:
        yield Finding(
            "afresh",
            "warning",
            f"{chosen.runs - len(chosen.steps)} of {chosen.runs} fresh runs at rate {chosen.rate:g} do not fit, "
            f"{chosen.infeasible} of them infeasible",
            "a lower rate may be steadier; the median counts them as slower than every other",
        )


def _of_what_is_off(switched_off: Mapping[str, Any], augments: bool) -> Iterator[Finding]:
    told = ", ".join(f"{name} {value}" for name, value in switched_off.items())
    yield Finding(
        "regularisation",
        "note",
        f"switched off for this: {told}" if told else "the workload has no regularisation that was to be switched off",
        "with it training takes more steps: look at the best checkpoints' steps (playbook diagnose)" if told else "",
    )
    if augments:
        yield Finding(
            "augmentation",
            "warning",
            "the training examples are a stream, which prepares them by itself: if it augments them, that stays on",
            "the steps are then more than the playbook's procedure would find",
        )
