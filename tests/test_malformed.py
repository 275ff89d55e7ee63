"""Thousands of malformed tables, spaces, specifications and stores: never a traceback, never a file elsewhere.

`PLAYBOOK_EXAMPLES=2000 pytest -m slow tests/test_malformed.py` tries that many of each kind.
"""

import contextlib
import importlib
import io
import os
import shutil
import sqlite3
import sys
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import tune
from harness.cli import main
from harness.experiments import experiment as catalogue
from harness.studies import missing
from harness.studies.store import DATABASE
from tests import stand_in
from tests.malformed import damaged

FEW, MANY = 25, int(os.environ.get("PLAYBOOK_EXAMPLES", "300"))

SPACE = """
[learning_rate]
low = 1e-4
high = 1.0
scale = "log"

[momentum]
low = 0.5
high = 0.99
scale = "reverse_log"
when = { optimizer = "sgd" }

[optimizer]
values = ["sgd", "adam"]
"""

SPECIFICATION = """
name = "rates"
workload = "tests.stand_in:SCALES"
scale = "smoke"
trials = 3
sampler = "halton"
seed = 1
replicates = 1
notes = "why"

[set]
steps = 2

[space.learning_rate]
role = "nuisance"
low = 1e-3
high = 1.0
scale = "log"

[space.momentum]
role = "scientific"
values = [0.5, 0.9]
"""

FORMATS = {
    "csv": "TestCsv",
    "jsonl": "TestJsonl",
    "parquet": "TestParquet",
    "optuna": "TestOptuna",
    "algoperf": "TestAlgoperf",
    "batch-science": "TestBatchScience",
    "pd1": "TestPd1",
}


both = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


def try_out(count, strategy, check):
    """Calls `check` with so many draws of a strategy."""
    given(strategy)(settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))(check))()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder where the command is run, and what it may not touch around it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def command(tmp_path, place, monkeypatch):
    """Runs the command here; it must end by itself, say in one line what is wrong, and write below `out` alone."""

    def listed():
        found = (path for path in tmp_path.rglob("*") if place / "out" not in (path, *path.parents))
        return {path: path.stat().st_mtime_ns if path.is_file() else None for path in found}

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["playbook", *map(str, arguments)])
        before, errors = listed(), io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            try:
                status = main() or 0
            except SystemExit as end:
                status = end.code or 0
        assert listed() == before
        assert status in (0, 2), errors.getvalue()
        if status == 2:
            assert len(errors.getvalue().strip().splitlines()) == 1, errors.getvalue()
        shutil.rmtree(place / "out", ignore_errors=True)
        return status

    return run


@both
@pytest.mark.parametrize("kind", FORMATS)
def test_tables(kind, count, place, command):
    contract = importlib.import_module("tests.test_importers")
    source = place / "source"
    source.mkdir()
    written = getattr(contract, FORMATS[kind])().write(source, contract.study())
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    good = {path: path.read_bytes() for path in files}

    def check(change):
        path, content = change
        path.write_bytes(content)
        try:
            command("diagnose", written, "--out", "out")
        finally:
            path.write_bytes(good[path])

    changes = st.sampled_from(files).flatmap(lambda path: st.tuples(st.just(path), damaged(good[path])))
    try_out(max(5, count // len(FORMATS)), changes, check)


@both
def test_spaces(count, place, command):
    path = place / "space.toml"

    def check(content):
        path.write_bytes(content)
        command("search", path, "--trials", 3, "--seed", 1, "--sampler", "halton")

    try_out(count, damaged(SPACE.encode()), check)


class Reached(BaseException):
    """Nothing was wrong with a specification: its trials would be trained now."""


@both
def test_specifications(count, place, command, monkeypatch):
    path = place / "study.toml"

    def reach(*_):
        raise Reached

    monkeypatch.setattr(tune, "run_missing", reach)

    def check(content):
        path.write_bytes(content)
        with contextlib.suppress(Reached):
            assert command("tune", path, "--out", "out", "--jobs", 1) == 2

    try_out(count, damaged(SPECIFICATION.encode()), check)


CELLS = [
    ("facts", "name"),
    ("facts", "value"),
    *(("trials", name) for name in ("address", "specification", "status", "reason", "results", "timings")),
    *(("curves", name) for name in ("address", "name", "points")),
]


@both
def test_stores(count, place, command, stand_in_finished, monkeypatch):
    """Bytes of the file, and cells of its tables; trials that a store has lost would be trained again."""
    arguments = [word if word != str(stand_in_finished.out) else "out" for word in stand_in_finished.arguments]
    relative = stand_in_finished.folder.relative_to(stand_in_finished.out) / DATABASE

    def reach(*_, **__):
        raise Reached

    monkeypatch.setattr(missing, "run_trials", reach)
    monkeypatch.setattr(catalogue, "experiments", stand_in.only_this)

    def check(change):
        shutil.rmtree("out", ignore_errors=True)
        shutil.copytree(stand_in_finished.out, "out")
        path = place / "out" / relative
        if isinstance(change, bytes):
            path.write_bytes(change)
        else:
            (table, column), row, value = change
            with closing(sqlite3.connect(path)) as database, database, contextlib.suppress(sqlite3.IntegrityError):
                found = database.execute(f"SELECT rowid, {column} FROM {table} ORDER BY rowid").fetchall()
                number, before = found[row % len(found)]
                good = before if isinstance(before, bytes) else str(before).encode()
                database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value(good), number))
        with contextlib.suppress(Reached):
            command(*arguments)

    good = (stand_in_finished.folder / DATABASE).read_bytes()
    texts = st.one_of(st.none(), st.text(max_size=9), st.binary(max_size=9), st.floats(), st.integers(-9, 2**63 - 1))
    cells = st.tuples(st.sampled_from(CELLS), st.integers(0, 99), _cell(texts))
    try_out(count, st.one_of(damaged(good), cells), check)


@st.composite
def _cell(draw, texts):
    """A function of what is in a cell to what comes there instead."""
    if draw(st.booleans()):
        value = draw(texts)
        return lambda good: value
    start, length, put = draw(st.floats(0, 1)), draw(st.integers(0, 9)), draw(st.text(max_size=5)).encode()

    def spliced(good):
        at = int(start * len(good))
        return (good[:at] + put + good[at + length :]).decode("utf-8", "replace")

    return spliced
