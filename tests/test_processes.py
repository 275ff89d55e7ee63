import multiprocessing
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from harness.studies import compilation_cache
from harness.studies.compilation_cache import link_finished, processor_name, publish, shared_folder
from harness.studies.processes import available_cores
from tests.executor_contract import NARROW, WIDE, ExecutorContract
from tests.stand_in import PROGRAMS, stand_in_trial


class TestProcesses(ExecutorContract):
    executor = packed_by = "processes"

    def test_an_outcome_is_reported_as_soon_as_its_trial_ends(self, faults):
        """The second trial is held until the first was reported."""
        held = faults / f"hold-{NARROW[1].seeds['split']}"
        held.touch()
        run = self.run(NARROW[:2], on_finished=lambda trial: held.unlink(missing_ok=True))
        assert len(run.addresses) == 2

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

    def test_entries_that_were_cut_off_are_made_anew(self, first):
        entries = [entry for entry in shared_folder().iterdir() if entry.name.startswith("jit__")]
        for entry in entries:
            entry.write_bytes(entry.read_bytes()[:100])
        for count in (PROGRAMS, 0):
            run = self.run(NARROW[:1])
            assert [count for _, count, _ in run.compiled] == [count]
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


class TestLanes(ExecutorContract):
    executor = packed_by = "lanes"

    def test_trials_of_a_group_share_packs(self, first):
        assert sorted(len(packing.packs) for _, _, packing in first.compiled) == [1, 1]
        assert sorted(packing.lanes for _, _, packing in first.compiled) == [len(WIDE), len(NARROW)]

    def test_outcomes_are_those_of_processes_but_for_rounding(self, first):
        alone = TestProcesses.run([*NARROW, *WIDE])
        for address, (status, reason, results, curves) in alone.bits.items():
            lane_status, lane_reason, lane_results, lane_curves = first.bits[address]
            assert (lane_status, lane_reason) == (status, reason)
            assert lane_curves.keys() == curves.keys()
            floats = partial(np.frombuffer, dtype=np.float32)
            np.testing.assert_allclose(floats(lane_results), floats(results), rtol=TOLERANCE)
            for name, curve in curves.items():
                np.testing.assert_allclose(floats(lane_curves[name]), floats(curve), rtol=TOLERANCE, err_msg=name)

    def test_trials_of_other_lengths_never_share_a_pack(self, environment):
        longer = stand_in_trial(5, steps=30, evaluation_steps=(30,))
        run = self.run([*NARROW, longer])
        ((_, _, packing),) = run.compiled
        assert [len(pack) for pack in packing.packs] == [len(NARROW), 1]
        lengths = {len(outcome.curves["train_loss"]) for outcome in run.outcomes}
        assert lengths == {20, 30}


TOLERANCE = 1e-3
"""Of results between executors, relative: the float32 rounding of 20 steps, which training amplifies."""


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
        assert {path.name: path.read_bytes() for path in shared_folder().iterdir()} == {"entry.8": b"compiled"}

    def put(self, name, content):
        shared_folder().mkdir(parents=True, exist_ok=True)
        (shared_folder() / name).write_bytes(content)
        return shared_folder() / name

    def test_links_what_is_finished(self):
        self.put("entry.8", b"compiled")
        self.put(".entry.12", b"comp")
        link_finished(self.private)
        assert [path.name for path in self.private.iterdir()] == ["entry"]
        assert (self.private / "entry").read_bytes() == b"compiled"

    @pytest.mark.parametrize("name", ["entry.9", "entry"])
    def test_removes_what_was_cut_off(self, name):
        """Or comes from a version that did not note sizes."""
        entry = self.put(name, b"compiled")
        link_finished(self.private)
        assert not list(self.private.iterdir())
        assert not entry.exists()

    def test_keeps_its_own_entries_when_it_links(self):
        (self.private / "entry").write_bytes(b"own")
        self.put("entry.5", b"other")
        link_finished(self.private)
        assert (self.private / "entry").read_bytes() == b"own"

    def test_does_not_publish_links(self):
        entry = self.put("entry.8", b"compiled")
        link_finished(self.private)
        entry.unlink()
        publish(self.private)
        assert list(shared_folder().iterdir()) == []

    def test_drops_links_to_what_is_gone(self):
        """Through which JAX would write into the shared folder."""
        entry = self.put("entry.8", b"compiled")
        link_finished(self.private)
        entry.unlink()
        link_finished(self.private)
        assert not (self.private / "entry").is_symlink()

    def test_what_was_not_used_for_longest_goes_first(self, monkeypatch):
        monkeypatch.setattr(compilation_cache, "MOST_BYTES", 20)
        for hours, name in ((3, "old.8"), (2, "used.8"), (1, "new.8")):
            at = time.time() - 3600 * hours
            os.utime(self.put(name, b"compiled"), (at, at))
        os.utime(shared_folder() / "used.8")
        (self.private / "own").write_bytes(b"own")
        publish(self.private)
        assert {path.name for path in shared_folder().iterdir()} == {"used.8", "new.8", "own.3"}

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


@pytest.mark.parametrize(
    ("flags", "name"), [("fma avx avx2 avx512f", "EPYC (AVX-512)"), ("avx avx2", "EPYC (AVX2)"), ("sse2", "EPYC")]
)
def test_processors_of_one_model_are_told_apart_by_what_moves_bits(flags, name, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_processor", lambda: f"model name\t: EPYC\nflags\t: {flags}")
    assert processor_name() == name
