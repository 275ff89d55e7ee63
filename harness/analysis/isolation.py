"""Isolation plots: the best trial per value of one hyperparameter, the others optimised away (playbook L491-511).

Exact for categories and for values that trials share, as on a grid; for a continuous hyperparameter the range is cut
into buckets, equal on its scale, and the best trial of each slice is taken (L511).

The best of many trials is better than the best of few, and even where a hyperparameter does nothing, one value is the
best. So each best stands beside its null: if c of all n trials, drawn at random, carried the value, r trials of the
study would be better than all of them with chance

    C(n - r, c) / C(n, c)

(hypergeometric; the distribution of the best of c drawn without replacement, exact with ties). A value whose best is
worse than that is worse for a reason. The reverse cannot be shown by the best alone: the best trial of the study has to
lie somewhere, in a given one of k equal slices with chance 1 / k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.analysis.axes import Axis, column, positions, scores, value_at
from harness.analysis.rank_tests import holm
from harness.records import InputError, TrialTable

TRIALS_PER_VALUE = 3
"""Mean number of trials per distinct number from which each number is a slice of its own: a grid, not a sample."""

TRIALS_PER_BUCKET = 10
"""Trials that a bucket holds on average: the best of fewer says little (with 5 of 50 trials, a bucket is told from
chance only where its best is worse than 27 of 50)."""

MOST_BUCKETS = 10
"""Ten buckets of a range show its shape; more only thin them."""

FEWEST_BUCKETS = 3
"""An optimum inside needs a slice on either side."""

LEVEL = 0.05
"""Chance, over the slices of a hyperparameter without effect, that any is called worse."""


class Slice(NamedTuple):
    """The trials of one value, or of one bucket, of a hyperparameter.

    Attributes:
      value: of an exact slice its value; of a bucket its middle on the scale.
      low: lower end of a bucket; None for an exact slice.
      high: upper end of a bucket; None for an exact slice.
      best: objective of its best trial; NaN where it has no feasible one.
      trial: index of that trial in the table; -1 where there is none.
      trials: its trials.
      infeasible: how many of them are infeasible.
      null: (low, high) within which the best of as many random trials of the study lies with 95% chance or more, in
        the units of the objective and worse end last; NaN for an end that is infeasible, both NaN without trials.
      p_worse: chance that the best of as many random trials is no better, Holm-adjusted over the slices.
      worse: whether that is at most the level.
    """

    value: float | str | bool
    low: float | None
    high: float | None
    best: float
    trial: int
    trials: int
    infeasible: int
    null: tuple[float, float]
    p_worse: float
    worse: bool


@dataclass(frozen=True)
class Isolation:
    """An isolation plot in numbers.

    Attributes:
      hyperparameter: its name.
      exact: whether slices are values; False for buckets.
      slices: in ascending order, categories in the order of the table.
      best: index of the best slice; -1 where no trial is feasible.
      p: smallest `p_worse`: evidence that the hyperparameter has any effect on the best.
    """

    hyperparameter: str
    exact: bool
    slices: tuple[Slice, ...]
    best: int
    p: float


def isolate(
    table: TrialTable, name: str, axis: Axis | None = None, *, buckets: int | None = None, level: float = LEVEL
) -> Isolation:
    """Finds the best trial per value or bucket of a hyperparameter, and what chance alone would give.

    Trials to which the hyperparameter does not apply, or that lie outside of the axis, are left out.

    Args:
      table: finished trials.
      name: the hyperparameter.
      axis: range and scale to cut into buckets; without it a number's observed range, linear.
      buckets: how many; by default one per `TRIALS_PER_BUCKET` trials, 3 to 10. Setting it cuts a grid too.
      level: see `LEVEL`.

    Returns:
      The slices; buckets without trials are kept, with NaN.

    Raises:
      InputError: no such column, no trial that has it, buckets of a category, fewer than 2 buckets, or values that the
        axis' scale does not have.
    """
    values, score = column(table, name), scores(table)
    category = values.dtype == object
    if buckets is not None and (category or buckets < 2):
        raise InputError(
            f"hyperparameter {name!r}: buckets = {buckets}, expected at least 2 and a range; "
            + ("leave buckets out for a category" if category else "give 2 or more")
        )
    applies = np.array([v is not None for v in values], bool) if category else np.isfinite(values.astype(np.float64))
    at = None
    if not category and applies.any():
        numbers = values[applies].astype(np.float64)
        low, high = float(numbers.min()), float(numbers.max())
        if buckets is not None or (len(np.unique(numbers)) * TRIALS_PER_VALUE > len(numbers) and low < high):
            axis = axis or Axis(low, high)
            at = positions(name, values.astype(np.float64), axis)
            applies &= (at >= 0) & (at <= 1)
    rows = np.flatnonzero(applies)
    if not len(rows):
        raise InputError(
            f"hyperparameter {name!r} applies to no trial inside its range; leave it out or widen the axis"
        )
    if at is None:
        labels, ends = _values(values[rows], category)
        code, k = labels, len(ends)
    else:
        k = buckets or min(MOST_BUCKETS, max(FEWEST_BUCKETS, len(rows) // TRIALS_PER_BUCKET))
        code = np.minimum((at[rows] * k).astype(np.int64), k - 1)
        borders = [value_at(i / k, axis) for i in range(k + 1)]
        ends = [(value_at((i + 0.5) / k, axis), borders[i], borders[i + 1]) for i in range(k)]
    slices = _slices(ends, code, k, rows, score, 1.0 if table.goal == "min" else -1.0, level)
    found = [i for i, piece in enumerate(slices) if piece.trial >= 0]
    best = min(found, key=lambda i: score[slices[i].trial]) if found else -1
    return Isolation(name, at is None, tuple(slices), best, min(piece.p_worse for piece in slices))


def _values(values: np.ndarray, category: bool) -> tuple[np.ndarray, list[tuple]]:
    """Code of each trial's value, int64 (n,), and (value, None, None) of each code."""
    if not category:
        distinct, codes = np.unique(values, return_inverse=True)
        return codes, [(float(value), None, None) for value in distinct]
    known: dict = {}
    codes = np.array([known.setdefault((type(value), value), len(known)) for value in values.tolist()])
    return codes, [(value, None, None) for _, value in known]


