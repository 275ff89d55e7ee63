import csv
import json
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from harness.analysis.best_of_k import best_of
from harness.analysis.findings import SEVERITIES
from harness.cli import main

HEADER = ("trial", "learning_rate", "optimizer", "seed", "validation_error", "status")


def study(count=40, low=-5.0, high=-2.0, seed=0, noise=0.01):
    """Rows of a learning-rate search with its optimum at 10^-1.5, two seeds a setting."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        if i % 2 == 0:
            rate, optimizer = 10 ** random.uniform(low, high), random.choice(["adam", "nesterov"])
        error = 0.1 + 0.05 * (np.log10(rate) + 1.5) ** 2 + random.normal(0, noise)
        rows.append((f"t{i}", float(rate), optimizer, i % 2, float(error), "complete"))
    return rows


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs `playbook diagnose` in a folder of its own on rows or on a file; gives status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(table, *arguments, header=HEADER):
        name = table
        if not isinstance(table, str):
            name = "table.csv"
            with open(name, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header, *table])
        monkeypatch.setattr(sys, "argv", ["playbook", "diagnose", name, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def result_of(cli, table, *arguments, **more):
    status, out, errors = cli(table, "--json", *arguments, **more)
    assert (status, errors) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)


def found(result, check):
    return [finding for finding in result["findings"] if finding["check"] == check]


def test_json_has_the_stated_form(cli):
    rows = study()
    result = result_of(cli, rows)
    errors = np.array([row[4] for row in rows])
    assert result["trials"] == {"complete": 40, "infeasible": 0, "skipped": 0}
    best = rows[int(errors.argmin())]
    assert result["best"] == {
        "trial": best[0],
        "objective": best[4],
        "hyperparameters": {"learning_rate": best[1], "optimizer": best[2]},
    }
    assert list(result["best_of"]) == [str(k) for k in range(1, 41)]
    expected = best_of(errors, "min", [7])
    seven = result["best_of"]["7"]
    assert list(seven) == ["q1", "median", "q3", "low", "high", "mean"]
    # Sums of another process may be aligned otherwise, so that their last bit differs.
    assert seven == pytest.approx({name: float(getattr(expected, name)[0]) for name in seven}, rel=1e-14)
    assert {side["side"] for side in result["boundaries"]} == {"low", "high"}
    assert set(result["isolation"]) == {"learning_rate", "optimizer"}
    assert result["variance"]["groups"] == 20
    pairs = errors.reshape(20, 2)
    assert result["variance"]["trial_sd"] == pytest.approx(np.sqrt(np.mean(pairs.var(axis=1, ddof=1))))
    severities = [SEVERITIES.index(finding["severity"]) for finding in result["findings"]]
    assert severities == sorted(severities)
    assert all(set(finding) == {"check", "severity", "evidence", "advice"} for finding in result["findings"])


def test_best_of_reaches_to_a_hundred_and_can_draw_without_replacement(cli):
    rows = study(240)
    errors = [row[4] for row in rows]
    result = result_of(cli, rows, "--without-replacement")
    assert list(result["best_of"]) == [str(k) for k in range(1, 101)]
    assert result["best_of"]["100"]["median"] == best_of(errors, "min", [100], replacement=False).median[0]
    assert result["best_of"]["100"]["mean"] != result_of(cli, rows)["best_of"]["100"]["mean"]


def test_a_range_that_ends_below_the_good_rates_is_the_worst_finding(cli):
    narrow = result_of(cli, study(60, -5, -2.5))
    assert narrow["findings"][0]["check"] == "boundary"
    assert narrow["findings"][0]["severity"] == "serious"
    assert "learning_rate" in narrow["findings"][0]["advice"]
    assert [s["verdict"] for s in narrow["boundaries"] if s["side"] == "high"] == ["open"]
    wide = result_of(cli, study(60, -3, 0))
    assert [finding["severity"] for finding in found(wide, "boundary")] == ["good"]


def test_a_space_sets_range_and_scale(cli, tmp_path):
    (tmp_path / "space.toml").write_text("[learning_rate]\nlow = 1e-6\nhigh = 1.0\nscale = 'log'\n")
    result = result_of(cli, study(), "--space", "space.toml")
    assert result["axes"]["learning_rate"] == {"low": 1e-6, "high": 1.0, "scale": "log", "estimated": False}
    assert not any("estimated" in finding["evidence"] for finding in found(result, "data"))
    # The range was hardly sampled above the best trials, so that their crowding does not make it too narrow.
    assert [s["verdict"] for s in result["boundaries"] if s["side"] == "high"] == ["undecided"]


def test_axes_of_a_space_go_by_the_hyperparameter_that_they_set(cli, tmp_path):
    table = "[{0}_rate]\nhyperparameter = 'learning_rate'\nwhen = {{ optimizer = '{0}' }}\nlow = {1}\nhigh = {2}\n"
    space = "[optimizer]\nvalues = ['adam', 'nesterov']\n"
    space += table.format("adam", 1e-6, 0.1) + "scale = 'log'\n" + table.format("nesterov", 1e-5, 1)
    (tmp_path / "space.toml").write_text(space + "scale = 'log'\n")
    result = result_of(cli, study(), "--space", "space.toml")
    assert result["axes"] == {"learning_rate": {"low": 1e-6, "high": 1.0, "scale": "log", "estimated": False}}
    (tmp_path / "space.toml").write_text(space)
    status, _, errors = cli(study(), "--space", "space.toml")
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "'space.toml': hyperparameter 'learning_rate' is searched on the scales" in errors


def test_trials_outside_of_the_space_are_counted(cli, tmp_path):
    (tmp_path / "space.toml").write_text("[learning_rate]\nlow = 1e-4\nhigh = 1.0\nscale = 'log'\n")
    rows = study()
    outside = sum(row[1] < 1e-4 for row in rows)
    evidence = [finding["evidence"] for finding in found(result_of(cli, rows, "--space", "space.toml"), "data")]
    assert f"{outside} trials of 40 lie outside of the range of learning_rate, 0.0001 to 1." in evidence
    assert not any("outside" in finding["evidence"] for finding in found(result_of(cli, rows), "data"))


def test_few_settings_run_often_are_no_search(cli):
    rows = [(f"t{i}", 10.0 ** (i % 4), "adam", i, 0.1 * (i % 4) + 0.001 * i, "complete") for i in range(40)]
    result = result_of(cli, rows)
    assert any("4 settings of which no run is infeasible" in finding["evidence"] for finding in found(result, "trials"))
    assert not any(finding["severity"] == "serious" for finding in result["findings"])


def test_copied_rows_are_no_trial_variance(cli):
    rows = study(60, noise=0)[::2]
    result = result_of(cli, [*rows, *rows])
    (finding,) = found(result, "variance")
    assert finding["severity"] == "warning"
    assert "30 settings run more than once gave the same objective each time" in finding["evidence"]
    assert result["sampling"]["real"] is None


def test_a_flat_curve_is_not_called_good(cli):
    with open("flat.jsonl", "w") as file:
        for i in range(12):
            file.write(json.dumps({"learning_rate": i, "valid_loss": [2.3 + i] * 50}) + "\n")
    (finding,) = found(result_of(cli, "flat.jsonl"), "curves")
    assert finding["severity"] == "note"
    assert "hardly changes" in finding["evidence"]


def test_names_do_not_steer_the_terminal(cli):
    status, out, _ = cli([(i, 0.1 * i) for i in range(12)], header=("\x1b[31mrate", "loss"))
    assert status == 0
    assert "?[31mrate" in out
    assert "\x1b" not in out


def test_huge_objectives_have_a_spread(cli):
    rows = [(*row[:4], row[4] * 1e300, row[5]) for row in study()]
    plain, huge = (result_of(cli, table)["variance"]["trial_sd"] for table in (study(), rows))
    assert huge == pytest.approx(plain * 1e300)


def test_isolation_counts_the_other_values(cli):
    rows = [
        (f"t{i}", 10.0 ** (i % 4), i / 100, i, 0.1 * (i % 4) + 0.001 * ((7 * i) % 11), "complete") for i in range(80)
    ]
    (finding,) = found(result_of(cli, rows), "isolation")
    assert "in 3 of 3 other values the best trial is worse" in finding["evidence"]


def test_without_a_space_ranges_are_said_to_be_estimated(cli):
    result = result_of(cli, study())
    assert result["axes"]["learning_rate"]["estimated"]
    assert result["axes"]["learning_rate"]["scale"] == "log"
    assert any("estimated" in finding["evidence"] for finding in found(result, "data"))


def test_a_larger_objective_can_be_better(cli):
    rows = [(*row[:4], 1 - row[4], row[5]) for row in study(60, -5, -2.5)]
    header = (*HEADER[:4], "accuracy", "status")
    result = result_of(cli, rows, header=header)
    assert result["goal"] == "max"
    assert result["best"]["objective"] == max(row[4] for row in rows)
    assert result["findings"][0]["check"] == "boundary"


def test_a_goal_against_the_objectives_name_is_doubted(cli):
    result = result_of(cli, study(), "--goal", "max")
    assert result["goal"] == "max"
    assert any(
        "validation_error" in finding["evidence"] and "max" in finding["evidence"] for finding in found(result, "data")
    )


def test_infeasible_trials_are_counted_and_placed(cli):
    rows = [(*row[:4], "", "diverged") if row[1] > 1e-3 else row for row in study(60)]
    count = sum(row[5] == "diverged" for row in rows)
    result = result_of(cli, rows)
    assert result["trials"] == {"complete": 60 - count, "infeasible": count, "skipped": 0}
    (finding,) = found(result, "infeasible")
    assert "learning_rate above" in finding["evidence"]
    assert [s["verdict"] for s in result["boundaries"] if s["side"] == "high"] == ["wall"]
    assert "stab" in found(result, "boundary")[0]["advice"]


@pytest.mark.parametrize(
    ("rows", "check", "words"),
    [
        (study(1), "trials", "1 feasible trial:"),
        ([(*row[:4], "nan", "") for row in study(12)], "trials", "All 12 trials are infeasible."),
        ([(*row[:4], "", "failed") for row in study(1)], "trials", "The only trial is infeasible."),
        ([(*row[:4], 0.5, "") for row in study(20)], "trials", "same objective, 0.5"),
        ([(f"t{i}", 0.1, "adam", i, 0.1 + i / 100, "") for i in range(12)], "trials", "No hyperparameter varies"),
    ],
)
def test_poor_tables_are_read_and_say_so(cli, tmp_path, rows, check, words):
    result = result_of(cli, rows)
    assert any(words in finding["evidence"] for finding in found(result, check))
    assert "<html" in (tmp_path / "results/diagnose/table.csv/index.html").read_text()


def test_curves_of_the_best_trials_are_checked(cli, tmp_path):
    random = np.random.default_rng(0)
    with open("curves.jsonl", "w") as file:
        for i in range(20):
            steps = np.arange(200)
            valid = 0.1 + i / 100 + np.exp(-steps / 20) + random.normal(0, 0.003, 200)
            valid += np.where(steps > 100, (steps - 100) * 0.004, 0)  # overfits
            train = np.exp(-steps / 50) + random.normal(0, 0.003, 200)
            row = {"learning_rate": 0.01 * (i + 1), "valid_loss": valid.tolist(), "train_loss": train.tolist()}
            file.write(json.dumps(row) + "\n")
    result = result_of(cli, "curves.jsonl")
    assert len(result["curves"]) == 10
    first = result["curves"][0]
    assert (first["validation"], first["training"], first["overfitting"]) == ("valid_loss", "train_loss", True)
    assert found(result, "curves")[0]["severity"] == "serious"
    page = (tmp_path / "results/diagnose/curves.jsonl/index.html").read_text()
    assert page.count('class="curve') == 5


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.names = set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (name, value)


def test_names_are_escaped(cli, tmp_path):
    evil = "<script>alert(1)</script>"
    rows = [(f"{evil}{row[0]}", row[1], f'"><img src=x onerror="a()">{row[2]}', *row[3:]) for row in study(20)]
    header = ("trial", evil, "optimizer", "seed", "validation_error", "status")
    result_of(cli, rows, header=header)
    page = Tags()
    page.feed((tmp_path / "results/diagnose/table.csv/index.html").read_text())
    assert "svg" in page.names
    assert not {"script", "img"} & page.names


def test_the_page_needs_no_network(cli, tmp_path):
    cli(study())
    text = (tmp_path / "results/diagnose/table.csv/index.html").read_text()
    assert "http" not in text.replace("http-equiv", "")


def test_the_checklist_is_printed_and_the_page_goes_where_asked(cli, tmp_path):
    status, out, errors = cli(study(60, -5, -2.5), "--out", "elsewhere")
    assert (status, errors) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "60 complete and 0 infeasible trials, 0 skipped"
    assert lines[3] == "serious: boundary"
    assert lines[-1] == "page: elsewhere/index.html"
    assert json.loads((tmp_path / "elsewhere" / "result.json").read_text())["trials"]["complete"] == 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--objective", "accurracy"], "'accurracy'"),
        (["--goal", "least"], "'least'"),
        (["--format", "excel"], "format 'excel' is not one of csv, parquet"),
        (["--space", "nothing.toml"], "'nothing.toml': cannot be read"),
        (
            ["--space", "other.toml"],
            "space: hyperparameter 'lerning_rate' is not a number that varies in the table; did",
        ),
        (["--out", "table.csv"], "output folder table.csv cannot be written"),
    ],
)
def test_bad_input_is_one_line(cli, tmp_path, arguments, words):
    (tmp_path / "other.toml").write_text("[lerning_rate]\nlow = 0\nhigh = 1\n")
    status, out, errors = cli(study(), *arguments)
    assert (status, out) == (2, "")
    assert len(errors.splitlines()) == 1
    assert words in errors


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "table.csv"),
        (b"a,b\n", "holds no trial"),
        (b"learning_rate,learning_rate,loss\n1,2,3\n", "learning_rate"),
        (b"learning_rate,loss\n\xff\xfe,3\n", "UTF-8"),
        (b"PAR1broken", "table.csv"),
        (b"SQLite format 3\0broken", "table.csv"),
        (b"learning_rate,loss\n1,1e308\n2,-1e308\n", "objective 'loss' reaches from -1e+308 to 1e+308, too far"),
        (b"learning_rate,loss\n1e308,1\n-1e308,2\n", "hyperparameter 'learning_rate': low = -1e+308 and high"),
    ],
)
def test_broken_files_are_one_line(cli, tmp_path, content, words):
    (tmp_path / "table.csv").write_bytes(content)
    status, out, errors = cli("table.csv")
    assert (status, out) == (2, "")
    assert len(errors.splitlines()) == 1
    assert words in errors
    assert not (tmp_path / "results").exists()


def test_no_jax_no_matplotlib_no_pandas(tmp_path):
    (tmp_path / "t.csv").write_text("learning_rate,loss\n" + "".join(f"{i},{i % 7}\n" for i in range(1, 30)))
    code = (
        "import sys; sys.argv = ['playbook', 'diagnose', 't.csv'];"
        "from harness.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print([m for m in ('jax', 'matplotlib', 'pandas', 'scipy.stats', 'optuna') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
