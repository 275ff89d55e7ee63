"""The tables of claims in README.md and docs/claims.md."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.claims_table import BEGIN, CHANGED, END, generated
from harness.experiments.experiment import experiments
from harness.records import InputError

ROOT = Path(__file__).parents[1]
RECORDED = "baselines/laptop/{}/laptop-seed0.json"


@pytest.fixture
def checkout(tmp_path):
    """The files that the tables are made of, in a folder of their own."""
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/claims.md", *(RECORDED.format(name) for name in experiments())):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def change(checkout, name, **changes):
    """Changes the first claim of a recorded result."""
    path = checkout / RECORDED.format(name)
    result = json.loads(path.read_text())
    result["claims"][0].update(changes)
    path.write_text(json.dumps(result))


def rows(checkout, name):
    """Those of an experiment's claims: the README's row, and the rows of the full table."""
    readme, full = generated(checkout).values()
    (row,) = (line for line in readme.splitlines() if line.startswith(f"| [`{name}`]"))
    section = full.split(f"\n## {name}\n")[1].split("\n## ")[0]
    return row, [line for line in section.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("name", ["README.md", "docs/claims.md"])
def test_the_committed_tables_are_those_of_the_baselines(name):
    assert (ROOT / name).read_text("utf-8") == generated(ROOT)[ROOT / name], (
        "a baseline, a claim or an experiment's first lines changed; run python -m harness.claims_table"
    )


def test_recorded_claims_are_those_of_the_catalogue():
    for one in experiments().values():
        claims = json.loads((ROOT / RECORDED.format(one.name)).read_text())["claims"]
        told = [(claim["id"], claim["text"], claim["rule"]) for claim in claims]
        assert told == [(claim.id, claim.text, claim.rule) for claim in one.claims], one.name


def test_what_stands_between_the_markers_is_replaced_and_the_rest_kept(checkout):
    path = checkout / "README.md"
    path.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n")
    text = generated(checkout)[path]
    assert text.startswith(f"before\n{BEGIN}\n\n") and text.endswith(f"\n\n{END}\nafter\n")
    assert "stale" not in text
    path.write_text(text)
    assert generated(checkout)[path] == text


def test_a_verdict_that_changes_shows_in_both(checkout):
    verdict = {"verdict": "inconclusive", "reason": "power", "effect": 0.12345, "interval": [-0.5, None]}
    counts = generated(checkout)[checkout / "README.md"].partition(" claims of ")[2].partition("\n")[0]
    change(checkout, "stride-instability", **verdict, level=0.975, n=7)
    row, (first, *_) = rows(checkout, "stride-instability")
    assert "? unstable-at-high-lr, ✓ harmless-at-low-lr" in row.replace("\u00a0", " ")
    assert first.endswith("| ? inconclusive (power) | 0.123 | [-0.5, n/a] at 97.5% | 7 |")
    assert counts not in generated(checkout)[checkout / "README.md"]


def test_a_contradicted_claim_stands_out(checkout):
    change(checkout, "stride-instability", verdict="contradicted")
    row, _ = rows(checkout, "stride-instability")
    assert "| **✗\u00a0unstable-at-high-lr**, ✓\u00a0harmless" in row


def test_what_was_changed_after_results_were_seen_is_told_and_of_known_claims():
    known = {one.name: {claim.id for claim in one.claims} for one in experiments().values()}
    full = generated(ROOT)[ROOT / "docs/claims.md"]
    for name, told in CHANGED.items():
        assert set(re.findall(r"`(.+?)`", told)) <= known[name]
        assert f"- [`{name}`](#{name}): {told}." in full.splitlines()


def test_the_figures_come_first_and_in_their_order(checkout):
    lines = generated(checkout)[checkout / "README.md"].splitlines()
    sources = [line.split(" | ")[2] for line in lines if line.startswith("| [`")]
    figures = [int(source.split()[1].rstrip("ab")) for source in sources if source.startswith("figure")]
    assert figures == list(range(1, 10))
    assert not any(source.startswith("figure") for source in sources[len(figures) :])
    assert len(sources) == len(experiments())


def test_what_markdown_would_read_as_its_own_is_escaped(checkout):
    change(checkout, "stride-instability", text="|a| < b, *c* [d]\ne")
    first = rows(checkout, "stride-instability")[1][0]
    assert r"\|a\| \< b, \*c\* \[d\] e" in first


def test_an_experiment_that_is_not_recorded_yet(checkout):
    (checkout / RECORDED.format("stride-instability")).unlink()
    row, claims = rows(checkout, "stride-instability")
    assert row.endswith("| not recorded yet |")
    assert claims == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"claims": []}', '{"claims": [], "provenance": {}}'])
def test_a_damaged_result(checkout, content):
    path = checkout / RECORDED.format("stride-instability")
    path.write_text(content)
    with pytest.raises(InputError, match=f"^{path} is damaged: expected a recorded result.json; restore it$"):
        generated(checkout)


@pytest.mark.parametrize("content", ["", f"{BEGIN}\n", f"{END}\n", f"{END}\n{BEGIN}\n"])
def test_lost_markers(checkout, content):
    (checkout / "README.md").write_text(content)
    with pytest.raises(InputError, match=r"README.md lacks its markers"):
        generated(checkout)


def test_no_checkout(checkout):
    (checkout / "docs" / "claims.md").unlink()
    with pytest.raises(InputError, match=r"claims.md cannot be read .* works in a checkout alone$"):
        generated(checkout)


def test_the_command_writes_the_files(checkout):
    """Of the checkout that the module lies in."""
    shutil.copytree(ROOT / "harness", checkout / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "workloads", checkout / "workloads", ignore=shutil.ignore_patterns("__pycache__"))
    expected = generated(checkout)[checkout / "README.md"]
    path = checkout / "README.md"
    path.write_text(path.read_text().replace("reproduced", "stale"))
    stale = path.read_text()
    command = [sys.executable, "-m", "harness.claims_table"]
    done = subprocess.run(command, cwd=checkout, env={"PYTHONPATH": str(checkout)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text() != stale
    assert path.read_text().partition(BEGIN)[2].partition(END)[0] == expected.partition(BEGIN)[2].partition(END)[0]
    path.write_text("no markers")
    done = subprocess.run(command, cwd=checkout, env={"PYTHONPATH": str(checkout)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"harness.claims_table: {path} lacks its markers") and done.stderr.count("\n") == 1