def _slices(
    ends: list[tuple], code: np.ndarray, k: int, rows: np.ndarray, score: np.ndarray, sign: float, level: float
) -> list[Slice]:
    """The slices of trials `rows` (n,) with codes (n,) from 0 to k - 1."""
    measured = score[rows]
    ordered = np.sort(measured)
    counts = np.bincount(code, minlength=k)
    infeasible = np.bincount(code, weights=np.isinf(measured), minlength=k).astype(np.int64)
    by_slice = np.lexsort((measured, code))  # the best of each slice comes first
    first = by_slice[np.minimum(np.cumsum(counts) - counts, len(rows) - 1)]
    best = np.where(counts > 0, measured[first], np.inf)
    better = np.searchsorted(ordered, best, side="left")
    p = np.where(counts > 0, _none_of(better, counts, len(rows)), 1.0)
    adjusted = np.ones(k)
    adjusted[counts > 0] = holm(p[counts > 0])
    low, high = (_null_end(q, counts, ordered) for q in (0.975, 0.025))
    slices = []
    for i in range(k):
        feasible = bool(counts[i]) and np.isfinite(best[i])
        null = [sign * end if np.isfinite(end) else float("nan") for end in (low[i], high[i])]
        slices.append(
            Slice(
                *ends[i],
                best=float(sign * best[i]) if feasible else float("nan"),
                trial=int(rows[first[i]]) if feasible else -1,
                trials=int(counts[i]),
                infeasible=int(infeasible[i]),
                null=(float(null[0]), float(null[1])),
                p_worse=float(adjusted[i]),
                worse=bool(adjusted[i] <= level),
            )
        )
    return slices


def _none_of(marked: np.ndarray, drawn: np.ndarray, n: int) -> np.ndarray:
    """Chance that none of so many marked trials of n is among the drawn: C(n - marked, drawn) / C(n, drawn)."""
    from scipy.special import gammaln

    marked, drawn = np.asarray(marked, np.float64), np.asarray(drawn, np.float64)
    left = np.maximum(n - marked - drawn, 0)
    log = gammaln(n - marked + 1) - gammaln(left + 1) - gammaln(n + 1.0) + gammaln(n - drawn + 1)
    return np.where(marked + drawn > n, 0.0, np.minimum(1.0, np.exp(log)))


def _null_end(at_least: float, counts: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Objective (k,) that the best of so many random trials fails to beat with the given chance; NaN without trials.

    The largest r with `_none_of(r)` of at least that chance, by bisection, since it falls with r.
    """
    n = len(ordered)
    lower, upper = np.zeros(len(counts), np.int64), np.full(len(counts), n - 1)
    while (lower < upper).any():
        middle = (lower + upper + 1) // 2
        holds = _none_of(middle, counts, n) >= at_least
        lower, upper = np.where(holds, middle, lower), np.where(holds, upper, middle - 1)
    return np.where(counts > 0, ordered[lower], np.nan)
