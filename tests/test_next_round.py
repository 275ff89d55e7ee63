import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import main
from harness.procedures.next_round import Chosen, findings_of, ladder, name_of_round, transfer
from harness.records import InputError
from harness.search.samplers import sample
from harness.search.study_spec import study_from_toml
from harness.studies.transfer import constant_phase, tier
from harness.training.schedule import learning_rates

SPEC = """
name = "rates"
workload = "tests.stand_in:SCALES"
scale = "smoke"
trials = 12
replicates = 2

[set]
steps = 20

[space.schedule]
role = "scientific"
values = ["linear", "cosine"]

[space.constant_steps]
when = { schedule = "linear" }
values = [0, 5]

[space.learning_rate]
values = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1e37, 1e38]

[space.weight_decay]
role = "fixed"
value = 1e-3

[space.warmup_steps]
low = 0
high = 5
integer = true
"""


@given(st.sampled_from(["linear", "square_root"]), st.integers(1, 200), st.integers(0, 200), st.integers(1, 500))
def test_the_decay_keeps_its_length_and_the_constant_phase_takes_the_added_steps(schedule, steps, constant, more):
    constant = min(constant, steps)
    longer = steps + more
    found = constant_phase(schedule, steps, constant, longer)
    short = learning_rates(schedule, 0.3, 0, steps, constant)
    long = learning_rates(schedule, 0.3, 0, longer, found)
    np.testing.assert_array_equal(long[more:], short)
    np.testing.assert_array_equal(long[:more], np.float32(0.3))


@given(st.integers(1, 200), st.integers(2, 5))
def test_cosine_is_stretched(steps, factor):
    assert constant_phase("cosine", steps, 0, factor * steps) == 0
    short, long = (learning_rates("cosine", 0.3, 0, n) for n in (steps, factor * steps))
    np.testing.assert_allclose(long[::factor], short, rtol=1e-4, atol=1e-7)
    assert constant_phase("cosine", steps, steps // 2, factor * steps) == factor * (steps // 2)


def test_constant_and_unknown_schedules():
    assert constant_phase("constant", 10, 3, 50) == 0
    with pytest.raises(InputError, match="unknown schedule 'lineer'; did you mean 'linear'"):
        constant_phase("lineer", 10, 0, 50)


def test_a_longer_run_does_not_spend_the_added_steps_at_tiny_rates():
    """The pitfall of L634: stretched, a square-root decay has most of its steps below a fifth of the base rate."""
    kept = learning_rates("square_root", 1.0, 0, 1000, constant_phase("square_root", 100, 0, 1000))
    stretched = learning_rates("square_root", 1.0, 0, 1000)
    assert np.mean(kept < 0.2) < 0.1 < 0.7 < np.mean(stretched < 0.2)


@given(st.integers(1, 10_000), st.integers(1, 6), st.floats(1.5, 5))
def test_the_ladder_grows_by_one_factor_to_the_last_length(steps, rounds, factor):
    longest = int(steps * factor**rounds) + rounds
    lengths = ladder(steps, longest, rounds)
    assert (len(lengths), lengths[-1]) == (rounds, longest)
    exact = steps * (longest / steps) ** (np.arange(1, rounds + 1) / rounds)
    assert np.abs(np.array(lengths) - exact).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 100, 1), "--steps 100: expected more than the 100 steps of the study, such as 500"),
        ((100, 50, 1), "--steps 50: expected more"),
        ((100, 2**31, 1), "--steps 2147483648: expected at most 2147483647"),
        ((100, 200, 0), "--rounds 0: expected at least 1"),
        ((100, 103, 4), "--rounds 4: expected fewer, since 100 steps are to become 103"),
        ((1, 6, 5), "--rounds 5: expected fewer"),
    ],
)
def test_ladders_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        ladder(*arguments)


def test_names_count_the_rounds():
    assert name_of_round("rates") == ("rates-round2", 2)
    assert name_of_round("rates-round2") == ("rates-round3", 3)
    assert len(name_of_round("x" * 100)[0]) == 100


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("warmup_steps", "very likely"),
        ("zero_init_last_scale", "very likely"),
        ("depth", "likely"),
        ("optimizer", "might"),
        ("learning_rate", "might"),
        ("beta2", "might"),
        ("dropout", "might"),
        ("weight_decay", "might"),
        ("schedule", "unlikely"),
        ("constant_steps", "unlikely"),
    ],
)
def test_the_tiers_of_the_playbook(name, expected):
    assert tier(name) == expected


