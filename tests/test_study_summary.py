import numpy as np
import pytest

from harness.records import TrialRecord
from harness.report.study_summary import Setting, describe, summary, trial_table
from harness.search.study_spec import StudySpec, study_from_toml

SPEC = """
name = "made-up"
workload = "wide_resnet"
trials = 4
replicates = {replicates}

[space.width]
role = "scientific"
low = 1
high = 3
integer = true

[space.learning_rate]
role = "scientific"
low = 1e-4
high = 1.0
scale = "log"

[space.epsilon]
role = "fixed"
value = 1e-8
"""


@pytest.fixture
def spec(tmp_path) -> StudySpec:
    path = tmp_path / "study.toml"
    path.write_text(SPEC.format(replicates=2))
    return study_from_toml(path)


def setting(width, rate, *errors):
    """A setting whose runs gave these errors; None is infeasible."""
    runs = [
        TrialRecord(
            study="made-up",
            arm="wide_resnet",
            replicate=replicate,
            address=f"{width}-{rate}-{replicate}",
            hyperparameters={},
            seeds={},
            status="infeasible" if error is None else "complete",
            reason=None,
            results={"best_error": float("nan") if error is None else error, "best_step": 10 * replicate},
            curves={"train_loss": np.ones(3, np.float32)},
            timings={},
        )
        for replicate, error in enumerate(errors)
    ]
    return Setting({"width": width, "learning_rate": rate, "epsilon": 1e-8}, runs, "best_error")


SETTINGS = [
    setting(1, 1e-4, 0.3, 0.4),
    setting(1, 2e-3, 0.1, None),
    setting(3, 0.9e-2, 0.2, 0.22),
    setting(3, 1.0, None, None),
]


def test_a_setting_that_is_infeasible_with_one_seed_is_no_best(spec):
    found = summary(spec, SETTINGS)
    assert found["trials"] == {"complete": 5, "infeasible": 3}
    assert found["infeasible_share"] == 3 / 8
    best = found["best"]
    assert best["value"] == pytest.approx(0.21)
    assert best["setting"] == {"width": 3, "learning_rate": 0.9e-2, "epsilon": 1e-8}
    assert best["trials"] == ["3-0.009-0", "3-0.009-1"]
    assert best["step"] == [0, 10]


def test_the_interval_is_students(spec):
    """t(.975; 1) = 12.706, of two runs .02 apart."""
    low, high = summary(spec, SETTINGS)["best"]["interval"]
    assert (low + high) / 2 == pytest.approx(0.21)
    assert (high - low) / 2 == pytest.approx(12.706 * 0.01, rel=1e-4)
    assert summary(spec, [setting(1, 0.1, 0.2)])["best"]["interval"] is None


def test_few_integers_stand_apart_and_ranges_in_parts(spec):
    found = summary(spec, SETTINGS)["scientific"]
    widths = [(row["value"], row["settings"], row["infeasible"]) for row in found["width"]]
    assert widths == [(1, 2, 1), (2, 0, 0), (3, 2, 1)]
    assert [row["best"] and row["best"]["value"] for row in found["width"]] == pytest.approx([0.35, None, 0.21])
    rates = [(row["value"], row["settings"], row["infeasible"]) for row in found["learning_rate"]]
    assert rates == [
        ("0.0001 to 0.001", 1, 0),
        ("0.001 to 0.01", 2, 1),
        ("0.01 to 0.1", 0, 0),
        ("0.1 to 1", 1, 1),
    ]


def test_nothing_feasible(spec):
    found = summary(spec, SETTINGS[3:])
    assert (found["best"], found["infeasible_share"]) == (None, 1)
    assert all(row["best"] is None for rows in found["scientific"].values() for row in rows)


def test_an_evaluation_that_is_not_finite_is_infeasible(spec):
    assert summary(spec, [setting(1, 0.1, float("inf"), 0.2)])["trials"] == {"complete": 1, "infeasible": 1}


def test_the_table_has_what_was_tuned(spec):
    table = trial_table(spec, SETTINGS)
    assert list(table.hyperparameters) == ["width", "learning_rate"]
    assert table.trials[:3] == ("0.0", "0.1", "1.0")
    assert list(table.hyperparameters["width"]) == [1, 1, 1, 1, 3, 3, 3, 3]
    assert list(table.infeasible) == [False, False, False, True, False, False, True, True]
    assert list(table.curves["train_loss"][0].steps) == [1, 2, 3]
    assert table.curves["evaluation_error"][0] is None


def test_the_text_names_what_was_fixed(spec):
    result = {"study": "made-up", "workload": "wide_resnet", "scale": "laptop", "objective": "best_error"}
    lines = describe(
        {**result, "seconds": 1.0, "fingerprint": "f", "folder": "x", **summary(spec, SETTINGS)}
    ).splitlines()
    assert lines[:2] == [
        "made-up: 4 settings, 8 trials, 3 of them infeasible (38%)",
        "best best_error 0.21 [0.08294, 0.3371] at width = 3, learning_rate = 0.009",
    ]
    assert "  2  0 settings, 0 infeasible    none feasible" in lines
    assert lines[-3] == (
        "What this says of width and learning_rate is known for what was fixed alone: epsilon = 1e-08, "
        "and the other defaults of wide_resnet at laptop."
    )
