"""Optuna's SQLite storage, read without Optuna."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from harness.importers.assembly import Source, pick
from harness.importers.columns import curve
from harness.importers.files import head
from harness.importers.names import role
from harness.records import Curve, InputError

_TABLES = {"studies", "trials", "trial_params", "trial_values", "study_directions"}
# The sign keeps SQLite from the index by trial, so that rows come as they were written, and fast.
_OF_STUDY = "+trial_id IN (SELECT trial_id FROM trials WHERE study_id = ?)"
_GOALS = {"MINIMIZE": "min", "MAXIMIZE": "max"}
_NON_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


def read(path: Path, study: str | None = None) -> Source:
    """Reads a study: parameters with their choices and ranges, values, states and intermediate values.

    A trial that violates a constraint is infeasible, as one that failed is.

    Args:
      path: of the database.
      study: name of the study, where there are several.

    Returns:
      The trials in the order of their numbers. The objective is `value`, or what `metric_names` calls it; of a
      multi-objective study each is a column, and `--objective` has to choose.

    Raises:
      InputError: the file is no whole SQLite database or no storage of Optuna, or the study is unknown or ambiguous.
    """
    head(path)
    database = None
    try:
        database = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
        problem = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise InputError(f"is a damaged SQLite database ({problem.splitlines()[-1]}); copy it again")
        return _read(database, study)
    except sqlite3.OperationalError as error:
        raise InputError(
            f"cannot be read as SQLite ({error}); wait until nothing writes it, or copy it again"
        ) from None
    except sqlite3.Error as error:
        raise InputError(f"is no whole SQLite database ({error}); copy it again") from None
    finally:
        if database is not None:
            database.close()


def _read(database: sqlite3.Connection, study: str | None) -> Source:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables >= _TABLES:
        hint = "; give the trials.parquet beside it" if {"facts", "trials", "curves"} <= tables else ""
        raise InputError(f"is a SQLite database, but no storage of Optuna{hint or '; give one that is'}")
    studies = {
        name: key
        for key, name in database.execute("SELECT study_id, CAST(study_name AS TEXT) FROM studies ORDER BY study_id")
    }
    if not studies:
        raise InputError("holds no study; give a storage with a finished trial")
    key = studies[pick("study", study, list(studies))]
    trials = database.execute(
        "SELECT trial_id, number, state FROM trials WHERE study_id = ? ORDER BY number, trial_id", (key,)
    ).fetchall()
    row_of = {trial: row for row, (trial, _, _) in enumerate(trials)}
    columns, ranges, warnings = _parameters(database, key, row_of)
    roles = {name: "seed" if role(name) == "seed" else "hyperparameter" for name in columns}

    metrics, goals = _metrics(database, tables, key)
    metrics = [_free(name, columns) for name in metrics]
    values = np.full((len(metrics), len(trials)), math.nan)
    owners, positions, found = _values(database, key, "trial_values", "objective", "value")
    for metric in range(len(metrics)):
        of_metric = positions == metric
        values[metric, [row_of[trial] for trial in owners[of_metric].tolist()]] = found[of_metric]
    columns |= dict(zip(metrics, values, strict=True))
    violated = _violated(database, tables, key)
    status = _free("state", columns)
    columns[status] = ["infeasible" if t in violated and s == "COMPLETE" else s for t, _, s in trials]
    return Source(
        trials=[str(row if number is None else number) for row, (_, number, _) in enumerate(trials)],
        columns=columns,
        roles=roles | dict.fromkeys(metrics, "result") | {status: "status"},
        curves=_curves(database, tables, key, row_of),
        objective=metrics[0] if len(metrics) == 1 else None,
        goals={name: goal for name, goal in zip(metrics, goals, strict=True) if goal is not None},
        ranges=ranges,
        warnings=warnings,
    )


def _parameters(
    database: sqlite3.Connection, key: int, row_of: dict[int, int]
) -> tuple[dict[str, list], dict[str, tuple[float, float, str]], list[str]]:
    """Name to a value per trial; name to range; warnings."""
    columns: dict[str, list] = {}
    seen: dict[str, list[tuple[float, float, str]]] = {}
    decoded: dict[tuple, tuple[list | None, tuple | None]] = {}  # a study has few distributions and many trials
    for trial, name, value, text in database.execute(
        "SELECT trial_id, CAST(param_name AS TEXT), param_value, distribution_json FROM trial_params "
        f"WHERE {_OF_STUDY}",
        (key,),
    ):
        if (name, text) not in decoded:
            decoded[name, text] = _distribution(name, text)
            if (found := decoded[name, text][1]) is not None:
                seen.setdefault(name, []).append(found)
        choices = decoded[name, text][0]
        if name not in columns:
            columns[name] = [None] * len(row_of)
        try:
            columns[name][row_of[trial]] = float(value) if choices is None else choices[int(value)]
        except (TypeError, ValueError, IndexError):
            raise InputError(
                f"parameter {name!r} of trial {trial} has no value {value!r}; correct the storage"
            ) from None
    ranges, warnings = {}, []
    for name, found in seen.items():
        if len({scale for _, _, scale in found}) == 1:
            ranges[name] = (min(low for low, _, _ in found), max(high for _, high, _ in found), found[0][2])
        if len(set(found)) > 1:
            warnings.append(
                f"the range of {name!r} changed during the study; the widest is taken where the scale stayed"
            )
    return columns, ranges, warnings


def _distribution(name: str, text: str) -> tuple[list | None, tuple[float, float, str] | None]:
    """The choices of a category, or None; the range of a number, or None."""
    try:
        found = json.loads(text)
        kind, attributes = found["name"], found["attributes"]
        if "choices" in attributes:
            choices = list(attributes["choices"])
            types = set(map(type, choices))
            if types not in ({bool}, {str}) and not types <= {int, float, type(None)}:
                choices = [c if isinstance(c, str) else json.dumps(c) for c in choices]
            return choices, None
        is_log = attributes.get("log", False) or "Log" in kind
        return None, (float(attributes["low"]), float(attributes["high"]), "log" if is_log else "linear")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"the distribution of parameter {name!r} cannot be read; correct the storage") from None


def _metrics(database: sqlite3.Connection, tables: set[str], key: int) -> tuple[list[str], list[str | None]]:
    """Names and goals of the objectives of a study."""
    goals = [
        _GOALS.get(direction)
        for (direction,) in database.execute(
            "SELECT direction FROM study_directions WHERE study_id = ? ORDER BY rowid", (key,)
        )
    ] or [None]
    if "study_system_attributes" in tables:
        row = database.execute(
            "SELECT value_json FROM study_system_attributes WHERE study_id = ? AND key = 'study:metric_names'", (key,)
        ).fetchone()
        named = _json(row[0]) if row else None
        if isinstance(named, list) and len(named) == len(goals) and all(isinstance(name, str) for name in named):
            return named, goals
    return ["value"] if len(goals) == 1 else [f"values_{index}" for index in range(len(goals))], goals


def _values(
    database: sqlite3.Connection, key: int, table: str, position: str, value: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trials int64 (k,), positions and values float64 (k,) of a table of values; older schemas keep no type beside."""
    has_type = any(row[1] == f"{value}_type" for row in database.execute(f"PRAGMA table_info({table})"))
    columns = f"trial_id, {position}, {value}, {f'{value}_type' if has_type else 'NULL'}"
    rows = database.execute(f"SELECT {columns} FROM {table} WHERE {_OF_STUDY}", (key,)).fetchall()
    trials, positions, numbers, kinds = zip(*rows, strict=True) if rows else ((), (), (), ())
    try:
        found = np.array(numbers, dtype=np.float64)  # None becomes NaN
        at = np.array(positions, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{table} holds other than numbers; correct the storage") from None
    if not set(kinds) <= {"FINITE", None}:
        for index, kind in enumerate(kinds):
            if kind in _NON_FINITE:
                found[index] = _NON_FINITE[kind]
    return np.array(trials, dtype=np.int64), at, found


def _curves(
    database: sqlite3.Connection, tables: set[str], key: int, row_of: dict[int, int]
) -> dict[str, list[Curve | None]]:
    if "trial_intermediate_values" not in tables:
        return {}
    trials, steps, values = _values(database, key, "trial_intermediate_values", "step", "intermediate_value")
    if not trials.size:
        return {}
    order = np.argsort(trials, kind="stable")
    owners, starts = np.unique(trials[order], return_index=True)
    points = dict(zip(owners.tolist(), np.split(order, starts[1:]), strict=True))
    found = [curve(steps[points[trial]], values[points[trial]]) if trial in points else None for trial in row_of]
    return {"intermediate_value": found}


def _violated(database: sqlite3.Connection, tables: set[str], key: int) -> set[int]:
    """Trials that violate a constraint, which Optuna keeps as numbers above 0."""
    if "trial_system_attributes" not in tables:
        return set()
    rows = database.execute(
        f"SELECT trial_id, value_json FROM trial_system_attributes WHERE {_OF_STUDY} AND key = 'constraints'",
        (key,),
    )
    return {
        trial
        for trial, text in rows
        if isinstance(found := _json(text), list) and any(isinstance(c, (int, float)) and not c <= 0 for c in found)
    }


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return None


def _free(name: str, columns: dict[str, Any]) -> str:
    return name if name not in columns else _free(f"study.{name}", columns)
