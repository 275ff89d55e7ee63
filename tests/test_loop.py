"""How a trial is fed, evaluated, timed and spread over devices: what its specification says beyond what is trained."""

import dataclasses
import re

import numpy as np
import pytest

from harness.records import InputError
from harness.studies.processes import run_trials
from harness.studies.study import Arm
from harness.training.checkpoints import Checkpoints
from harness.training.feeds import feed_of
from harness.training.programs import Programs
from harness.training.run import run_pack, run_trial
from harness.training.trial import LATER, MOST_STEPS, Trial
from tests.executor_contract import bits
from tests.stand_in import StandIn, stand_in_study, stand_in_trial
from tests.test_feeds import trial_of as streamed_trial


@pytest.fixture(scope="module")
def usual():
    return run_trial(Programs(stand_in_trial()), stand_in_trial())


def test_later_fields_leave_addresses_as_they_were():
    """The address that this trial had before there were any of them."""
    assert stand_in_trial().address() == "b4d0eed821236230c9a5024e591b481a10c947ccd36fc513a73561d953100abe"
    fields = {field.name: field.default for field in dataclasses.fields(Trial)}
    assert {name: fields[name] for name in LATER} == LATER


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 3}, "devices 3: expected a divisor of batch_size 8"),
        ({"devices": 0}, "devices 0"),
        ({"steps": 2**40}, f"steps {2**40}: expected at most {MOST_STEPS}"),
    ],
)
def test_bad_fields_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        stand_in_trial(**changes)


@pytest.mark.parametrize(("name", "value"), [("warmup_steps", 1e23), ("warmup_steps", -1), ("constant_steps", 21)])
def test_bad_lengths_are_refused(name, value):
    hyperparameters = {**stand_in_trial().hyperparameters, name: value}
    with pytest.raises(InputError, match=re.escape(f"{name} {value!r}: expected")):
        stand_in_trial(hyperparameters=hyperparameters)


def test_a_study_and_its_arms_set_fields_of_the_trial():
    study = stand_in_study(arms=(Arm("one"), Arm("two", fields={"waits": True})), fields={"alone": True})
    planned = study.plan(0)
    assert all(place.trial.alone for place in planned)
    assert {place.arm for place in planned if place.trial.waits} == {"two"}


def test_constant_steps_come_before_the_decay():
    trial = stand_in_trial(schedule="linear")
    trial = dataclasses.replace(trial, hyperparameters={**trial.hyperparameters, "constant_steps": 12})
    rates = run_trial(Programs(trial), trial).curves["learning_rate"]
    np.testing.assert_allclose(rates[:12], 0.5)
    np.testing.assert_allclose(rates[12:], 0.5 * (1 - np.arange(8) / 8), rtol=1e-6)


def test_constant_steps_compile_nothing_anew():
    trial = stand_in_trial()
    held = dataclasses.replace(trial, hyperparameters={**trial.hyperparameters, "constant_steps": 3})
    assert held.compile_group() == trial.compile_group()


def test_unshuffled_examples_come_by_label_in_every_epoch():
    trial = stand_in_trial(shuffled=False, batch_size=4, steps=16)
    feed = feed_of([trial], 16)
    labels = np.asarray(feed.training(0, 16).examples["label"])[0]
    seen = labels[feed.training(0, 16).indices[0]]
    epoch = seen.reshape(2, -1)
    np.testing.assert_array_equal(epoch[0], np.sort(labels))
    np.testing.assert_array_equal(epoch[1], epoch[0])
    pieces = [feed.training(start, start + 5).indices[0, :5] for start in (0, 5)]
    np.testing.assert_array_equal(np.concatenate(pieces), feed.training(0, 10).indices[0, :10])


@pytest.mark.parametrize("make", [stand_in_trial, streamed_trial])
def test_unshuffled_trials_run_and_differ_from_shuffled_ones(make):
    shuffled, stored = (make(shuffled=way) for way in (True, False))
    curves = [run_trial(Programs(trial), trial).curves["train_loss"] for trial in (shuffled, stored)]
    assert curves[0].shape == curves[1].shape
    assert not np.array_equal(*curves)


def test_unshuffled_streams_come_as_they_are_stored():
    trial = streamed_trial(shuffled=False)
    stored = trial.workload.data(trial.seeds["split"]).train.records.fields["image"]
    piece = feed_of([trial], 2).training(0, 2).examples["image"]
    np.testing.assert_array_equal(np.asarray(piece)[0].reshape(-1, *stored.shape[1:]), stored[: 2 * trial.batch_size])


