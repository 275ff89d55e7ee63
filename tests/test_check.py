"""The command check on the stand-in experiment, recorded at one seed and run afresh at others."""

import dataclasses
import json
import re
import shutil
import subprocess
import tomllib
from functools import partial
from pathlib import Path

import pytest

from harness import check as driver
from harness.check import check, compare_benchmarks, compare_trials
from harness.experiments.verdict import larger
from harness.nights import NIGHTS, Nights
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
        assert found["status"] == 0
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

    def test_results_that_are_none_of_a_night_are_not_pooled(self, kept, night, tmp_path):
        """Nor is their seed taken."""
        out = tmp_path / "out"
        shutil.copytree(night[0] / "stand-in" / "laptop-seed2", out / "stand-in" / "laptop-seed6")
        found = check([JUDGED], "laptop", out, kept, **NAMED)
        assert found["seed"] == 7 and [row["fresh"] for row in found["metrics"]] == [8, 8]

    def test_nights_against_other_baselines_are_not_pooled(self, kept, night, tmp_path):
        out = tmp_path / "out"
        shutil.copytree(night[0], out)
        nights = json.loads((out / NIGHTS).read_text())
        nights[0]["baselines"]["stand-in"] = ["another"]
        (out / NIGHTS).write_text(json.dumps(nights[:1]))
        found = check([JUDGED], "laptop", out, kept, seed=9, **NAMED)
        assert [row["fresh"] for row in found["metrics"]] == [8, 8]

    def test_one_that_cannot_be_run_takes_nothing_from_the_others(self, kept, night, tmp_path):
        def studies(error, *_):
            raise error

        shutil.copytree(night[0], tmp_path / "out")
        told = []
        for error, status in ((InputError("no\ndata"), 2), (ZeroDivisionError("oh"), 70)):
            broken = dataclasses.replace(JUDGED, name="broken", studies=partial(studies, error))
            found = check([broken, JUDGED], "laptop", tmp_path / "out", kept, seed=2, on_failure=told.append, **NAMED)
            assert len(found["metrics"]) == 2 and found["status"] == status
            assert found["unchecked"] == {"broken": "no data" if status == 2 else "ZeroDivisionError: oh"}
        assert len(told) == 1 and "ZeroDivisionError" in told[0]
        assert json.loads((tmp_path / "out" / "check.json").read_text())["unchecked"]

    def test_without_a_baseline(self, night, tmp_path):
        """Where nothing is compared, nothing is well."""
        (tmp_path / "kept").mkdir()
        found = check([JUDGED], "laptop", night[0], tmp_path / "kept", seed=2, **NAMED)
        assert found["drifts"] == found["metrics"] == []
        assert "no trials of scale laptop are recorded" in found["unchecked"]["stand-in"]
        assert found["status"] == 2

    def test_settings_that_are_recorded_no_more(self, kept, tmp_path):
        renamed = dataclasses.replace(stand_in_study(replicates=range(8)), name="renamed")
        other = dataclasses.replace(JUDGED, studies=lambda *_: [renamed])
        found = check([other], "laptop", tmp_path, kept, **NAMED)
        assert "settings in common" in found["unchecked"]["stand-in"] and found["status"] == 2
        assert len(found["verdicts"]) == 1

    def test_few_recorded_units(self, tmp_path):
        """Their verdicts are compared, and that is said."""
        few = dataclasses.replace(JUDGED, studies=lambda *_: [stand_in_study(replicates=range(3))])
        reproduce(few, "laptop", tmp_path / "out", 0, control=False, overrides={}, fresh=False, **NAMED)
        record(tmp_path / "out", baseline=tmp_path / "kept")
        found = check([few], "laptop", tmp_path / "nights", tmp_path / "kept", **NAMED)
        assert found["notes"] == ["stand-in: verdicts alone, as fewer than 8 independent units are recorded"]
        assert (found["status"], len(found["verdicts"]), found["metrics"]) == (0, 1, [])

    def test_a_claim_that_is_gone(self, kept, tmp_path):
        fewer = dataclasses.replace(JUDGED, judge=lambda records, scale, control: [])
        found = check([fewer], "laptop", tmp_path, kept, **NAMED)
        assert found["notes"] == [f"stand-in: {CLAIM.id} is recorded, and judged no more"]