def test_the_schedule_is_to_be_tuned_again_even_where_it_was_not_tuned():
    rows = transfer(["learning_rate", "warmup_steps"])
    assert [row["hyperparameter"] for row in rows] == ["warmup_steps", "learning_rate", "schedule"]
    assert rows[-1]["advice"].startswith("tune it again")


def chosen(train_loss=0.5, schedule="linear"):
    return Chosen(0.1, {"learning_rate": 0.1}, schedule, 0, train_loss)


@pytest.mark.parametrize(
    ("loss", "tuned", "warned"), [(0.5, "dropout", True), (0.001, "dropout", False), (0.5, "x", 0)]
)
def test_regularisation_where_the_training_set_is_not_fitted(loss, tuned, warned):
    found = findings_of([chosen(loss)], 5, 100, [500], [tuned], None)
    assert any(finding.check == "training set" for finding in found) == warned


@pytest.fixture
def playbook(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["playbook", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study with infeasible trials: its folder of all results, and its specification."""
    folder = tmp_path_factory.mktemp("rounds")
    (folder / "rates.toml").write_text(SPEC)
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["tune", folder / "rates.toml", "--out", folder / "out", "--jobs", "1"]
        patch.setattr(sys, "argv", ["playbook", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return folder


NAMES = ("schedule", "learning_rate", "warmup_steps")


def key(row):
    return *(row[name] for name in NAMES), row["constant_steps"] or 0


def matches(row, setting):
    before = setting.get("constant_steps", 40) - 40  # the added steps
    return key(row) == (*(setting[name] for name in NAMES), before)


def test_the_next_round_runs_the_best_points_for_longer(playbook, finished):
    out = finished / "out"
    status, stdout, errors = playbook("next-round", finished / "rates.toml", "--steps", 60, "--out", out, "--json")
    assert (status, errors) == (0, "")
    result = json.loads(stdout, parse_constant=pytest.fail)
    assert json.loads((out / "next-round/rates/result.json").read_text()) == {
        k: v for k, v in result.items() if k != "folder"
    }
    rows = pq.read_table(out / "tune/rates/trials.parquet").to_pylist()
    settings = {}
    for row in rows:
        settings.setdefault(key(row), []).append(row)
    assert any(row["status"] == "infeasible" for row in rows)
    means = {
        rate: np.mean([row["best_error"] for row in runs])
        for rate, runs in settings.items()
        if all(row["status"] == "complete" for row in runs)
    }
    assert [one["value"] for one in result["points"]] == pytest.approx(sorted(means.values())[:3])
    for one in result["points"]:
        (first, _) = next(runs for runs in settings.values() if matches(runs[0], one["setting"]))
        constant = first["constant_steps"] or 0
        expected = {"schedule": first["schedule"], "learning_rate": first["learning_rate"], "weight_decay": 1e-3}
        expected["warmup_steps"] = first["warmup_steps"]
        if first["schedule"] == "linear":
            expected["constant_steps"] = constant + 40
        assert one["setting"] == expected
    spec = study_from_toml(result["specification"])
    assert (spec.name, spec.trials, spec.replicates, spec.seed) == ("rates-round2", 3, 2, 1)
    assert spec.settings == {"steps": 60}
    drawn = [spec.space.values_set(point) for point in sample(spec.space, "grid", 0, 3)]
    for one in result["points"]:
        assert {"constant_steps": 0, **one["setting"]} in drawn

    status, stdout, errors = playbook("tune", result["specification"], "--out", out, "--jobs", "1", "--json")
    assert status == 0, errors
    assert json.loads(stdout)["settings"] == 3
    rows = pq.read_table(out / "tune/rates-round2/trials.parquet").to_pylist()
    assert {row["steps"] for row in rows} == {60}
    for row in rows:
        if row["schedule"] == "linear":
            rates = np.array(row["curve.learning_rate"])[int(row["warmup_steps"]) :]
            assert np.argmax(rates < rates[0]) == row["constant_steps"] + 1

    status, stdout, _ = playbook(
        "next-round", result["specification"], "--steps", 540, "--rounds", 2, "--points", 1, "--out", out
    )
    assert status == 0
    assert "rounds of 180, 540 steps, each about 3 times the one before" in stdout
    assert stdout.splitlines()[-1].endswith("rates-round2/rates-round3.toml --out " + str(out))
    assert "weight_decay" not in stdout


def test_the_text_says_what_carries_over(playbook, finished):
    status, stdout, _ = playbook("next-round", finished / "rates.toml", "--steps", 60, "--out", finished / "out")
    assert status == 0
    assert "warning: transfer\n  unlikely to transfer" in stdout
    assert "very likely to transfer (what resolves early instability: warmup length" in stdout
    text = (finished / "out/next-round/rates/rates-round2.toml").read_text()
    assert "# transfer: might transfer" in text


def test_jax_is_not_loaded(finished):
    code = (
        "import sys, atexit; sys.argv[0] = 'playbook'; from harness.cli import main; "
        "atexit.register(lambda: print({'jax', 'scipy.stats'} & set(sys.modules))); main()"
    )
    arguments = ["next-round", finished / "rates.toml", "--steps", "60", "--out", finished / "out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished / "out", tmp_path / "out")
    shutil.copy(finished / "rates.toml", tmp_path / "rates.toml")
    return tmp_path


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def damage(path):
    path.write_bytes(path.read_bytes()[:50])


BAD = [
    (["--steps", "20"], None, "--steps 20: expected more than the 20 steps of the study, such as 100"),
    (["--steps", "19"], None, "--steps 19: expected more"),
    (["--steps", "60", "--rounds", "0"], None, "--rounds 0: expected at least 1"),
    (["--steps", "22", "--rounds", "3"], None, "--rounds 3: expected fewer"),
    (["--steps", "60", "--points", "0"], None, "--points 0: expected at least 1"),
    (["--steps", "60", "--points", "13"], None, "--points 13: expected at most the study's feasible settings"),
    ([], None, "--steps"),
    (["--steps", "x"], None, "--steps"),
    (["--steps", "60"], lambda p: (p / "rates.toml").unlink(), "rates.toml': cannot be read"),
    (["--steps", "60"], lambda p: (p / "rates.toml").write_text("x = "), "is not TOML"),
    (["--steps", "60"], lambda p: edit(p / "rates.toml", "steps = 20", "steps = 30"), "holds another study than"),
    (
        ["--steps", "60"],
        lambda p: edit(p / "rates.toml", "[set]\nsteps = 20", "[space.steps]\nvalues = [10, 20]"),
        "steps is tuned, expected one length for all trials; put it into [set]",
    ),
    (
        ["--steps", "60"],
        lambda p: edit(p / "rates.toml", '"rates"', '"other"'),
        "finish the study first: playbook tune",
    ),
    (["--steps", "60"], lambda p: shutil.rmtree(p / "out/tune"), "is missing; finish the study first"),
    (["--steps", "60"], lambda p: damage(p / "out/tune/rates/trials.parquet"), "cannot be read"),
    (["--steps", "60"], lambda p: damage(p / "out/tune/rates/result.json"), "cannot be read"),
    (["--steps", "60"], lambda p: (p / "out/next-round").touch(), "cannot be written"),
]


@pytest.mark.parametrize(("arguments", "spoil", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(playbook, copy, arguments, spoil, message):
    shutil.rmtree(copy / "out/next-round", ignore_errors=True)
    if spoil:
        spoil(copy)
    status, stdout, errors = playbook("next-round", copy / "rates.toml", "--out", copy / "out", *arguments)
    assert (status, stdout) == (2, "")
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert not (copy / "out/next-round").is_dir()


def test_a_study_without_a_feasible_setting(playbook, tmp_path):
    spec = SPEC.replace("0.01, 0.02, 0.05, 0.1, 0.2, 0.5, ", "").replace("trials = 12", "trials = 2")
    (tmp_path / "rates.toml").write_text(spec)
    assert playbook("tune", tmp_path / "rates.toml", "--out", tmp_path, "--jobs", "1")[0] == 1
    status, _, errors = playbook("next-round", tmp_path / "rates.toml", "--steps", 60, "--out", tmp_path)
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "of which there are none" in errors