@pytest.mark.parametrize("make", [stand_in_trial, streamed_trial])
@pytest.mark.parametrize("evaluation_batch_size", [5, 16, 64])
def test_evaluations_by_batch_are_parts_of_the_whole(make, evaluation_batch_size):
    trial = make(evaluation_by_batch=True, evaluation_batch_size=evaluation_batch_size)
    curves = run_trial(Programs(trial, chunk=2), trial).curves
    batches = -(-16 // evaluation_batch_size)
    for name in ("error", "loss"):
        parts = curves[f"evaluation_{name}_by_batch"].reshape(-1, batches)
        assert len(parts) == len(curves["evaluation_step"])
        weights = np.minimum(16 - evaluation_batch_size * np.arange(batches), evaluation_batch_size)
        np.testing.assert_allclose(parts @ weights / 16, curves[f"evaluation_{name}"], rtol=1e-5)


def test_evaluations_by_batch_change_nothing_else(usual):
    trial = stand_in_trial(evaluation_by_batch=True)
    outcome = run_trial(Programs(trial), trial)
    for name, curve in usual.curves.items():
        np.testing.assert_array_equal(outcome.curves[name], curve)
    assert outcome.results.items() >= {k: v for k, v in usual.results.items() if np.isfinite(v)}.items()


def test_evaluations_by_batch_of_lanes_are_those_of_their_trials():
    trials = [stand_in_trial(number, evaluation_by_batch=True, evaluation_batch_size=5) for number in range(2)]
    together = run_pack(Programs(trials[0], lanes=3), trials)
    for trial, outcome in zip(trials, together, strict=True):
        alone = run_trial(Programs(trial), trial).curves["evaluation_error_by_batch"]
        np.testing.assert_allclose(outcome.curves["evaluation_error_by_batch"], alone, atol=1e-6)


def test_evaluations_by_batch_go_on_from_a_checkpoint(tmp_path):
    trial = stand_in_trial(evaluation_by_batch=True, evaluation_batch_size=5, evaluation_steps=(0, 7, 20))
    programs = Programs(trial)
    whole = run_trial(programs, trial)
    checkpoints = Checkpoints(tmp_path, "error")
    shorter = dataclasses.replace(trial, steps=7, evaluation_steps=(0, 7))
    run_trial(programs, shorter, checkpoints)
    resumed = run_trial(programs, trial, checkpoints)
    checkpoints.close()
    assert bits(resumed) == bits(whole)


@pytest.mark.parametrize("changes", [{"read_ahead": False}, {"waits": True}, {"read_ahead": False, "waits": True}])
def test_feeding_changes_no_bit(changes):
    trial, other = streamed_trial(prepare="shifted"), streamed_trial(prepare="shifted", **changes)
    programs = Programs(trial, chunk=3)
    assert bits(run_trial(programs, other)) == bits(run_trial(programs, trial))


def test_without_reading_ahead_no_example_is_read_before_it_is_asked_for():
    trial = streamed_trial(read_ahead=False)
    asked = []
    splits = trial.workload.data(0)

    class Noted:
        def __len__(self):
            return len(splits.train.records)

        def __getitem__(self, index):
            asked.append(index)
            return splits.train.records[index]

    from workloads.data.pipeline import batches

    stream = dataclasses.replace(splits.train, records=Noted())
    reading = batches(stream, range(1000), 0, 4, 0, 5, read_ahead=False)
    next(reading)
    assert asked == [0, 1, 2, 3]
    next(reading)
    assert asked == list(range(8))


def test_times_are_of_whole_calls(usual):
    assert 0 < usual.timings["seconds_per_step"] < usual.timings["trial_seconds"]
    from harness.training.run import _typical

    assert _typical([9.0, 1.0, 2.0, 3.0, 0.1]) == 2.0
    assert _typical([9.0, 1.0]) == 5.0
    assert np.isnan(_typical([]))


class Finished(list):
    """Trials and outcomes in the order of finishing."""

    def __call__(self, trial, outcome):
        self.append((trial, outcome))


def finished(trials, jobs=2):
    found, packings = Finished(), []
    run_trials(trials, jobs, lambda machine: None, lambda *fact: packings.append(fact), found)
    return found, packings


def test_trials_alone_come_last_one_by_one_in_their_order():
    wide = [stand_in_trial(n, workload=StandIn(features=5), alone=True) for n in range(2)]
    narrow = [stand_in_trial(n, alone=True, profiled=True) for n in range(2)]
    by_turns = [narrow[0], wide[0], narrow[1], wide[1]]
    found, _ = finished([*by_turns, stand_in_trial(5)])
    assert [trial for trial, _ in found] == [stand_in_trial(5), *by_turns]
    profiles = [{"input_share", "compute_share", "host_share"} <= outcome.timings.keys() for _, outcome in found]
    assert profiles == [False, True, False, True, False]


def test_trials_over_devices_are_those_of_one_but_for_rounding():
    trials = [stand_in_trial(0), stand_in_trial(0, devices=4), stand_in_trial(0, steps_per_call=4)]
    found, packings = finished(trials)
    outcomes = {trial.devices: outcome for trial, outcome in found if not trial.steps_per_call}
    for name in ("train_loss", "evaluation_loss"):
        np.testing.assert_allclose(outcomes[4].curves[name], outcomes[1].curves[name], rtol=1e-4)
    assert sorted(packing.chunk for _, _, packing in packings) == [4, 64, 64]


def test_too_few_devices_are_refused():
    from harness.training.devices import data_mesh

    with pytest.raises(InputError, match="a trial over 4096 devices: this machine has"):
        data_mesh(4096)
