"""The playbook's reading of anybody's trials: a trial table in, a checklist and a page out. No JAX."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.axes import Axis
from harness.analysis.findings import findings
from harness.analysis.reading import Reading, read
from harness.importers import importer, names
from harness.records import InputError, TrialTable
from harness.report.diagnosis import diagnosis_page
from harness.search.space import space_from_toml


def diagnose(
    path: str,
    format: str | None = None,
    objective: str | None = None,
    goal: str | None = None,
    space: Path | None = None,
    replacement: bool = True,
    out: Path | None = None,
) -> dict[str, Any]:
    """Reads a trial table and writes its page.

    Args:
      path: see `harness.importers.importer.read`.
      format: one of `harness.importers.importer.FORMATS`, guessed if None.
      objective: column or curve, guessed if None.
      goal: `min` or `max`, by the objective's name if None.
      space: search space in TOML; its axes go by the hyperparameters that they set.
      replacement: whether the best of k is drawn with replacement.
      out: folder of the page; `results/diagnose/<table>` if None.

    Returns:
      JSON-ready, see `describe`, and `folder`.

    Raises:
      InputError: bad input, see the message.
    """
    axes = _axes(space) if space is not None else {}
    table = importer.read(path, format, objective, goal)
    return write(table, Path(path).name, out or Path("results") / "diagnose" / folder_name(path), axes, replacement)


def write(
    table: TrialTable, source: str, folder: Path, axes: Mapping[str, Axis] | None = None, replacement: bool = True
) -> dict[str, Any]:
    """Reads a table that is at hand, and writes `index.html` and `result.json`.

    Args:
      table: finished trials.
      source: what the page calls them.
      folder: of the page.
      axes: range and scale of hyperparameters, where they are known.
      replacement: whether the best of k is drawn with replacement.

    Returns:
      JSON-ready, see `describe`, and `folder`.

    Raises:
      InputError: bad input, or a folder that cannot be written.
    """
    curve_goals = {name: found for name in table.curves if (found := names.goal(name)) is not None}
    reading = read(table, axes, replacement, curve_goals)
    result = describe(reading)
    page = diagnosis_page(source, reading, result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(page, "utf-8")
        (folder / "result.json").write_text(json.dumps(result, allow_nan=False) + "\n", "utf-8")
    except OSError as error:
        raise InputError(f"output folder {folder} cannot be written ({error.strerror}); choose another --out") from None
    return {**result, "folder": str(folder)}


def describe(reading: Reading) -> dict[str, Any]:
    """A reading as JSON-ready data; what is unknown, infinite or not a number is null."""
    table, best = reading.table, int(reading.order[0]) if len(reading.order) else None
    spread = reading.trial_sd
    result = {
        "objective": table.objective_name,
        "goal": table.goal,
        "trials": {
            "complete": len(reading.order),
            "infeasible": len(table.trials) - len(reading.order),
            "skipped": len(table.skipped),
        },
        "best": None
        if best is None
        else {
            "trial": table.trials[best],
            "objective": table.objective[best],
            "hyperparameters": {
                name: values[best] for name, values in table.hyperparameters.items() if _applies(values[best])
            },
        },
        "best_of": {} if reading.best_of is None else _best_of(reading),
        "axes": {
            name: {**axis._asdict(), "estimated": name in reading.estimated} for name, axis in reading.axes.items()
        },
        "boundaries": [side._asdict() for side in reading.sides],
        "infeasible": dataclasses.asdict(
            dataclasses.replace(reading.infeasible, places=tuple(p._asdict() for p in reading.infeasible.places))
        ),
        "sampling": None if reading.sampling is None else _sampling(reading),
        "isolation": {
            one.hyperparameter: {
                "exact": one.exact,
                "best": one.best,
                "p": one.p,
                "slices": [piece._asdict() for piece in one.slices],
            }
            for one in reading.isolations
        },
        "variance": {
            "trial_sd": spread.sd,
            "interval": spread.interval,
            "level": spread.level,
            "groups": reading.repeated,
            "runs": spread.n,
        },
        "curves": [
            {
                "trial": table.trials[curve.trial],
                "validation": reading.validation_name,
                "training": reading.training_name,
                **(curve.checks._asdict() if curve.checks else {}),
            }
            for curve in reading.curves
        ],
        "best_steps": {
            "trials": len(reading.best_steps.shares),
            "first_tenth": reading.best_steps.early,
            "last_quarter": reading.best_steps.late,
            "reading": reading.best_steps.reading,
            "histogram": reading.best_steps.histogram(),
        },
        "findings": [dataclasses.asdict(finding) for finding in findings(reading)],
    }
    return json_ready(result)


def _best_of(reading: Reading) -> dict[str, dict[str, float]]:
    found = reading.best_of
    columns = ("q1", "median", "q3", "low", "high", "mean")
    return {str(k): {name: getattr(found, name)[i] for name in columns} for i, k in enumerate(found.ks.tolist())}


def _sampling(reading: Reading) -> dict[str, Any]:
    found = reading.sampling
    return {**dataclasses.asdict(found), "gains": [gain._asdict() for gain in found.gains]}


def _applies(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def json_ready(value: Any) -> Any:
    """Plain Python data that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_ready(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _axes(path: Path) -> dict[str, Axis]:
    """Range and scale of each hyperparameter; of several axes that set one, as under conditions, the widest."""
    found: dict[str, Axis] = {}
    for axis in space_from_toml(path).values():
        if axis.values is not None:
            continue
        name, own = axis.hyperparameter, Axis(axis.low, axis.high, axis.scale)
        other = found.setdefault(name, own)
        if own.scale != other.scale:
            raise InputError(
                f"{str(path)!r}: hyperparameter {name!r} is searched on the scales {other.scale!r} and {own.scale!r}; "
                "give it one range for the whole table"
            )
        found[name] = Axis(min(own.low, other.low), max(own.high, other.high), own.scale)
    return found


def folder_name(path: str) -> str:
    """A folder's name for what was read from a path."""
    return re.sub(r"[^\w.-]+", "-", Path(path).name).strip(".-") or "table"
