"""Infeasible trials: their share, where they lie, and how seldom a place is named by chance."""

import math

import numpy as np
import pytest

from harness.analysis.axes import Axis
from harness.analysis.infeasible import LEVEL, find_infeasible
from tests.study_tables import rate_search, study, uniform


def test_share_has_exact_limits():
    columns, axes = uniform(np.random.default_rng(0), 20, 1)
    found = find_infeasible(study(columns, np.zeros(20), np.zeros(20, bool)), axes)
    assert (found.count, found.trials, found.share) == (0, 20, 0.0)
    assert found.interval == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert found.places == ()


def test_a_wall_is_placed_with_its_limit():
    table, axes = rate_search(np.random.default_rng(0), 100, 0.5, wall=0.8)
    (place,) = find_infeasible(table, axes).places
    assert (place.hyperparameter, place.where, place.outside) == ("learning_rate", "high", 0.0)
    assert place.infeasible == place.trials == table.infeasible.sum()
    assert place.limit == pytest.approx(table.hyperparameters["learning_rate"][table.infeasible].min())


def test_a_border_across_two_hyperparameters_asks_for_another_parameterisation():
    columns, axes = uniform(np.random.default_rng(0), 200, 3)
    found = find_infeasible(study(columns, np.zeros(200), columns["h0"] + columns["h2"] > 1.4), axes)
    assert set(found.reparameterise) == {"h0", "h2"}
    assert {place.where for place in found.places} == {"high"}
    one = find_infeasible(study(columns, np.zeros(200), columns["h0"] > 0.7), axes)
    assert one.reparameterise == ()


def test_a_category_is_named_and_none_means_that_it_does_not_apply():
    optimizer = np.array(["adam", "sgd", None] * 20, object)
    found = find_infeasible(study({"optimizer": optimizer}, np.zeros(60), optimizer == "sgd"), {})
    (place,) = found.places
    assert (place.where, place.limit, place.infeasible, place.trials, place.outside) == ("sgd", None, 20, 20, 0.0)


def test_level_where_infeasible_trials_lie_anywhere():
    rng, nulls, named = np.random.default_rng(2), 2000, 0
    for run in range(nulls):
        n = (20, 60)[run % 2]
        columns, axes = uniform(rng, n, 2)
        columns["optimizer"] = np.array(["a", "b", "c"], object)[rng.integers(0, 3, n)]
        named += bool(find_infeasible(study(columns, np.zeros(n), rng.random(n) < 0.2), axes).places)
    assert named / nulls <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / nulls)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_studies_without_a_split_name_nothing(n):
    columns, axes = uniform(np.random.default_rng(0), n, 1)
    found = find_infeasible(study(columns, np.zeros(n), np.ones(n, bool)), axes)
    assert found.places == ()
    assert found.count == n
    assert (
        find_infeasible(study({"h0": np.ones(4)}, np.zeros(4), [True, False] * 2), {"h0": Axis(0.0, 2.0)}).places == ()
    )
