"""How many trials are infeasible, and where in the search space they lie (playbook L410-412).

A large share means that the space should be changed so that such points are not sampled, which may need another
parameterisation, or that the training code has a bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.analysis.axes import Axis, column, numeric_column, positions, scores, value_at
from harness.analysis.intervals import clopper_pearson
from harness.analysis.rank_tests import holm, hypergeometric_upper, rank_sum_tails
from harness.records import TrialTable

LEVEL = 0.05
"""Chance, over all hyperparameters and sides together, of naming a place where infeasible trials lie by chance."""


class Place(NamedTuple):
    """Where infeasible trials are more frequent than chance would have it.

    Attributes:
      hyperparameter: its name.
      where: `low` or `high` for a side of a range, otherwise the value of a category.
      limit: of a side, the value that parts infeasible from feasible trials best; None for a category.
      infeasible: infeasible trials from the limit on to that side, or of the category.
      trials: all trials there.
      outside: share of the other trials that is infeasible.
      p: p-value, Holm-adjusted over hyperparameters and sides or values.
    """

    hyperparameter: str
    where: str | bool
    limit: float | None
    infeasible: int
    trials: int
    outside: float
    p: float


@dataclass(frozen=True)
class Infeasible:
    """The infeasible trials of a study.

    Attributes:
      count: infeasible trials.
      trials: all trials.
      share: count / trials; NaN without trials.
      interval: its 95% Clopper-Pearson limits.
      places: where they lie, smallest p first; empty where nothing departs from chance.
    """

    count: int
    trials: int
    share: float
    interval: tuple[float, float]
    places: tuple[Place, ...]

    @property
    def reparameterise(self) -> tuple[str, ...]:
        """Hyperparameters that share the blame, so that a range of one alone cannot mend it; empty under two.

        Where two ends of two hyperparameters are infeasible, the border mostly runs across both: search one of them
        and their product or ratio (rate / (1 - momentum), rate / batch size) instead of both.
        """
        sided = list(dict.fromkeys(place.hyperparameter for place in self.places if place.limit is not None))
        return tuple(sided) if len(sided) > 1 else ()


def find_infeasible(table: TrialTable, axes: Mapping[str, Axis], *, level: float = LEVEL) -> Infeasible:
    """Counts infeasible trials and finds the sides and categories in which they crowd.

    Each side of a range is put to a one-sided rank-sum test of the positions of infeasible against feasible trials,
    each category to Fisher's exact test, Holm's correction over all. A border in the middle of a range, feasible on
    both sides, is not found.

    Args:
      table: finished trials; a trial whose objective is not finite counts as infeasible.
      axes: name to range, for numeric hyperparameters; others of the table are left out. Categories need none.
      level: of naming any place by chance.

    Returns:
      The counts, and the places that departed from chance.

    Raises:
      InputError: an axis without its column, a category with an axis, or values that the axis' scale does not have.
    """
    bad = np.isinf(scores(table))
    count, trials = int(bad.sum()), len(bad)
    found = [place for name, axis in axes.items() for place in _sides(table, name, axis, bad)]
    for name, values in table.hyperparameters.items():
        if values.dtype == object:
            found += _categories(name, column(table, name), bad)
    adjusted = holm(np.array([place.p for place in found]))
    places = [place._replace(p=float(p)) for place, p in zip(found, adjusted, strict=True) if p <= level]
    return Infeasible(
        count,
        trials,
        count / trials if trials else float("nan"),
        clopper_pearson(count, trials, 0.95) if trials else (0.0, 1.0),
        tuple(sorted(places, key=lambda place: place.p)),
    )


def _sides(table: TrialTable, name: str, axis: Axis, bad: np.ndarray) -> list[Place]:
    """Both sides of a range, with p not yet adjusted; nothing where no split is possible."""
    at = positions(name, numeric_column(table, name), axis)
    applies = np.isfinite(at)
    at, bad = at[applies], bad[applies]
    if not 0 < bad.sum() < len(bad) or at.min() == at.max():
        return []
    sides = []
    inwards = np.argsort(at)
    for side, order, p in zip(("low", "high"), (inwards, inwards[::-1]), rank_sum_tails(at, bad), strict=True):
        seen, inside = np.arange(1, len(at) + 1), np.cumsum(bad[order])
        # Youden's index at every distinct value: share of infeasible less share of feasible trials out to it.
        youden = inside / bad.sum() - (seen - inside) / (~bad).sum()
        last_of_ties = np.append(np.diff(at[order]) != 0, True)
        best = int(np.argmax(np.where(last_of_ties, youden, -np.inf)))
        others = len(at) - best - 1
        sides.append(
            Place(
                name,
                side,
                value_at(float(at[order][best]), axis),
                int(inside[best]),
                best + 1,
                float((bad.sum() - inside[best]) / others) if others else 0.0,
                p,
            )
        )
    return sides


def _categories(name: str, values: np.ndarray, bad: np.ndarray) -> list[Place]:
    """Every value of a category, with p not yet adjusted."""
    applies = np.array([value is not None for value in values], bool)
    values, bad = values[applies], bad[applies]
    distinct = list(dict.fromkeys(values.tolist()))
    if not 0 < bad.sum() < len(bad) or len(distinct) < 2:
        return []
    places = []
    for value in distinct:
        here = np.array(values == value, bool)
        inside, trials = int(bad[here].sum()), int(here.sum())
        p = hypergeometric_upper(inside, len(bad), int(bad.sum()), trials)
        places.append(Place(name, value, None, inside, trials, float((bad.sum() - inside) / (len(bad) - trials)), p))
    return places
