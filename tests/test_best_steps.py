import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.best_steps import BINS, FEWEST, best_steps
from harness.analysis.findings import findings
from harness.analysis.reading import read
from harness.records import Curve, InputError, TrialTable
from harness.report.study_charts import best_steps_plot

EVALUATIONS = np.linspace(0, 1000, 11)


def best_at(*steps, at=EVALUATIONS):
    """Curves whose best evaluation is the given one."""
    return [Curve(at, np.abs(at - step) / 1000 + 0.1) for step in steps]


@pytest.mark.parametrize(
    ("steps", "reading"),
    [
        ([100] * 5, "too long"),
        ([0, 100, 100, 0, 100], "too long"),
        ([100, 100, 100, 100, 200], None),
        ([800, 900, 1000, 800, 1000], "too short"),
        ([700, 900, 1000, 800, 1000], None),
        ([100] * 3 + [1000] * 3, None),
        ([100] * (FEWEST - 1), None),
        ([1000] * (FEWEST - 1), None),
        ([], None),
    ],
)
def test_what_all_best_steps_say(steps, reading):
    found = best_steps(best_at(*steps), "min")
    assert found.reading == reading
    assert (found.early, found.late) == (sum(s <= 100 for s in steps), sum(s >= 800 for s in steps))
    assert best_steps([Curve(c.steps, -c.values) for c in best_at(*steps)], "max").reading == reading


def test_the_thresholds_are_those_of_steps_and_not_of_points():
    logarithmic = np.round(np.geomspace(1, 1000, 20))
    assert best_steps(best_at(logarithmic[10], at=logarithmic), "min").early == 1  # half of the points, 4% of the steps


def test_thresholds_are_settable():
    curves = best_at(*[200] * 3)
    assert best_steps(curves, "min", early=0.2, fewest=3).reading == "too long"
    assert best_steps(curves, "min", late=0.2, fewest=3).reading == "too short"


def test_what_has_no_shape_is_left_out():
    (short,) = best_at(100, at=EVALUATIONS[:9])
    holes = Curve(EVALUATIONS, np.where(EVALUATIONS < 200, np.nan, 1.0))
    diverged = Curve(EVALUATIONS, np.where(EVALUATIONS < 1000, 1.0, np.nan))
    assert best_steps([None, short, holes], "min").shares.tolist() == []
    assert best_steps([diverged], "min").shares.tolist() == [0.0]
    with pytest.raises(InputError, match="goal 'up'"):
        best_steps([], "up")


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_the_histogram_agrees_with_the_counts(steps):
    found = best_steps(best_at(*steps, at=np.arange(1001.0)), "min")
    counts = found.histogram()
    assert counts.sum() == len(steps)
    assert counts[: BINS // 10].sum() == found.early
    assert counts[BINS * 3 // 4 :].sum() + sum(s == 750 for s in steps) == found.late


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_how_often_noise_alone_gets_a_reading(correlation):
    """Flat curves with wandering noise, a share of it common to all trials of a study, as of those with one seed."""
    rng = np.random.default_rng(0)
    own, common = (np.cumsum(rng.standard_normal((2000, n, 11)), axis=2) for n in (FEWEST, 1))
    y = np.sqrt(1 - correlation) * own + np.sqrt(correlation) * common
    readings = [best_steps([Curve(EVALUATIONS, row) for row in study], "min").reading for study in y]
    shares = [readings.count(word) / len(readings) for word in ("too long", "too short")]
    assert max(shares) < (0.01 if correlation == 0 else 0.08)


def reading(*steps, curves=True):
    n = len(steps)
    return read(
        TrialTable(
            trials=tuple(map(str, range(n))),
            hyperparameters={"x": np.linspace(0, 1, n)},
            objective=np.linspace(0.1, 0.2, n),
            infeasible=np.zeros(n, bool),
            objective_name="error",
            goal="min",
            seeds={},
            curves={"error": tuple(best_at(*steps))} if curves else {},
        )
    )


@pytest.mark.parametrize(
    ("steps", "severity", "advice"),
    [
        ([100] * 6, "note", "max_train_steps is too high"),
        ([900] * 6, "note", "raise max_train_steps and tune the decay schedule again"),
        ([100, 500, 900, 200, 300, 1000], "good", ""),
        ([100] * 3, "note", "Fewer than 5 trials tell nothing"),
    ],
)
def test_the_checklist_says_how_many_trials_are_behind_it(steps, severity, advice):
    (finding,) = (one for one in findings(reading(*steps)) if one.check == "best steps")
    assert finding.severity == severity
    assert advice in finding.advice
    assert f"Of {len(steps)} feasible trials" in finding.evidence


def test_without_curves_nothing_is_said_and_drawn():
    without = reading(*[100] * 6, curves=False)
    assert not [one for one in findings(without) if one.check == "best steps"]
    assert best_steps_plot(without) is None
    chart = best_steps_plot(reading(*[900] * 6))
    assert len(chart.bands) == BINS
    assert [tick.label for tick in chart.y_ticks] == ["0", "2", "4", "6"]
