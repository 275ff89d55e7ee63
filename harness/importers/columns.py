"""Columns of a source, turned into numbers, categories and curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.importers.names import is_metric, is_step
from harness.records import Curve, InputError

_MISSING = frozenset(("", "nan", "null", "none", "na", "n/a"))
_NON_FINITE = frozenset(("nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"))
EXACT = 2**53  # the first integer beyond which float64 misses some

CURVE_PREFIX = "curve."
SHORT_LIST = 4
"""A list of no more values than this is a setting, such as Adam's two decay rates, unless its name is a metric's."""


def typed(name: str, cells: Sequence[Any], trials: Sequence[str], text: bool) -> np.ndarray:
    """Finds the type of a column.

    Args:
      name: of the column, for messages.
      cells: a value per trial: anything that JSON has, None where missing; float64 and boolean arrays are taken as
        they are; only strings where `text`.
      trials: names of the trials, for messages.
      text: whether the source has no types, so that '0.1' is a number and '' is missing.

    Returns:
      float64 (n,) with NaN where missing; object (n,) of strings or booleans with None where missing.

    Raises:
      InputError: the column mixes numbers, strings, booleans or lists, or holds an integer that float64 cannot.
    """
    if isinstance(cells, np.ndarray):
        return cells
    return _from_text(name, cells, trials) if text else _from_values(name, cells, trials)


def _from_text(name: str, cells: Sequence[str], trials: Sequence[str]) -> np.ndarray:
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        pass
    stripped = [cell.strip() for cell in cells]
    missing = [cell.lower() in _MISSING for cell in stripped]
    try:
        return np.array(
            ["nan" if gone else cell for cell, gone in zip(stripped, missing, strict=True)], dtype=np.float64
        )
    except ValueError:
        pass
    present = [index for index, gone in enumerate(missing) if not gone]
    if all(stripped[index].lower() in ("true", "false") for index in present):
        return _objects(
            [None if gone else cell.lower() == "true" for cell, gone in zip(stripped, missing, strict=True)]
        )
    is_number = {index: _is_number(stripped[index]) for index in present}
    if any(is_number.values()):
        number = next(index for index in present if is_number[index])
        other = next(index for index in present if not is_number[index])
        raise _mixed(name, trials, number, stripped[number], other, stripped[other])
    # A text may well be 'none', as of a schedule.
    return _objects([None if cell.lower() in ("", "nan") else cell for cell in stripped])


def _from_values(name: str, cells: Sequence[Any], trials: Sequence[str]) -> np.ndarray:
    types = set(map(type, cells)) - {type(None)}
    if types <= {int, float}:
        return _numbers(name, cells, trials)
    if types == {bool} or types == {str}:
        if types == {str} and all(cell is None or cell.lower() in _NON_FINITE for cell in cells):
            return np.array([math.nan if cell is None else float(cell) for cell in cells])
        return _objects(cells)
    if types <= {int, float, str}:  # numbers, where JSON that knows no NaN has it as a string
        plain = [float(c) if isinstance(c, str) and c.lower() in _NON_FINITE else c for c in cells]
        if set(map(type, plain)) <= {int, float, type(None)}:
            return _numbers(name, plain, trials)
    first = next(i for i, cell in enumerate(cells) if cell is not None)
    other = next((i for i, c in enumerate(cells) if c is not None and _kind(c) != _kind(cells[first])), first)
    raise _mixed(name, trials, first, cells[first], other, cells[other])


def _numbers(name: str, cells: Sequence[float | None], trials: Sequence[str]) -> np.ndarray:
    try:
        return np.array([math.nan if cell is None else cell for cell in cells], dtype=np.float64)
    except OverflowError:
        index = next(i for i, cell in enumerate(cells) if isinstance(cell, int) and abs(cell).bit_length() > 1023)
        raise InputError(
            f"column {name!r}: the integer of trial {trials[index]!r} is too large for double precision; correct it"
        ) from None


def _kind(value: Any) -> str:
    for kind, types in (("a boolean", bool), ("a string", str), ("a number", (int, float)), ("a list", (list, dict))):
        if isinstance(value, types):
            return kind
    return f"a {type(value).__name__}"


def _mixed(name: str, trials: Sequence[str], first: int, one: Any, second: int, other: Any) -> InputError:
    return InputError(
        f"column {name!r} mixes types: {_short(one)} in trial {trials[first]!r}, {_short(other)} in trial "
        f"{trials[second]!r}; write all its values as one type"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _objects(values: Sequence[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def seed_column(name: str, cells: Sequence[Any], trials: Sequence[str], text: bool) -> np.ndarray:
    """A column of seeds: as `typed`, but integers too long for float64 stay apart, as strings."""
    column = typed(name, cells, trials, text)
    if column.dtype != object and isinstance(cells, Sequence) and np.any(np.abs(column) >= EXACT):
        return _objects([None if math.isnan(value) else str(c) for c, value in zip(cells, column, strict=True)])
    return column


def varies(column: np.ndarray) -> bool:
    """Whether a column from `typed` holds two different values, missing ones aside."""
    if column.dtype == object:
        return len(set(column[column != None])) > 1  # noqa: E711 - elementwise
    present = column[~np.isnan(column)]
    return bool(present.size) and bool(np.any(present != present[0]))


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names of nested settings joined by dots, as `optimizer.name`; other values stay.

    Raises:
      InputError: two settings come to one name.
    """
    if not prefix and dict not in set(map(type, settings.values())):
        return dict(settings)
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        if twice := flat.keys() & inner.keys():
            raise InputError(f"name {min(twice)!r} is there twice, once nested and once with dots; keep one")
        flat.update(inner)
    return flat


