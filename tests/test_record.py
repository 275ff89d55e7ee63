import dataclasses
import importlib.resources
import json
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from harness.record import _are_around, record
from harness.recorded import recorded_trials
from harness.records import InputError
from harness.report.trial_table import read_parquet, write_parquet
from harness.studies.fingerprint import fingerprint
from tests.made_up_records import falling
from tests.made_up_records import record as made_up

BENCHMARKS = """
import pytest

def test_step(benchmark):
    benchmark.extra_info["device"] = "cpu"
    benchmark.pedantic(sum, args=([1, 2],), rounds=4)

@pytest.mark.parametrize("size", [1, 2])
def test_load(benchmark, size):
    benchmark.pedantic(sum, args=([size],), rounds=3)
"""


@pytest.fixture
def out(study_copy):
    """Results of the stand-in: a smoke one, which it has, and what a test adds with `add`."""
    return study_copy.out


def add(out, folder, device="AMD EPYC", figure=b"figure", trials=None, **fields):
    """A result folder made of the finished smoke study's, with its trials or others."""
    smoke = out / "stand-in" / "smoke-seed0"
    result = json.loads((smoke / "result.json").read_text())
    (out / folder).mkdir(parents=True)
    if trials is None:
        shutil.copy(smoke / "trials.parquet", out / folder)
    else:
        write_parquet(trials, out / folder / "trials.parquet")
        result.update(fingerprint=fingerprint(trials), trials={"complete": len(trials), "infeasible": 0})
    result.update(fields)
    result["provenance"]["device"] = device
    (out / folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    if figure:
        (out / folder / "figure.png").write_bytes(figure)
    return result


def trials(error, count=3):
    return [made_up("rates", number, falling(20), error=error, learning_rate=0.1) for number in range(count)]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def assert_refused(message, tmp_path, *arguments, **options):
    """Bad input, in one line, after which nothing is written."""
    before = files(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        record(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before


class TestResults:
    def test_seeds_scales_controls_and_trained_workloads(self, out, tmp_path):
        """Smoke results, and those that were moved aside, stay out."""
        zero = add(out, "stand-in/laptop-seed0", scale="laptop")
        add(out, "stand-in/laptop-seed1", scale="laptop", seed=1, figure=b"another")
        add(out, "stand-in/laptop-seed0-control", scale="laptop", control=True)
        add(out, "stand-in/laptop-seed0.20261123", scale="laptop")
        add(out, "train/resnet/accelerator-seed0")
        add(out, "train/resnet/smoke-seed0")
        kept = tmp_path / "kept"
        written = record(out, baseline=kept)
        assert files(kept) == [
            "laptop/stand-in/laptop-seed0-control.json",
            "laptop/stand-in/laptop-seed0-control.png",
            "laptop/stand-in/laptop-seed0.json",
            "laptop/stand-in/laptop-seed0.png",
            "laptop/stand-in/laptop-seed1.json",
            "laptop/stand-in/laptop-seed1.png",
            "laptop/train/resnet/accelerator-seed0.json",
            "laptop/trials.parquet",
        ]
        assert sorted(path.relative_to(kept).as_posix() for path in written) == files(kept)
        assert json.loads((kept / "laptop/stand-in/laptop-seed0.json").read_text()) == zero
        assert json.loads((kept / "laptop/stand-in/laptop-seed1.json").read_text())["seed"] == 1
        assert (kept / "laptop/stand-in/laptop-seed1.png").read_bytes() == b"another"

    def test_a_second_time_replaces_and_keeps_the_rest(self, out, tmp_path):
        add(out, "stand-in/laptop-seed0", trials=trials(0.1))
        record(out, baseline=tmp_path / "kept")
        shutil.rmtree(out / "stand-in" / "laptop-seed0")
        add(out, "stand-in/laptop-seed1", trials=trials(0.2))
        record(out, baseline=tmp_path / "kept")
        shutil.rmtree(out / "stand-in" / "laptop-seed1")
        wanted = add(out, "stand-in/laptop-seed0", trials=trials(0.3, count=2))
        record(out, baseline=tmp_path / "kept")
        kept = tmp_path / "kept" / "laptop" / "stand-in"
        assert json.loads((kept / "laptop-seed0.json").read_text())["fingerprint"] == wanted["fingerprint"]
        assert (kept / "laptop-seed1.json").exists()
        found = recorded_trials("stand-in", "laptop", None, tmp_path / "kept")
        errors = {seed: [record.results["final_error"] for record in records] for seed, records in found.items()}
        assert errors == {0: [0.3] * 2, 1: [0.2] * 3}

    @pytest.mark.parametrize(
        ("device", "folder"),
        [
            ("AMD EPYC", "laptop"),
            ("Intel(R) Xeon(R) CPU @ 2.20GHz", "laptop"),
            ("AMD Ryzen 7 with Radeon Graphics", "laptop"),
            ("aarch64", "laptop"),
            ("NVIDIA H200", "h200"),
            ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
            ("Tesla V100-SXM2-16GB", "tesla-v100-sxm2-16gb"),
            ("TPU v5 lite", "tpu-v5-lite"),
            ("AMD Instinct MI300X", "amd-instinct-mi300x"),
        ],
    )
    def test_folder_of_a_device(self, out, tmp_path, device, folder):
        add(out, "train/resnet/laptop-seed0", device)
        record(out, baseline=tmp_path / "kept")
        assert files(tmp_path / "kept") == [f"{folder}/train/resnet/laptop-seed0.json"]

    def test_results_of_two_devices(self, out, tmp_path):
        add(out, "stand-in/laptop-seed0")
        add(out, "stand-in/accelerator-seed0", "NVIDIA H200")
        record(out, baseline=tmp_path / "kept")
        assert files(tmp_path / "kept") == [
            "h200/stand-in/accelerator-seed0.json",
            "h200/stand-in/accelerator-seed0.png",
            "h200/trials.parquet",
            "laptop/stand-in/laptop-seed0.json",
            "laptop/stand-in/laptop-seed0.png",
            "laptop/trials.parquet",
        ]

    def test_a_named_device(self, out, tmp_path):
        add(out, "stand-in/laptop-seed0", "NVIDIA H200")
        record(out, device="ci", baseline=tmp_path / "kept")
        kept = ["ci/stand-in/laptop-seed0.json", "ci/stand-in/laptop-seed0.png", "ci/trials.parquet"]
        assert files(tmp_path / "kept") == kept

    def test_the_default_is_the_package(self, out, tmp_path, monkeypatch):
        # Not a second package of this name: pytest's import hook, which keeps names, would find its files ever after.
        monkeypatch.setattr("importlib.resources.files", {"baselines": tmp_path / "baselines"}.__getitem__)
        add(out, "train/resnet/laptop-seed0")
        (path,) = record(out)
        assert path == tmp_path / "baselines" / "laptop" / "train" / "resnet" / "laptop-seed0.json"

    def test_no_result(self, out, tmp_path):
        """A smoke result is none."""
        for folder in (out, tmp_path / "missing"):
            assert_refused(
                f"{folder} holds no result to record.*playbook reproduce.*--out",
                tmp_path,
                folder,
                baseline=tmp_path / "kept",
            )

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "{",
            "[]",
            "null",
            "{}",
            '{"fingerprint": "a"}',
            '{"fingerprint": "a", "provenance": {}}',
            '{"fingerprint": "a", "provenance": {"device": null}}',
            '{"fingerprint": 1, "provenance": {"device": "AMD EPYC"}}',
            b"\xff\xfe\xff",
        ],
    )
    def test_a_damaged_result(self, out, tmp_path, content):
        """The others are not written either."""
        add(out, "stand-in/laptop-seed0")
        add(out, "stand-in/laptop-seed1")
        path = out / "stand-in" / "laptop-seed1" / "result.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert_refused(f"{path} is damaged.*run its command again", tmp_path, out, baseline=tmp_path / "kept")

    def test_flip_maps_of_a_result_that_is_replaced(self, out, tmp_path):
        """They go where they are around another result, and it is said."""
        claim = {"id": "a.b", "verdict": "reproduced", "effect": 1.0}
        told = []
        add(out, "stand-in/laptop-seed0", claims=[{**claim, "text": "A is b."}])
        flips = out / "stand-in" / "laptop-seed0" / "flips.json"
        flips.write_text(json.dumps({"claims": [claim], "cells": []}))
        kept = tmp_path / "kept"
        recorded = kept / "laptop" / "stand-in" / "laptop-seed0.flips.json"
        record(out, baseline=kept)
        flips.unlink()
        record(out, baseline=kept, on_notice=told.append)
        assert recorded.exists() and not told
        shutil.rmtree(out / "stand-in" / "laptop-seed0")
        add(out, "stand-in/laptop-seed0", claims=[{**claim, "effect": 1.5, "text": "A is b."}])
        record(out, baseline=kept, on_notice=told.append)
        assert not recorded.exists()
        assert told == [f"{recorded} removed: maps around another result; playbook flips makes new ones"]

    def test_a_changed_experiment(self, out, tmp_path):
        """A baseline is of the experiment as it stands."""
        add(out, "stand-in/laptop-seed0")
        add(out, "stand-in/laptop-seed1", overrides={"width": "4", "lively": "true"})
        assert_refused(
            "laptop-seed1/result.json was made with --set width=4 --set lively=true: expected an experiment as it "
            "stands; run its command again without",
            tmp_path,
            out,
            baseline=tmp_path / "kept",
        )

    def test_a_missing_figure(self, out, tmp_path):
        add(out, "stand-in/laptop-seed0", figure=None)
        assert_refused(
            "laptop-seed0/figure.png cannot be read.*run its command again", tmp_path, out, baseline=tmp_path / "kept"
        )

    def test_a_baseline_below_a_file(self, out, tmp_path):
        add(out, "stand-in/laptop-seed0")
        (tmp_path / "file").touch()
        baseline = tmp_path / "file" / "kept"
        assert_refused(f"{baseline} cannot be written.*--baseline", tmp_path, out, baseline=baseline)

    def test_a_folder_in_the_place_of_a_file(self, out, tmp_path):
        """What was begun beside it goes."""
        add(out, "train/resnet/laptop-seed0")
        (tmp_path / "kept/laptop/train/resnet/laptop-seed0.json").mkdir(parents=True)
        assert_refused("cannot be written.*--baseline", tmp_path, out, baseline=tmp_path / "kept")

    @pytest.mark.parametrize("device", ["", "H200", "../h200", "a/b", ".hidden", "published", "a b", "h200\n"])
    def test_a_bad_name_of_a_device(self, out, tmp_path, device):
        add(out, "stand-in/laptop-seed0")
        assert_refused("--device .*such as h200", tmp_path, out, device=device, baseline=tmp_path / "kept")


class TestTrials:
    def test_what_a_reader_finds(self, out, tmp_path):
        """The stand-in's trials as its own table has them, curves and timings aside."""
        add(out, "stand-in/laptop-seed0")
        add(out, "stand-in/laptop-seed3-control", trials=trials(0.1))
        record(out, baseline=tmp_path / "kept")
        table = pq.read_table(tmp_path / "kept" / "laptop" / "trials.parquet")
        assert table.column_names[:4] == ["experiment", "scale", "seed", "control"]
        keys = table.select(["experiment", "scale", "seed", "control"]).to_pylist()
        places = [tuple(key.values()) for key in keys]
        own = pq.read_table(out / "stand-in" / "laptop-seed0" / "trials.parquet")
        assert own.num_rows == 12
        assert places == [("stand-in", "laptop", 0, False)] * 12 + [("stand-in", "laptop", 3, True)] * 3
        classes = json.loads(own.schema.metadata[b"column_classes"])
        dropped = {name for name, kind in classes.items() if kind == "timing" or name.startswith("curve.")}
        assert dropped >= {"curve.train_loss", "trial_seconds"}
        assert not dropped & set(table.column_names)
        for name in set(classes) - dropped:
            # As text, since a NaN is no other's equal.
            assert str(table[name].to_pylist()[:12]) == str(own[name].to_pylist()), name

    def test_equal_results_give_equal_bytes(self, out, tmp_path):
        """At once, one after another, and again."""
        folders = ["stand-in/laptop-seed0", "stand-in/laptop-seed1", "another/laptop-seed0", "another/large-seed0"]
        for number, folder in enumerate(folders):
            add(out, folder, trials=trials(0.1 * number, count=number + 1))
        record(out, baseline=tmp_path / "kept")
        for folder in reversed(folders):
            shutil.copytree(out / folder, tmp_path / "one" / folder)
            record(tmp_path / "one", baseline=tmp_path / "another")
            shutil.rmtree(tmp_path / "one")
        record(out, baseline=tmp_path / "another")
        one, other = ((tmp_path / name / "laptop" / "trials.parquet").read_bytes() for name in ("kept", "another"))
        assert one == other

    def test_those_of_another_run(self, out, tmp_path):
        add(out, "stand-in/laptop-seed0")
        add(out, "stand-in/laptop-seed1", fingerprint="a" * 64)
        message = "seed1/trials.parquet does not hold the trials.*aaa.*remove it and run its command again"
        assert_refused(message, tmp_path, out, baseline=tmp_path / "kept")

    def test_one_result_of_one_trial_is_off_by_a_bit(self, out, tmp_path):
        """A curve is looked at too, though it is not kept."""
        add(out, "stand-in/laptop-seed0")
        path = out / "stand-in" / "laptop-seed0" / "trials.parquet"
        records = read_parquet(path)
        loss = records[5].curves["train_loss"].copy()
        loss.view("u4")[3] ^= 1
        records[5] = dataclasses.replace(records[5], curves={**records[5].curves, "train_loss": loss})
        write_parquet(records, path)
        assert_refused("does not hold the trials", tmp_path, out, baseline=tmp_path / "kept")

    def test_a_missing_table(self, out, tmp_path):
        add(out, "stand-in/laptop-seed0")
        (out / "stand-in" / "laptop-seed0" / "trials.parquet").unlink()
        message = "trials.parquet is missing; run its command again"
        assert_refused(message, tmp_path, out, baseline=tmp_path / "kept")

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 no table PAR1"])
    def test_a_damaged_table(self, out, tmp_path, content):
        add(out, "stand-in/laptop-seed0")
        (out / "stand-in" / "laptop-seed0" / "trials.parquet").write_bytes(content)
        message = "trials.parquet is damaged.*remove it and run its command again"
        assert_refused(message, tmp_path, out, baseline=tmp_path / "kept")

    def test_damaged_recorded_ones(self, out, tmp_path):
        """What was recorded before is not thrown away."""
        add(out, "stand-in/laptop-seed0")
        path = tmp_path / "kept" / "laptop" / "trials.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"PAR1")
        assert_refused(f"recorded trials {path} are damaged", tmp_path, out, baseline=tmp_path / "kept")


@pytest.fixture(scope="module")
def benchmark_file(tmp_path_factory):
    """Written by pytest-benchmark."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "bench_it.py").write_text(BENCHMARKS)
    command = [sys.executable, "-m", "pytest", "-q", "bench_it.py", "--rootdir=.", "--benchmark-json=found.json"]
    # Benchmarks are disabled in a process that takes itself for one of pytest-xdist's.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "found.json"


@pytest.fixture
def changed(benchmark_file, tmp_path):
    """Writes the benchmarks as a function changes them."""

    def write(change):
        content = json.loads(benchmark_file.read_text())
        change(content)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(content))
        return path

    return write


class TestBenchmarks:
    def test_alone(self, benchmark_file, tmp_path):
        kept = tmp_path / "kept"
        assert record(tmp_path / "missing", benchmark_file, baseline=kept) == [kept / "laptop" / "benchmarks.json"]
        rows = json.loads((kept / "laptop" / "benchmarks.json").read_text())
        assert list(rows) == ["bench_it.py::test_load[1]", "bench_it.py::test_load[2]", "bench_it.py::test_step"]
        content = json.loads(benchmark_file.read_text())
        (timed,) = (found for found in content["benchmarks"] if found["name"] == "test_step")
        row = rows["bench_it.py::test_step"]
        assert set(row) == {"median", "q1", "q3", "rounds", "extra_info", "machine"}
        assert [row[name] for name in ("median", "q1", "q3")] == [timed["stats"][n] for n in ("median", "q1", "q3")]
        assert (row["rounds"], row["extra_info"]) == (4, {"device": "cpu"})
        assert set(row["machine"]) == {"cpu", "cores", "python", "jax"}
        assert row["machine"]["python"] == content["machine_info"]["python_version"]
        assert row["machine"]["cpu"] == content["machine_info"]["cpu"].get("brand_raw")

    def test_beside_results(self, out, benchmark_file, tmp_path):
        add(out, "train/resnet/laptop-seed0")
        record(out, benchmark_file, baseline=tmp_path / "kept")
        assert files(tmp_path / "kept") == ["laptop/benchmarks.json", "laptop/train/resnet/laptop-seed0.json"]

    def test_merged_by_name(self, benchmark_file, changed, tmp_path):
        def another_run(content):
            content["benchmarks"] = [found for found in content["benchmarks"] if found["name"] == "test_step"]
            content["benchmarks"][0]["stats"]["median"] = 7.0
            content["machine_info"]["jax"] = "9.9"
            content["benchmarks"].append({**content["benchmarks"][0], "fullname": "bench_it.py::a_new_one"})

        record(tmp_path, benchmark_file, baseline=tmp_path / "kept")
        path = tmp_path / "kept" / "laptop" / "benchmarks.json"
        before = json.loads(path.read_text())
        record(tmp_path, changed(another_run), baseline=tmp_path / "kept")
        after = json.loads(path.read_text())
        assert list(after) == sorted([*before, "bench_it.py::a_new_one"])
        assert after["bench_it.py::test_load[1]"] == before["bench_it.py::test_load[1]"]
        assert after["bench_it.py::test_step"]["median"] == 7
        assert after["bench_it.py::test_step"]["machine"]["jax"] == "9.9"

    def test_of_an_accelerator(self, changed, tmp_path):
        """One benchmark that names it is enough: those of the data do not."""

        def on_an_accelerator(content):
            for found in content["benchmarks"]:
                if found["extra_info"]:
                    found["extra_info"]["device"] = "NVIDIA H200"

        record(tmp_path, changed(on_an_accelerator), baseline=tmp_path / "kept")
        assert files(tmp_path / "kept") == ["h200/benchmarks.json"]

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "{}", '{"benchmarks": []}', '{"benchmarks": [{}], "machine_info": {}}', "[1]"]
    )
    def test_another_file(self, out, tmp_path, content):
        """The results are not written either."""
        add(out, "stand-in/laptop-seed0")
        path = tmp_path / "other.json"
        path.write_text(content)
        assert_refused(f"{path} holds no benchmark.*--benchmark-json", tmp_path, out, path, baseline=tmp_path / "kept")

    def test_a_benchmark_without_a_median(self, changed, tmp_path):
        path = changed(lambda content: content["benchmarks"][0]["stats"].pop("median"))
        assert_refused("holds no benchmark", tmp_path, tmp_path, path, baseline=tmp_path / "kept")

    def test_a_missing_file(self, tmp_path):
        path = tmp_path / "missing.json"
        assert_refused(f"{path} cannot be read", tmp_path, tmp_path, path, baseline=tmp_path / "kept")

    @pytest.mark.parametrize("content", ["{", "[]", b"\xff"])
    def test_damaged_recorded_ones(self, benchmark_file, tmp_path, content):
        path = tmp_path / "kept" / "laptop" / "benchmarks.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert_refused(f"{path} are damaged", tmp_path, tmp_path, benchmark_file, baseline=tmp_path / "kept")


def test_recorded_results_lie_where_they_came_from():
    """Of those in the package."""
    package = importlib.resources.files("baselines")
    results = [path for path in package.glob("*/*/*.json") if not path.name.endswith(".flips.json")]
    for path in results:
        result = json.loads(path.read_text())
        name = f"{result['scale']}-seed{result['seed']}{'-control' if result['control'] else ''}"
        assert (path.parent.name, path.stem) == (result["experiment"], name)
        assert path.with_suffix(".png").exists()
    assert results


def test_recorded_flip_maps_lie_where_they_came_from():
    """Of those in the package."""
    package = importlib.resources.files("baselines")
    paths = list(package.glob("*/*/*.flips.json"))
    for path in paths:
        flips = json.loads(path.read_text())
        name = f"{flips['scale']}-seed{flips['seed']}.flips.json"
        assert (path.parent.name, path.name) == (flips["experiment"], name)
        assert _are_around(path, path.with_name(name.replace(".flips", "")).read_bytes())
    assert paths
