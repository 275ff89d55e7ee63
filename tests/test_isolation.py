"""Isolation: the best per value or bucket, and its null."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.axes import Axis
from harness.analysis.isolation import LEVEL, isolate
from harness.records import InputError
from tests.study_tables import study


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=9, max_size=10), st.booleans())
def test_slices_and_null_are_those_of_enumeration(trials, category):
    values = np.array([value for value, _ in trials], float)
    errors = np.array([error for _, error in trials], float)
    column = np.array([f"v{value:.0f}" for value in values], object) if category else values
    plot = isolate(study({"h": column}, errors, errors == 5), "h")
    assert plot.exact
    ps = []
    for piece in plot.slices:
        rows = np.flatnonzero(column == piece.value)
        assert (piece.trials, piece.infeasible) == (len(rows), (errors[rows] == 5).sum())
        best = errors[rows].min()
        assert piece.best == best if best < 5 else math.isnan(piece.best) and piece.trial == -1
        null = np.sort([errors[list(draw)].min() for draw in itertools.combinations(range(len(errors)), len(rows))])
        ps.append(np.mean(null >= best))
        low, high = (np.inf if math.isnan(end) else end for end in piece.null)
        assert np.mean((null >= low) & (null <= np.where(high == np.inf, 5, high))) >= 0.95 - 1e-9 or low == np.inf
    assert plot.p == pytest.approx(min(1.0, min(ps) * len(ps)))


def test_figure_2_as_a_grid():
    rng = np.random.default_rng(0)
    decay = np.repeat([1e-7, 1.8e-6, 3.2e-5, 5.6e-4, 1e-2], 20)
    error = np.repeat([0.285, 0.252, 0.234, 0.246, 0.483], 20) + rng.exponential(0.1, 100)
    plot = isolate(study({"decay": decay}, error), "decay")
    assert plot.slices[plot.best].value == 3.2e-5
    assert [piece.worse for piece in plot.slices[2:]] == [False, False, True]


def test_buckets_are_equal_on_the_scale_and_find_an_effect():
    rng = np.random.default_rng(0)
    at = rng.random(100)
    table = study({"rate": 10 ** (4 * at - 4)}, (at - 0.55) ** 2 + 0.05 * rng.random(100))
    plot = isolate(table, "rate", Axis(1e-4, 1.0, "log"), buckets=4)
    assert not plot.exact
    assert [piece.high for piece in plot.slices] == pytest.approx([1e-3, 1e-2, 1e-1, 1.0])
    assert plot.slices[plot.best].low == pytest.approx(1e-2)
    assert plot.slices[0].worse
    assert table.objective[plot.slices[plot.best].trial] == np.nanmin(table.objective)
    assert len(isolate(table, "rate", Axis(1e-4, 1.0, "log")).slices) == 10


def test_level_where_the_hyperparameter_does_nothing():
    rng, nulls, hits = np.random.default_rng(3), 2000, 0
    for run in range(nulls):
        n = (30, 100)[run % 2]
        table = study({"h": rng.random(n)}, rng.standard_normal(n), rng.random(n) < 0.2)
        hits += isolate(table, "h", Axis(0.0, 1.0)).p <= LEVEL
    assert hits / nulls <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / nulls)


def test_goal_max_takes_the_largest():
    plot = isolate(study({"h": np.repeat([1.0, 2.0], 5)}, np.arange(10.0), goal="max"), "h")
    assert [piece.best for piece in plot.slices] == [4.0, 9.0]
    assert plot.best == 1
    assert plot.slices[0].null[0] >= plot.slices[0].null[1]  # worse end last


def test_empty_buckets_and_values_outside_are_kept_apart():
    table = study({"h": np.array([0.05, 0.1, 0.95, 7.0])}, np.array([1.0, 2.0, 3.0, -5.0]))
    plot = isolate(table, "h", Axis(0.0, 1.0), buckets=3)
    assert [piece.trials for piece in plot.slices] == [2, 0, 1]
    assert math.isnan(plot.slices[1].best)
    assert plot.best == 0


def test_a_study_without_a_feasible_trial_has_no_best():
    plot = isolate(study({"h": np.repeat([1.0, 2.0], 5)}, np.zeros(10), np.ones(10, bool)), "h")
    assert plot.best == -1
    assert plot.p == 1


def test_bad_input_is_named():
    table = study({"o": np.array(["a", "b"], object), "h": np.full(2, np.nan)}, np.zeros(2))
    with pytest.raises(InputError, match="leave buckets out"):
        isolate(table, "o", buckets=3)
    with pytest.raises(InputError, match="buckets = 1"):
        isolate(table, "h", buckets=1)
    with pytest.raises(InputError, match="applies to no trial"):
        isolate(table, "h")
