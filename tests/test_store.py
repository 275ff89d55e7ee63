import json
import math
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.records import InputError
from harness.studies import store as store_module
from harness.studies.identity import identity
from harness.studies.store import DATABASE, LOCK, Store, locked_folder, move_aside
from tests.stand_in import stand_in_study

PLANNED = stand_in_study().plan(0)
TRIALS = [place.trial for place in PLANNED]
IDENTITY = identity(PLANNED)

FLOATS = st.floats(width=32) | st.just(math.nan)
NAMES = st.text("abc_.é", min_size=1, max_size=6)


def add(store, trial, status="complete", reason=None, results=None, curves=None, timings=None):
    store.add(trial.address(), trial.specification(), status, reason, results or {}, curves or {}, timings or {})


def filled(folder, trials=TRIALS, points=100):
    """A closed store with finished trials; gives the path of its database."""
    with closing(Store(folder, IDENTITY)) as store:
        for index, trial in enumerate(trials):
            add(store, trial, curves={"train_loss": np.arange(points, dtype=np.float32) + index})
    return folder / DATABASE


def assert_refused(folder, message, wanted=IDENTITY):
    """Opening it is bad input, in one line, and leaves the file's bytes as they were."""
    before = (folder / DATABASE).read_bytes()
    with pytest.raises(InputError, match=message) as caught:
        Store(folder, wanted)
    assert "\n" not in str(caught.value)
    assert (folder / DATABASE).read_bytes() == before


class TestRoundTrip:
    @given(
        results=st.dictionaries(NAMES, FLOATS, max_size=4),
        curves=st.dictionaries(NAMES, st.lists(st.integers(0, 2**32 - 1), max_size=20), max_size=3),
        status=st.sampled_from(["complete", "infeasible"]),
        reason=st.none() | st.text(max_size=10),
        seconds=st.floats(0, 1e6),
    )
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_every_bit_comes_back(self, tmp_path_factory, results, curves, status, reason, seconds):
        folder = tmp_path_factory.mktemp("store")
        arrays = {name: np.array(bits, "<u4").view("<f4") for name, bits in curves.items()}
        with closing(Store(folder, IDENTITY)) as store:
            add(store, TRIALS[0], status, reason, results, arrays, {"trial_seconds": seconds})
        with closing(Store(folder, IDENTITY)) as store:
            (record,) = store.records(PLANNED)
        assert {name: curve.tobytes() for name, curve in record.curves.items()} == {
            name: curve.tobytes() for name, curve in arrays.items()
        }
        assert list(record.results) == list(results)
        np.testing.assert_array_equal(list(record.results.values()), list(results.values()))
        assert [math.copysign(1, v) for v in record.results.values() if v == 0] == [
            math.copysign(1, v) for v in results.values() if v == 0
        ]
        assert (record.status, record.reason, record.timings) == (status, reason, {"trial_seconds": seconds})

    def test_a_record_knows_its_place_and_its_trial(self, tmp_path):
        filled(tmp_path)
        with closing(Store(tmp_path, IDENTITY)) as store:
            records = store.records(PLANNED)
        for place, record in zip(PLANNED, records, strict=True):
            assert (record.study, record.arm, record.replicate) == (place.study, place.arm, place.replicate)
            assert record.address == place.trial.address()
            assert record.seeds == place.trial.seeds
            assert record.hyperparameters["workload.features"] == place.trial.workload.features
            assert record.hyperparameters["learning_rate"] == place.trial.hyperparameters["learning_rate"]
            assert record.hyperparameters["evaluation_steps"] == "[20]"

    def test_records_stand_in_the_order_of_the_plan(self, tmp_path):
        filled(tmp_path, TRIALS[::-1])
        with closing(Store(tmp_path, IDENTITY)) as store:
            assert [record.address for record in store.records(PLANNED)] == [trial.address() for trial in TRIALS]

    def test_a_trial_that_two_studies_share_stands_in_both(self, tmp_path):
        planned = [*PLANNED, *stand_in_study(name="again").plan(0)]
        filled(tmp_path, TRIALS[:1])
        with closing(Store(tmp_path, IDENTITY)) as store:
            assert [record.study for record in store.records(planned)] == ["rates", "again"]


