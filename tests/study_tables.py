"""Simulated studies whose answer is known, for the tests of the analysis."""

import numpy as np

from harness.analysis.axes import Axis
from harness.records import TrialTable


def study(columns, objective, infeasible=None, goal="min"):
    """A trial table of columns (name to values), with NaN where it is infeasible."""
    n = len(objective)
    infeasible = np.zeros(n, bool) if infeasible is None else np.asarray(infeasible, bool)
    names = tuple(str(i) for i in range(n))
    return TrialTable(names, columns, np.where(infeasible, np.nan, objective), infeasible, "error", goal, {}, {})


def uniform(rng, n, count):
    """Columns h0, h1, ... of n uniform numbers, and their axes."""
    columns = {f"h{i}": rng.random(n) for i in range(count)}
    return columns, {name: Axis(0.0, 1.0) for name in columns}


def rate_search(rng, n, optimum, noise=0.1, wall=None):
    """A learning-rate search over 1e-5 to 1 whose error is quadratic in log rate.

    `optimum` and `wall` are positions, 0 at 1e-5 and 1 at 1; beyond the wall trials are infeasible.
    """
    at = rng.random(n)
    error = (at - optimum) ** 2 + noise * rng.standard_normal(n)
    table = study({"learning_rate": 10 ** (5 * at - 5)}, error, None if wall is None else at > wall)
    return table, {"learning_rate": Axis(1e-5, 1.0, "log")}
