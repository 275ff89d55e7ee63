import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness import tune as driver
from harness.cli import main
from harness.report.study_log import FILE
from harness.search.study_spec import study_from_toml

OWN_STUDY = Path(__file__).parents[1] / "docs" / "own-study.md"

OPTIMIZERS = """
[set]
steps = 12

[space.optimizer]
role = "scientific"
values = ["nesterov", "adam"]

[space.nesterov_learning_rate]
hyperparameter = "learning_rate"
when = { optimizer = "nesterov" }
low = 1e-2
high = 1e38
scale = "log"

[space.adam_learning_rate]
hyperparameter = "learning_rate"
when = { optimizer = "adam" }
low = 1e-3
high = 1.0
scale = "log"

[space.momentum]
when = { optimizer = "nesterov" }
low = 0.5
high = 0.99
scale = "reverse_log"

[space.beta1]
role = "fixed"
value = 0.9
when = { optimizer = "adam" }

[space.beta2]
role = "fixed"
value = 0.99
when = { optimizer = "adam" }

[space.epsilon]
role = "fixed"
value = 1e-8
when = { optimizer = "adam" }
"""
RATES = "[space.learning_rate]\nlow = 1e-3\nhigh = 10.0\nscale = 'log'\n"


def text(axes=RATES, **changes):
    head = {"name": "rates", "workload": "tests.stand_in:SCALES", "scale": "smoke", "trials": 6, **changes}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in head.items()) + axes


@pytest.fixture
def tune(tmp_path, monkeypatch, capsys):
    """Runs `playbook tune` of a specification; gives status, output and errors."""

    def run(content, *arguments):
        path = tmp_path / "study.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        monkeypatch.setattr(sys, "argv", ["playbook", "tune", str(path), "--out", str(tmp_path / "out"), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    run.out = tmp_path / "out"
    return run