class TestResume:
    def test_finished_trials_are_known_again(self, tmp_path):
        filled(tmp_path, TRIALS[:5])
        with closing(Store(tmp_path, IDENTITY)) as store:
            assert store.finished() == {trial.address() for trial in TRIALS[:5]}
            assert len(store.records(PLANNED)) == 5

    def test_infeasible_trials_are_finished(self, tmp_path):
        with closing(Store(tmp_path, IDENTITY)) as store:
            add(store, TRIALS[0])
            add(store, TRIALS[1], "infeasible", "not finite")
            assert store.infeasible() == {TRIALS[1].address()}
            assert store.finished() == {TRIALS[0].address(), TRIALS[1].address()}

    def test_adding_a_trial_again_changes_nothing(self, tmp_path):
        with closing(Store(tmp_path, IDENTITY)) as store:
            add(store, TRIALS[0], results={"final_error": 0.5}, curves={"train_loss": np.ones(2, np.float32)})
            add(store, TRIALS[0], results={"final_error": 0.7}, curves={"train_loss": np.zeros(3, np.float32)})
            (record,) = store.records(PLANNED)
        assert record.results == {"final_error": 0.5}
        np.testing.assert_array_equal(record.curves["train_loss"], np.ones(2))

    def test_a_trial_is_stored_whole_or_not_at_all(self, tmp_path):
        with closing(Store(tmp_path, IDENTITY)) as store:
            with pytest.raises(UnicodeEncodeError):
                add(store, TRIALS[0], curves={"good": np.ones(2), "refused \ud800": np.ones(2)})
            assert store.finished() == set()
            add(store, TRIALS[0])
            assert store.finished() == {TRIALS[0].address()}

    def test_facts(self, tmp_path):
        with closing(Store(tmp_path, IDENTITY)) as store:
            assert store.fact("device") is None
            store.record_fact("device", "one")
            store.record_fact("device", "other")
        with closing(Store(tmp_path, IDENTITY)) as store:
            assert store.fact("device") == "other"


class TestOpening:
    def test_a_zero_byte_database_is_new(self, tmp_path):
        (tmp_path / DATABASE).touch()
        assert self.usable(tmp_path)

    def test_a_database_without_tables_is_new(self, tmp_path):
        with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
            database.execute("PRAGMA user_version=1")
        assert (tmp_path / DATABASE).stat().st_size > 0
        assert self.usable(tmp_path)

    @staticmethod
    def usable(folder):
        filled(folder, TRIALS[:2])
        with closing(Store(folder, IDENTITY)) as store:
            return len(store.finished()) == 2

    @pytest.mark.parametrize(
        "content", [b"not a database", b"x" * 5000, b"\0" * 5000, b"SQLite format 3\0" + b"x" * 90]
    )
    def test_garbage(self, tmp_path, content):
        (tmp_path / DATABASE).write_bytes(content)
        assert_refused(tmp_path, rf"^{re.escape(str(tmp_path))}.*is corrupt.*left in place, --fresh moves it aside")

    @pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99])
    def test_truncated(self, tmp_path, share):
        path = filled(tmp_path)
        os.truncate(path, int(path.stat().st_size * share))
        assert_refused(tmp_path, "is corrupt.*--fresh")

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
    def test_a_page_of_rubbish(self, tmp_path, share):
        path = filled(tmp_path)
        content = bytearray(path.read_bytes())
        start = int(len(content) * share) // 4096 * 4096
        content[start : start + 4096] = b"\xa5" * 4096
        path.write_bytes(content)
        assert_refused(tmp_path, "is corrupt.*--fresh")

    @pytest.mark.parametrize("content", ["", "{", "[1, 2"])
    def test_an_unreadable_identity(self, tmp_path, content):
        path = filled(tmp_path, TRIALS[:1])
        with closing(sqlite3.connect(path)) as database:
            database.execute("UPDATE facts SET value = ? WHERE name = 'identity'", (content,))
            database.commit()
        assert_refused(tmp_path, "corrupt|another specification")

    def test_a_database_of_something_else_is_left_as_it_is(self, tmp_path):
        with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
            database.execute("CREATE TABLE bookmarks (url TEXT)")
        assert_refused(tmp_path, "holds other tables.*--fresh")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"batch_size": 9}, "studies.rates/narrow.batch_size was 8, is now 9"),
            ({"replicates": range(2)}, r"studies.rates/narrow.replicate was \[0,1,2\], is now \[0,1\]"),
        ],
    )
    def test_another_specification(self, tmp_path, changes, message):
        filled(tmp_path)
        wanted = identity(stand_in_study(**changes).plan(0))
        expected = f"holds results of another specification: {message}; --fresh moves it aside, or choose another --out"
        assert_refused(tmp_path, expected, wanted)

    def test_a_later_round_is_what_it_was_begun_as(self, tmp_path):
        later = identity(stand_in_study(name="later").plan(0))
        for _ in range(2):
            with closing(Store(tmp_path, IDENTITY)) as store:
                store.begin_round(2, later)
        with closing(Store(tmp_path, IDENTITY)) as store:
            with pytest.raises(InputError, match=r"another specification: data.synthetic was .*; --fresh"):
                store.begin_round(2, {**later, "data": {"synthetic": "1"}})
            store.begin_round(3, {**later, "data": {"synthetic": "1"}})

    @pytest.mark.parametrize(("name", "value"), [("jax", "0.0.1"), ("source", "f" * 64), ("data", {"synthetic": "1"})])
    def test_another_environment(self, tmp_path, name, value):
        filled(tmp_path)
        assert_refused(tmp_path, f"another specification: {name}", {**IDENTITY, name: value})

    def test_a_folder_in_the_place_of_the_database(self, tmp_path):
        (tmp_path / DATABASE).mkdir()
        with pytest.raises(InputError, match="cannot be opened or written"):
            Store(tmp_path, IDENTITY)


