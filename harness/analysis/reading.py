"""The playbook's reading of a finished study: every check of it, on one table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.analysis.axes import Axis, scores
from harness.analysis.best_of_k import BestOf, best_of
from harness.analysis.best_steps import BestSteps, best_steps
from harness.analysis.boundaries import Side, check_boundaries
from harness.analysis.estimated_axes import estimate_axes
from harness.analysis.infeasible import Infeasible, find_infeasible
from harness.analysis.isolation import Isolation, isolate
from harness.analysis.sampling import Sampling, check_sampling
from harness.analysis.settings import by_setting, setting_codes
from harness.analysis.training_curves import CurveChecks, check_curves
from harness.analysis.variance import Spread, pooled_sd
from harness.records import Curve, InputError, TrialTable, did_you_mean

MOST_K = 100
"""Largest study whose best is described, as in figure 3."""

_SPLITS = {"", "train", "training", "validation", "valid", "val", "eval", "evaluation", "best"}

BEST_CURVES = 10
"""Best trials whose curves are checked one by one."""


@dataclass(frozen=True)
class CheckedCurve:
    """A trial's curves and what they tell.

    Attributes:
      trial: index in the table.
      validation: the curve of the objective, or of another validation metric.
      training: the training curve, or None.
      checks: what they tell; None where there are too few points.
    """

    trial: int
    validation: Curve
    training: Curve | None
    checks: CurveChecks | None


@dataclass(frozen=True)
class Reading:
    """Everything that is read out of a study.

    Attributes:
      table: that was read.
      settings: the same with a row per setting, see `by_setting`, on which `sides`, `isolations` and the places of
        infeasible trials stand.
      axes: range and scale of each numeric hyperparameter.
      estimated: names of the axes that were estimated from the trials.
      order: indices of the feasible trials, best first, int64 (feasible,).
      repeated: settings that were run more than once.
      trial_sd: standard deviation of the objective between runs of one setting, pooled; NaN where none was repeated.
      best_of: best of k = 1 to min(n, 100) trials; None where no trial is feasible.
      infeasible: how many trials are infeasible, and where they lie.
      sides: of each range, see `harness.analysis.boundaries`.
      isolations: one per hyperparameter that varies; the trial of a slice is the best run of its best setting.
      sampling: what more trials would bring; None where no trial is feasible.
      validation_name: curve that was checked; None where there is none.
      training_name: training curve beside it; None where there is none.
      curves: those of the best trials, best first.
      every_curve: the checks of all trials, None where a trial has too few points.
      best_steps: where in training the best steps of the feasible trials lie, on the curve that was checked.
    """

    table: TrialTable
    settings: TrialTable
    axes: Mapping[str, Axis]
    estimated: frozenset[str]
    order: np.ndarray
    repeated: int
    trial_sd: Spread
    best_of: BestOf | None
    infeasible: Infeasible
    sides: tuple[Side, ...]
    isolations: tuple[Isolation, ...]
    sampling: Sampling | None
    validation_name: str | None
    training_name: str | None
    curves: tuple[CheckedCurve, ...]
    every_curve: tuple[CurveChecks | None, ...]
    best_steps: BestSteps


def read(
    table: TrialTable,
    axes: Mapping[str, Axis] | None = None,
    replacement: bool = True,
    curve_goals: Mapping[str, str] | None = None,
) -> Reading:
    """Reads a study.

    Args:
      table: finished trials.
      axes: range and scale of hyperparameters, where they are known; before those of the table's source, which come
        before estimated ones.
      replacement: whether the best of k is drawn with replacement, as in figure 3.
      curve_goals: `min` or `max` of curves other than the objective's.

    Returns:
      The reading.

    Raises:
      InputError: an axis of a hyperparameter that the table does not have, objectives whose differences are beyond
        double precision, or from a check.
    """
    settings, best_runs = by_setting(table)
    axes, estimated = _axes(settings, axes or {})
    score = scores(table)
    order = np.argsort(score, kind="stable")[: int(np.isfinite(score).sum())]
    low, high = (float(end(table.objective[order], initial=0.0)) for end in (np.min, np.max))
    if high - low == np.inf:
        raise InputError(
            f"objective {table.objective_name!r} reaches from {low} to {high}, too far for double precision; leave it "
            "empty where a trial failed"
        )
    codes = setting_codes(table)
    trial_sd = (
        pooled_sd(table.objective[order], codes[order]) if len(order) else Spread(np.nan, (0, np.inf), 0.95, 0, 0)
    )
    repeated = int(np.count_nonzero(np.bincount(codes[order]) > 1)) if len(order) else 0
    # A spread of 0 is that of rows copied or of one seed, not of training.
    known_sd = trial_sd.sd if trial_sd.sd > 0 else None
    validation, training = curve_names(table, curve_goals or {})
    checks = _checks(table, validation, training, curve_goals or {}, known_sd)
    return Reading(
        table=table,
        settings=settings,
        axes=axes,
        estimated=estimated,
        order=order,
        repeated=repeated,
        trial_sd=trial_sd,
        best_of=best_of(table.objective, table.goal, range(1, min(len(score), MOST_K) + 1), replacement)
        if len(order)
        else None,
        infeasible=dataclasses.replace(
            find_infeasible(dataclasses.replace(table, hyperparameters={}), {}),
            places=find_infeasible(settings, axes).places,
        ),
        sides=check_boundaries(settings, axes),
        isolations=tuple(
            _of_runs(isolate(settings, name, axes.get(name)), best_runs)
            for name, values in settings.hyperparameters.items()
            if _varies(values)
        )
        if len(order)
        else (),
        sampling=check_sampling(table, trial_sd=known_sd) if len(order) else None,
        validation_name=validation,
        training_name=training,
        curves=tuple(
            CheckedCurve(
                int(i), table.curves[validation][i], table.curves[training][i] if training else None, checks[i]
            )
            for i in order[:BEST_CURVES]
            if validation and table.curves[validation][i] is not None
        ),
        every_curve=checks,
        best_steps=best_steps(
            [table.curves[validation][i] for i in order.tolist()] if validation else [],
            _goal(table, validation, curve_goals or {}),
        ),
    )


def curve_names(table: TrialTable, goals: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Finds the curve to check, and the training curve beside it.

    The objective's own curve is checked; else the one whose name shares most words with the objective's, those of
    training and test sets aside. The training curve is the one whose name says `train` and shares most words with it.

    Args:
      table: finished trials.
      goals: `min` or `max` of curves; one without a goal is left out.

    Returns:
      Their names, None where there is none.
    """
    named = [name for name in table.curves if name == table.objective_name or name in goals]
    training = [name for name in named if "train" in name.lower()]
    others = [name for name in named if name == table.objective_name or (name not in training and not _is_test(name))]

    def likeness(name: str, wanted: str) -> tuple[bool, int]:
        return name == wanted, len(_words(name) & _words(wanted))

    validation = max(others, key=lambda name: likeness(name, table.objective_name), default=None)
    if validation is None:
        return None, None
    beside = [name for name in training if (_words(name) & _words(validation)) or len(training) == 1]
    return validation, max(beside, key=lambda name: likeness(name, validation), default=None)


