import numpy as np
import pytest

from harness.records import TrialRecord
from harness.report.page import MOST_SETTINGS, _summary


def record(arm, error, replicate=0, **hyperparameters):
    status = "complete" if error is not None else "infeasible"
    values = {"momentum": 0.9, "optimizer": "adam", **hyperparameters}
    results = {"final_error": error if error is not None else np.nan}
    return TrialRecord("study", arm, replicate, "a", values, {}, status, None, results, {}, {})


def test_an_arm_with_few_settings_has_a_row_each():
    records = [record("a", e, r, learning_rate=rate) for rate in (0.1, 0.01) for r, e in enumerate((0.2, 0.4, None))]
    rows = _summary([*records, record("b", 0.5, learning_rate=1.0)])
    assert [(row["arm"], row["setting"], row["trials"], row["infeasible"]) for row in rows] == [
        ("a", "learning_rate 0.01", 3, 1),
        ("a", "learning_rate 0.1", 3, 1),
        ("b", "one setting", 1, 0),
    ]
    assert rows[0]["mean"] == pytest.approx(0.3)
    assert rows[0]["deviation"] == pytest.approx(np.std([0.2, 0.4], ddof=1))


def test_an_arm_with_many_settings_has_one_row():
    records = [record("a", 0.1 * i, learning_rate=10.0**-i) for i in range(MOST_SETTINGS + 1)]
    (row,) = _summary(records)
    assert (row["setting"], row["trials"]) == (f"{MOST_SETTINGS + 1} settings of learning_rate", MOST_SETTINGS + 1)