class TestSeeds:
    """Which seed a night has."""

    @staticmethod
    def begin(out, used=(), seed=None, scale="laptop"):
        return Nights(out, scale, used, seed)

    def test_the_first_is_2_and_each_next_one_higher(self, tmp_path):
        for expected in (2, 3):
            night = self.begin(tmp_path)
            assert night.seed == expected
            night.finish()
        assert self.begin(tmp_path, scale="smoke").seed == 2

    def test_none_that_is_used(self, tmp_path):
        assert self.begin(tmp_path, used=(0, 1, 5)).seed == 6

    def test_one_that_was_cut_off_goes_on(self, tmp_path):
        assert [self.begin(tmp_path, used=(2,)).seed for _ in range(3)] == [3, 3, 3]

    @pytest.mark.parametrize("changed", ["source", "jax"])
    def test_not_with_another_code(self, tmp_path, changed):
        """Its trials would be those of another specification."""
        self.begin(tmp_path).compared("a", ["x"])
        nights = json.loads((tmp_path / NIGHTS).read_text())
        nights[0][changed] = "another"
        (tmp_path / NIGHTS).write_text(json.dumps(nights))
        night = self.begin(tmp_path)
        assert night.seed == 3
        assert night.compared("a", ["x"]) == [2, 3]  # what it finished counts

    def test_an_older_one_asked_for_again_moves_nothing_back(self, tmp_path):
        for _ in range(3):
            self.begin(tmp_path).finish()
        again = self.begin(tmp_path, seed=2)
        assert again.compared("a", []) == [2]
        again.finish()
        assert self.begin(tmp_path).seed == 5

    @pytest.mark.parametrize("content", ["{", "[{}]", '[{"seed": "2"}]', "7"])
    def test_a_damaged_file(self, tmp_path, content):
        (tmp_path / NIGHTS).write_text(content)
        with pytest.raises(InputError, match=f"{NIGHTS} is damaged.*remove it") as caught:
            self.begin(tmp_path)
        assert "\n" not in str(caught.value)
        assert (tmp_path / NIGHTS).read_text() == content

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "out").write_text("in the way")
        with pytest.raises(InputError, match="out cannot be written"):
            self.begin(tmp_path / "out")


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

    @staticmethod
    def files(tmp_path, kept, cpu="EPYC", cores=2, **extra):
        """Copies baselines and records a benchmark; the file of a fresh one of a machine."""
        shutil.copytree(kept, tmp_path / "kept")
        row = {"extra_info": {"ratio_to_loop": 3.0}, "machine": {"cpu": "EPYC", "cores": 2, "jax": "0"}}
        (tmp_path / "kept" / "laptop" / "benchmarks.json").write_text(json.dumps({"a[harness]": row}))
        fresh = tmp_path / "fresh.json"
        row = {"fullname": "a[harness]", "extra_info": {"ratio_to_loop": 1.0, "device": "cpu", **extra}}
        machine = {"cpu": {"brand_raw": cpu, "count": cores}}
        fresh.write_text(json.dumps({"machine_info": machine, "benchmarks": [row]}))
        return tmp_path / "kept", fresh

    def test_of_a_night(self, kept, night, tmp_path):
        baseline, fresh = self.files(tmp_path, kept, ratio_to_nothing=None, overhead=-1)
        found = check([JUDGED], "laptop", night[0], baseline, seed=2, benchmarks=fresh, **NAMED)
        assert found["drifts"] == ["a[harness]: ratio_to_loop 3 -> 1, x0.33"] and found["status"] == 1

    @pytest.mark.parametrize("machine", [{"cpu": "Xeon"}, {"cores": 16}])
    def test_on_another_processor(self, kept, night, tmp_path, machine):
        baseline, fresh = self.files(tmp_path, kept, **machine)
        found = check([JUDGED], "laptop", night[0], baseline, seed=2, benchmarks=fresh, **NAMED)
        assert (found["benchmarks"], found["drifts"], found["status"]) == ([], [], 2)
        assert "none of" in found["unchecked"]["benchmarks"]

    def test_where_none_are_recorded(self, kept, night, tmp_path):
        _, fresh = self.files(tmp_path, kept)
        found = check([JUDGED], "laptop", night[0], kept, seed=2, benchmarks=fresh, **NAMED)
        assert "none are recorded" in found["unchecked"]["benchmarks"]


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
            job = next(iter(yaml.safe_load(path.read_text())["jobs"].values()))
            assert any(step.get("run", "").startswith(".ci/") for step in job["steps"])
        uses = re.findall(r"uses: (.*)", "".join(p.read_text() for p in (ROOT / ".github/workflows").glob("*.yml")))
        assert len(uses) >= 5
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in uses)

    def test_the_hosted_pythons_begin_with_the_oldest_that_is_supported(self):
        oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
        assert f'python: ["{oldest}", "3.12", "3.13"]' in (ROOT / ".github/workflows/ci.yml").read_text()

    @pytest.mark.parametrize(
        ("pytest_status", "check_status", "report_status", "expected"),
        [(0, 0, 0, 0), (0, 1, 0, 1), (0, 2, 2, 2), (3, 1, 0, 1), (1, 0, 0, 70), (0, 0, 4, 4)],
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
        for seed in (2, 3, 9, 10):
            (folder / "results" / "stand-in" / f"accelerator-seed{seed}").mkdir(parents=True)
        (folder / "results" / "stand-in" / "laptop-seed1").mkdir()
        command = [ROOT / ".ci" / "nightly", "a night", "accelerator", "stand-in"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == expected, done.stderr
        assert (folder / "check.txt").read_text() == "check done\n" and "check done" in done.stdout
        kept = {path.name for path in (folder / "results" / "stand-in").iterdir()}
        assert kept == {"accelerator-seed3", "accelerator-seed9", "accelerator-seed10", "laptop-seed1"}
        assert f"removed {folder}/results/stand-in/accelerator-seed2" in done.stdout
        calls = (tmp_path / "calls").read_text().splitlines()
        compared = "" if pytest_status else f" --benchmarks {folder}/benchmarks.json"
        assert calls[-2:] == [
            f"playbook check stand-in --scale accelerator --out {folder}/results{compared}",
            f"playbook report --out {folder}/results",
        ]