class TestJournal:
    @staticmethod
    def mode(store):
        return store._database.execute("PRAGMA journal_mode").fetchone()[0]

    def test_writes_ahead(self, tmp_path):
        with closing(Store(tmp_path, IDENTITY)) as store:
            assert self.mode(store) == "wal"

    @pytest.mark.parametrize("answer", ["error", "delete"])
    def test_truncates_where_writing_ahead_does_not_work(self, tmp_path, monkeypatch, answer):
        class WithoutSharedMemory(sqlite3.Connection):
            def execute(self, statement, *arguments):
                if statement == "PRAGMA journal_mode=WAL":
                    if answer == "error":
                        raise sqlite3.OperationalError("disk I/O error")
                    statement = "PRAGMA journal_mode"  # some file systems refuse by keeping the old mode
                return super().execute(statement, *arguments)

        connect = sqlite3.connect
        monkeypatch.setattr(
            store_module.sqlite3, "connect", lambda *a, **k: connect(*a, factory=WithoutSharedMemory, **k)
        )
        with closing(Store(tmp_path, IDENTITY)) as store:
            assert self.mode(store) == "truncate"
            add(store, TRIALS[0])
        assert filled(tmp_path, TRIALS[1:2]).exists()
        with closing(Store(tmp_path, IDENTITY)) as store:
            assert len(store.finished()) == 2


