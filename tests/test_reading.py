import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.estimated_axes import estimate_axes
from harness.analysis.reading import curve_names, read
from harness.analysis.settings import by_setting, setting_codes
from harness.records import TrialTable
from tests.study_tables import study, uniform


def table(hyperparameters, curves=(), objective_name="validation_error"):
    n = len(next(iter(hyperparameters.values()))) if hyperparameters else 3
    return TrialTable(
        trials=tuple(map(str, range(n))),
        hyperparameters=hyperparameters,
        objective=np.arange(n, dtype=float),
        infeasible=np.zeros(n, bool),
        objective_name=objective_name,
        goal="min",
        seeds={},
        curves=dict.fromkeys(curves, (None,) * n),
    )


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, np.nan]), st.sampled_from(["a", True, None])), min_size=1))
def test_trials_share_a_number_where_every_hyperparameter_is_equal(rows):
    numbers = np.array([row[0] for row in rows])
    categories = np.empty(len(rows), object)
    categories[:] = [row[1] for row in rows]
    codes = setting_codes(table({"x": numbers, "kind": categories}))
    keys = [(repr(a), repr(b)) for a, b in rows]
    for i in range(len(rows)):
        for j in range(len(rows)):
            assert (codes[i] == codes[j]) == (keys[i] == keys[j])
    assert codes.max() == len(set(keys)) - 1


def test_many_columns_do_not_overflow():
    random = np.random.default_rng(0)
    rows = random.random((50, 40))
    rows[25:] = rows[:25]
    codes = setting_codes(table({f"x{i}": column for i, column in enumerate(rows.T)}))
    assert sorted(np.bincount(codes)) == [2] * 25


@pytest.mark.parametrize("scale", ["linear", "log", "reverse_log"])
def test_the_scale_is_the_one_that_was_sampled(scale):
    u = np.random.default_rng(0).random(60)
    values = {"linear": 0.1 + 0.8 * u, "log": 10 ** (-4 * u), "reverse_log": 1 - 10 ** (-3 * u)}[scale]
    axis = estimate_axes(table({"x": values}))["x"]
    assert axis == (values.min(), values.max(), scale)


def test_grids_zeros_and_negatives_have_axes():
    values = {"grid": np.repeat([1e-4, 1e-3, 1e-2, 1e-1], 5), "zero": np.tile([0.0, 0.1], 10)}
    values |= {"negative": np.linspace(-5, 5, 20), "constant": np.full(20, 3.0)}
    axes = estimate_axes(table(values))
    assert axes == {"grid": (1e-4, 1e-1, "log"), "zero": (0, 0.1, "linear"), "negative": (-5, 5, "linear")}


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ([], (None, None)),
        (["train_error"], (None, None)),
        (["train_error", "validation_error", "train_loss"], ("validation_error", "train_error")),
        (["validation/loss", "train/loss"], ("validation/loss", "train/loss")),
        (["test_error", "valid_error_rate"], ("valid_error_rate", None)),
        (["something"], (None, None)),
    ],
)
def test_the_objectives_curve_is_checked_beside_its_training_curve(curves, expected):
    goals = {name: "min" for name in curves if name != "something"}
    assert curve_names(table({}, curves), goals) == expected


def test_a_setting_is_the_mean_of_its_runs_and_infeasible_where_one_is():
    runs = study({"x": np.array([2.0, 1.0, 2.0, 1.0, 3.0])}, np.array([4.0, 1.0, 6.0, 9.0, 5.0]), [0, 0, 0, 1, 0])
    settings, best = by_setting(runs)
    assert settings.hyperparameters["x"].tolist() == [2, 1, 3]
    np.testing.assert_array_equal(settings.objective, [5, np.nan, 5])
    assert settings.infeasible.tolist() == [False, True, False]
    assert best.tolist() == [0, 1, 4]
    once = study({"x": np.arange(3.0)}, np.arange(3.0))
    assert by_setting(once)[0] is once


def test_repeated_runs_are_no_evidence_on_a_hyperparameter_without_effect():
    random, called = np.random.default_rng(0), np.zeros(3, int)
    for _ in range(100):
        columns, axes = uniform(random, 20, 2)  # h0 matters, h1 does not
        columns = {name: np.repeat(values, 5) for name, values in columns.items()}
        error = (columns["h0"] - 0.5) ** 2 + 0.01 * random.standard_normal(100)
        reading = read(study(columns, error, columns["h0"] > 0.8), axes)
        verdicts = {side.verdict for side in reading.sides if side.hyperparameter == "h1"}
        isolation = next(one for one in reading.isolations if one.hyperparameter == "h1")
        places = {place.hyperparameter for place in reading.infeasible.places}
        called += [verdicts != {"undecided"}, isolation.p <= 0.05, "h1" in places]
        assert reading.infeasible.trials == 100
        piece = isolation.slices[isolation.best]
        assert np.isclose(columns["h1"][piece.trial], columns["h1"]).sum() == 5
    # On 100 studies a level of 5% gives more than 11 in less than one of 200.
    assert called.max() <= 11