def _is_test(name: str) -> bool:
    return "test" in re.split("[^a-z]+", name.lower())


def _words(name: str) -> set[str]:
    return set(re.split("[^a-z0-9]+", name.lower())) - _SPLITS


def _checks(
    table: TrialTable, validation: str | None, training: str | None, goals: Mapping[str, str], trial_sd: float | None
) -> tuple[CurveChecks | None, ...]:
    if validation is None:
        return (None,) * len(table.trials)
    own = validation == table.objective_name
    return check_curves(
        table.curves[validation],
        table.curves[training] if training else None,
        goal=_goal(table, validation, goals),
        training_goal=goals.get(training, "min") if training else "min",
        # Trial variance is in the units of the objective alone.
        difference=trial_sd if own else None,
    )


def _goal(table: TrialTable, validation: str | None, goals: Mapping[str, str]) -> str:
    return table.goal if validation in (None, table.objective_name) else goals[validation]


def _of_runs(isolation: Isolation, best_runs: np.ndarray) -> Isolation:
    """An isolation of settings, with the best run in place of each setting."""
    slices = tuple(
        piece._replace(trial=int(best_runs[piece.trial])) if piece.trial >= 0 else piece for piece in isolation.slices
    )
    return dataclasses.replace(isolation, slices=slices)


def _axes(table: TrialTable, given: Mapping[str, Axis]) -> tuple[dict[str, Axis], frozenset[str]]:
    numeric = {name for name, values in table.hyperparameters.items() if values.dtype != object}
    for name in given:
        if name not in numeric:
            known = ", ".join(numeric) or "none"
            raise InputError(
                f"space: hyperparameter {name!r} is not a number that varies in the table"
                f"{did_you_mean(name, numeric)}; known: {known}"
            )
    axes, estimated = {}, set()
    for name, axis in estimate_axes(table).items():
        if name in given:
            axes[name] = given[name]
        elif name in table.ranges:
            axes[name] = Axis(*table.ranges[name])
        else:
            axes[name] = axis
            estimated.add(name)
    return axes, frozenset(estimated)


def _varies(values: np.ndarray) -> bool:
    if values.dtype == object:
        return len({(type(v), v) for v in values.tolist() if v is not None}) > 1
    finite = values[np.isfinite(values)]
    return bool(len(finite)) and finite.min() < finite.max()
