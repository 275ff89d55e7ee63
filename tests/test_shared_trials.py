import dataclasses
import fcntl
import importlib.metadata
import json
import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from harness.records import InputError
from harness.reproduce import reproduce
from harness.studies import shared_trials
from harness.studies.identity import source_hash
from harness.studies.local_fleet import LocalFleet
from harness.studies.pack_checkpoints import pack_folder
from harness.studies.shared_trials import Wanted, neighbours, packings_here, take
from harness.studies.store import DATABASE, Store, locked_folder
from tests.stand_in import EXPERIMENT, TRIALS_OF_STUDY, stand_in_study

ADDRESSES = {place.trial.address() for place in stand_in_study().plan(0)}
TWIN = dataclasses.replace(EXPERIMENT, name="twin")
"""Of the very same trials."""


@pytest.fixture
def beside(stand_in_finished, tmp_path):
    """The finished stand-in in a folder of all results where the twin may be run, which a test may harm."""
    shutil.copytree(stand_in_finished.folder, tmp_path / "stand-in" / "smoke-seed0")
    return tmp_path / "stand-in" / "smoke-seed0"


def run_twin(beside, experiment=TWIN, fresh=False, control=False, progress=None, executor=None):
    return reproduce(
        experiment,
        scale="smoke",
        out=beside.parents[1],
        seed=0,
        jobs=1,
        executor=executor,
        control=control,
        overrides={},
        fresh=fresh,
        command="",
        on_progress=lambda *counts: None if progress is None else progress.append(counts),
    )


def shared(result):
    return result["provenance"]["shared"]


def change(folder, *statements):
    with closing(sqlite3.connect(folder / DATABASE)) as database, database:
        for statement in statements:
            assert database.execute(statement).rowcount > 0


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_of_equal_trials_trains_nothing(beside, stand_in_finished):
    before, progress = contents(beside), []
    result = run_twin(beside, progress=progress)
    assert shared(result) == {"stand-in/smoke-seed0": TRIALS_OF_STUDY}
    assert result["fingerprint"] == stand_in_finished.result["fingerprint"]
    assert result["trials"] == stand_in_finished.result["trials"]
    assert result["provenance"]["compilations"] == {}
    assert result["provenance"]["packing"] == stand_in_finished.result["provenance"]["packing"]
    assert result["provenance"]["device"] == stand_in_finished.result["provenance"]["device"]
    assert progress == [(0, 0, TRIALS_OF_STUDY), (TRIALS_OF_STUDY, 0, TRIALS_OF_STUDY)]
    assert contents(beside) == before, "the other folder is as it was, without a log beside its store"


def test_what_is_left_is_trained_with_the_same_bits(beside, stand_in_finished):
    some = sorted(ADDRESSES)[:5]
    listed = ", ".join(f"'{address}'" for address in some)
    change(beside, f"DELETE FROM curves WHERE address IN ({listed})", f"DELETE FROM trials WHERE address IN ({listed})")
    result = run_twin(beside)
    assert shared(result) == {"stand-in/smoke-seed0": TRIALS_OF_STUDY - len(some)}
    assert result["fingerprint"] == stand_in_finished.result["fingerprint"]
    assert result["provenance"]["packing"] == stand_in_finished.result["provenance"]["packing"]


def test_checkpoints_of_what_is_taken_are_removed(beside):
    """A killed run may have left them."""
    folder = beside.parents[1] / "twin" / "smoke-seed0"
    left = pack_folder(folder, (min(ADDRESSES),))
    left.mkdir(parents=True)
    run_twin(beside)
    assert not left.parent.exists()


def test_lanes_are_refused_after_trials_of_processes_were_taken(beside):
    """Though no trial of theirs was compiled here."""
    run_twin(beside)
    folder = beside.parents[1] / "twin" / "smoke-seed0"
    some = f"address = '{min(ADDRESSES)}'"
    change(folder, f"DELETE FROM curves WHERE {some}", f"DELETE FROM trials WHERE {some}")
    with pytest.raises(InputError, match="results here come from the executor 'processes', not 'lanes'"):
        run_twin(beside, executor="lanes")


