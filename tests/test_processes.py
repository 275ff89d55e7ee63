import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest

from harness.studies.processes import available_cores, run_trials
from harness.training.compilation_cache import link_finished, publish, shared_folder
from tests.executor_contract import NARROW, ExecutorContract
from tests.stand_in import PROGRAMS


class TestProcesses(ExecutorContract):
    execute = staticmethod(run_trials)

    def test_no_trial_runs_in_the_driver(self, first):
        assert first.calls
        assert os.getpid() not in {call["pid"] for call in first.calls}

    def test_workers_have_one_thread(self, first):
        assert {call["environment"]["NPROC"] for call in first.calls} == {"1"}

    def test_the_environment_of_the_driver_stays(self, monkeypatch, faults):
        monkeypatch.setenv("NPROC", "7")
        before = dict(os.environ)
        self.run(NARROW[:1])
        assert dict(os.environ) == before

    def test_no_more_workers_than_jobs(self, first):
        assert len({call["pid"] for call in first.calls}) == 1

    def test_entries_of_the_cache_are_whole(self, first, second):
        """Nothing partial is left, and neither is a link."""
        entries = list(shared_folder().iterdir())
        names = [entry.name for entry in entries]
        assert sum(name.startswith("jit__train") for name in names) == 2
        assert sum(name.startswith("jit__evaluate") for name in names) == 2
        assert not [name for name in names if name.startswith(".")]
        assert all(entry.is_file() and not entry.is_symlink() for entry in entries)

    def test_a_truncated_foreign_temporary_file_is_ignored(self, first):
        """As a kill in the middle of a copy leaves it."""
        entry = next(entry for entry in shared_folder().iterdir() if entry.name.startswith("jit__train"))
        partial = shared_folder() / f".{entry.name}.99999"
        partial.write_bytes(entry.read_bytes()[:100])
        try:
            run = self.run(NARROW[:1])
        finally:
            partial.unlink()
        assert [count for _, count, _ in run.compiled] == [0]
        assert run.bits[NARROW[0].address()] == first.bits[NARROW[0].address()]

    def test_an_unwritable_cache_costs_only_time(self, first, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        run = self.run(NARROW[:1])
        assert [count for _, count, _ in run.compiled] == [PROGRAMS]
        assert run.bits[NARROW[0].address()] == first.bits[NARROW[0].address()]

    def test_nothing_is_left_behind(self, first, tmp_path, monkeypatch):
        """No worker, and no folder of its private cache."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        self.run(NARROW[:1])
        assert multiprocessing.active_children() == []
        assert list(tmp_path.iterdir()) == []

    def test_nothing_to_do_starts_no_worker(self):
        assert self.run([]).addresses == []


def test_available_cores():
    assert 1 <= available_cores() <= os.cpu_count()


class TestCompilationCache:
    @pytest.fixture(autouse=True)
    def folders(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        self.private = tmp_path / "private"
        self.private.mkdir()

    def test_publishes_its_own_entries(self):
        (self.private / "entry").write_bytes(b"compiled")
        publish(self.private)
        assert {path.name: path.read_bytes() for path in shared_folder().iterdir()} == {"entry": b"compiled"}

    def test_links_what_is_finished(self):
        shared_folder().mkdir(parents=True)
        (shared_folder() / "entry").write_bytes(b"compiled")
        (shared_folder() / ".entry.12").write_bytes(b"comp")
        link_finished(self.private)
        assert [path.name for path in self.private.iterdir()] == ["entry"]
        assert (self.private / "entry").read_bytes() == b"compiled"

    def test_keeps_its_own_entries_when_it_links(self):
        (self.private / "entry").write_bytes(b"own")
        shared_folder().mkdir(parents=True)
        (shared_folder() / "entry").write_bytes(b"other")
        link_finished(self.private)
        assert (self.private / "entry").read_bytes() == b"own"

    def test_does_not_publish_links(self):
        shared_folder().mkdir(parents=True)
        (shared_folder() / "entry").write_bytes(b"compiled")
        link_finished(self.private)
        (shared_folder() / "entry").unlink()
        publish(self.private)
        assert list(shared_folder().iterdir()) == []

    def test_an_entry_is_never_seen_in_part(self, monkeypatch):
        """It comes under its name by a rename: the copy goes to a name that nobody links."""
        seen = []
        replace = Path.replace

        def watched(source, target):
            seen.append((source.name.startswith("."), source.read_bytes(), target.exists()))
            return replace(source, target)

        monkeypatch.setattr(Path, "replace", watched)
        (self.private / "entry").write_bytes(b"compiled")
        publish(self.private)
        assert seen == [(True, b"compiled", False)]

    def test_without_a_home_of_its_own_it_lies_below_the_user_s(self, monkeypatch, tmp_path):
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert shared_folder().parent == tmp_path / ".cache" / "playbook-bench"
