import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.records import COLUMN_CLASSES
from harness.reproduce import exit_status, reproduce
from harness.studies.store import DATABASE
from harness.training.trial import derive_seeds
from tests.conftest import wait_until
from tests.stand_in import EAGER, FOLDER, ROUNDS, TRIALS_OF_ROUNDS, TRIALS_OF_STUDY, calls, stand_in_study

FILES = {"result.json", "figure.png", "figure.svg", "figure.pdf", "index.html", "trials.parquet", "study.sqlite"}
FIELDS = [
    "experiment",
    "scale",
    "seed",
    "control",
    "overrides",
    "judged",
    "claims",
    "trials",
    "fingerprint",
    "seconds",
    "provenance",
]


class FinishedStudy:
    """What holds of the result folder of every finished study."""

    def test_the_result_folder(self, study):
        assert {path.name for path in study.folder.iterdir()} == {*FILES, "driver.lock"}
        assert all((study.folder / name).stat().st_size > 0 for name in FILES)
        assert (study.folder / "figure.png").read_bytes().startswith(b"\x89PNG")
        assert (study.folder / "figure.pdf").read_bytes().startswith(b"%PDF")
        assert study.result["fingerprint"] in (study.folder / "index.html").read_text("utf-8")

    def test_the_fields_of_the_result(self, study):
        result = study.result
        assert list(result) == FIELDS
        assert (result["experiment"], result["scale"], result["seed"]) == (study.name, "smoke", 0)
        assert (result["control"], result["overrides"]) == (False, {})
        assert (result["judged"], result["claims"]) == (False, [])
        assert set(result["trials"]) == {"complete", "infeasible"}
        assert re.fullmatch("[0-9a-f]{64}", result["fingerprint"])
        assert result["seconds"] > 0
        provenance = result["provenance"]
        assert {"command", "commit", "versions", "device", "data"} <= set(provenance)
        assert provenance["command"] == " ".join(["playbook", *study.arguments])
        assert {"jax", "numpy"} <= set(provenance["versions"])
        assert provenance["device"]
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in provenance["data"].values())

    def test_standard_output_is_the_result_and_its_folder(self, study):
        assert json.loads(study.stdout) == {**study.result, "folder": str(study.folder)}

    def test_the_trial_table(self, study):
        table = pq.read_table(study.folder / "trials.parquet")
        classes = json.loads(table.schema.metadata[b"column_classes"])
        assert set(classes) == set(table.column_names)
        assert set(classes.values()) == set(COLUMN_CLASSES)
        assert classes["learning_rate"] == "hyperparameter"
        assert classes["seed.init"] == classes["replicate"] == "seed"
        assert classes["final_error"] == classes["curve.train_loss"] == classes["status"] == "result"
        assert classes["trial_seconds"] == "timing"
        rows = table.to_pylist()
        # A trial that two studies share has a row in each.
        places = {(row["study"], row["arm"], row["learning_rate"], row["replicate"]) for row in rows}
        trials = {json.dumps([value for name, value in row.items() if name != "study"]) for row in rows}
        assert len(places) == len(rows)
        assert len(trials) == sum(study.result["trials"].values())
        assert all(len(row["curve.train_loss"]) == len(row["curve.learning_rate"]) for row in rows)
        assert np.isfinite([row["final_error"] for row in rows]).all()

    def test_a_second_run_with_nothing_to_do_needs_no_jax(self, study):
        """It rewrites the result, of the same fingerprint and the same seconds."""
        code = f"import sys, atexit; sys.argv[0] = 'playbook'; {self.setup}from harness.cli import main; " + (
            "atexit.register(lambda: print('jax' in sys.modules, file=sys.stderr)); main()"
        )
        before = (study.folder / "figure.svg").read_bytes()
        done = subprocess.run(
            [sys.executable, "-c", code, *study.arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "False"
        again = json.loads(done.stdout)
        assert again["fingerprint"] == study.result["fingerprint"]
        assert again["seconds"] == study.result["seconds"]
        assert (study.folder / "figure.svg").read_bytes() == before


class TestStandIn(FinishedStudy):
    setup = "import tests.stand_in, harness.experiments.experiment as e; e.experiments = tests.stand_in.only_this; "

    @pytest.fixture
    def study(self, stand_in_finished):
        return stand_in_finished


class TestRounds(FinishedStudy):
    setup = TestStandIn.setup

    @pytest.fixture
    def study(self, rounds_finished):
        return rounds_finished

    def test_the_second_round_is_planned_from_the_first(self, study):
        rows = pq.read_table(study.folder / "trials.parquet").to_pylist()
        first, second = ([row for row in rows if row["study"] == name] for name in ("rates", "winner"))
        assert (len(first), len(first) + len(second)) == TRIALS_OF_ROUNDS
        best = min(first, key=lambda row: row["final_error"])
        assert {row["learning_rate"] for row in second} == {best["learning_rate"]}
        assert {row["replicate"] for row in second} == {3, 4}

    def test_the_packing_of_a_group_holds_for_both_rounds(self, study):
        packing = study.result["provenance"]["packing"]
        assert len(packing) == 3
        assert {(each["executor"], each["lanes"]) for each in packing.values()} == {("processes", 1)}

    def test_progress_grows_with_the_rounds(self, study):
        forget_answer(study.folder)
        done = []
        reproduce(
            ROUNDS,
            "smoke",
            study.out,
            0,
            1,
            None,
            False,
            {},
            False,
            "",
            on_progress=lambda *counts: done.append(counts),
        )
        first, both = TRIALS_OF_ROUNDS
        assert done == [(first, 0, first), (both, 0, both), (both, 0, both)]


@pytest.mark.slow
class TestStrideInstability(FinishedStudy):
    setup = ""

    @pytest.fixture
    def study(self, smoke_finished):
        return smoke_finished

    def test_every_trial_is_complete(self, study):
        assert study.result["trials"] == {"complete": 14, "infeasible": 0}


@pytest.mark.parametrize(
    ("verdicts", "control", "status"),
    [
        ([], False, 0),
        (["reproduced"], False, 0),
        (["reproduced", "contradicted"], False, 1),
        (["inconclusive", "contradicted"], False, 1),
        (["reproduced", "inconclusive"], False, 3),
        ([], True, 0),
        (["reproduced"], True, 1),
        (["contradicted"], True, 0),
        (["inconclusive", "reproduced"], True, 0),
        (["reproduced", "contradicted"], True, 1),
    ],
)
def test_exit_status(verdicts, control, status):
    claims = [{"verdict": verdict} for verdict in verdicts]
    assert exit_status({"claims": claims, "control": control}) == status


def stored(folder):
    """How many trials a store holds while a driver may write it."""
    if not (folder / DATABASE).exists():
        return 0
    with closing(sqlite3.connect(f"file:{folder / DATABASE}?mode=ro", uri=True)) as database:
        try:
            return database.execute("SELECT count(*) FROM trials").fetchone()[0]
        except sqlite3.OperationalError:  # it is just being created
            return 0


def finish(start, study):
    """Runs the command to its end, as a killed one is continued; gives the result."""
    driver = start(*study.arguments, module=study.module)
    done = driver.finish()
    assert done.status == 0, done.stderr
    driver.wait_for_no_process()
    return json.loads(done.stdout)


def elsewhere(study, out):
    """The command of a finished study, with nothing done."""
    arguments = [str(out) if word == str(study.out) else word for word in study.arguments]
    folder = out / study.folder.relative_to(study.out)
    return SimpleNamespace(**{**vars(study), "arguments": arguments, "out": out, "folder": folder})


@pytest.fixture
def held(stand_in_finished, tmp_path, monkeypatch):
    """A study whose two last trials wait for their files to go, so that it can be met in its middle."""
    folder = tmp_path / "faults"
    folder.mkdir()
    for seed in {place.trial.seeds["split"] for place in stand_in_study().plan(0) if place.replicate == 2}:
        (folder / f"hold-{seed}").touch()
    monkeypatch.setenv(FOLDER, str(folder))
    study = elsewhere(stand_in_finished, tmp_path / "out")
    study.faults = folder
    return study


def meet_in_the_middle(start, study):
    """Starts the study with two workers; comes back when some trials are stored and both workers are busy."""
    driver = start(*study.arguments, "--jobs", "2", module=study.module)
    seeds = {int(path.name.removeprefix("hold-")) for path in study.faults.glob("hold-*")}

    def in_the_middle():
        assert driver.process.poll() is None, driver.finish().stderr
        return stored(study.folder) >= 2 and len({c["pid"] for c in calls(study.faults) if c["seed"] in seeds}) == 2

    wait_until(in_the_middle, "two stored trials and two held ones")
    return driver


def release(study):
    for path in study.faults.glob("hold-*"):
        path.unlink()


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm(start, held, stand_in_finished, sent, status):
    driver = meet_in_the_middle(start, held)
    before = stored(held.folder)
    os.killpg(driver.process.pid, sent)
    done = driver.finish()
    assert done.status == status
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert lines[-1] == "interrupted; finished trials are kept, the same command continues"
    assert "Traceback" not in done.stderr
    driver.wait_for_no_process()
    assert before <= stored(held.folder) < TRIALS_OF_STUDY
    release(held)
    assert finish(start, held)["fingerprint"] == stand_in_finished.result["fingerprint"]


def test_workers_die_with_their_driver(start, held, stand_in_finished):
    driver = meet_in_the_middle(start, held)
    before = stored(held.folder)
    driver.process.kill()
    driver.process.wait()
    driver.wait_for_no_process()
    assert stored(held.folder) == before
    release(held)
    assert finish(start, held)["fingerprint"] == stand_in_finished.result["fingerprint"]


def test_a_kill_in_the_second_round(start, rounds_finished, tmp_path, monkeypatch):
    """The resumed run goes on in the second round, and runs no trial of the first again."""
    faults = tmp_path / "faults"
    faults.mkdir()
    monkeypatch.setenv(FOLDER, str(faults))
    held = faults / f"hold-{derive_seeds(0, 4)['split']}"
    held.touch()
    study = elsewhere(rounds_finished, tmp_path / "out")
    driver = start(*study.arguments, "--jobs", "1", module=study.module)
    wait_until(lambda: held.name in {f"hold-{call['seed']}" for call in calls(faults)}, "the second round")
    driver.process.kill()
    driver.process.wait()
    driver.wait_for_no_process()
    assert TRIALS_OF_ROUNDS[0] <= stored(study.folder) < TRIALS_OF_ROUNDS[1]
    held.unlink()
    for path in faults.glob("call-*"):
        path.unlink()
    assert finish(start, study)["fingerprint"] == rounds_finished.result["fingerprint"]
    # A group is compiled with its first trial, which the first round has run.
    again = {call["seed"] for call in calls(faults)}
    assert again <= {derive_seeds(0, replicate)["split"] for replicate in (0, 3, 4)}
    assert stored(study.folder) == TRIALS_OF_ROUNDS[1]


def test_other_data_of_a_later_round_are_refused(start, rounds_finished, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(rounds_finished.out, out)
    study = elsewhere(rounds_finished, out)
    with closing(sqlite3.connect(study.folder / DATABASE)) as database, database:
        changed = database.execute(
            "UPDATE facts SET value = replace(value, ?, ?) WHERE name = 'identity of round 2'", ("0" * 64, "1" * 64)
        )
        assert changed.rowcount == 1
    forget_answer(study.folder)
    done = start(*study.arguments, module=study.module).finish()
    assert done.status == 2
    assert "holds results of another specification: data.synthetic was" in done.stderr


def forget_answer(folder):
    """Makes a finished folder one whose driver was killed before it had written its result."""
    with closing(sqlite3.connect(folder / DATABASE)) as database, database:
        assert database.execute("DELETE FROM facts WHERE name = 'answered'").rowcount == 1


def kill_until_finished(start, study, moments):
    """Kills a study at moments after its start, in seconds, until it has finished before; gives the kills and it.

    By turns the whole process group, and the driver alone.
    """
    for kills in itertools.count():
        driver = start(*study.arguments, module=study.module)
        try:
            driver.process.wait(next(moments))
        except subprocess.TimeoutExpired:
            if kills % 2:
                driver.kill_all()
            else:
                driver.process.kill()
                driver.process.wait()
            driver.wait_for_no_process()
        else:
            done = driver.finish()
            assert done.status == 0, done.stderr
            return kills, json.loads(done.stdout)
    raise AssertionError


def kill_many_times(start, finished, out, wanted):
    """Kills so often at random moments of a run, in a new folder where one has finished."""
    drawn, kills = random.Random(0), 0
    begin = time.monotonic()
    finish(start, elsewhere(finished, out / "measured"))
    length = time.monotonic() - begin
    for number in itertools.count():
        # Longer and longer, for the machine may be slower than it was.
        moments = (drawn.uniform(0, length * (1 + tried / 10)) for tried in itertools.count())
        more, result = kill_until_finished(start, elsewhere(finished, out / str(number)), moments)
        assert result["fingerprint"] == finished.result["fingerprint"]
        assert result["trials"] == finished.result["trials"]
        kills += more
        if kills >= wanted:
            return


def test_ten_kills_at_random_moments(start, stand_in_finished, tmp_path, monkeypatch):
    """Every evaluation is a checkpoint."""
    monkeypatch.setenv(EAGER, "1")
    kill_many_times(start, stand_in_finished, tmp_path, 10)


@pytest.mark.slow
def test_a_hundred_kills_of_the_smoke_study(start, smoke_finished, tmp_path):
    kill_many_times(start, smoke_finished, tmp_path, 100)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.8])
def test_a_truncated_log(start, held, stand_in_finished, kept):
    """What is not whole of the write-ahead log of a killed driver is run again."""
    driver = meet_in_the_middle(start, held)
    driver.kill_all()
    driver.wait_for_no_process()
    log = held.folder / f"{DATABASE}-wal"
    content = log.read_bytes()
    assert content
    log.write_bytes(content[: int(kept * len(content))])
    release(held)
    done = start(*held.arguments, module=held.module).finish()
    if done.status == 2:  # what was copied out of the log before may be of no use without the rest
        assert "is corrupt" in done.stderr
        done = start(*held.arguments, "--fresh", module=held.module).finish()
    assert done.status == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["fingerprint"] == stand_in_finished.result["fingerprint"]
    assert result["trials"] == stand_in_finished.result["trials"]
