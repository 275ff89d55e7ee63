"""What one's own study found: the best setting, and the best for each value of a scientific hyperparameter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.records import Curve, TrialRecord, TrialTable
from harness.search.space import Hyperparameter
from harness.search.study_spec import StudySpec

LEVEL = 0.95
"""Confidence level of the interval of a setting's mean over seeds."""

PARTS = 4
"""Into how many equal parts of its scale a scientific range is cut, so that each holds several trials; integers of no
more than twice so many values are told apart."""

_CURVES = {"train_loss": None, "evaluation_error": "evaluation_step", "evaluation_loss": "evaluation_step"}
"""Curve of a record to the curve of its steps; None where it has a value for every step."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A point of the space and its runs.

    Attributes:
      point: name of each axis that applies to its value.
      runs: one per replicate.
      objective: name of the result that is minimised.
    """

    point: Mapping[str, Any]
    runs: Sequence[TrialRecord]
    objective: str

    def values(self) -> list[float | None]:
        """The objective of each run, None where the run is infeasible."""
        return [value_of(run, self.objective) for run in self.runs]

    def value(self) -> float | None:
        """Mean over the replicates; None where one is infeasible: what diverges with some seeds is not to be used."""
        values = self.values()
        return None if None in values else float(np.mean(values))


def value_of(run: TrialRecord, objective: str) -> float | None:
    """The objective of a run; None where it is infeasible, or its evaluation was not finite."""
    value = run.results.get(objective, math.nan)
    return float(value) if run.status == "complete" and math.isfinite(value) else None


def summary(spec: StudySpec, settings: Sequence[Setting]) -> dict[str, Any]:
    """Reads a finished study.

    A best of several is better than it would be on new seeds, the more so the more there were; so are the means and
    their intervals below, which hold the seeds of the study alone.

    Args:
      spec: of the study.
      settings: each once.

    Returns:
      JSON-ready: `trials` (`complete` and `infeasible` runs), `settings` (their number), `infeasible_share`, `best`;
      `scientific`, name of each axis with that role to a row for each value or part of its range, with `value`,
      `settings`, `infeasible` and `best`; `fixed`, name of each axis with that role to its `value` and conditions
      (`when`), and `set`, what the specification sets for all. A best holds `value`, the mean over replicates;
      `interval`, Student's t of that mean, None of one replicate; `step` of each run's best checkpoint; `setting`,
      hyperparameter to value; and `trials`, the addresses. It is None where no setting is feasible.
    """
    values = [value for setting in settings for value in setting.values()]
    infeasible = values.count(None)
    return {
        "trials": {"complete": len(values) - infeasible, "infeasible": infeasible},
        "settings": len(settings),
        "infeasible_share": infeasible / len(values),
        "best": _best(spec, settings),
        "scientific": {
            name: _isolated(spec, spec.space[name], settings) for name in spec.space if spec.roles[name] == "scientific"
        },
        "fixed": {
            name: {"value": axis.values[0], "when": {parent: list(allowed) for parent, allowed in axis.when}}
            for name, axis in spec.space.items()
            if spec.roles[name] == "fixed"
        },
        "set": dict(spec.settings),
    }


def trial_table(spec: StudySpec, settings: Sequence[Setting]) -> TrialTable:
    """The runs by column: a column for each axis that is not fixed, so that each has one range.

    Args:
      spec: of the study.
      settings: each once.
    """
    rows = [(setting, run) for setting in settings for run in setting.runs]
    objective = [value_of(run, setting.objective) for setting, run in rows]
    columns = {}
    for name in (name for name in spec.space if spec.roles[name] != "fixed"):
        cells = [setting.point.get(name) for setting, _ in rows]
        is_number = not any(isinstance(cell, str | bool) for cell in cells)
        columns[name] = np.array(
            [math.nan if c is None and is_number else c for c in cells], float if is_number else object
        )
    return TrialTable(
        trials=tuple(f"{index // spec.replicates}.{run.replicate}" for index, (_, run) in enumerate(rows)),
        hyperparameters=columns,
        objective=np.array([math.nan if value is None else value for value in objective]),
        infeasible=np.array([value is None for value in objective]),
        objective_name=settings[0].objective,
        goal="min",
        seeds={"replicate": np.array([run.replicate for _, run in rows], float)},
        curves={name: tuple(_curve(run, name, steps) for _, run in rows) for name, steps in _CURVES.items()},
    )


