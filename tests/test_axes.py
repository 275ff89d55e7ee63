"""Positions of values on a range and scale, and the errors of what has none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.axes import Axis, numeric_column, positions, scores, value_at
from harness.records import InputError
from tests.study_tables import study

AXES = {"linear": Axis(-2.0, 3.0), "log": Axis(1e-5, 10.0, "log"), "reverse_log": Axis(0.9, 0.999, "reverse_log")}


@pytest.mark.parametrize("scale", AXES)
@given(at=st.floats(0, 1))
def test_positions_and_values_are_inverse(scale, at):
    axis = AXES[scale]
    assert positions("h", np.array([value_at(at, axis)]), axis)[0] == pytest.approx(at, abs=1e-9)


def test_known_positions():
    assert positions("h", np.array([0.1, np.nan]), Axis(1e-3, 10.0, "log"))[0] == pytest.approx(0.5)
    assert positions("h", np.array([0.99]), Axis(0.9, 0.999, "reverse_log"))[0] == pytest.approx(0.5)
    assert np.isnan(positions("h", np.array([np.nan]), Axis(1e-3, 10.0, "log"))[0])


@pytest.mark.parametrize(
    ("values", "axis", "words"),
    [
        ([1.0], Axis(0.0, 1.0, "logarithmic"), "did you mean|known scales"),
        ([1.0], Axis(1.0, 1.0), "low = 1.0 is not below"),
        ([1.0], Axis(0.0, 1.0, "log"), "the range's 0.0"),
        ([-1.0], Axis(0.1, 1.0, "log"), "the table's -1.0"),
        ([1.5], Axis(0.1, 0.9, "reverse_log"), "the table's 1.5"),
    ],
)
def test_what_has_no_position_is_an_error_of_one_line(values, axis, words):
    with pytest.raises(InputError, match=words) as error:
        positions("h", np.array(values), axis)
    assert "\n" not in str(error.value)


def test_categories_and_unknown_names_have_no_axis():
    table = study({"optimizer": np.array(["adam", "sgd"], object), "rate": np.array([1.0, 2.0])}, np.zeros(2))
    with pytest.raises(InputError, match="category"):
        numeric_column(table, "optimizer")
    with pytest.raises(InputError, match="did you mean 'rate'"):
        numeric_column(table, "rates")


def test_scores_are_lower_for_better_and_infinite_for_infeasible():
    table = study({}, np.array([0.5, 0.9, 0.1]), [False, False, True], goal="max")
    assert scores(table).tolist() == [-0.5, -0.9, np.inf]
    with pytest.raises(InputError, match="goal 'maximum'"):
        scores(study({}, np.zeros(2), goal="maximum"))