HOLDER = """
import sys
from pathlib import Path
from harness.studies.store import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `held`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "held")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


class TestLock:
    def test_a_second_driver_is_told_who_holds_the_folder(self, tmp_path, holder):
        owner = re.escape(f"{tmp_path / 'held'} is held by {socket.gethostname()} pid {holder.pid}")
        with pytest.raises(InputError, match=f"^{owner};"), locked_folder(tmp_path / "held"):
            pytest.fail("it was not held")

    def test_asking_does_not_change_who_holds_it(self, tmp_path, holder):
        for _ in range(2):
            with pytest.raises(InputError, match=f"pid {holder.pid};"), locked_folder(tmp_path / "held"):
                pass

    def test_it_ends_with_a_killed_holder(self, tmp_path, holder):
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked_folder(tmp_path / "held"):
            assert (tmp_path / "held" / LOCK).read_text() == f"{socket.gethostname()} pid {os.getpid()}\n"

    def test_it_ends_with_the_block(self, tmp_path):
        for _ in range(2):
            with locked_folder(tmp_path / "a" / "b"):
                assert (tmp_path / "a" / "b").is_dir()
        with pytest.raises(ZeroDivisionError), locked_folder(tmp_path):
            raise ZeroDivisionError
        with locked_folder(tmp_path):
            pass

    def test_the_name_of_an_earlier_holder_does_not_stay(self, tmp_path):
        (tmp_path / LOCK).write_text("a host with a long name pid 123456789\n")
        with locked_folder(tmp_path):
            assert (tmp_path / LOCK).read_text() == f"{socket.gethostname()} pid {os.getpid()}\n"

    def test_a_folder_below_a_file_cannot_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        with (
            pytest.raises(InputError, match=r"file/a cannot be written \(Not a directory\); choose another --out"),
            locked_folder(tmp_path / "file" / "a"),
        ):
            pass

    def test_a_file_in_the_place_of_the_folder(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written"), locked_folder(tmp_path / "file"):
            pass


class TestMoveAside:
    def test_keeps_everything(self, tmp_path):
        folder = tmp_path / "smoke-seed0"
        with locked_folder(folder):
            filled(folder, TRIALS[:1])
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text("kept")
            before = {path.name for path in folder.iterdir()} - {LOCK}
            aside = move_aside(folder)
            assert [path.name for path in folder.iterdir()] == [LOCK]
        assert aside.parent == tmp_path
        assert re.fullmatch(r"smoke-seed0\.\d{8}T\d{12}", aside.name)
        assert {path.name for path in aside.iterdir()} == before
        assert (aside / "deep" / "file").read_text() == "kept"
        with closing(Store(aside, IDENTITY)) as store:
            assert store.finished() == {TRIALS[0].address()}

    def test_nothing_to_move(self, tmp_path):
        with locked_folder(tmp_path / "new"):
            assert move_aside(tmp_path / "new") is None
        assert [path.name for path in tmp_path.iterdir()] == ["new"]

    def test_twice(self, tmp_path):
        with locked_folder(tmp_path / "new"):
            asides = []
            for text in "ab":
                (tmp_path / "new" / "file").write_text(text)
                asides.append(move_aside(tmp_path / "new"))
        assert [(aside / "file").read_text() for aside in asides] == ["a", "b"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk with room for 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no mounts here: {error}")
    if done.returncode:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class TestFullDisk:
    def test_one_line_and_earlier_trials_are_kept(self, small_disk):
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 100_000)
        curve = np.arange(5000, dtype=np.float32)
        with closing(Store(small_disk, IDENTITY)) as store:
            stored = []
            with pytest.raises(
                InputError, match=r"^[^\n]*study.sqlite cannot be written \(.*full.*\)[^\n]*$"
            ) as caught:
                for trial in TRIALS * 2:
                    add(store, trial, curves={name: curve for name in "abc"})
                    stored.append(trial.address())
            assert "make room and repeat the command, finished trials are kept" in str(caught.value)
            assert 0 < len(stored) < len(TRIALS)
        ballast.unlink()
        with closing(Store(small_disk, IDENTITY)) as store:
            assert store.finished() == set(stored)
            assert all(np.array_equal(record.curves["a"], curve) for record in store.records(PLANNED))
            add(store, TRIALS[len(stored)])

    def test_no_room_for_a_new_store(self, small_disk):
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "ballast").write_bytes(b"x" * 500_000)
        with pytest.raises(InputError, match=r"^[^\n]*cannot be (opened or )?written[^\n]*$"):
            Store(small_disk, IDENTITY)
        (small_disk / "ballast").write_bytes(b"")
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "ballast").write_bytes(b"x" * 500_000)
        with (
            pytest.raises(InputError, match=r"^[^\n]*cannot be written \(No space left on device\)[^\n]*$"),
            locked_folder(small_disk),
        ):
            pass


def test_the_identity_is_stored_as_it_was(tmp_path):
    with closing(Store(tmp_path, IDENTITY)) as store:
        assert json.loads(store.fact("identity")) == IDENTITY
