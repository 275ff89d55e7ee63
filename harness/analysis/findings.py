"""What a reading means: the playbook's checklist, each finding with its evidence and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.axes import positions
from harness.analysis.best_steps import EARLY, FEWEST, LATE
from harness.analysis.boundaries import MIN_TRIALS
from harness.analysis.reading import Reading
from harness.analysis.training_curves import Thresholds

SEVERITIES = ("serious", "warning", "note", "good")
"""Worst first: the study's conclusion does not stand; it may not; worth knowing; a check that was passed."""

MANY_INFEASIBLE = 0.1
"""Share of infeasible trials from which they waste the budget: one trial in ten."""

FEW_NEAR_BEST = 3
"""Trials within two trial standard deviations of the best, itself included, under which the best region is thin."""

_ROUNDING = 1e-9  # of a range; a value may have been printed with fewer digits


@dataclass(frozen=True)
class Finding:
    """One line of the checklist.

    Attributes:
      check: which one, such as `boundary`.
      severity: one of `SEVERITIES`.
      evidence: what was found, with numbers.
      advice: what to do next; empty where there is nothing to do.
    """

    check: str
    severity: str
    evidence: str
    advice: str


def findings(reading: Reading) -> list[Finding]:
    """Reads the checklist, worst finding first.

    Args:
      reading: of a study.

    Returns:
      At least one finding; those of one severity in the order of the playbook.
    """
    found = [*_data(reading), *_trials(reading)]
    if len(reading.order):
        found += [
            *_boundaries(reading),
            *_infeasible(reading),
            *_sampling(reading),
            *_curves(reading),
            *_best_steps(reading),
            *_isolation(reading),
            *_variance(reading),
        ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def _data(reading: Reading) -> Iterator[Finding]:
    table = reading.table
    if table.skipped:
        listed = "; ".join(table.skipped[:3]) + ("; ..." if len(table.skipped) > 3 else "")
        yield Finding(
            "data",
            "warning",
            f"{_count(len(table.skipped), 'trial')} could not be used: {listed}.",
            "Mend or finish them: what is left out may differ from what is left.",
        )
    for warning in table.warnings:
        yield Finding("data", "note", f"{warning[:1].upper()}{warning[1:].rstrip('.')}.", "")
    for name, axis in reading.axes.items():
        at = positions(name, table.hyperparameters[name], axis)
        if outside := int(np.count_nonzero((at < -_ROUNDING) | (at > 1 + _ROUNDING))):
            yield Finding(
                "data",
                "warning",
                f"{_count(outside, 'trial')} of {len(at)} lie outside of the range of {name}, {number(axis.low)} to "
                f"{number(axis.high)}.",
                "Correct the range: isolation leaves them out, and charts draw them at its ends.",
            )
    if reading.estimated and len(reading.order):
        names = _listed(sorted(reading.estimated))
        yield Finding(
            "data",
            "note",
            f"Range and scale of {names} were estimated from the trials.",
            "Give the search space with --space: a range that was searched but drew no trial is not seen here.",
        )


def _trials(reading: Reading) -> Iterator[Finding]:
    n, feasible = len(reading.table.trials), len(reading.order)
    if not feasible:
        yield Finding(
            "trials",
            "serious",
            f"All {n} trials are infeasible." if n > 1 else "The only trial is infeasible.",
            "Look for a bug first; then lower the learning rates, and see whether any setting trains.",
        )
        return
    objective = reading.table.objective[reading.order]
    if not reading.table.hyperparameters:
        yield Finding(
            "trials",
            "note" if reading.repeated else "serious",
            "No hyperparameter varies: the table is of one setting.",
            "Only trial variance can be read from it; vary what you want to learn about.",
        )
    if feasible > 1 and objective.min() == objective.max():
        yield Finding(
            "trials",
            "serious",
            f"All {feasible} feasible trials have the same objective, {number(objective[0])}.",
            "The objective does not depend on anything that was searched, or is not what was meant: check it.",
        )
    if feasible < MIN_TRIALS:
        yield Finding(
            "trials",
            "serious",
            f"{_count(feasible, 'feasible trial')}: fewer than {MIN_TRIALS} tell nothing about a search space.",
            "Run more trials before concluding anything; quasi-random search is the playbook's choice.",
        )
    elif reading.table.hyperparameters and (count := _feasible_settings(reading)) < MIN_TRIALS:
        yield Finding(
            "trials",
            "note",
            f"{_count(count, 'setting')} of which no run is infeasible: fewer than {MIN_TRIALS} tell nothing about a "
            "search space, however often they were run.",
            "Compare them by their runs; for a search, spend the runs on more settings.",
        )


def _boundaries(reading: Reading) -> Iterator[Finding]:
    passed = [side for side in reading.sides if side.verdict == "closed"]
    undecided = [side for side in reading.sides if side.verdict == "undecided"]
    unit = _unit(reading)
    for side in reading.sides:
        if side.verdict not in ("open", "wall"):
            continue
        name, end = side.hyperparameter, "above" if side.side == "high" else "below"
        expected = side.best * side.at_edge / side.trials
        evidence = (
            f"{side.best_at_edge} of the {side.best} best {unit}s lie at the {side.side} end of {name}, {end} "
            f"{number(side.edge)}, where {expected:.1f} would by chance ({_p(side.p_crowd)})"
        )
        if side.verdict == "wall":
            yield Finding(
                "boundary",
                "warning",
                f"{evidence}, and {side.infeasible_beyond} of {side.beyond} {unit}s further out are infeasible.",
                f"A wider range of {name} does not help: training is unstable there. Mend that (warmup, clipping), "
                "and better points may lie beyond.",
            )
        else:
            yield Finding(
                "boundary",
                "serious",
                f"{evidence}.",
                f"Widen the range of {name} at its {side.side} end and search again: better points may lie outside.",
            )
    if passed and not any(side.verdict in ("open", "wall") for side in reading.sides):
        yield Finding(
            "boundary",
            "good",
            f"The best {unit}s crowd at no end of any range; {len(passed)} of {len(passed) + len(undecided)} ends are "
            "clearly worse.",
            "",
        )
    elif undecided and len(undecided) == len(reading.sides) and _feasible_settings(reading) >= MIN_TRIALS:
        yield Finding(
            "boundary",
            "note",
            f"The best {unit}s crowd at no end of any range, and none of {len(undecided)} ends is clearly worse.",
            "More trials would tell whether the ranges are wide enough.",
        )


def _infeasible(reading: Reading) -> Iterator[Finding]:
    found = reading.infeasible
    if not found.count:
        yield Finding("infeasible", "good", f"None of {_count(found.trials, 'trial')} is infeasible.", "")
        return
    low, high = found.interval
    evidence = f"{found.count} of {found.trials} trials are infeasible ({found.share:.0%}, 95% [{low:.0%}, {high:.0%}])"
    places = []
    for place in found.places[:4]:
        where = (
            f"{place.hyperparameter} {'above' if place.where == 'high' else 'below'} {number(place.limit)}"
            if place.limit is not None
            else f"{place.hyperparameter} = {place.where}"
        )
        places.append(f"{place.infeasible} of {place.trials} {_unit(reading)}s with {where} ({_p(place.p)})")
    evidence += ", mostly at " + "; ".join(places) + "." if places else ", spread over the space."
    if found.share < MANY_INFEASIBLE:
        yield Finding("infeasible", "note", evidence, "Tell a later Bayesian search of them as constraints.")
        return
    if found.reparameterise:
        advice = f"Search {_listed(found.reparameterise)} as a product or ratio: their border runs across both."
    elif found.places:
        advice = "Cut the range there, or mend the instability if the best trials lie beside it."
    else:
        advice = "They lie nowhere in particular: suspect a bug, or a hyperparameter that was not recorded."
    yield Finding("infeasible", "warning", evidence, advice)


def _sampling(reading: Reading) -> Iterator[Finding]:
    found = reading.sampling
    unit = reading.table.objective_name
    if not found.gains:
        yield Finding(
            "sampling",
            "note",
            f"{_count(found.feasible, 'feasible trial')}: too few to say what more would bring.",
            "Twenty or more are needed.",
        )
        return
    most = found.gains[-1]
    low, high = most.interval
    evidence = f"{most.more} more trials would improve {unit} by {number(most.gain)} [{number(low)}, {number(high)}]"
    sd = reading.trial_sd.sd
    if np.isfinite(sd) and sd > 0:
        evidence += (
            f", {most.gain / sd:.2g} trial standard deviations; {found.near_best} trials lie within two of the best"
        )
        if low > sd or found.near_best < FEW_NEAR_BEST:
            yield Finding("sampling", "warning", evidence + ".", "Sample more: the good region is thin.")
        else:
            yield Finding("sampling", "good", evidence + ".", "")
        yield Finding(
            "sampling",
            "note",
            f"The best trial reached {number(found.best)}; its setting is worth about {number(found.expected_best)}.",
            "Run the winner again on fresh seeds before reporting it: the best of many is partly luck.",
        )
    else:
        gained = found.last_half
        yield Finding(
            "sampling",
            "note",
            f"{evidence}, luck included; the last half of these brought {number(gained)}.",
            "Compare that with what a difference is worth to you.",
        )


def _curves(reading: Reading) -> Iterator[Finding]:
    if reading.validation_name is None:
        yield Finding(
            "curves",
            "note",
            "The table holds no validation curves.",
            "Look at those of the best trials at least: overfitting and an unfinished training do not show otherwise.",
        )
        return
    best = [curve for curve in reading.curves if curve.checks is not None]
    if not best:
        yield Finding("curves", "note", f"Curves of {reading.validation_name} have too few points to be checked.", "")
        return
    first, name = best[0], reading.table.trials[best[0].trial]
    checks = first.checks

    def among(label: str) -> str:
        return f" ({sum(getattr(curve.checks, label) for curve in best)} of the {len(best)} best)"

    bad = False
    if checks.rising:
        bad = True
        yield Finding(
            "curves",
            "serious",
            f"The loss of the best trial, {name}, ends above its start{among('rising')}.",
            "Usually a bug in the training pipeline: find it first.",
        )
    if checks.overfitting:
        bad = True
        yield Finding(
            "curves",
            "serious",
            f"The best trial, {name}, overfits: {reading.validation_name} worsens by {number(checks.rise)} after "
            f"its best step, {number(checks.best_step)}{among('overfitting')}.",
            "Regularise (dropout, weight decay, label smoothing, augmentation) and tune again before comparing: the "
            "ranking of overfitted trials does not stand.",
        )
    if checks.improving:
        bad = True
        yield Finding(
            "curves",
            "warning",
            f"The best trial, {name}, still improves at the end, by {number(checks.late_fall)} over its last quarter"
            f"{among('improving')}.",
            "Train longer: results favour settings that train fast.",
        )
    if checks.noisy:
        bad = True
        yield Finding(
            "curves",
            "warning",
            f"Evaluations of the best trial, {name}, vary late in training, by {number(checks.late_sd)} from one to "
            f"the next{among('noisy')}.",
            "Lower it (larger batch, more validation data, decay of the rate, Polyak averaging), or lucky steps win.",
        )
    if checks.periodic:
        bad = True
        yield Finding(
            "curves",
            "warning",
            f"The curve of the best trial, {name}, repeats itself every {checks.period:.0f} points{among('periodic')}.",
            "Usually data that are not shuffled.",
        )
    if checks.saturated:
        yield Finding(
            "curves",
            "note",
            f"The best trial, {name}, gains nothing more after {checks.saturated_at:.0%} of its training"
            f"{among('saturated')}.",
            "Shorter training may do, and pay for more trials.",
        )
    if not bad and checks.fall <= Thresholds().noise * checks.noise:
        yield Finding(
            "curves",
            "note",
            f"{reading.validation_name} of the best trial, {name}, hardly changes from its first evaluations on.",
            "Evaluate earlier in training too, or see whether it learns at all.",
        )
    elif not bad:
        yield Finding("curves", "good", f"Curves of the best trial, {name}, show nothing wrong.", "")
    every = [one for one in reading.every_curve if one is not None]
    count = sum(one.overfitting for one in every)
    if count and not checks.overfitting:
        yield Finding("curves", "note", f"{count} of {len(every)} trials overfit, the best one not.", "")


def _best_steps(reading: Reading) -> Iterator[Finding]:
    found = reading.best_steps
    n = len(found.shares)
    if not n:
        return
    evidence = (
        f"Of {_count(n, 'feasible trial')} with curves {found.early} have their best step in the first {EARLY:.0%} of "
        f"training and {found.late} in the last {1 - LATE:.0%} (median at {np.median(found.shares):.0%})."
    )
    advice = {
        "too long": "max_train_steps is too high: lower it, and spend the steps on more trials.",
        "too short": "It may pay to raise max_train_steps and tune the decay schedule again; but a rate that decays to "
        "0 puts the best step there whatever the length: try one longer run first.",
    }.get(found.reading, "")
    if n < FEWEST:
        advice = f"Fewer than {FEWEST} trials tell nothing of max_train_steps."
    yield Finding("best steps", "note" if advice else "good", evidence, advice)


def _isolation(reading: Reading) -> Iterator[Finding]:
    n, unit = len(reading.isolations), _unit(reading)
    with_effect = [one for one in reading.isolations if one.p * n <= 0.05]
    for one in sorted(with_effect, key=lambda one: one.p):
        best = one.slices[one.best]
        where = f"= {_value(best.value)}" if one.exact else f"from {number(best.low)} to {number(best.high)}"
        others = f"{len(one.slices) - 1} other {'values' if one.exact else 'parts of its range'}"
        worse = sum(piece.worse for piece in one.slices)
        yield Finding(
            "isolation",
            "note",
            f"{one.hyperparameter} matters: the best {unit} has {one.hyperparameter} {where}, and in {worse} of "
            f"{others} the best {unit} is worse than chance would have it ({_p(one.p * n)}).",
            "",
        )
    if n and not with_effect:
        yield Finding(
            "isolation",
            "note",
            f"Of {_listed([one.hyperparameter for one in reading.isolations])} none shows an effect on the best beyond "
            "chance.",
            "Do not read a best value out of the isolation plots.",
        )


def _variance(reading: Reading) -> Iterator[Finding]:
    sd = reading.trial_sd
    if not np.isfinite(sd.sd):
        yield Finding(
            "variance",
            "warning",
            "No setting was run more than once: trial variance is unknown.",
            "Run the best settings again with other seeds before calling a difference real.",
        )
        return
    if sd.sd == 0:
        yield Finding(
            "variance",
            "warning",
            f"{_count(reading.repeated, 'setting')} run more than once gave the same objective each time: trial "
            "variance is unknown.",
            "Leave out rows that were copied, which the other checks took for trials; rerun the best settings with "
            "other seeds.",
        )
        return
    low, high = sd.interval
    yield Finding(
        "variance",
        "note",
        f"Runs of one setting spread with a standard deviation of {number(sd.sd)} [{number(low)}, {number(high)}], "
        f"from {_count(reading.repeated, 'setting')} run more than once.",
        f"Differences of two runs under {number(2 * np.sqrt(2) * sd.sd)} are no differences.",
    )


def _unit(reading: Reading) -> str:
    """What the tests of hyperparameters count: settings, where one was run more than once."""
    return "setting" if len(reading.settings.trials) < len(reading.table.trials) else "trial"


def _feasible_settings(reading: Reading) -> int:
    return int(np.count_nonzero(~reading.settings.infeasible))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _listed(names: Sequence[str]) -> str:
    names = list(names)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _value(value: float | str | bool) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _p(p: float) -> str:
    return "p < .001" if p < 0.001 else f"p = {p:.2g}"
