import dataclasses
import json
import os
import shutil
import signal

import pytest

from harness.catalogue import exit_status_of_all, reproduce_several
from harness.experiments import experiment as catalogue
from harness.records import InputError
from tests.conftest import wait_until
from tests.stand_in import EXPERIMENT, FOLDER, ROUNDS, TRIALS_OF_ROUNDS, TRIALS_OF_STUDY, calls
from tests.test_cli import playbook  # noqa: F401
from workloads.workload import DataError


@pytest.fixture
def finished(stand_in_finished, tmp_path):
    """A folder of all results in which the stand-in is finished."""
    shutil.copytree(stand_in_finished.folder, tmp_path / "stand-in" / "smoke-seed0")
    return tmp_path


def asked(out, **changes):
    usual = {"scale": "smoke", "out": out, "seed": 0, "jobs": 1, "executor": None, "ray_address": None}
    return {**usual, "control": False, "overrides": {}, "fresh": False, "command": "", **changes}


def broken(name, error):
    """An experiment that cannot be run."""

    def studies(scale, control, overrides):
        raise error

    return dataclasses.replace(EXPERIMENT, name=name, studies=studies)


BROKEN = [
    broken("no-data", DataError("digits: the data\nare missing; install them")),
    broken("no-package", InputError("it needs Optuna; install it")),
    broken("a-bug", ZeroDivisionError("division by zero")),
]


class TestReproduceSeveral:
    def test_what_cannot_be_run_takes_nothing_from_the_others(self, finished):
        begun, ended = [], []
        outcomes = reproduce_several([*BROKEN, EXPERIMENT], begun.append, ended.append, **asked(finished))
        assert begun == ["no-data", "no-package", "a-bug", "stand-in"]
        assert ended == outcomes
        assert [(o["experiment"], o["error"], o["status"]) for o in outcomes[:3]] == [
            ("no-data", "digits: the data are missing; install them", 2),
            ("no-package", "it needs Optuna; install it", 2),
            ("a-bug", "ZeroDivisionError: division by zero", 70),
        ]
        assert "Traceback" in outcomes[2]["traceback"]
        assert outcomes[3]["fingerprint"]

    @pytest.mark.parametrize(
        "changes", [{"scale": "smok"}, {"seed": -1}, {"jobs": 0}, {"executor": "process"}, {"ray_address": "auto"}]
    )
    def test_what_would_stop_all_stops_it_before_anything_runs(self, tmp_path, changes):
        begun = []
        with pytest.raises(InputError):
            reproduce_several([EXPERIMENT, ROUNDS], begun.append, begun.append, **asked(tmp_path, **changes))
        assert begun == []
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
    def test_an_interruption_ends_it(self, tmp_path, end):
        with pytest.raises(end):
            reproduce_several([broken("one", end()), EXPERIMENT], print, print, **asked(tmp_path))
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([[], ["reproduced"]], 0),
        ([["reproduced"], ["inconclusive"]], 3),
        ([["inconclusive"], ["contradicted"], ["reproduced"]], 1),
        ([["contradicted"], 2], 2),
        ([["contradicted"], 70, 2], 70),
    ],
)
def test_exit_status_of_all(outcomes, status):
    def outcome(content):
        if isinstance(content, int):
            return {"error": "", "status": content}
        return {"claims": [{"verdict": verdict} for verdict in content], "control": False}

    assert exit_status_of_all(map(outcome, outcomes)) == status


class TestCommand:
    @pytest.fixture
    def one_broken(self, monkeypatch):
        found = {one.name: one for one in (BROKEN[1], EXPERIMENT)}
        monkeypatch.setattr(catalogue, "experiments", lambda: found)

    def test_a_summary_and_one_line_for_each(self, playbook, one_broken, finished):  # noqa: F811
        status, out, err = playbook("reproduce", "all", "--scale", "smoke", "--out", finished)
        assert status == 2
        lines = [line.rstrip() for line in out.splitlines()]
        assert [line for line in lines if line.startswith(("no-package", "not run"))] == [
            "no-package        not run",
            "not run: no-package: it needs Optuna; install it",
        ]
        assert f"pages: {finished}/<experiment>/smoke-seed0/index.html" in lines
        assert "no-package: not run: it needs Optuna; install it" in err.splitlines()
        assert sum(line.startswith("stand-in: not judged, ") for line in err.splitlines()) == 1
        assert "Traceback" not in err

    def test_json_alone(self, playbook, one_broken, finished, stand_in_finished):  # noqa: F811
        status, out, _ = playbook("reproduce", "all", "--scale", "smoke", "--out", finished, "--json")
        missed, result = json.loads(out)
        assert status == 2
        assert missed == {"experiment": "no-package", "error": "it needs Optuna; install it", "status": 2}
        assert result["fingerprint"] == stand_in_finished.result["fingerprint"]

    def test_the_failure_of_one_that_is_asked_for_alone(self, playbook, one_broken, tmp_path):  # noqa: F811
        status, out, err = playbook("reproduce", "no-package", "--scale", "smoke", "--out", tmp_path)
        assert (status, out, err) == (2, "", "playbook: it needs Optuna; install it\n")

    def test_a_bug_shows_where_it_is(self, playbook, monkeypatch, finished):  # noqa: F811
        found = {one.name: one for one in (BROKEN[2], EXPERIMENT)}
        monkeypatch.setattr(catalogue, "experiments", lambda: found)
        status, out, err = playbook("reproduce", "all", "--scale", "smoke", "--out", finished)
        assert status == 70
        assert "not run: a-bug: ZeroDivisionError: division by zero" in out
        assert "Traceback" in err
        assert "in studies" in err


def test_all_shares_trials(start, tmp_path, stand_in_finished, rounds_finished):
    """The second experiment begins with the very trials of the first, and trains its second round alone."""
    done = start("reproduce", "all", "--scale", "smoke", "--out", tmp_path, "--jobs", "1", "--json").finish()
    assert done.status == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert first["fingerprint"] == stand_in_finished.result["fingerprint"]
    assert second["fingerprint"] == rounds_finished.result["fingerprint"]
    assert second["trials"]["complete"] == TRIALS_OF_ROUNDS[1]
    assert second["provenance"]["shared"] == {"stand-in/smoke-seed0": TRIALS_OF_STUDY}
    again = start("reproduce", "all", "--scale", "smoke", "--out", tmp_path).finish()
    assert f"{sum(TRIALS_OF_ROUNDS)} trials, {TRIALS_OF_STUDY} of them shared" in again.stdout


def test_ctrl_c_keeps_what_is_finished(start, tmp_path, finished, monkeypatch):
    """In the second of two experiments."""
    from harness.training.trial import derive_seeds

    faults = tmp_path / "faults"
    faults.mkdir()
    monkeypatch.setenv(FOLDER, str(faults))
    (faults / f"hold-{derive_seeds(0, 4)['split']}").touch()
    driver = start("reproduce", "all", "--scale", "smoke", "--out", finished, "--jobs", "1")
    wait_until(lambda: derive_seeds(0, 4)["split"] in {call["seed"] for call in calls(faults)}, "the second round")
    os.killpg(driver.process.pid, signal.SIGINT)
    done = driver.finish()
    assert (done.status, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
    assert "stand-in: not judged" in done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted; finished trials are kept, the same command continues"
    assert (finished / "stand-in-rounds" / "smoke-seed0" / "study.sqlite").exists()
    driver.wait_for_no_process()