def settings_columns(settings: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Columns of the hyperparameters of each trial, in the order first seen; lists as their JSON text."""
    rows = [flatten(one) for one in settings]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [_scalar(row.get(name)) for row in rows] for name in names}


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def take_curves(columns: dict[str, Sequence[Any]], trials: Sequence[str]) -> dict[str, tuple[Curve | None, ...]]:
    """Takes the list columns out of a table and pairs each with its steps.

    The steps of a column are in the list column whose name is `step`, `steps`, `global_step`, `epoch` or such, after
    a beginning that both share: `curve.evaluation_step` goes with `curve.evaluation_error`. Without one they are
    1, 2, ... A column of short lists that is no metric's is a setting and stays, as JSON text.

    Args:
      columns: name to a cell per trial; those with lists or arrays are removed or replaced.
      trials: names of the trials, for messages.

    Returns:
      Name, without the prefix `curve.`, to one curve or None per trial.

    Raises:
      InputError: a curve does not have as many values as steps, or a column mixes lists with other values.
    """
    lists: dict[str, list[np.ndarray | None]] = {}
    for name, cells in list(columns.items()):
        if isinstance(cells, np.ndarray) or not {list, np.ndarray}.intersection(map(type, cells)):
            continue
        for trial, cell in zip(trials, cells, strict=True):
            if not (cell is None or isinstance(cell, (list, np.ndarray))):
                raise InputError(
                    f"column {name!r} mixes types: lists, and {_short(cell)} in trial {trial!r}; write all as lists"
                )
        is_curve = name.startswith(CURVE_PREFIX) or is_metric(name) or is_step(name)
        if not is_curve and max(len(cell) for cell in cells if cell is not None) <= SHORT_LIST:
            columns[name] = [None if cell is None else json.dumps(list(cell), default=float) for cell in cells]
            continue
        lists[name] = [_array(name, trial, cell) for trial, cell in zip(trials, cells, strict=True)]
        del columns[name]
    steps = {_before_step(name): name for name in sorted(lists) if is_step(name)}
    curves = {}
    for name, values in lists.items():
        if is_step(name):
            continue
        beginning = max((b for b in steps if name.startswith(b)), key=len, default=None)
        at = [None] * len(trials) if beginning is None else lists[steps[beginning]]
        for trial, s, v in zip(trials, at, values, strict=True):
            if s is not None and v is not None and len(s) != len(v):
                raise InputError(
                    f"column {name!r} has {len(v)} values and {steps[beginning]!r} {len(s)} steps in trial {trial!r}; "
                    "give a step for each value"
                )
        curves[name.removeprefix(CURVE_PREFIX)] = tuple(
            None if v is None else curve(s, v) for s, v in zip(at, values, strict=True)
        )
    return curves


def _before_step(name: str) -> str:
    beginning = name.rstrip("s")[: -len("epoch" if name.lower().rstrip("s").endswith("epoch") else "step")]
    return beginning.removesuffix("global_") or ""


def _array(name: str, trial: str, cell: Any) -> np.ndarray | None:
    if cell is None or isinstance(cell, np.ndarray):
        return cell
    try:
        values = np.array(cell, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = None
    if values is None or values.ndim != 1:
        raise InputError(f"column {name!r}: the list of trial {trial!r} does not hold numbers alone; correct it")
    return values


def curve(steps: np.ndarray | None, values: np.ndarray) -> Curve:
    """A curve with ascending steps: of a step that was measured twice, as after a restart, the later stands.

    Args:
      steps: training steps, (m,); 1 to m if None.
      values: (m,).

    Returns:
      The curve; points without a finite step are left out.
    """
    values = np.asarray(values, dtype=np.float64)
    if steps is None:
        return Curve(np.arange(1.0, len(values) + 1), values)
    steps = np.asarray(steps, dtype=np.float64)
    if not (np.all(np.diff(steps) > 0) and np.all(np.isfinite(steps))):
        known = np.flatnonzero(np.isfinite(steps))
        order = known[np.argsort(steps[known], kind="stable")]
        last = np.append(np.diff(steps[order]) > 0, True)[: len(order)]
        steps, values = steps[order[last]], values[order[last]]
    return Curve(steps, values)
