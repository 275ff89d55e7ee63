"""README.md, CONTRIBUTING.md and docs/: links that lead somewhere, commands that exist, an example that runs."""

import re
import shlex
import unicodedata
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from harness.cli import app
from harness.experiments.experiment import experiments
from workloads.workload import workload_names

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def text(page):
    return (ROOT / page).read_text("utf-8")


def prose(page):
    return FENCED.sub("", text(page))


def fenced(page, language=""):
    return [block for found, block in FENCED.findall(text(page)) if found == language]


def anchors(page):
    """What GitHub makes of the headings: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    kept = ("".join(c for c in h.lower() if unicodedata.category(c)[0] in "LN" or c in " -_") for h in headings)
    return {heading.replace(" ", "-") for heading in kept}


def links(page):
    """Relative ones, as (file, anchor)."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link.partition("#")[::2] for link in found if not re.match(r"https?://", link)]


def commands(page):
    """Command lines of `playbook`, as (line, whether it is whole): prose may leave out what it is not about."""
    for block in fenced(page):
        for line in block.splitlines():
            for part in line.split("&&"):
                if part.split()[:1] == ["playbook"]:
                    yield part.strip(), True
    for inline in re.findall(r"`([^`]+)`", prose(page)):
        if inline.split()[:1] == ["playbook"] and len(inline.split()) > 1:
            yield " ".join(inline.split()), False


COMMANDS = [pytest.param(line, whole, id=f"{page}: {line}") for page in NAMES for line, whole in commands(page)]


def test_the_readme_stays_short():
    assert len(text("README.md").splitlines()) < 300


def test_what_is_cited_is_this_version():
    version = re.search(r'^version = "(.+)"$', text("pyproject.toml"), re.M)[1]
    assert re.search(r"^version: (.+)$", text("CITATION.cff"), re.M)[1] == version


@pytest.mark.parametrize("page", NAMES)
def test_lines_are_at_most_120_characters(page):
    lines = [line for line in text(page).splitlines() if not line.startswith(("|", "![", "- `"))]
    assert [line for line in lines if len(line) > 120 and page != "docs/claims.md"] == []


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    broken = []
    for path, anchor in links(page):
        target = (folder / path).resolve() if path else ROOT / page
        name = target.relative_to(ROOT).as_posix()
        if not target.exists() or (anchor and anchor not in anchors(name)):
            broken.append(f"{path}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", sorted(set(NAMES) - {"README.md", "CONTRIBUTING.md"}))
def test_every_page_is_linked_from_the_readme(page):
    assert page in {path for path, _ in links("README.md")}


@pytest.mark.parametrize(("line", "whole"), COMMANDS)
def test_the_command_exists(line, whole):
    """With its options; Typer parses it and runs nothing."""
    _, name, *arguments = shlex.split(line)
    group = typer.main.get_command(app)
    assert name in group.commands, f"unknown command {name!r}"
    try:
        context = group.commands[name].make_context(name, arguments)
    except Exception as error:  # of click, or of the copy of it within later versions of Typer
        assert not whole and type(error).__name__ == "MissingParameter", f"{type(error).__name__}: {error}"
        return
    known = {*experiments(), "all", "NAME"}
    assert set(context.params.get("names") or ()) <= known
    workload = context.params.get("workload")
    assert workload is None or ":" in workload or workload in workload_names()


def test_some_commands_were_found():
    """Both in blocks and in prose."""
    found = {whole for page in NAMES for _, whole in commands(page)}
    assert found == {True, False}
    assert ("playbook reproduce stride-instability", True) in commands("README.md")


def test_the_example_of_a_workload_trains(tmp_path, monkeypatch):
    (example,) = fenced("docs/workloads.md", "python")
    (tmp_path / "my_workload.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [
        "train",
        "my_workload:SCALES",
        "--out",
        str(tmp_path / "results"),
        "--set",
        "examples=900",
        "--set",
        "steps=50",
    ]
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    error = float(re.search(r"best +error (\S+)", ran.output)[1])
    assert error < 0.2
