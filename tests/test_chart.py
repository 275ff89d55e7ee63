import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.analysis.axes import Axis
from harness.report.chart import HEIGHT, WIDTH, across, label, named, padded, ticks, up


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis(0, 1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis(1e-5, 1, "log"), ["1e-5", "0.001", "0.1"]),
        (Axis(1e-3, 1e-1, "log"), ["0.001", "0.01", "0.1"]),
        (Axis(0.01, 0.06, "log"), ["0.01", "0.02", "0.05"]),
        (Axis(0.9, 0.999, "reverse_log"), ["0.9", "0.99", "0.999"]),
        (Axis(-5, 5), ["-4", "-2", "0", "2", "4"]),
    ],
)
def test_ticks_are_round_numbers(axis, labels):
    assert [tick.label for tick in ticks(axis, across)] == labels


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12), st.sampled_from(["linear", "log", "reverse_log"]))
def test_ticks_stand_on_the_chart_in_order(low, length, scale):
    if scale == "log":
        low = abs(low) + 1e-9
    high = low + length
    if scale == "reverse_log":
        high = min(1 - 1e-9, max(low, -1e9))
        low = high - length
    assume(high - low > 1e-9 * abs(high))
    if scale == "log":
        assume(high / low > 1.001)
    if scale == "reverse_log":
        assume((1 - low) / (1 - high) > 1.001)
    for place, end in ((across, WIDTH), (up, HEIGHT)):
        found = [tick.at for tick in ticks(Axis(low, high, scale), place)]
        assert 2 <= len(found) <= 12
        assert all(0 <= at <= end for at in found)
        assert found == sorted(found, reverse=place is up)


def test_equal_values_and_categories_have_places():
    axis = padded(3.0, 3.0)
    assert axis.low < 3 < axis.high
    assert padded(0.0, 0.0).low < 0 < padded(0.0, 0.0).high
    at, marks = named(["adam", True, "a name that is far too long"])
    assert list(at.values()) == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert [mark.label for mark in marks] == ["adam", "True", "a name that…"]


def test_labels_are_short():
    assert [label(x) for x in (0.01, 3e-5, 0.999, 1e20, 1 / 3)] == ["0.01", "3e-5", "0.999", "1e20", "0.333333"]
    assert np.all(across(np.array([0, 1])) > 0)
