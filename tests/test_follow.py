"""The procedures from the command line, by real runs of the stand-in."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.cli import main
from harness.studies import rounds as driver

WORKLOAD = ["tests.stand_in:SCALES", "--scale", "smoke", "--jobs", "1"]
STEEP = ["tests.steep:SCALES", *WORKLOAD[1:], "--set", "steps=1000"]
COMMANDS = {
    "clip": ["clip", *WORKLOAD, "--seeds", "3", "--percentile", "80"],
    "warmup": ["warmup", *STEEP, "--seeds", "3", "--rates", "0.01,0.03,0.1,0.3", "--factor", "2"],
    "max-steps": [
        "max-steps",
        *WORKLOAD,
        "--set",
        "steps=200",
        "--seeds",
        "2",
        "--rates",
        "0.01,0.1,1",
        "--fit",
        "0.7",
    ],
    "instability": ["instability", *WORKLOAD, "--seeds", "2", "--rates", "0.01,0.1,100"],
}


@pytest.fixture
def playbook(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["playbook", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("procedures")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_procedure_leaves_its_folder_and_resumes_to_the_same(playbook, out, name, monkeypatch):
    status, stdout, errors = playbook(*COMMANDS[name], "--out", out, "--json")
    assert status in (0, 1), errors
    result = json.loads(stdout, parse_constant=pytest.fail)
    assert status == (0 if result["decided"] else 1)
    folder = out / name / "stand_in" / "smoke-seed0"
    assert {path.name for path in folder.iterdir()} == {
        "index.html",
        "result.json",
        "trials.parquet",
        "study.sqlite",
        "driver.lock",
    }
    assert json.loads((folder / "result.json").read_text()) == {k: v for k, v in result.items() if k != "folder"}
    page = (folder / "index.html").read_text()
    assert page.count('<svg viewBox="0 0 340 240"') >= 2
    assert page.count("<li class=") == len(result["findings"]) > 2
    assert len(pq.read_table(folder / "trials.parquet")) >= sum(result["trials"].values())

    ran = []
    monkeypatch.setattr("harness.studies.missing.run_trials", lambda *a, **k: ran.append(a))
    status, stdout, _ = playbook(*COMMANDS[name], "--out", out)
    assert ran == []
    for finding in result["findings"]:
        assert f"{finding['severity']}: {finding['check']}\n  {finding['evidence']}" in stdout
    assert stdout.splitlines()[-1] == f"page: {folder / 'index.html'}"
    again = json.loads((folder / "result.json").read_text())
    assert (again["fingerprint"], again["decision"]) == (result["fingerprint"], result["decision"])


def test_an_interruption_between_rounds_goes_on_to_the_same(playbook, out, tmp_path, monkeypatch):
    whole = json.loads((out / "clip/stand_in/smoke-seed0/result.json").read_text())
    stored, begun = driver.run_missing, []

    def die_in_the_second_round(store, planned, *rest):
        begun.append(len(planned))
        if len(begun) == 2:
            raise KeyboardInterrupt
        stored(store, planned, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "run_missing", die_in_the_second_round)
        assert playbook(*COMMANDS["clip"], "--out", tmp_path)[0] == 130
    assert begun == [3, 6]
    status, stdout, errors = playbook(*COMMANDS["clip"], "--out", tmp_path, "--json")
    assert status == 0, errors
    assert json.loads(stdout)["fingerprint"] == whole["fingerprint"]


def test_the_numbers_of_a_clip_run_are_those_of_its_trials(out):
    folder = out / "clip/stand_in/smoke-seed0"
    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    decision = json.loads((folder / "result.json").read_text())["decision"]
    unclipped, clipped = (
        sorted((r for r in rows if r["study"] == s), key=lambda r: r["replicate"]) for s in ("unclipped", "clipped")
    )
    assert {row["clip_threshold"] for row in clipped} == {decision["clip_threshold"]}
    norms = [norm for row in unclipped for norm in row["curve.gradient_norm"]]
    below = sum(norm < decision["clip_threshold"] for norm in norms) / len(norms)
    assert below == pytest.approx(0.8, abs=1 / len(norms))
    assert decision["clipped_share"]["by_seed"] == [row["clipped_share"] for row in clipped]
    assert [row["seed.order"] for row in clipped] == [row["seed.order"] for row in unclipped]


def test_other_settings_do_not_mix(playbook, out, tmp_path):
    shutil.copytree(out / "clip", tmp_path / "clip")
    status, _, errors = playbook(*COMMANDS["clip"], "--out", tmp_path, "--percentile", "70")
    assert status == 2
    assert "another specification" in errors
    assert "--fresh" in errors.splitlines()[-1]


BAD = [
    (["clip", "wide_resnt"], "unknown workload 'wide_resnt': did you mean 'wide_resnet'?"),
    (["clip", "no_such:SCALES"], "No module named 'no_such'"),
    (["clip", *WORKLOAD, "--percentile", "100"], "--percentile 100: expected more than 0 and less than 100"),
    (["clip", *WORKLOAD, "--percentile", "-3"], "--percentile -3: expected"),
    (["clip", *WORKLOAD, "--seeds", "1"], "--seeds 1: expected at least 2"),
    (["clip", *WORKLOAD, "--set", "clip_threshold=1"], "clip_threshold 1: expected none"),
    (["clip", *WORKLOAD, "--set", "batch_size=99"], "batch_size 99: expected at most 32"),
    (["clip", *WORKLOAD, "--seed", "-1"], "--seed -1: expected at least 0"),
    (["clip", *WORKLOAD, "--jobs", "0"], "--jobs 0: expected at least 1"),
    (["clip", *WORKLOAD, "--executor", "lane"], "unknown executor 'lane'; did you mean 'lanes'?"),
    (["warmup", *WORKLOAD, "--factor", "-10"], "--factor -10: expected more than 1"),
    (["warmup", *WORKLOAD, "--set", "steps=9"], "steps 9: expected at least 10"),
    (["warmup", *WORKLOAD, "--rates", "1,2"], "--rates '1,2': expected at least 3 different rates above 0"),
    (["instability", *WORKLOAD, "--rates", "a,b,c"], "--rates 'a,b,c': expected numbers"),
    (["instability", *WORKLOAD, "--set", "learning_rate=0"], "learning_rate 0: expected more than 0"),
    (["max-steps", *WORKLOAD, "--fit", "0"], "--fit 0: expected a training loss above 0, such as 0.005"),
    (["max-steps", *WORKLOAD, "--set", "steps=3"], "steps 3: expected at least 4, one pass over the 32 training"),
    (["max-steps", *WORKLOAD, "--rates", "1,2"], "--rates '1,2': expected at least 3 different rates above 0"),
    (["max-steps", *WORKLOAD, "--seeds", "1"], "--seeds 1: expected at least 2"),
    (["max-steps", *WORKLOAD, "--set", "schedule=cosin"], "unknown schedule 'cosin'; did you mean 'cosine'?"),
    (["instability", "wide_resnet", "--scale", "small"], "unknown scale 'small' of wide_resnet"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(playbook, tmp_path, arguments, message):
    out = tmp_path / "out"
    status, stdout, errors = playbook(*arguments, "--out", out)
    assert (status, stdout) == (2, "")
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert not out.exists()


def test_a_sweep_without_a_stable_rate(playbook, tmp_path):
    arguments = ["instability", *WORKLOAD, "--rates", "1e3,1e4,1e5", "--seeds", "2", "--out", tmp_path]
    status, stdout, errors = playbook(*arguments)
    assert (status, stdout) == (2, "")
    assert "--rates from 1000 to 100000: expected a stable one among them" in errors.splitlines()[-1]
    assert not (Path(tmp_path) / "instability/stand_in/smoke-seed0/result.json").exists()
