import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.analysis.axes import Axis
from harness.analysis.reading import read
from harness.report.chart import HEIGHT, WIDTH, across, label, named, padded, ticks, up
from harness.report.study_charts import best_of_plot, isolation_plot
from tests.study_tables import study


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis(0, 1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis(1e-5, 1, "log"), ["1e-5", "0.001", "0.1"]),
        (Axis(1e-3, 1e-1, "log"), ["0.001", "0.01", "0.1"]),
        (Axis(0.01, 0.06, "log"), ["0.01", "0.02", "0.05"]),
        (Axis(0.9, 0.999, "reverse_log"), ["0.9", "0.99", "0.999"]),
        (Axis(-5, 5), ["-4", "-2", "0", "2", "4"]),
        (Axis(123456.1, 123456.3), ["123456.1", "123456.15", "123456.2", "123456.25", "123456.3"]),
        (Axis(1e6, 1e6 + 50), ["1000000", "1000010", "1000020", "1000030", "1000040", "1000050"]),
        (Axis(0.99, 1 - 1e-7, "reverse_log"), ["1-0.001", "1-1e-5", "1-1e-7"]),
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


def test_labels_of_categories_do_not_touch_and_show_where_they_differ():
    _, marks = named([f"optimizer_number_{i}_of_eight" for i in range(8)])
    assert [mark.label for mark in marks] == [f"…{i}_o…" for i in range(8)]
    ends = [(mark.at - 2.6 * len(mark.label), mark.at + 2.6 * len(mark.label)) for mark in marks]
    assert all(ends[i][1] < ends[i + 1][0] for i in range(7))


def test_labels_are_short():
    assert [label(x) for x in (0.01, 3e-5, 0.999, 1e20, 1 / 3)] == ["0.01", "3e-5", "0.999", "1e20", "0.333333"]
    assert np.all(across(np.array([0, 1])) > 0)


@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_best_of_k_has_whole_ks(most):
    reading = read(study({}, np.arange(1.0, most + 1)))
    labels = [tick.label for tick in best_of_plot(reading).x_ticks]
    assert labels and all(float(text).is_integer() for text in labels)


def test_bands_of_an_isolation_plot_do_not_overlap():
    sizes = np.tile([32.0, 64.0, 128.0, 512.0], 15)
    reading = read(study({"batch_size": sizes, "rate": np.arange(60.0)}, np.random.default_rng(0).random(60)))
    bands = isolation_plot(reading, reading.isolations[0]).bands
    assert len(bands) == 4
    assert all(bands[i][0] + bands[i][1] <= bands[i + 1][0] for i in range(3))
