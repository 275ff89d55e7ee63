"""Where the values of a hyperparameter lie on its range and scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.records import InputError, TrialTable, did_you_mean

SCALES = ("linear", "log", "reverse_log")
"""`reverse_log` is log in 1 - x, as for a momentum."""


class Axis(NamedTuple):
    """Range of a numeric hyperparameter.

    Attributes:
      low: smallest value searched.
      high: largest value searched.
      scale: one of `SCALES`.
    """

    low: float
    high: float
    scale: str = "linear"


def column(table: TrialTable, name: str) -> np.ndarray:
    """The column of a hyperparameter, (n,); raises InputError where the table has none of that name."""
    if name not in table.hyperparameters:
        known = list(table.hyperparameters)
        raise InputError(
            f"hyperparameter {name!r} is not in the table; known: {', '.join(known)}{did_you_mean(name, known)}"
        )
    return table.hyperparameters[name]


def numeric_column(table: TrialTable, name: str) -> np.ndarray:
    """As `column`, float64; raises InputError where the hyperparameter is a category, which has no range."""
    values = column(table, name)
    if values.dtype == object:
        raise InputError(f"hyperparameter {name!r} is a category and has no range; leave it out of the axes")
    return np.asarray(values, np.float64)


def scores(table: TrialTable) -> np.ndarray:
    """The objective turned so that lower is better, float64 (n,), with infinity for infeasible trials.

    Raises:
      InputError: the goal is neither `min` nor `max`.
    """
    if table.goal not in ("min", "max"):
        raise InputError(
            f"goal {table.goal!r} is not a goal; give 'min' or 'max'{did_you_mean(table.goal, ('min', 'max'))}"
        )
    objective = np.asarray(table.objective, np.float64)
    turned = objective if table.goal == "min" else -objective
    return np.where(np.asarray(table.infeasible, bool) | ~np.isfinite(objective), np.inf, turned)


def positions(name: str, values: np.ndarray, axis: Axis) -> np.ndarray:
    """Maps values onto the unit interval, on the axis' scale.

    Args:
      name: the hyperparameter, for messages.
      values: float64 (n,); NaN where the hyperparameter does not apply.
      axis: its range and scale.

    Returns:
      float64 (n,): 0 at `low`, 1 at `high`, outside of [0, 1] for values outside of the range, NaN where it was.

    Raises:
      InputError: no such scale, `low` not below `high`, or numbers where the scale has none.
    """
    if axis.scale not in SCALES:
        raise InputError(
            f"hyperparameter {name!r}: scale {axis.scale!r} is not a scale; "
            f"known scales: {', '.join(SCALES)}{did_you_mean(axis.scale, SCALES)}"
        )
    if not -np.inf < axis.low < axis.high < np.inf:
        raise InputError(f"hyperparameter {name!r}: low = {axis.low} is not below high = {axis.high}; widen the range")
    ends = np.array([axis.low, axis.high])
    for numbers, what in ((ends, "the range's"), (values, "the table's")):
        outside = numbers <= 0 if axis.scale == "log" else numbers >= 1 if axis.scale == "reverse_log" else None
        if outside is not None and outside.any():
            needs = "above 0" if axis.scale == "log" else "below 1"
            raise InputError(
                f"hyperparameter {name!r}: {what} {numbers[outside][0]} with scale = {axis.scale!r} is not {needs}; "
                "use 'linear'"
            )
    bottom, top = _on_scale(ends, axis.scale).tolist()
    if top - bottom == np.inf:
        raise InputError(
            f"hyperparameter {name!r}: low = {axis.low} and high = {axis.high} are too far apart for double precision; "
            "give it in other units"
        )
    if not bottom < top:
        raise InputError(
            f"hyperparameter {name!r}: low = {axis.low} and high = {axis.high} are one with scale = {axis.scale!r} in "
            "double precision; use 'linear'"
        )
    return (_on_scale(np.asarray(values, np.float64), axis.scale) - bottom) / (top - bottom)


def value_at(position: float, axis: Axis) -> float:
    """The value at a position; the inverse of `positions`."""
    bottom, top = _on_scale(np.array([axis.low, axis.high]), axis.scale)
    on_scale = bottom + position * (top - bottom)
    return float(
        on_scale if axis.scale == "linear" else np.exp(on_scale) if axis.scale == "log" else -np.expm1(-on_scale)
    )


def _on_scale(values: np.ndarray, scale: str) -> np.ndarray:
    """Values on a scale, increasing; log1p keeps the digits of 1 - x near x = 0."""
    return values if scale == "linear" else np.log(values) if scale == "log" else -np.log1p(-values)