def results(found):
    status, out, errors = found
    assert status == 0, errors
    return json.loads(out, parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study of two optimizers, 8 settings of 2 seeds."""
    folder = tmp_path_factory.mktemp("tune")
    path = folder / "study.toml"
    path.write_text(text(OPTIMIZERS, name="optimizers", notes="=which, if any", trials=8, replicates=2))
    arguments = ["tune", str(path), "--out", str(folder / "out"), "--json"]
    done = subprocess.run([sys.executable, "-m", "harness", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = folder / "out"
    return SimpleNamespace(
        path=path,
        arguments=arguments,
        out=out,
        folder=out / "tune" / "optimizers",
        stdout=json.loads(done.stdout, parse_constant=pytest.fail),
        rows=pq.read_table(out / "tune" / "optimizers" / "trials.parquet").to_pylist(),
    )


def test_the_result_folder(finished):
    names = {"result.json", "trials.parquet", "study.sqlite", "study.toml", "driver.lock", "reading"}
    assert {path.name for path in finished.folder.iterdir()} == names
    result = json.loads((finished.folder / "result.json").read_text())
    assert finished.stdout == {**result, "folder": str(finished.folder)}
    assert (finished.folder / "study.toml").read_bytes() == finished.path.read_bytes()
    assert re.fullmatch("[0-9a-f]{64}", result["fingerprint"])
    assert result["provenance"]["command"] == " ".join(["playbook", *finished.arguments])
    assert (result["study"], result["objective"]) == ("optimizers", "best_error")


def test_it_ends_with_the_playbooks_reading(finished):
    reading = finished.stdout["reading"]
    assert reading["trials"]["complete"] == finished.stdout["trials"]["complete"]
    assert reading["objective"] == "best_error"
    assert reading["axes"]
    assert not any(axis["estimated"] for axis in reading["axes"].values())
    assert {finding["check"] for finding in reading["findings"]} >= {"infeasible", "variance"}
    assert (finished.folder / "reading" / "index.html").stat().st_size > 5000


def test_the_bests_are_those_of_the_trials(finished):
    result, rows = finished.stdout, finished.rows
    assert len(rows) == 16
    infeasible = sum(row["status"] == "infeasible" for row in rows)
    assert infeasible > 0
    assert result["trials"] == {"complete": 16 - infeasible, "infeasible": infeasible}
    assert result["infeasible_share"] == infeasible / 16
    means = {}
    for optimizer in ("nesterov", "adam"):
        settings = {}
        for row in rows:
            if row["optimizer"] == optimizer:
                settings.setdefault(row["learning_rate"], []).append(row)
        kept = {
            rate: np.mean([run["best_error"] for run in runs])
            for rate, runs in settings.items()
            if all(run["status"] == "complete" for run in runs)
        }
        (found,) = (row for row in result["scientific"]["optimizer"] if row["value"] == optimizer)
        assert (found["settings"], found["infeasible"]) == (len(settings), len(settings) - len(kept))
        assert found["best"]["value"] == pytest.approx(min(kept.values()))
        assert kept[found["best"]["setting"]["learning_rate"]] == pytest.approx(min(kept.values()))
        assert found["best"]["setting"]["optimizer"] == optimizer
        means |= kept
    assert result["best"]["value"] == pytest.approx(min(means.values()))
    assert {row["address"] for row in rows} >= set(result["best"]["trials"])
    assert len(result["best"]["trials"]) == 2


def test_a_setting_holds_what_applies_and_the_fixed_are_named(finished):
    for row in finished.rows:
        is_adam = row["optimizer"] == "adam"
        assert (row["momentum"] is None) == is_adam
        assert (row["beta1"], row["beta2"], row["epsilon"]) == ((0.9, 0.99, 1e-8) if is_adam else (None,) * 3)
        assert row["steps"] == 12
    assert finished.stdout["fixed"]["beta2"] == {"value": 0.99, "when": {"optimizer": ["adam"]}}
    assert finished.stdout["set"] == {"steps": 12}


def test_seeds_are_paired_and_checkpoints_ten(finished):
    by_replicate = {}
    for row in finished.rows:
        by_replicate.setdefault(row["replicate"], set()).add((row["seed.init"], row["seed.order"]))
        if row["status"] == "complete":
            assert len(row["curve.evaluation_step"]) == 11
            assert row["best_error"] <= row["final_error"]
    assert [len(seeds) for seeds in by_replicate.values()] == [1, 1]
    assert by_replicate[0] != by_replicate[1]


def test_the_row_of_the_study(finished):
    with (finished.out / FILE).open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == "optimizers"
    assert (finished.out / row["configuration"]).read_bytes() == finished.path.read_bytes()
    assert row["notes"] == "'=which, if any"
    assert row["trials"] == "16"
    assert float(row["infeasible share"]) == pytest.approx(finished.stdout["infeasible_share"], abs=5e-4)
    name, value = row["best validation result"].split()
    assert (name, float(value)) == ("best_error", pytest.approx(finished.stdout["best"]["value"], rel=1e-5))
    assert row["command"] == " ".join(["playbook", *finished.arguments])


def test_a_second_run_needs_no_jax_and_roles_may_change(finished):
    again = finished.path.with_name("again.toml")
    momentum = '[space.momentum]\nrole = "scientific"'
    again.write_text(finished.path.read_text().replace("[space.momentum]", momentum))
    code = (
        "import sys, atexit; sys.argv[0] = 'playbook'; from harness.cli import main; "
        "atexit.register(lambda: print('jax' in sys.modules, file=sys.stderr)); main()"
    )
    arguments = [str(again) if word == str(finished.path) else word for word in finished.arguments]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"
    result = json.loads(done.stdout)
    assert (result["fingerprint"], result["seconds"]) == (finished.stdout["fingerprint"], finished.stdout["seconds"])
    parts = result["scientific"]["momentum"]
    (nesterov, _) = result["scientific"]["optimizer"]
    assert len(parts) == 4
    assert sum(part["settings"] for part in parts) == nesterov["settings"]


def test_the_table_for_its_reading(finished):
    spec = study_from_toml(finished.path)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_reading", lambda spec, table, folder: seen.append(table))
        driver.tune(finished.path, finished.out, 1, None, False, finished.stdout["provenance"]["command"])
    (table,) = seen
    assert list(table.hyperparameters) == [name for name in spec.space if spec.roles[name] != "fixed"]
    rates = {name: table.hyperparameters[f"{name}_learning_rate"] for name in ("nesterov", "adam")}
    for name, column in rates.items():
        assert (np.isfinite(column) == (table.hyperparameters["optimizer"] == name)).all()
    by_address = [math.nan if row["status"] == "infeasible" else row["best_error"] for row in finished.rows]
    np.testing.assert_array_equal(table.objective, by_address)
    assert (np.isnan(table.objective) == table.infeasible).all()
    assert (table.objective_name, table.goal) == ("best_error", "min")
    assert list(table.seeds["replicate"][:4]) == [0, 1, 0, 1]
    assert len(set(table.trials)) == 16
    assert all(len(curves) == 16 for curves in table.curves.values())
    first = table.curves["evaluation_error"][0]
    assert list(first.values) == finished.rows[0]["curve.evaluation_error"]
    assert list(first.steps) == finished.rows[0]["curve.evaluation_step"]


def test_more_trials_extend_a_study_and_fewer_do_not(tune):
    first = results(tune(text(trials=2), "--json"))
    rows = pq.read_table(tune.out / "tune/rates/trials.parquet").to_pylist()
    more = results(tune(text(trials=4), "--json"))
    extended = pq.read_table(tune.out / "tune/rates/trials.parquet").to_pylist()
    assert (more["settings"], first["settings"]) == (4, 2)
    assert [row["address"] for row in extended][:2] == [row["address"] for row in rows]
    assert [row["trial_seconds"] for row in extended][:2] == [row["trial_seconds"] for row in rows]  # were not repeated
    status, out, errors = tune(text(trials=3))
    assert (status, out) == (2, "")
    assert "was begun with trials = 4, now 3; more of them extend a study, --fresh" in errors.splitlines()[-1]
    status, _, errors = tune(text(trials=4, seed=1))
    assert status == 2
    assert "another specification: study.seed was 0, is now 1; --fresh moves it aside" in errors
    with (tune.out / FILE).open(newline="") as file:
        assert [row["trials"] for row in csv.DictReader(file)] == ["4"]


@pytest.mark.parametrize("executor", ["processes", pytest.param("lanes", marks=pytest.mark.slow)])
def test_a_bayesian_study_resumes_to_the_same_fingerprint(tune, monkeypatch, executor):
    spec = text(trials=5, sampler="bayesian", parallel=3)
    whole = results(tune(spec, "--json", "--jobs", "2", "--executor", executor))
    assert whole["settings"] == 5
    tune.out.rename(tune.out.with_name("whole"))

    stored = driver.run_missing
    rounds = []

    def die_in_the_second_round(store, planned, *rest):
        rounds.append(len(planned))
        if len(rounds) == 2:
            raise KeyboardInterrupt
        stored(store, planned, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "run_missing", die_in_the_second_round)
        assert tune(spec, "--jobs", "1", "--executor", executor)[0] == 130
    assert rounds == [3, 5]
    resumed = results(tune(spec, "--json", "--jobs", "1"))
    assert resumed["fingerprint"] == whole["fingerprint"]


def test_without_json_it_says_what_was_found(tune):
    status, out, _ = tune(text(RATES + "role = 'scientific'\n", trials=3, objective="final_loss"))
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "rates: 3 settings, 3 trials, 0 of them infeasible (0%)"
    assert re.match(r"best final_loss \d\.\d+ at learning_rate = ", lines[1])
    assert lines[2] == "best by learning_rate, over everything else:"
    said = next(i for i, line in enumerate(lines) if line.startswith("What this says"))
    assert lines[said].endswith("for what was fixed alone: the defaults of tests.stand_in:SCALES at smoke.")
    assert lines[said + 2] == f"results: {tune.out / 'tune' / 'rates'}"
    assert "serious: trials" in lines[said:]
    assert lines[-1] == f"page: {tune.out / 'tune' / 'rates' / 'reading' / 'index.html'}"


def test_a_study_without_a_feasible_trial(tune):
    spec = text("[space.learning_rate]\nrole = 'scientific'\nvalues = [1e37, 1e38]\n", trials=2, sampler="grid")
    status, out, _ = tune(spec)
    assert status == 1
    assert "2 of them infeasible (100%)" in out
    assert "none feasible" in out
    with (tune.out / FILE).open(newline="") as file:
        assert [row["best validation result"] for row in csv.DictReader(file)] == [""]


BAD = [
    (text().replace("1e-3", "20.0"), [], "study.toml': hyperparameter 'learning_rate': low = 20.0 is not below"),
    (text(RATES + "[space.nothing]\nvalues = [1]"), [], "unknown setting 'nothing'; known: features"),
    (text(RATES + "[space.momentun]\nvalues = [1]"), [], "did you mean 'momentum'?"),
    (text(RATES + "[set]\nnothing = 1"), [], "unknown setting 'nothing'"),
    (text(RATES + "[set]\nsteps = 'x'"), [], "steps='x': expected int; at the setting learning_rate = "),
    (text(RATES + "[space.features]\nlow = 1\nhigh = 3"), [], "expected int; at the setting"),
    (text(RATES + "[space.features]\nvalues = [0, 1]"), [], "features=0: expected at least 1"),
    (text(RATES + "[space.optimizer]\nvalues = ['adam']"), [], "hyperparameter 'beta1' is missing; adam takes"),
    (text(RATES + "[space.optimizer]\nvalues = ['adams']"), [], "unknown optimizer 'adams'; did you mean 'adam'?"),
    (text(RATES + "[space.batch_size]\nvalues = [8, 64]"), [], "batch_size 64: expected at most 32"),
    (text(RATES + "[space.batch_size]\nlow = 8\nhigh = 64", sampler="bayesian"), [], "expected int"),
    (
        text(RATES + "[space.batch_size]\nlow = 8\nhigh = 64\ninteger = true", sampler="bayesian"),
        [],
        "batch_size 64: expected at most 32",
    ),
    (text(sampler="grid"), [], "sampler 'grid' needs values"),
    (text("[space.learning_rate]\nvalues = [0.1]", sampler="grid"), [], "trials = 6 is more than the grid's 1 points"),
    (text(workload="wide_resnt"), [], "unknown workload 'wide_resnt': did you mean 'wide_resnet'?"),
    (text(workload="no_such_module:SCALES"), [], "No module named 'no_such_module'"),
    (text(scale="laptop"), [], "unknown scale 'laptop' of tests.stand_in:SCALES"),
    (text(trials=0), [], "trials = 0 is out of range"),
    (text(), ["--jobs", "0"], "--jobs 0: expected at least 1"),
    (text(), ["--executor", "process"], "unknown executor 'process'; did you mean 'processes'?"),
    (b"\xff", [], "is not UTF-8"),
]


@pytest.mark.parametrize(("spec", "arguments", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(tune, spec, arguments, message):
    status, out, errors = tune(spec, *arguments)
    assert (status, out) == (2, "")
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert not tune.out.exists()


def test_bayesian_without_optuna(tune, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, out, errors = tune(text(sampler="bayesian"))
    assert (status, out) == (2, "")
    assert "pip install 'playbook-bench[bo]'" in errors
    assert len(errors.splitlines()) == 1
    assert not tune.out.exists()


def test_another_table_of_studies_is_found_before_anything_runs(tune):
    tune.out.mkdir()
    (tune.out / FILE).write_text("a,b\n")
    status, _, errors = tune(text())
    assert status == 2
    assert "has other columns" in errors
    assert [path.name for path in tune.out.iterdir()] == [FILE]


def test_the_example_of_the_documentation(tmp_path):
    (example,) = re.findall(r'```toml\n(name = "nesterov-against-adam".*?)```', OWN_STUDY.read_text("utf-8"), re.S)
    path = tmp_path / "study.toml"
    path.write_text(example)
    spec = study_from_toml(path)
    points, planned = driver._planned(spec, driver._sequence(spec))
    assert len(points) == spec.trials
    assert {place.trial.optimizer for place in planned} == {"nesterov", "adam"}