def test_a_control_takes_from_its_experiment(beside, stand_in_finished):
    result = run_twin(beside, EXPERIMENT, control=True)
    assert shared(result) == {"stand-in/smoke-seed0": TRIALS_OF_STUDY}
    assert result["fingerprint"] == stand_in_finished.result["fingerprint"]


def test_taken_trials_are_taken_on(beside):
    run_twin(beside)
    shutil.rmtree(beside)
    third = run_twin(beside, dataclasses.replace(EXPERIMENT, name="third"))
    assert shared(third) == {"twin/smoke-seed0": TRIALS_OF_STUDY}


@pytest.fixture
def taken(beside, tmp_path):
    """Takes from the finished stand-in into an empty store, without a worker; gives addresses by folder."""
    trials = [place.trial for place in stand_in_study().plan(0)]
    with closing(sqlite3.connect(beside / DATABASE)) as database:
        device = database.execute("SELECT value FROM facts WHERE name = 'device'").fetchone()[0]

    def run(trials=trials, executor=None, folders=(beside,)):
        ways = packings_here(trials, "cpu", executor, {})
        wanted = Wanted(source_hash(), importlib.metadata.version("jax"), device)
        (tmp_path / "empty").mkdir()
        store = Store(tmp_path / "empty", {})
        found = take(store, trials, ways, wanted, folders)
        assert store.finished() == {address for addresses in found.values() for address in addresses}
        store.close()
        return found

    return run


NOT_TAKEN = {
    "other code": "UPDATE facts SET value = json_set(value, '$.source', 'x') WHERE name = 'identity'",
    "other jax": "UPDATE facts SET value = json_set(value, '$.jax', '0.1') WHERE name = 'identity'",
    "other data": "UPDATE facts SET value = json_set(value, '$.data.synthetic', 'x') WHERE name = 'identity'",
    "no data": "UPDATE facts SET value = json_set(value, '$.data', json('{}')) WHERE name = 'identity'",
    "other code in a later round": "INSERT INTO facts SELECT 'identity of round 2', json_set(value, '$.source', 'x') "
    "FROM facts WHERE name = 'identity'",
    "another machine": "UPDATE facts SET value = 'Abacus' WHERE name = 'device'",
    "an unknown machine": "DELETE FROM facts WHERE name = 'device'",
    "lanes": """UPDATE facts SET value = replace(value, '"processes", 1', '"lanes", 1') WHERE name = 'packings'""",
    "another chunk": "UPDATE facts SET value = replace(value, '1, 64,', '1, 32,') WHERE name = 'packings'",
    "no identity": "DELETE FROM facts WHERE name = 'identity'",
    "an unreadable identity": "UPDATE facts SET value = '{' WHERE name = 'identity'",
    "an odd identity": "UPDATE facts SET value = '[]' WHERE name = 'identity'",
    "addresses of others": "UPDATE trials SET specification = json_set(specification, '$.steps', 21)",
    "unreadable results": "UPDATE trials SET results = '{'",
    "half a float": "UPDATE curves SET points = x'000000'",
    "an odd status": "UPDATE trials SET status = 'fine'",
}


@pytest.mark.parametrize("kind", NOT_TAKEN)
def test_not_taken(beside, taken, kind):
    change(beside, NOT_TAKEN[kind])
    assert taken() == {}


def test_all_are_taken_where_nothing_is_wrong(taken):
    assert taken() == {"stand-in/smoke-seed0": ADDRESSES}


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def overwrite(path):
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no database at all" * 1000),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE other (x)")),
        lambda path: path.with_name(f"{DATABASE}-wal").write_bytes(b""),
        lambda path: path.with_name(f"{DATABASE}-journal").write_bytes(b"half"),
        cut,
        overwrite,
    ],
    ids=["empty", "garbage", "a folder", "other tables", "a log without an index", "a journal", "cut", "overwritten"],
)
def test_a_harmed_store_is_passed_over(beside, taken, harm):
    harm(beside / DATABASE)
    assert taken() == {}


