"""The planner from the command line, on tables of pilots."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from harness.cli import main

HEADER = ("learning_rate", "seed", "validation_error", "status", "seconds")


def pilot(settings=12, runs=3, infeasible=(), seconds=2.0, seed=0):
    """Rows of a search whose settings were run with the same seeds; what these share is larger than the rest."""
    rng = np.random.default_rng(seed)
    common = 0.02 * rng.standard_normal(runs)
    rows = []
    for i in range(settings):
        rate = 10 ** (-4 + 3 * (i + 0.5) / settings)
        for j in range(runs):
            error = 0.1 + 0.02 * (np.log10(rate) + 2) ** 2 + common[j] + 0.005 * rng.standard_normal()
            bad = (i, j) in infeasible
            rows.append((rate, j, "" if bad else error, "infeasible" if bad else "complete", seconds))
    return rows


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs `playbook plan` in a folder of its own on rows or on a file; gives status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(table, *arguments, header=HEADER):
        name = table
        if not isinstance(table, str):
            name = "pilot.csv"
            with open(name, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header, *table])
        monkeypatch.setattr(sys, "argv", ["playbook", "plan", name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def result_of(cli, table, *arguments, **more):
    status, out, errors = cli(table, "--json", *arguments, **more)
    assert (status, errors) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)


def finding(result, check):
    (found,) = (one for one in result["findings"] if one["check"] == check)
    return found


def test_json_page_and_result_file_agree(cli, tmp_path):
    result = result_of(cli, pilot(), "--effect", "0.01")
    folder = tmp_path / "results/plan/pilot.csv"
    assert json.loads((folder / "result.json").read_text()) == {k: v for k, v in result.items() if k != "folder"}
    page = (folder / "index.html").read_text()
    assert page.count('<svg viewBox="0 0 340 240"') == 2
    assert page.count("<li class=") == len(result["findings"]) >= 5
    assert (result["objective"], result["goal"], result["effect"], result["power"]) == (
        "validation_error",
        "min",
        0.01,
        0.8,
    )
    assert (result["unpaired"]["pilot_runs"], result["paired"]["pilot_runs"]) == (15, 18)  # 10 degrees of freedom
    assert result["trials"]["pilot"] == 12


def test_pairs_take_fewer_runs_where_seeds_share_much(cli):
    result = result_of(cli, pilot(), "--effect", "0.01")
    assert result["paired"]["sd"] == pytest.approx(0.005 * 2**0.5, rel=0.4)
    assert result["paired"]["needed"] < result["unpaired"]["needed"]
    assert "share the seeds: that takes fewer runs" in finding(result, "paired runs")["advice"]
    alone = [(rate, i, *rest) for i, (rate, _, *rest) in enumerate(pilot())]
    assert result_of(cli, alone, "--effect", "0.01")["paired"] is None


def test_the_cost_is_that_of_the_pilots_runs(cli):
    result = result_of(cli, pilot(), "--effect", "0.01")
    runs, trials = result["paired"]["needed"], result["trials"]["needed"]
    assert result["cost"] == {
        "unit": "seconds",
        "per_run": 2.0,
        "search": 4.0 * trials,
        "comparison": 4.0 * runs,
        "total": 4.0 * (trials + runs),
    }
    assert f"2 x ({trials} trials + {runs} runs)" in finding(result, "cost")["evidence"]
    no_time = [row[:4] for row in pilot()]
    assert result_of(cli, no_time, "--effect", "0.01", header=HEADER[:4])["cost"]["unit"] == "runs"


def test_steps_are_the_cost_where_no_time_is_known(cli):
    with open("curves.jsonl", "w") as file:
        for rate, seed, error, *_ in pilot():
            curve = [1.0, 0.5, error]
            row = {
                "learning_rate": rate,
                "seed": seed,
                "validation_error": curve,
                "validation_step": [0, 50, 100],
            }
            file.write(json.dumps(row) + "\n")
    cost = result_of(cli, "curves.jsonl", "--effect", "0.01")["cost"]
    assert (cost["unit"], cost["per_run"]) == ("steps", 100.0)


def test_infeasible_runs_are_started_too(cli):
    infeasible = {(0, 0), (0, 2), *((i, 1) for i in range(4, 12))}  # the first setting is far from the best
    result = result_of(cli, pilot(runs=5, infeasible=infeasible), "--effect", "0.01")
    assert result["infeasible_share"] == pytest.approx(1 / 5)
    for kind, power in (("paired", 2), ("unpaired", 1)):
        assert result[kind]["started"] == int(np.ceil(result[kind]["needed"] / 0.8**power - 1e-9))
    assert finding(result, "infeasible")["severity"] == "warning"


def test_a_pilot_of_one_setting_says_nothing_of_trials(cli):
    rows = [(1e-3, i, error, "complete", 1.0) for i, error in enumerate([0.1, 0.12, 0.11, 0.13, 0.1])]
    result = result_of(cli, rows, "--effect", "0.02")
    assert (result["trials"], result["gain"], result["paired"]) == (None, None, None)
    assert result["cost"]["search"] == 0
    assert "fewer than 10 settings" in finding(result, "trials")["evidence"]


def test_a_larger_effect_and_a_lower_power_need_less(cli):
    whole = result_of(cli, pilot(), "--effect", "0.01")
    for arguments in (("--effect", "0.02"), ("--effect", "0.01", "--power", "0.6")):
        less = result_of(cli, pilot(), *arguments)
        assert less["unpaired"]["needed"] < whole["unpaired"]["needed"]
        assert less["trials"]["needed"] <= whole["trials"]["needed"]


def test_accuracy_is_planned_like_error(cli):
    rows = [(rate, seed, 1 - error, *rest) for rate, seed, error, *rest in pilot()]
    header = ("learning_rate", "seed", "validation_accuracy", "status", "seconds")
    more, less = (result_of(cli, r, "--effect", "0.01", header=h) for r, h in ((rows, header), (pilot(), HEADER)))
    assert more["goal"] == "max"
    assert more["trials"] == less["trials"]
    assert more["unpaired"]["needed"] == less["unpaired"]["needed"]


@pytest.mark.parametrize(("effect", "severities"), [(0.5, {"good"}), (0.001, {"note", "warning"})])
def test_it_says_whether_the_pilots_best_is_near_the_optimum(cli, effect, severities):
    rng, rows = np.random.default_rng(0), []
    for point in rng.random((24, 4)):
        rows += [(*point, seed, ((point - 0.5) ** 2).sum() + 5e-4 * rng.standard_normal()) for seed in range(2)]
    result = result_of(cli, rows, "--effect", effect, header=("a", "b", "c", "d", "seed", "validation_error"))
    assert result["gain"]["more"] == 24
    low, high = result["gain"]["interval"]
    assert finding(result, "pilot")["severity"] in severities
    assert (high < effect) == (severities == {"good"})
    assert low <= result["gain"]["gain"] <= high


def test_the_text(cli, tmp_path):
    status, out, errors = cli(pilot(settings=24), "--effect", "0.01", "--out", "elsewhere")
    assert (status, errors) == (0, "")
    assert "runs of each of two settings, with the same seeds, find a difference of 0.01 in validation_error" in out
    assert "(15 runs of the best 5 settings that were run more than once)" in out
    assert "24 more trials would improve the pilot's best by" in out
    assert out.splitlines()[-1] == "page: elsewhere/index.html"
    assert (tmp_path / "elsewhere/result.json").is_file()


SAME = [(rate, seed, 0.1, "complete", 1.0) for rate, seed, *_ in pilot()]
BAD = [
    (pilot(), [], "--effect"),
    (pilot(), ["--effect", "0"], "--effect 0: expected a difference above 0"),
    (pilot(), ["--effect", "-0.1"], "--effect -0.1: expected"),
    (pilot(), ["--effect", "nan"], "--effect nan: expected"),
    (pilot(), ["--effect", "x"], "--effect"),
    (pilot(), ["--effect", "0.1", "--power", "80"], "--power 80: expected a chance from .5 to .99"),
    (pilot(), ["--effect", "1e-12"], "--effect 1e-12: not found by 100,000 runs"),
    (pilot(runs=1), ["--effect", "0.1"], "none of the settings of its 12 trials has two feasible runs"),
    (pilot()[:1], ["--effect", "0.1"], "none of the settings of its 1 trials has two feasible runs"),
    ([(*row[:2], "", "infeasible", 1.0) for row in pilot()], ["--effect", "0.1"], "has two feasible runs"),
    (SAME, ["--effect", "0.1"], "gave the same objective each time"),
    ([], ["--effect", "0.1"], "holds no trial"),
    (pilot(), ["--effect", "0.1", "--objective", "validation_eror"], "did you mean 'validation_error'?"),
    (pilot(), ["--effect", "0.1", "--goal", "up"], "goal 'up' is not one of min, max"),
    (pilot(), ["--effect", "0.1", "--format", "cvs"], "format 'cvs' is not one of"),
    ("absent.csv", ["--effect", "0.1"], "absent.csv"),
]


@pytest.mark.parametrize(("rows", "arguments", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(cli, tmp_path, rows, arguments, message):
    status, out, errors = cli(rows, *arguments)
    assert (status, out) == (2, "")
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert not (tmp_path / "results").exists()


def test_a_table_without_an_objective(cli):
    status, _, errors = cli([row[:2] for row in pilot()], "--effect", "0.1", header=HEADER[:2])
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "no column is known to be the validation objective" in errors


def test_a_folder_that_cannot_be_written(cli, tmp_path):
    (tmp_path / "file").touch()
    status, _, errors = cli(pilot(), "--effect", "0.01", "--out", "file/out")
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "cannot be written" in errors


def test_neither_jax_nor_scipy_stats_is_loaded(cli, tmp_path):
    cli(pilot(), "--effect", "0.01")
    code = (
        "import sys, atexit; sys.argv[0] = 'playbook'; from harness.cli import main; "
        "atexit.register(lambda: print({'jax', 'scipy.stats', 'pandas'} & set(sys.modules))); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "pilot.csv", "--effect", "0.01"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
