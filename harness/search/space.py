"""Search spaces: which hyperparameters to tune, over which range and on which scale."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.records import InputError, did_you_mean
from harness.search.conditions import all_conditions, hold
from harness.search.toml_file import read_toml

# Each scale is a pair of increasing functions: from a value to where it lies on the scale, and back.
# reverse_log is log in 1 - x, negated to increase; log1p and expm1 keep its digits near x = 0.
_SCALES = {
    "linear": (float, float),
    "log": (math.log, math.exp),
    "reverse_log": (lambda x: -math.log1p(-x), lambda z: -math.expm1(-z)),
}
SCALES = tuple(_SCALES)
KEYS = ("low", "high", "scale", "values", "integer", "when", "hyperparameter")
"""Of the table of an axis in TOML."""
_LARGEST_INTEGER = 2**53  # floats hold every integer up to it


@dataclass(frozen=True)
class Hyperparameter:
    """One axis of a search space: a range of floats or integers on a scale, or the values of a grid.

    Give either `low` and `high`, or `values`. Everything is checked at construction, conditions when the space is.

    Attributes:
      name: of the axis, such as `learning_rate`.
      low: smallest value, included; a float (an int with `integer`) once constructed, None for a grid axis.
      high: largest value, included; likewise.
      scale: `linear`, `log`, or `reverse_log`, which is log in 1 - x (for a momentum: low=.9, high=.999 makes
        1 - x log-uniform in [.001, .1]).
      values: the distinct numbers, strings or booleans of a grid axis, in the order given; a tuple of plain Python
        values once constructed, all floats if any is a float. None for a range.
      integer: whether the range is of integers; each has the part of the scale from half below it to half above.
      when: conditions, name of another axis to those of its values (one, or a list) under which this axis applies; all
        must hold. A tuple of (name, tuple of values) once constructed.
      hyperparameter: what the axis sets, if not that of its own name: `learning_rate` has a range of its own for each
        optimizer where two axes with conditions set it.

    Raises:
      InputError: for whatever does not describe an axis; the message names the hyperparameter and the value.
    """

    name: str
    low: float | None = None
    high: float | None = None
    scale: str = "linear"
    values: tuple[float | int | str | bool, ...] | None = None
    integer: bool = False
    when: Mapping[str, object] | tuple[tuple[str, tuple], ...] = ()
    hyperparameter: str | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"hyperparameter name {self.name!r} is not a name; give one such as 'learning_rate'")
        if self.hyperparameter is None:
            object.__setattr__(self, "hyperparameter", self.name)
        if not isinstance(self.hyperparameter, str) or not self.hyperparameter:
            raise _error(
                self.name, f"hyperparameter = {self.hyperparameter!r} is not a name; give one such as 'learning_rate'"
            )
        object.__setattr__(self, "when", _conditions(self.name, self.when))
        if not isinstance(self.integer, bool):
            raise _error(
                self.name, f"integer = {self.integer!r} is not a boolean; write integer = true, or leave it out"
            )
        if self.scale not in SCALES:
            raise _error(
                self.name,
                f"scale = {self.scale!r} is not a scale; known scales: {', '.join(SCALES)}"
                + did_you_mean(self.scale, SCALES),
            )
        if self.values is None:
            for key in ("low", "high"):
                object.__setattr__(self, key, _limit(self.name, key, getattr(self, key), self.integer))
            self._check_range()
            return
        for key, default in (("low", None), ("high", None), ("scale", "linear"), ("integer", False)):
            if (given := getattr(self, key)) != default:
                raise _error(self.name, f"{key} = {given!r} does not go with values; keep values or a range, not both")
        object.__setattr__(self, "values", _grid_axis(self.name, self.values))

    def _check_range(self):
        low, high, scale = self.low, self.high, self.scale
        if low >= high:
            raise _error(self.name, f"low = {low!r} is not below high = {high!r}; swap them or widen the range")
        if scale == "log" and low <= 0:
            raise _error(self.name, f"low = {low!r} with scale = 'log' is not above 0; raise low or use 'linear'")
        if scale == "reverse_log" and self.integer:
            raise _error(self.name, "integer = True does not go with scale = 'reverse_log'; use 'linear' or 'log'")
        if scale == "reverse_log" and high >= 1:
            raise _error(self.name, f"high = {high!r} with scale = 'reverse_log' is not below 1; lower high")
        bottom, top = self._ends()
        if not 0 < top - bottom < math.inf:
            raise _error(
                self.name,
                f"low = {low!r} and high = {high!r} are too near or too far apart for double precision with "
                f"scale = {scale!r}; change the range",
            )

    def _ends(self) -> tuple[float, float]:
        forward = _SCALES[self.scale][0]
        half = 0.5 if self.integer else 0
        return forward(self.low - half), forward(self.high + half)

    def from_unit(self, u: float) -> float | int | str | bool:
        """Maps the unit interval onto the axis.

        Of a range, 0 gives `low` and 1 gives `high` exactly, and nothing lies outside them; of integers, each comes
        from a part of the unit interval; of a grid axis with k values, the i-th of k equal parts gives the i-th value.
        Increasing in `u`, up to the rounding of `exp`.

        Args:
          u: position, 0 <= u <= 1.

        Returns:
          The value, a plain Python float or int, or one of `values`.

        Raises:
          InputError: `u` lies outside the unit interval.
        """
        if not 0 <= u <= 1:
            raise _error(self.name, f"unit position {u!r} is not a number from 0 to 1; give one that is")
        u = float(u)
        if self.values is not None:
            return self.values[min(int(u * len(self.values)), len(self.values) - 1)]
        if u in (0, 1):
            return self.high if u else self.low
        bottom, top = self._ends()
        value = _SCALES[self.scale][1](bottom + u * (top - bottom))
        if self.integer:
            value = math.floor(value + 0.5)
        return min(max(value, self.low), self.high)  # exp may round out of the range

    def to_unit(self, value: float | int | str | bool) -> float:
        """Maps a value of the axis back to the unit interval.

        Args:
          value: a number from `low` to `high`, or one of `values`.

        Returns:
          The position that `from_unit` maps to `value`, up to rounding; for an integer and a grid axis, the middle of
          its part.

        Raises:
          InputError: `value` does not lie on the axis.
        """
        value = _plain(value)
        if self.values is not None:
            if _kind(value) != _kind(self.values[0]) or value not in self.values:
                raise _error(self.name, f"{value!r} is not among its values; give one of {list(self.values)}")
            return (self.values.index(value) + 0.5) / len(self.values)
        if _kind(value) != "number" or not self.low <= value <= self.high:
            raise _error(self.name, f"{value!r} is not a number from {self.low!r} to {self.high!r}; widen the space")
        if self.integer and value != int(value):
            raise _error(self.name, f"{value!r} is not an integer; give one from {self.low!r} to {self.high!r}")
        forward, half = _SCALES[self.scale][0], 0.5 if self.integer else 0
        middle = (forward(value - half) + forward(value + half)) / 2 if self.integer else forward(value)
        bottom, top = self._ends()
        return min(max((middle - bottom) / (top - bottom), 0.0), 1.0)


@dataclass(frozen=True)
class Space(Mapping):
    """A search space: an ordered mapping from name to hyperparameter.

    Order counts: it gives each hyperparameter its dimension of a sampler's sequence, so spaces that differ in order
    are not equal.

    Attributes:
      hyperparameters: the axes; a tuple once constructed.

    Raises:
      InputError: no hyperparameter, two of one name, or conditions that cannot be, see `harness.search.conditions`.
    """

    hyperparameters: tuple[Hyperparameter, ...]

    def __post_init__(self):
        object.__setattr__(self, "hyperparameters", tuple(self.hyperparameters))
        if not self.hyperparameters:
            raise InputError("search space is empty; expected at least one table, such as [learning_rate]; add one")
        for name, count in Counter(h.name for h in self.hyperparameters).items():
            if count > 1:
                raise _error(name, "is in the search space more than once; keep one")
        object.__setattr__(self, "_conditions", all_conditions({h.name: h for h in self.hyperparameters}))

    def __getitem__(self, name: str) -> Hyperparameter:
        for hyperparameter in self.hyperparameters:
            if hyperparameter.name == name:
                return hyperparameter
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (h.name for h in self.hyperparameters)

    def __len__(self) -> int:
        return len(self.hyperparameters)

    @property
    def parents(self) -> list[str]:
        """Names of the axes on which others depend, in the order of the space."""
        named = {parent for conditions in self._conditions.values() for parent in conditions}
        return [name for name in self if name in named]

    @property
    def parents_first(self) -> list[str]:
        """Names of the axes so that each comes after those that it depends on."""
        return sorted(self, key=lambda name: len(self._conditions[name]))  # an axis has all those of its parents

    def applies(self, name: str, drawn: Mapping[str, object]) -> bool:
        """Says whether an axis applies.

        Args:
          name: of the axis.
          drawn: name to value, of every axis that it depends on at least, those that do not apply among them.
        """
        return hold(self._conditions[name], drawn)

    def applicable(self, drawn: Mapping[str, object]) -> dict[str, object]:
        """Leaves out of a value for every axis those of the axes that do not apply."""
        return {name: value for name, value in drawn.items() if self.applies(name, drawn)}

    def values_set(self, point: Mapping[str, object]) -> dict[str, object]:
        """Gives hyperparameter to value for a point, whose axes may have names of their own."""
        return {self[name].hyperparameter: value for name, value in point.items()}


def space_from_dict(tables: Mapping[str, Mapping]) -> Space:
    """Builds a search space from one table a hyperparameter, as TOML gives them.

    Args:
      tables: name to table; a table holds `low`, `high` and optionally `scale` and `integer`, or `values`, and
        optionally `when` and `hyperparameter`.

    Returns:
      The space, in the order of `tables`.

    Raises:
      InputError: for whatever is no search space; the message names the hyperparameter and the value.
    """
    if not isinstance(tables, Mapping):
        raise InputError(f"search space {tables!r} is not a table; give one table a hyperparameter")
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise _error(name, f"{table!r} is not a table; write a table with low and high, or values")
        for key in table:
            if key not in KEYS:
                raise _error(name, f"unknown key {key!r}; known keys: {', '.join(KEYS)}{did_you_mean(key, KEYS)}")
    return Space(tuple(Hyperparameter(name, **table) for name, table in tables.items()))


def space_from_toml(path: str | Path) -> Space:
    """Reads a search space from a TOML file.

    ```toml
    [learning_rate]
    low = 1e-5
    high = 10.0
    scale = "log"          # linear if left out, log or reverse_log

    [warmup_steps]
    low = 0
    high = 100
    integer = true

    [optimizer]
    values = ["nesterov", "adam"]

    [beta1]
    low = 0.8
    high = 0.99
    when = { optimizer = "adam" }    # a value, or a list of them
    ```

    Args:
      path: the file.

    Returns:
      The space, in the order of the file.

    Raises:
      InputError: the file cannot be read, is not TOML in UTF-8 or holds no search space; the message names the file.
    """
    return read_toml(path, "a search space", space_from_dict)


def _error(name: str, message: str) -> InputError:
    return InputError(f"hyperparameter {name!r}: {message}")


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _kind(value: object) -> str | None:
    # bool before number, since bool is an int.
    for kind, types in (("boolean", bool), ("string", str), ("number", (int, float))):
        if isinstance(value, types):
            return kind
    return None


def _is_finite(number: float) -> bool:
    # math.isfinite raises on an int above the largest float; this holds for neither such an int, nor NaN, nor inf.
    return abs(number) <= sys.float_info.max


def _limit(name: str, key: str, value: object, integer: bool) -> float | int:
    value = _plain(value)
    if value is None:
        raise _error(name, f"{key} is missing; expected low and high, or values; add {key} = NUMBER")
    if _kind(value) != "number" or not _is_finite(value):
        raise _error(name, f"{key} = {value!r} is not a finite number; give one such as {key} = 0.1")
    if not integer:
        return float(value)
    if value != int(value) or abs(value) > _LARGEST_INTEGER:
        raise _error(name, f"{key} = {value!r} with integer = true is not an integer of at most 2^53; give one")
    return int(value)


def _conditions(name: str, when: object) -> tuple[tuple[str, tuple], ...]:
    """The conditions of an axis in plain values; `conditions.all_conditions` compares them with the space."""
    pairs = tuple(when.items()) if isinstance(when, Mapping) else when
    if not isinstance(pairs, tuple):
        raise _error(name, f"when = {when!r} is not a table; write one such as when = {{ optimizer = 'adam' }}")
    found = []
    for parent, allowed in pairs:
        allowed = tuple(map(_plain, allowed if isinstance(allowed, (list, tuple, np.ndarray)) else [allowed]))
        if not allowed:
            raise _error(name, f"when {parent} = [] holds for no value; give at least one")
        for value in allowed:
            if _kind(value) is None:
                raise _error(
                    name, f"when {parent} = {value!r} is not a number, a string or a boolean; give one of these"
                )
        found.append((parent, allowed))
    return tuple(found)


def _grid_axis(name: str, values: object) -> tuple:
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise _error(name, f"values = {values!r} is not a list; write values = [{values!r}]")
    values = [_plain(value) for value in values]
    if not values:
        raise _error(name, "values = [] is empty; give at least one value")
    for value in values:
        if (kind := _kind(value)) is None or (kind == "number" and not _is_finite(value)):
            raise _error(name, f"value {value!r} is not a finite number, a string or a boolean; give one of these")
        if kind != (first := _kind(values[0])):
            raise _error(name, f"value {value!r} is a {kind}, but {values[0]!r} is a {first}; give values of one type")
    if any(isinstance(value, float) for value in values):
        values = [float(value) for value in values]
    for value, count in Counter(values).items():
        if count > 1:
            raise _error(name, f"value {value!r} is in values more than once; keep one")
    return tuple(values)
