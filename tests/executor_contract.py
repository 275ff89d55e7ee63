"""What every executor keeps: its test class inherits `ExecutorContract` and names the executor."""

from types import SimpleNamespace

import numpy as np
import pytest

from harness.records import InputError
from harness.studies.processes import TRIES, EnvironmentFailure, run_trials
from tests.stand_in import FOLDER, PROGRAMS, StandIn, calls, stand_in_trial

NARROW = [stand_in_trial(replicate, rate) for rate in (0.1, 0.5) for replicate in range(2)]
WIDE = [stand_in_trial(replicate, workload=StandIn(features=5)) for replicate in range(2)]
TRIALS = [*NARROW, *WIDE]


def bits(outcome):
    """Everything of an outcome that has to be equal: all but the timings."""
    curves = {name: np.asarray(curve).tobytes() for name, curve in outcome.curves.items()}
    return outcome.status, outcome.reason, np.array(list(outcome.results.values()), "<f4").tobytes(), curves


class ExecutorContract:
    """Subclasses name the executor, and how it packs; the two whole runs are shared by the tests."""

    executor: str
    packed_by: str

    @classmethod
    def run(cls, trials, jobs=1, on_finished=lambda trial: None, **begun):
        """Runs trials; gives the outcomes, (address, outcome) in the order of finishing, and what was compiled."""
        finished, compiled, machines = [], [], []

        def note(trial, outcome):
            finished.append((trial.address(), outcome))
            on_finished(trial)

        def note_group(*fact):
            compiled.append(fact)

        run_trials(trials, jobs, machines.append, note_group, note, executor=cls.executor, **begun)
        return SimpleNamespace(
            addresses=[address for address, _ in finished],
            bits={address: bits(outcome) for address, outcome in finished},
            outcomes=[outcome for _, outcome in finished],
            compiled=compiled,
            machines=machines,
        )

    @pytest.fixture(scope="class")
    @classmethod
    def environment(cls, tmp_path_factory):
        """An empty compilation cache of this class's own."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
            yield patch

    @pytest.fixture(scope="class")
    @classmethod
    def first(cls, environment, tmp_path_factory):
        """The run of every trial by one worker, with nothing compiled before."""
        folder = tmp_path_factory.mktemp("first")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(FOLDER, str(folder))
            run = cls.run(TRIALS)
        run.calls = calls(folder)
        return run

    @pytest.fixture(scope="class")
    @classmethod
    def second(cls, first):
        """The same trials in another order, by two workers."""
        return cls.run([TRIALS[i] for i in (5, 2, 0, 3, 4, 1)], jobs=2)

    @pytest.fixture
    def faults(self, first, tmp_path, monkeypatch):
        """The folder that makes trials fail, see `tests.stand_in`; everything is compiled before."""
        monkeypatch.setenv(FOLDER, str(tmp_path))
        return tmp_path

    def test_finishes_every_trial_once(self, first, second):
        assert sorted(first.addresses) == sorted(second.addresses) == sorted(trial.address() for trial in TRIALS)

    def test_outcomes_are_of_their_trials(self, first):
        for trial in TRIALS:
            status, _, _, curves = first.bits[trial.address()]
            rates = np.frombuffer(curves["learning_rate"], np.float32)
            assert status == "complete"
            np.testing.assert_array_equal(rates, np.full(20, trial.hyperparameters["learning_rate"], np.float32))
        losses = {curves["train_loss"] for _, _, _, curves in first.bits.values()}
        assert len(losses) == len(TRIALS)

    def test_outcomes_depend_on_neither_the_number_of_workers_nor_the_order(self, first, second):
        assert first.bits == second.bits

    def test_a_group_compiles_its_programs_once(self, first):
        groups = [group for group, _, _ in first.compiled]
        assert sorted(groups) == sorted({trial.compile_group() for trial in TRIALS})
        assert [count for _, count, _ in first.compiled] == [PROGRAMS] * 2

    def test_the_machine_is_named_once(self, second):
        (machine,) = second.machines
        assert machine.backend == "cpu"
        assert machine.device
        assert machine.memory > 2**28

    def test_every_trial_is_in_one_pack(self, first):
        for group, _, packing in first.compiled:
            expected = [trial.address() for trial in TRIALS if trial.compile_group() == group]
            assert [address for pack in packing.packs for address in pack] == expected
            assert max(map(len, packing.packs)) <= packing.lanes
            assert packing.executor == self.packed_by

    def test_finished_trials_are_left_out(self, first):
        """All but one of a group; whatever shared a pack with it is run again, with the same bits."""
        finished = {trial.address() for trial in TRIALS} - {WIDE[0].address()}
        run = self.run(TRIALS, finished=finished, packings={group: packing for group, _, packing in first.compiled})
        assert WIDE[0].address() in run.addresses
        assert set(run.addresses) <= {trial.address() for trial in WIDE}
        assert run.bits == {address: first.bits[address] for address in run.bits}

    def test_more_trials_of_a_begun_group_make_further_packs(self, first):
        more = stand_in_trial(5)
        begun = {group: packing for group, _, packing in first.compiled}
        run = self.run([*TRIALS, more], finished={trial.address() for trial in TRIALS}, packings=begun)
        assert run.addresses == [more.address()]
        ((group, _, packing),) = run.compiled
        assert packing == begun[group]._replace(packs=(*begun[group].packs, (more.address(),)))

    def test_a_second_run_compiles_nothing_anew(self, second):
        assert [count for _, count, _ in second.compiled] == [0, 0]

    def test_a_killed_worker_is_replaced_and_its_trial_repeated(self, faults, first):
        """It dies as it compiles and, replaced, dies in mid-trial."""
        for trial in NARROW[:2]:
            (faults / f"kill-{trial.seeds['split']}").touch()
        run = self.run(NARROW)
        assert not list(faults.glob("kill-*"))
        assert sorted(run.addresses) == sorted(trial.address() for trial in NARROW)
        assert len({call["pid"] for call in calls(faults)}) == 3
        assert run.bits == {address: first.bits[address] for address in run.bits}

    def test_a_trial_that_always_fails_is_given_up_and_others_are_kept(self, faults):
        bad = stand_in_trial(7, steps=30, evaluation_steps=(30,))  # so that it shares no pack
        (faults / f"error-{bad.seeds['split']}").touch()
        finished = []
        with pytest.raises(EnvironmentFailure, match=f"(?s){TRIES} times.*MemoryError: no room for") as caught:
            self.run([*NARROW, bad], on_finished=finished.append)
        assert "finished trials are kept" in str(caught.value)
        assert finished == NARROW
        assert sum(call["seed"] == bad.seeds["split"] for call in calls(faults)) == TRIES

    def test_missing_data_are_bad_input(self, faults):
        (faults / f"missing-{NARROW[0].seeds['split']}").touch()
        with pytest.raises(InputError, match=r"^synthetic: the data are missing; install them$"):
            self.run(NARROW[:1])
        assert len(calls(faults)) == 1  # trying again would not help