def describe(result: Mapping[str, Any]) -> str:
    """Says what a study found, for a terminal; `result` is what `harness.tune.tune` returns."""
    infeasible, runs = result["trials"]["infeasible"], sum(result["trials"].values())
    lines = [
        f"{result['study']}: {result['settings']} settings, {runs} trials, {infeasible} of them infeasible "
        f"({result['infeasible_share']:.0%})",
        f"best {result['objective']} {_describe_best(result['best'], result)}",
    ]
    for name, rows in result["scientific"].items():
        lines.append(f"best by {name}, over everything else:")
        width = max(len(str(row["value"])) for row in rows)
        for row in rows:
            counts = f"{row['settings']} settings, {row['infeasible']} infeasible"
            lines.append(f"  {row['value']!s:{width}}  {counts:27} {_describe_best(row['best'], result)}")
    if result["scientific"]:
        held = [f"{name} = {value}" for name, value in result["set"].items()]
        held += [f"{name} = {fixed['value']}{_describe_when(fixed['when'])}" for name, fixed in result["fixed"].items()]
        fixed = ", ".join([*held, "and the other defaults" if held else "the defaults"])
        lines.append(
            f"What this says of {' and '.join(result['scientific'])} is known for what was fixed alone: "
            f"{fixed} of {result['workload']} at {result['scale']}."
        )
    lines += [f"{result['seconds']} s, fingerprint: {result['fingerprint']}", f"results: {result['folder']}"]
    return "\n".join(lines)


def _describe_best(best: Mapping[str, Any] | None, result: Mapping[str, Any]) -> str:
    if best is None:
        return "none feasible"
    interval = "" if best["interval"] is None else " [{:.4g}, {:.4g}]".format(*best["interval"])
    setting = ", ".join(
        f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in best["setting"].items()
        if name not in result["fixed"]
    )
    return f"{best['value']:.4g}{interval} at {setting}"


def _describe_when(when: Mapping[str, list]) -> str:
    conditions = " and ".join(f"{name} = {' or '.join(map(str, allowed))}" for name, allowed in when.items())
    return f" (where {conditions})" if conditions else ""


def _best(spec: StudySpec, settings: Sequence[Setting]) -> dict[str, Any] | None:
    feasible = [setting for setting in settings if setting.value() is not None]
    if not feasible:
        return None
    best = min(feasible, key=Setting.value)
    return {
        "value": best.value(),
        "interval": _interval(best.values()),
        "step": [int(run.results["best_step"]) for run in best.runs],
        "setting": spec.space.values_set(best.point),
        "trials": [run.address for run in best.runs],
    }


def _interval(values: Sequence[float]) -> list[float] | None:
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, 0.5 + LEVEL / 2)) * error
    return [mean - half, mean + half]


def _isolated(spec: StudySpec, axis: Hyperparameter, settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """The best of every value or part of an axis, over everything else; values that have no trial too."""
    values = axis.values
    if axis.integer and axis.high - axis.low < 2 * PARTS:
        values = range(axis.low, axis.high + 1)
    if values is not None:
        groups = [(value, lambda found, value=value: found == value) for value in values]
    else:
        groups = [
            # The last part includes its end.
            (_part(axis, i), lambda found, i=i: min(int(axis.to_unit(found) * PARTS), PARTS - 1) == i)
            for i in range(PARTS)
        ]
    rows = []
    for value, belongs in groups:
        members = [setting for setting in settings if axis.name in setting.point and belongs(setting.point[axis.name])]
        infeasible = sum(setting.value() is None for setting in members)
        rows.append({"value": value, "settings": len(members), "infeasible": infeasible, "best": _best(spec, members)})
    return rows


def _part(axis: Hyperparameter, number: int) -> str:
    low, high = axis.from_unit(number / PARTS), axis.from_unit((number + 1) / PARTS)
    return f"{low:.3g} to {high:.3g}"


def _curve(run: TrialRecord, name: str, steps: str | None) -> Curve | None:
    values = run.curves.get(name)
    if values is None:
        return None
    at = np.arange(1, len(values) + 1) if steps is None else run.curves[steps]
    return Curve(np.asarray(at, np.float64), np.asarray(values, np.float64))
