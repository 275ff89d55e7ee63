"""Searches that look their trials up in a table of finished ones, so that thousands of them cost one table.

A tabular benchmark, as HPO-B is (Pineda Arango et al. 2021, arXiv 2106.06257): every cell of a grid is trained once,
and a search that asks for a point is given the error of the cell that it lies in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.search.bayesian import BayesianSearch
from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space


def sampled_cells(shape: Sequence[int], sampler: str, seed: int, trials: int) -> np.ndarray:
    """Cells of a search that does not look at results.

    Args:
      shape: cells of the grid along each hyperparameter, at least 2 each.
      sampler: one of `harness.search.samplers.SAMPLERS` but `grid`.
      seed: of the search.
      trials: how many.

    Returns:
      int64 (trials,), numbers of cells in C order.
    """
    return _cells(sample(_space(shape), sampler, seed, trials), shape)


def bayesian_cells(
    shape: Sequence[int], errors: np.ndarray, infeasible: np.ndarray, seed: int, trials: int, parallel: int
) -> np.ndarray:
    """Cells of a Bayesian search that is told the errors of a round before it proposes the next.

    Args:
      shape: as `sampled_cells`.
      errors: of each cell, float64 (cells,).
      infeasible: which cells have none, bool (cells,).
      seed: of the search.
      trials: how many.
      parallel: trials of a round, which run at the same time; 1 is in sequence.

    Returns:
      As `sampled_cells`.

    Raises:
      InputError: Optuna is missing.
    """
    search = BayesianSearch(_space(shape), seed)
    found: list[int] = []
    while len(found) < trials:
        cells = _cells(search.ask(min(parallel, trials - len(found))), shape).tolist()
        search.tell([None if infeasible[cell] else float(errors[cell]) for cell in cells])
        found += cells
    return np.array(found)


def winner(cells: np.ndarray, errors: np.ndarray) -> int:
    """The cell of a search, (trials,), with the lowest error of (all cells,); the first of equal ones."""
    return int(cells[np.argmin(errors[cells])])


def _space(shape: Sequence[int]) -> Space:
    # Integers, of which each has an equal part of the unit interval, keep their order for every search.
    return Space(tuple(Hyperparameter(f"axis{i}", 0, size - 1, integer=True) for i, size in enumerate(shape)))


def _cells(points: Sequence[dict], shape: Sequence[int]) -> np.ndarray:
    columns = np.array([list(point.values()) for point in points]).T
    return np.ravel_multi_index(tuple(columns), tuple(shape))
