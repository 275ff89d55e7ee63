import importlib.resources
import json
import os
import subprocess
import sys

import pytest

from harness.record import record
from harness.records import InputError

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


def add(out, folder, device="AMD EPYC", figure=b"figure", **fields):
    """A result folder made of the finished smoke study's."""
    result = json.loads((out / "stand-in" / "smoke-seed0" / "result.json").read_text())
    result.update(fields)
    result["provenance"]["device"] = device
    (out / folder).mkdir(parents=True)
    (out / folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    if figure:
        (out / folder / "figure.png").write_bytes(figure)
    return result


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
        ]
        assert sorted(path.relative_to(kept).as_posix() for path in written) == files(kept)
        assert json.loads((kept / "laptop/stand-in/laptop-seed0.json").read_text()) == zero
        assert json.loads((kept / "laptop/stand-in/laptop-seed1.json").read_text())["seed"] == 1
        assert (kept / "laptop/stand-in/laptop-seed1.png").read_bytes() == b"another"

    def test_a_second_time_replaces_and_keeps_the_rest(self, out, tmp_path):
        add(out, "stand-in/laptop-seed0", fingerprint="a" * 64)
        record(out, baseline=tmp_path / "kept")
        for path in (out / "stand-in" / "laptop-seed0").iterdir():
            path.unlink()
        (out / "stand-in" / "laptop-seed0").rmdir()
        add(out, "stand-in/laptop-seed1")
        record(out, baseline=tmp_path / "kept")
        add(out, "stand-in/laptop-seed0", fingerprint="b" * 64)
        record(out, baseline=tmp_path / "kept")
        kept = tmp_path / "kept" / "laptop" / "stand-in"
        assert json.loads((kept / "laptop-seed0.json").read_text())["fingerprint"] == "b" * 64
        assert (kept / "laptop-seed1.json").exists()

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
        assert {name.split("/")[0] for name in files(tmp_path / "kept")} == {"laptop", "h200"}

    def test_a_named_device(self, out, tmp_path):
        add(out, "stand-in/laptop-seed0", "NVIDIA H200")
        record(out, device="ci", baseline=tmp_path / "kept")
        assert files(tmp_path / "kept") == ["ci/stand-in/laptop-seed0.json", "ci/stand-in/laptop-seed0.png"]

    def test_the_default_is_the_package(self, out, tmp_path, monkeypatch):
        (tmp_path / "site" / "baselines").mkdir(parents=True)
        (tmp_path / "site" / "baselines" / "__init__.py").touch()
        monkeypatch.setitem(sys.modules, "baselines", None)  # so that what is imported now goes in the end
        monkeypatch.delitem(sys.modules, "baselines")
        monkeypatch.syspath_prepend(tmp_path / "site")
        add(out, "train/resnet/laptop-seed0")
        (path,) = record(out)
        assert path == tmp_path / "site" / "baselines" / "laptop" / "train" / "resnet" / "laptop-seed0.json"

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


@pytest.fixture(scope="module")
def benchmark_file(tmp_path_factory):
    """Written by pytest-benchmark."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "bench_it.py").write_text(BENCHMARKS)
    command = [sys.executable, "-m", "pytest", "-q", "bench_it.py", "--rootdir=.", "--benchmark-json=found.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=dict(os.environ))
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
        assert set(row["machine"]) == {"cpu", "python", "jax"}
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
    assert paths