def test_a_harmed_store_hides_no_good_one(beside, taken):
    harmed = beside.parents[1] / "a-first" / beside.name
    shutil.copytree(beside, harmed)
    overwrite(harmed / DATABASE)
    assert taken(folders=(harmed, beside)) == {"stand-in/smoke-seed0": ADDRESSES}


def test_a_store_that_a_driver_holds(beside, taken):
    """Its driver has locked the folder, has rows in the log, and can go on writing."""
    with locked_folder(beside), closing(sqlite3.connect(beside / DATABASE, isolation_level=None)) as driver:
        driver.execute("INSERT INTO facts VALUES ('more', '1')")
        assert (beside / f"{DATABASE}-wal").stat().st_size > 0
        assert taken() == {"stand-in/smoke-seed0": ADDRESSES}
        driver.execute("INSERT INTO facts VALUES ('still more', '1')")


def test_a_store_that_is_written_while_it_is_read(beside, taken, monkeypatch):
    """A driver that begins where there was none: what was read beside it counts for nothing."""
    checked = shared_trials._check

    def begin_to_write(row):
        os.utime(beside / DATABASE, ns=(1, 1))
        checked(row)

    monkeypatch.setattr(shared_trials, "_check", begin_to_write)
    assert taken() == {}


def test_reading_locks_no_folder(beside, taken, monkeypatch):
    """A driver could begin in the other folder at any moment."""
    checked = shared_trials._check

    def try_to_lock(row):
        with open(beside / "driver.lock") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        checked(row)

    monkeypatch.setattr(shared_trials, "_check", try_to_lock)
    assert taken() == {"stand-in/smoke-seed0": ADDRESSES}


def test_trials_in_lanes_are_not_taken(beside, taken):
    assert taken(executor="lanes") == {}
    assert packings_here([place.trial for place in stand_in_study().plan(0)], "gpu", None, {}) == {}


def test_trials_that_are_timed_alone_are_not_taken(beside, monkeypatch):
    """Not even from a store of the very same ones: a worker is given one to run."""

    class GivenOne(Exception):
        pass

    def send(self, kind, content):
        raise GivenOne

    study = stand_in_study(fields={"alone": True})
    trials = [place.trial for place in study.plan(0)]
    with closing(sqlite3.connect(beside / DATABASE)) as database, database:
        database.execute("DELETE FROM curves")
        for old, trial in zip(sorted(ADDRESSES), trials, strict=True):
            row = (trial.address(), json.dumps(trial.specification()), old)
            database.execute("UPDATE trials SET address = ?, specification = ? WHERE address = ?", row)
    monkeypatch.setattr("harness.studies.local_fleet._Process.send", send)
    with pytest.raises(GivenOne):
        run_twin(beside, dataclasses.replace(TWIN, studies=lambda scale, control, overrides: [study]))


def test_fresh_trains_anew(beside):
    assert shared(run_twin(beside, fresh=True)) == {}


def test_nothing_missing_reads_no_other_store(beside, monkeypatch):
    run_twin(beside)
    change(beside.parents[1] / "twin" / "smoke-seed0", "DELETE FROM facts WHERE name = 'answered'")
    monkeypatch.setattr(LocalFleet, "start", None)
    monkeypatch.setattr("harness.studies.missing.take", None)
    result = run_twin(beside)
    assert shared(result) == {"stand-in/smoke-seed0": TRIALS_OF_STUDY}, "as it was noted then"


def test_neighbours(tmp_path):
    for name in (
        "one/smoke-seed0",
        "one/smoke-seed0-control",
        "one/smoke-seed0.20260101T000000000000",
        "one/smoke-seed1",
        "one/smoke-seed01",
        "one/laptop-seed0",
        "two/smoke-seed0",
        "flips/model/one/smoke-seed0",
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / DATABASE).touch()
    (tmp_path / "three" / "smoke-seed0").mkdir(parents=True)

    def found(name):
        return [path.relative_to(tmp_path).as_posix() for path in neighbours(tmp_path / name)]

    assert found("one/smoke-seed0") == ["one/smoke-seed0-control", "two/smoke-seed0"]
    assert found("one/smoke-seed0-control") == ["one/smoke-seed0", "two/smoke-seed0"]
