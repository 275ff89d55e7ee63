import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness import train as driver
from harness.cli import main
from harness.training.checkpoints import Checkpoints
from harness.training.programs import Programs
from tests.stand_in import StandIn

WORKLOAD = "tests.stand_in:SCALES"


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs `playbook train` of the stand-in into a folder of the test's own; gives status, output and errors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments, workload=WORKLOAD):
        command = ["playbook", "train", workload, "--scale", "smoke", "--out", str(tmp_path / "out"), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    run.folder = tmp_path / "out" / "train" / "stand_in" / "smoke-seed0"
    return run


def test_leaves_result_curves_picture_and_checkpoints(cli):
    status, out, errors = cli("--json", "--best", "2")
    assert status == 0
    result = json.loads(out)
    assert json.loads((cli.folder / "result.json").read_text()) == {k: v for k, v in result.items() if k != "folder"}
    assert result["status"] == "complete"
    assert result["results"]["best_error"] <= result["results"]["final_error"]
    assert errors.count("validation error") == driver.EVALUATIONS
    (row,) = pq.read_table(cli.folder / "trials.parquet").to_pylist()
    assert len(row["curve.train_loss"]) == 20
    assert row["curve.evaluation_step"] == list(range(0, 21, 2))
    for kind in ("png", "svg", "pdf"):
        assert (cli.folder / f"figure.{kind}").stat().st_size > 5000
    trial = driver.plan(WORKLOAD, "smoke", 0, {})
    checkpoints = Checkpoints(cli.folder / "checkpoints", StandIn.objective)
    kept = checkpoints.steps()
    assert {20, int(result["results"]["best_step"]) or 2} <= set(kept)
    assert len(kept) <= 3
    assert checkpoints.restore(Programs(trial).blank_state()).step == 20
    checkpoints.close()


def test_a_finished_run_is_not_repeated(cli):
    first = json.loads(cli("--json")[1])
    _, out, errors = cli("--json")
    again = json.loads(out)
    assert "validation error" not in errors
    assert again["fingerprint"] == first["fingerprint"]
    assert again["seconds"] == first["seconds"]


def test_an_interrupted_run_goes_on_to_the_same_fingerprint(cli, monkeypatch, tmp_path):
    whole = json.loads(cli("--json", "--seed", "0")[1])
    cli.folder.rename(tmp_path / "whole")
    save = Checkpoints.save

    def save_and_die(self, step, *content):
        save(self, step, *content)
        if step == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        status, _, errors = cli()
        assert status == 130
        assert "the same command continues" in errors
    _, out, errors = cli("--json")
    assert "going on from the checkpoint at step 8 of 20" in errors
    assert json.loads(out)["fingerprint"] == whole["fingerprint"]


def test_the_best_checkpoint_is_scored(cli):
    _, out, _ = cli("--json", workload="tests.stand_in:SCORED")
    result = json.loads(out)
    assert result["scores"] == {"weight": "mean magnitude"}
    best = int(result["results"]["best_step"])
    checkpoints = Checkpoints(cli.folder / "checkpoints", StandIn.objective)
    state = checkpoints.restore(Programs(driver.plan(WORKLOAD, "smoke", 0, {})).blank_state(), best).state
    checkpoints.close()
    expected = float(np.abs(np.asarray(state.evaluated["kernel"])).mean())
    assert result["results"]["best_weight"] == pytest.approx(expected, rel=1e-6)
    again = json.loads(cli("--json", workload="tests.stand_in:SCORED")[1])
    assert (again["results"], again["scores"]) == (result["results"], result["scores"])


def test_another_specification_is_refused_until_asked_for(cli):
    cli()
    status, out, errors = cli("--set", "learning_rate=0.1")
    assert (status, out) == (2, "")
    assert len(errors.splitlines()) == 1
    assert "learning_rate was 0.5, is now 0.1; --fresh moves it aside" in errors
    status, _, errors = cli("--set", "learning_rate=0.1", "--fresh")
    assert status == 0
    assert "older results moved to" in errors


def test_settings_reach_workload_run_and_hyperparameters(cli):
    settings = ("features=3", "batch_size=4", "steps=10", "optimizer=adam", "beta1=0.9", "beta2=0.99", "epsilon=1e-8")
    options = ("schedule=cosine", "clip_threshold=0.5", "averaging_decay=0.5", "label_smoothing=0.1")
    _, out, _ = cli("--json", "--predictions", *(word for s in (*settings, *options) for word in ("--set", s)))
    trial = json.loads(out)["trial"]
    assert (trial["workload"]["features"], trial["batch_size"], trial["steps"]) == (3, 4, 10)
    assert (trial["optimizer"], trial["schedule"]) == ("adam", "cosine")
    assert "momentum" not in trial["hyperparameters"]
    assert trial["hyperparameters"]["clip_threshold"] == 0.5
    (row,) = pq.read_table(cli.folder / "trials.parquet").to_pylist()
    assert set(row["curve.clipped"]) <= {0.0, 1.0}
    labels = StandIn().data(trial["seeds"]["split"]).validation["label"]
    assert np.mean(np.array(row["curve.prediction"]) != labels) == pytest.approx(row["final_error"], abs=1e-6)


def test_a_run_that_diverges_says_so(cli):
    status, out, _ = cli("--set", "learning_rate=1e38", "--json")
    assert status == 1
    result = json.loads(out, parse_constant=pytest.fail)
    assert result["reason"].startswith("the training loss was not finite at step ")
    assert result["results"]["final_error"] is None
    assert "infeasible: the training loss was not finite" in cli("--set", "learning_rate=1e38")[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "learning_rat=1"], "unknown setting 'learning_rat'; did you mean 'learning_rate'?; known: features"),
        (["--set", "learning_rate=abc"], "learning_rate='abc': expected float"),
        (["--set", "learning_rate=nan"], "learning_rate nan: expected a finite number"),
        (["--set", "steps=1.5"], "steps='1.5': expected int"),
        (["--set", "steps=0"], "steps 0: expected at least 1"),
        (["--set", "optimizer=adams"], "unknown optimizer 'adams'; did you mean 'adam'?"),
        (["--set", "optimizer=adam"], "hyperparameter 'beta1' is missing; adam takes"),
        (["--set", "schedule=step"], "unknown schedule 'step'"),
        (["--set", "features=0"], "features=0: expected at least 1"),
        (["--set", "features"], "--set 'features': expected NAME=VALUE"),
        (["--scale", "laptop"], "unknown scale 'laptop' of tests.stand_in:SCALES: known: smoke"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--best", "0"], "--best 0: expected at least 1"),
        (["--workers", "-1"], "--workers -1: expected at least 0"),
        (["--workers", "-1", "--profile"], "--workers -1: expected at least 0"),
        (["--hosts", "2/2@here:1"], "--hosts '2/2@here:1': expected HOST/HOSTS@ADDRESS:PORT with HOST below HOSTS"),
        (["--set", "batch_size=100"], "batch_size 100: expected at most 32, the size of the training set"),
    ],
)
def test_bad_input_is_one_line(cli, arguments, expected):
    status, out, errors = cli(*arguments)
    assert (status, out) == (2, "")
    assert len(errors.splitlines()) == 1
    assert expected in errors
    assert not (cli.folder / "study.sqlite").exists()


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        ("resnett", "unknown workload 'resnett': did you mean 'resnet'? known: "),
        ("no_such_module:SCALES", "workload 'no_such_module:SCALES': No module named 'no_such_module'"),
        ("tests.stand_in:NOTHING", "has no attribute 'NOTHING'; expected module:NAME"),
        ("tests.stand_in:EXPERIMENT", "expected a mapping of scale name to workloads.workload.Scale"),
        (":SCALES", "workload ':SCALES': "),
    ],
)
def test_unknown_workloads_are_refused(cli, workload, expected):
    status, out, errors = cli(workload=workload)
    assert (status, out) == (2, "")
    assert len(errors.splitlines()) == 1
    assert expected in errors


def test_the_folder_is_held_by_one_run(cli):
    from harness.studies.store import locked_folder

    with locked_folder(Path(cli.folder)):
        status, _, errors = cli()
    assert status == 2
    assert "is held by" in errors


def test_a_profile_trains_nothing(cli):
    status, out, errors = cli("--profile", "--json")
    assert (status, errors) == (0, "")
    found = json.loads(out)
    assert found["input"] + found["compute"] + found["host"] == pytest.approx(1)
    assert found["steps"] >= 32
    assert json.loads((cli.folder / "profile.json").read_text()) == found
    assert list((cli.folder / "profile" / "host0").rglob("*.xplane.pb"))
    assert not (cli.folder / "result.json").exists()
    status, out, _ = cli("--profile")
    assert status == 0
    assert out.startswith("input ")
    assert "input-bound" in out
