import json
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest

from harness import standing as module
from harness.records import InputError
from harness.reproduce import reproduce
from harness.standing import question
from harness.studies.store import DATABASE
from tests.stand_in import EXPERIMENT


@pytest.fixture
def again(study_copy):
    """Asks the finished copy again; gives the result, and whether it was made anew."""

    def ask(**changes):
        result = study_copy.folder / "result.json"
        before = json.loads(result.read_text())["provenance"]
        named = {"jobs": 1, "executor": None, "control": False, "overrides": {}, "fresh": False, **changes}
        found = reproduce(EXPERIMENT, "smoke", study_copy.out, 0, command="again", **named)
        return SimpleNamespace(result=found, anew=found["provenance"]["command"] == "again" != before["command"])

    return ask


def test_a_finished_folder_is_read_and_left_as_it_is(again, study_copy):
    before = {path: path.stat().st_mtime_ns for path in study_copy.folder.iterdir() if path.name != "driver.lock"}
    found = again()
    assert not found.anew
    assert found.result == {**study_copy.result, "folder": str(study_copy.folder)}
    after = {path: path.stat().st_mtime_ns for path in study_copy.folder.iterdir() if path.name != "driver.lock"}
    for path in before:
        if not path.name.startswith(DATABASE):
            assert after[path] == before[path]


@pytest.mark.parametrize("name", ["trials.parquet", "figure.png", "figure.svg", "figure.pdf", "index.html"])
def test_a_lost_file_is_made_anew(again, study_copy, name):
    (study_copy.folder / name).unlink()
    found = again()
    assert found.anew
    assert found.result["fingerprint"] == study_copy.result["fingerprint"]
    assert (study_copy.folder / name).exists()
    assert not again().anew


def test_a_damaged_result_is_made_anew(study_copy):
    path = study_copy.folder / "result.json"
    path.write_text('{"experiment": ')
    found = reproduce(EXPERIMENT, "smoke", study_copy.out, 0, 1, None, False, {}, False, "again")
    assert found["provenance"]["command"] == "again"
    assert json.loads(path.read_text())["fingerprint"] == study_copy.result["fingerprint"]


def test_code_that_changed_asks_anew(again, monkeypatch, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text("x = 1\n")
    monkeypatch.setattr(module, "baselines", SimpleNamespace(__path__=[str(package)], __name__="baselines"))
    first = question(seed=0)
    assert again().anew
    assert question(seed=0) == first != question(seed=1)
    (package / "module.py").write_text("x = 2\n")
    assert question(seed=0) != first


def test_flip_maps_that_were_drawn_meanwhile_come_into_the_page(again, study_copy):
    (study_copy.folder / "flips.json").write_text('{"claims": [], "cells": []}')
    assert again().anew


def test_other_data_are_looked_at(again, study_copy):
    path = study_copy.folder / "result.json"
    result = json.loads(path.read_text())
    result["provenance"]["data"]["more"] = "0" * 64
    path.write_text(json.dumps(result))
    assert again().anew


def test_more_trials_in_the_store_are_looked_at(again, study_copy):
    with closing(sqlite3.connect(study_copy.folder / DATABASE)) as database, database:
        database.execute(
            "INSERT INTO trials SELECT 'other', specification, status, reason, results, timings FROM trials LIMIT 1"
        )
    assert again().anew


def test_a_corrupt_store_is_an_error_still(again, study_copy):
    path = study_copy.folder / DATABASE
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(InputError, match="is corrupt"):
        again()
