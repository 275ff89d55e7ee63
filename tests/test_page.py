import html
import re

import numpy as np
import pytest

from harness.experiments.experiment import experiments
from harness.records import TrialRecord
from harness.report.page import MOST_SETTINGS, _summary, experiment_page, flip_maps
from tests import made_up_results
from tests.browser import look

SVG = '<svg viewBox="0 0 70 50" xmlns="http://www.w3.org/2000/svg"><g id="figure_1"/></svg>'


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


@pytest.fixture(scope="module")
def page():
    claims = [made_up_results.claim("stride.a", "reproduced"), made_up_results.claim("stride.b", "contradicted")]
    result = made_up_results.result("stride-instability", "laptop-seed1", claims)
    records = [record("plain", 0.1 * i, i) for i in range(3)]
    flips = made_up_results.flips(claims)
    return experiment_page(experiments()["stride-instability"], records, result, SVG, flips)


def test_what_scrolls_says_of_which_result_it_is(page):
    names = re.findall(r'<div class="(?:wide|maps)" tabindex="0" role="region" aria-label="([^"]+)">', page)
    parts = ("Figure", "Verdicts", "Flip maps", "Trials", "Provenance")
    assert names == [f"{part} of stride-instability, laptop-seed1" for part in parts]


def test_the_figure_has_claims_and_verdicts_as_its_text(page):
    (text,) = re.findall(r'class="drawing" role="img" aria-label="([^"]+)"', page)
    assert html.unescape(text).endswith("Claims: Text of stride.a <b>. reproduced; Text of stride.b <b>. contradicted.")


def test_on_a_phone_wide_parts_scroll_and_the_page_does_not(page, tmp_path):
    found = look(page, tmp_path)
    assert found["errors"] == []
    assert found["width"] == 360 and found["needed"] <= 360 < found["overflown"]
    assert found["figures"][0] >= 500  # or its labels could not be read
    assert found["unreached"] == [] and found["alike"] == [] and found["unscoped"] == [] and found["unlabelled"] == 0


def test_a_map_that_lacks_a_cell_says_so():
    claim = made_up_results.claim("a.b", "reproduced")
    cells = [{"axis": axis, "factor": factor, "claims": [claim]} for axis, factor in [("steps", 2.0), ("model", 0.5)]]
    (found,) = flip_maps({"claims": [claim], "cells": cells})
    lacking = {"unavailable": "no cell"}
    assert [row["cells"] for row in found["rows"]] == [[lacking, claim, claim], [claim, claim, lacking]]
