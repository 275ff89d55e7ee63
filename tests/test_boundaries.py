"""The search-space check: its level where hyperparameters do nothing, its power on bad spaces, walls, odd tables."""

import math

import numpy as np
import pytest

from harness.analysis.axes import Axis
from harness.analysis.boundaries import LEVEL, check_boundaries
from harness.records import InputError
from tests.study_tables import rate_search, study, uniform

NULLS = 2000
SEARCHES = 100

OBJECTIVES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "ties": lambda rng, n: np.round(rng.standard_normal(n)),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.3, 9.0, rng.standard_normal(n)),
}


def share(hits, runs, level):
    """Whether a count is within three standard errors of a level."""
    return hits / runs <= level + 3 * math.sqrt(level * (1 - level) / runs)


def verdicts(n, runs=SEARCHES, **search):
    """Share of each verdict of the low and the high side over simulated learning-rate searches."""
    rng = np.random.default_rng(n)
    found = [check_boundaries(*rate_search(rng, n, **search)) for _ in range(runs)]
    return [
        {verdict: np.mean([sides[i].verdict == verdict for sides in found]) for verdict in ("open", "wall", "closed")}
        for i in (0, 1)
    ]


def test_level_where_hyperparameters_do_nothing():
    rng = np.random.default_rng(1)
    kinds = [*OBJECTIVES, "infeasible anywhere", "infeasible beyond a wall"]
    alarms, closed = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    for run in range(NULLS):
        kind, n = kinds[run % len(kinds)], (20, 50, 100)[run % 3]
        columns, axes = uniform(rng, n, 2)
        bad = None
        if kind == "infeasible anywhere":
            bad = rng.random(n) < 0.3
        elif kind == "infeasible beyond a wall":
            bad = columns["h0"] > 0.7
        sides = check_boundaries(study(columns, OBJECTIVES.get(kind, OBJECTIVES["normal"])(rng, n), bad), axes)
        alarms[kind] += any(side.verdict in ("open", "wall") for side in sides)
        if kind != "infeasible beyond a wall":  # trials beyond a wall are worse, rightly
            closed[kind] += any(side.verdict == "closed" for side in sides)
    for hits in (alarms, closed):
        assert share(sum(hits.values()), NULLS, LEVEL)
        assert all(share(count, NULLS // len(kinds), LEVEL) for count in hits.values()), hits


@pytest.mark.parametrize(("n", "power"), [(20, 0.8), (50, 0.97), (100, 0.99)])
def test_a_space_that_ends_before_the_good_rates_is_open_on_that_side(n, power):
    low, high = verdicts(n, optimum=1.5)
    assert high["open"] >= power
    assert low["open"] == 0
    low, high = verdicts(n, optimum=-0.5)
    assert low["open"] >= power
    assert high["open"] == 0


@pytest.mark.parametrize("n", [20, 50, 100])
def test_a_space_around_the_optimum_passes(n):
    for optimum in (0.4, 0.5, 0.6):
        assert all(side["open"] + side["wall"] <= 0.05 for side in verdicts(n, optimum=optimum))


def test_edges_that_are_worse_are_closed():
    for side in verdicts(100, optimum=0.6, noise=0.03):
        assert side["closed"] >= 0.95


@pytest.mark.parametrize(("n", "power"), [(30, 0.7), (50, 0.85), (100, 0.95)])
def test_a_wall_is_told_from_an_edge(n, power):
    for wall in (0.6, 0.8):
        high = verdicts(n, optimum=1.0, noise=0.05, wall=wall)[1]
        assert high["wall"] >= power
        assert high["open"] <= 0.1


def test_a_wall_far_from_the_optimum_is_none():
    high = verdicts(100, optimum=0.4, noise=0.03, wall=0.8)[1]
    assert high["wall"] == high["open"] == 0


def test_an_edge_is_found_among_other_hyperparameters():
    rng = np.random.default_rng(3)
    found = []
    for _ in range(50):
        columns, axes = uniform(rng, 100, 4)
        error = (columns["h2"] - 1.5) ** 2 + sum((columns[h] - 0.5) ** 2 for h in ("h0", "h1", "h3"))
        sides = check_boundaries(study(columns, error), axes)
        found.append([(side.hyperparameter, side.side) for side in sides if side.verdict == "open"])
    assert np.mean([("h2", "high") in flagged for flagged in found]) >= 0.95
    assert np.mean([len(flagged) > 1 for flagged in found]) <= 0.05


def test_a_grid_has_its_outermost_value_for_an_edge():
    rates = np.repeat(np.logspace(-3, 1, 6), 10)
    axes = {"rate": Axis(1e-3, 10.0, "log")}
    noise = np.random.default_rng(0).normal(0, 1e-3, 60)
    assert check_boundaries(study({"rate": rates}, -np.log(rates) + noise), axes)[1].verdict == "open"
    inner = check_boundaries(study({"rate": rates}, np.abs(np.log(rates / rates[40])) + noise), axes)[1]
    assert inner.at_edge == 10
    assert inner.verdict != "open"


def test_goal_max_mirrors_goal_min():
    table, axes = rate_search(np.random.default_rng(0), 50, 1.5)
    mirrored = study(dict(table.hyperparameters), -table.objective, goal="max")
    assert check_boundaries(table, axes) == check_boundaries(mirrored, axes)


def test_a_side_that_was_never_sampled_is_not_called_open():
    table, _ = rate_search(np.random.default_rng(0), 50, 1.5)
    high = check_boundaries(table, {"learning_rate": Axis(1e-5, 1e4, "log")})[1]
    assert high.verdict == "undecided"
    assert high.unsampled > 0.4


def test_only_trials_that_have_the_hyperparameter_count():
    table, axes = rate_search(np.random.default_rng(0), 50, 1.5)
    half = {"learning_rate": np.append(table.hyperparameters["learning_rate"], np.full(50, np.nan))}
    with_others = study(half, np.append(table.objective, np.full(50, -9.0)))
    assert check_boundaries(with_others, axes) == check_boundaries(table, axes)


@pytest.mark.parametrize("n", [0, 1, 9])
def test_few_trials_decide_nothing(n):
    rng = np.random.default_rng(0)
    columns, axes = uniform(rng, n, 1)
    assert [side.verdict for side in check_boundaries(study(columns, columns["h0"]), axes)] == ["undecided"] * 2


def test_constant_or_infeasible_studies_decide_nothing():
    columns, axes = uniform(np.random.default_rng(0), 50, 1)
    for table in (study(columns, np.zeros(50)), study(columns, np.zeros(50), np.ones(50, bool))):
        assert [side.verdict for side in check_boundaries(table, axes)] == ["undecided"] * 2


def test_a_share_out_of_range_is_refused():
    columns, axes = uniform(np.random.default_rng(0), 50, 1)
    with pytest.raises(InputError, match=r"edge_share = 1\.5"):
        check_boundaries(study(columns, np.zeros(50)), axes, edge_share=1.5)
