"""Writing the specification of a study that runs given points, as `harness.search.study_spec` reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.records import InputError

Point = Mapping[str, Any]
"""Name of a hyperparameter to its value: a finite number, a string or a boolean."""


def study_toml(head: Mapping[str, Any], settings: Mapping[str, Any], points: Sequence[Point], comment: str = "") -> str:
    """Writes a specification whose grid is exactly the given points.

    A hyperparameter that all points share is fixed. Of the others one tells the points apart, or first parts of them,
    and the rest depend on it by conditions.

    Args:
      head: keys of the specification before its tables; `trials` and `sampler` are added.
      settings: of the table `set`.
      points: at least one; equal ones stand once.
      comment: lines at its top.

    Returns:
      TOML text.

    Raises:
      InputError: a value that the specification cannot hold, or points that no hyperparameter of all of them tells
        apart.
    """
    distinct = list({json.dumps(point, sort_keys=True): dict(point) for point in points}.values())
    axes: dict[str, dict[str, Any]] = {}
    _add(distinct, {}, axes)
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    keys = {**head, "trials": len(distinct), "sampler": "grid"}
    lines += [f"{_key(name)} = {_value(name, value)}" for name, value in keys.items()]
    for table, entries in (("set", settings), *((f"space.{_key(name)}", axis) for name, axis in axes.items())):
        lines += ["", f"[{table}]", *(f"{_key(name)} = {_value(name, value)}" for name, value in entries.items())]
    return "\n".join(lines) + "\n"


def _add(points: Sequence[Point], when: Mapping[str, Any], axes: dict[str, dict[str, Any]]) -> None:
    """Adds the axes of points that have been told apart from others by conditions."""
    names = list(dict.fromkeys(name for point in points for name in point))
    varying = []
    for name in names:
        values = _values(points, name)
        if len(values) == 1 and all(name in point for point in points):
            axes[_free(name, axes)] = _axis(name, axes, {"role": "fixed", "value": values[0]}, when)
        else:
            varying.append(name)
    if not varying:
        return
    apart = [name for name in varying if all(name in point for point in points)]
    if not apart:
        raise InputError(
            f"points differ in {', '.join(varying)}, which not all of them have; expected one that all have"
        )
    root = max(apart, key=lambda name: len(_values(points, name)))
    own = _free(root, axes)
    axes[own] = _axis(root, axes, {"values": _values(points, root)}, when)
    for value in _values(points, root):
        members = [
            {k: v for k, v in point.items() if k in varying and k != root} for point in points if point[root] == value
        ]
        _add(members, {**when, own: value}, axes)


def _values(points: Sequence[Point], name: str) -> list[Any]:
    return list(dict.fromkeys(point[name] for point in points if name in point))


def _free(name: str, axes: Mapping[str, Any]) -> str:
    """The name of a new axis."""
    number, own = 1, name
    while own in axes:
        number += 1
        own = f"{name}_{number}"
    return own


def _axis(name: str, axes: Mapping[str, Any], table: dict[str, Any], when: Mapping[str, Any]) -> dict[str, Any]:
    alias = {"hyperparameter": name} if name in axes else {}
    return {**table, **alias, **({"when": dict(when)} if when else {})}


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(name, one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(name, one)}" for key, one in value.items()) + " }"
    raise InputError(f"{name} = {value!r} is not a number, a string, a boolean or a list of these; give one")
