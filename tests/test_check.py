"""The command check on the stand-in experiment, recorded at one seed and run afresh at others."""

import dataclasses
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from harness import check as driver
from harness.check import check, compare_benchmarks, compare_trials
from harness.experiments.verdict import larger
from harness.record import record
from harness.recorded import recorded_trials
from harness.records import InputError
from harness.reproduce import reproduce
from tests.stand_in import EXPERIMENT, stand_in_study

ROOT = Path(__file__).parents[1]
CLAIM = EXPERIMENT.claims[0]
JUDGED = dataclasses.replace(
    EXPERIMENT,
    studies=lambda scale, control, overrides: [stand_in_study(replicates=range(8))],
    judge=lambda records, scale, control: [(CLAIM, larger([1.0, 1.1] * 6, 0.0))],
    flips=(),
)
NAMED = {"jobs": 1, "executor": None, "command": "playbook check"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Baselines of seed 0."""
    out = tmp_path_factory.mktemp("recorded")
    reproduce(JUDGED, "laptop", out, 0, control=False, overrides={}, fresh=False, **NAMED)
    record(out, baseline=out / "kept")
    return out / "kept"


@pytest.fixture(scope="module")
def night(kept, tmp_path_factory):
    """The first night: its folder, and what it found."""
    out = tmp_path_factory.mktemp("nights")
    return out, check([JUDGED], "laptop", out, kept, **NAMED)


class TestNight:
    def test_nothing_drifted(self, night):
        out, found = night
        assert (found["drifts"], found["notes"], found["unchecked"], found["seed"]) == ([], [], {}, 2)
        assert [(row["metric"], row["recorded"], row["fresh"]) for row in found["metrics"]] == [
            ("final_error", 8, 8),
            ("final_loss", 8, 8),
        ]
        assert json.loads((out / "check.json").read_text()) == found

    def test_the_next_night_has_another_seed_and_pools(self, kept, night):
        found = check([JUDGED], "laptop", night[0], kept, **NAMED)
        assert found["seed"] == 3 and [row["fresh"] for row in found["metrics"]] == [16, 16]

    def test_a_verdict_that_turned(self, kept, night, tmp_path):
        for verdict, drifts, notes in (("contradicted", 1, 0), ("inconclusive", 0, 1)):
            baseline = tmp_path / verdict
            for path in kept.rglob("*.*"):
                (baseline / path.relative_to(kept)).parent.mkdir(parents=True, exist_ok=True)
                (baseline / path.relative_to(kept)).write_bytes(path.read_bytes())
            path = baseline / "laptop" / "stand-in" / "laptop-seed0.json"
            result = json.loads(path.read_text())
            result["claims"][0]["verdict"] = verdict
            path.write_text(json.dumps(result))
            found = check([JUDGED], "laptop", night[0], baseline, seed=2, **NAMED)
            assert (len(found["drifts"]), len(found["notes"])) == (drifts, notes)
            (line,) = found["drifts"] + found["notes"]
            assert re.match(rf"{CLAIM.id}: {verdict} -> reproduced, effect 1\.05 -> 1\.05 \[", line)

    def test_an_interrupted_night_goes_on(self, kept, night, tmp_path):
        """It left results, but not what it found."""
        shutil.copytree(night[0] / "stand-in" / "laptop-seed2", tmp_path / "out" / "stand-in" / "laptop-seed2")
        assert check([JUDGED], "laptop", tmp_path / "out", kept, **NAMED)["seed"] == 2

    def test_without_a_baseline(self, night, tmp_path):
        (tmp_path / "kept").mkdir()
        found = check([JUDGED], "laptop", night[0], tmp_path / "kept", seed=2, **NAMED)
        assert found["drifts"] == found["metrics"] == []
        assert "no trials of scale laptop are recorded" in found["unchecked"]["stand-in"]


class TestTrials:
    def test_a_regression_is_found_and_measured(self, kept):
        recorded = recorded_trials("stand-in", "laptop", None, kept)
        fresh = {
            seed: [
                dataclasses.replace(
                    one,
                    results={**one.results, "final_loss": one.results["final_loss"] + 2},
                    seeds={purpose: value + seed for purpose, value in one.seeds.items()},
                )
                for one in recorded[0]
            ]
            for seed in (2, 3, 4)
        }
        same, moved = compare_trials("stand-in", recorded, fresh)
        assert same["p"] == 1 and moved["p"] < 1e-4
        assert moved["shift"] == pytest.approx(2) and moved["interval"][0] < 2 < moved["interval"][1]
        moved |= {"adjusted_p": 1e-4}
        assert re.fullmatch(
            r"stand-in: final_loss \+2 \[\+1\.\d+, \+2\.\d+\], \+[\d.]+ trial standard deviations, "
            r"adjusted p 0\.0001, 24 fresh units against 8 recorded",
            driver._line(moved),
        )

    def test_settings_that_one_side_lacks_are_left_out(self, kept):
        recorded = recorded_trials("stand-in", "laptop", None, kept)
        other = [
            dataclasses.replace(one, hyperparameters={**one.hyperparameters, "momentum": 0.5}) for one in recorded[0]
        ]
        assert compare_trials("stand-in", recorded, {2: other}) == []

    def test_a_hyperparameter_that_came_later(self, kept):
        recorded = recorded_trials("stand-in", "laptop", None, kept)
        newer = [
            dataclasses.replace(
                one,
                hyperparameters={**one.hyperparameters, "newer": 1},
                seeds={purpose: value + 1 for purpose, value in one.seeds.items()},
            )
            for one in recorded[0]
        ]
        assert len(compare_trials("stand-in", recorded, {2: newer})) == 2


class TestBenchmarks:
    def test_ratios_to_peers_alone(self):
        old = {
            "a[harness]": {"ratio_to_loop": 3.0, "steps_per_second": 10.0},
            "a[torch]": {"ratio_to_loop": 3.0},
            "b": {"overhead": 0.0},
            "gone[harness]": {"ratio_to_loop": 3.0},
        }
        new = {
            "a[harness]": {"ratio_to_loop": 1.5, "steps_per_second": 1.0},
            "a[torch]": {"ratio_to_loop": 0.1},
            "b": {"overhead": 0.2},
        }
        rows = compare_benchmarks(old, new)
        assert [(row["benchmark"], row["drift"]) for row in rows] == [("a[harness]", True), ("b", False)]
        assert [row["change"] for row in rows] == pytest.approx([0.5, 1 / 1.2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": Path("nowhere")}, "--baseline nowhere: expected a folder"),
        ({"seed": 0}, "--seed 0: expected one that is not recorded, but stand-in"),
        ({"seed": -1}, "--seed -1: expected at least 0"),
        ({"scale": "lptop"}, "unknown scale 'lptop'; did you mean 'laptop'"),
        ({"benchmarks": Path("nowhere.json")}, "--benchmarks nowhere.json cannot be read"),
    ],
)
def test_bad_input(kept, tmp_path, changes, message):
    arguments = {"scale": "laptop", "baseline": kept, **NAMED, **changes}
    with pytest.raises(InputError, match=message) as caught:
        check([JUDGED], out=tmp_path, **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "check.json").exists()


class TestNightly:
    def test_workflows_name_actions_by_commit(self):
        yaml = pytest.importorskip("yaml")
        for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
            (job,) = yaml.safe_load(path.read_text())["jobs"].values()
            assert any(step.get("run", "").startswith(".ci/") for step in job["steps"])
        uses = re.findall(r"uses: (.*)", "".join(p.read_text() for p in (ROOT / ".github/workflows").glob("*.yml")))
        assert len(uses) >= 5
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in uses)

    def test_the_hosted_pythons_begin_with_the_oldest_that_is_supported(self):
        oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
        assert f'python: ["{oldest}", "3.12", "3.13"]' in (ROOT / ".github/workflows/ci.yml").read_text()

    @pytest.mark.parametrize(
        ("pytest_status", "check_status", "report_status", "expected"),
        [(0, 0, 0, 0), (0, 1, 0, 1), (0, 2, 2, 2), (3, 1, 0, 1), (3, 0, 0, 3), (0, 0, 4, 4)],
    )
    def test_the_exit_status_of_the_script(self, tmp_path, pytest_status, check_status, report_status, expected):
        """Programs that note how they were called stand where the script finds its own."""
        folder = tmp_path / "a night"
        (folder / "venv" / "bin").mkdir(parents=True)
        for name, lines in {
            "python": "",
            "pip": "",
            "pytest": f"exit {pytest_status}",
            "playbook": f'echo "$1 done"; [ "$1" = check ] && exit {check_status}; exit {report_status}',
        }.items():
            program = folder / "venv" / "bin" / name
            program.write_text(f'#!/bin/sh\necho "{name} $*" >> "{tmp_path}/calls"\n{lines}\n')
            program.chmod(0o755)
        command = [ROOT / ".ci" / "nightly", folder, "accelerator", "stand-in"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stderr
        assert (folder / "check.txt").read_text() == "check done\n" and "check done" in done.stdout
        calls = (tmp_path / "calls").read_text().splitlines()
        compared = "" if pytest_status else f" --benchmarks {folder}/benchmarks.json"
        assert calls[-2:] == [
            f"playbook check stand-in --scale accelerator --out {folder}/results{compared}",
            f"playbook report --out {folder}/results",
        ]
