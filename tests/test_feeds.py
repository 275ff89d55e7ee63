import dataclasses

import jax
import numpy as np
import pytest

from harness.records import InputError
from harness.training.checkpoints import Checkpoints
from harness.training.feeds import PIECE_BYTES, StreamFeed, feed_of, piece_batches
from harness.training.memory import training_bytes
from harness.training.programs import Programs
from harness.training.run import run_pack, run_trial
from tests.stand_in import StandIn, stand_in_trial
from workloads.workload import DataError, Splits, Stream


@dataclasses.dataclass(frozen=True)
class Rows:
    """The examples of arrays, one by one."""

    fields: dict

    def __len__(self):
        return len(self.fields["label"])

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.fields.items()}


def untouched(record, generator):
    return record


def shifted(record, generator):
    return {**record, "image": record["image"] + np.float32(generator.random())}


def refused(record, generator):
    raise DataError("image 7 does not decode; prepare it again")


@dataclasses.dataclass(frozen=True)
class Streamed(StandIn):
    """The stand-in, whose examples are read one by one."""

    prepare: str = "untouched"

    def data(self, split_seed):
        splits = super().data(split_seed)
        prepare = {"untouched": untouched, "shifted": shifted, "refused": refused}[self.prepare]
        return Splits(Stream(Rows(splits.train), prepare), Stream(Rows(splits.validation), untouched))


CURVES = ("train_loss", "gradient_norm", "evaluation_loss", "evaluation_error")


def trial_of(prepare="untouched", **named):
    return stand_in_trial(workload=Streamed(prepare=prepare), evaluation_steps=(0, 7, 20), **named)


def test_streams_train_as_arrays_do():
    trial = trial_of()
    streamed = run_trial(Programs(trial, chunk=3), trial)
    arrays = dataclasses.replace(trial, workload=StandIn())
    in_memory = run_trial(Programs(arrays, chunk=8), arrays)
    for name in CURVES:
        np.testing.assert_allclose(streamed.curves[name], in_memory.curves[name], rtol=1e-5, err_msg=name)
    assert streamed.status == "complete"


def test_lanes_of_streams_equal_one_at_a_time():
    trials = [trial_of("shifted", replicate=replicate) for replicate in range(3)]
    together = run_pack(Programs(trials[0], lanes=4), trials)
    for trial, outcome in zip(trials, together, strict=True):
        alone = run_trial(Programs(trial), trial)
        for name in CURVES:
            np.testing.assert_allclose(outcome.curves[name], alone.curves[name], rtol=1e-5, err_msg=name)
    assert len({outcome.curves["train_loss"].tobytes() for outcome in together}) == 3


def test_augmentation_has_a_seed_of_its_own():
    trial = trial_of("shifted")
    other = dataclasses.replace(trial, seeds={**trial.seeds, "augment": trial.seeds["augment"] + 1})
    one, two = (run_trial(Programs(t), t).curves for t in (trial, other))
    assert np.all(one["train_loss"] != two["train_loss"])
    assert one["evaluation_loss"][0] == two["evaluation_loss"][0]  # which is not augmented


@pytest.mark.parametrize("evaluation_batch_size", [16, 5])
def test_evaluations_in_pieces_weigh_every_example_once(evaluation_batch_size):
    trial = trial_of(evaluation_batch_size=evaluation_batch_size)
    arrays = dataclasses.replace(trial, workload=StandIn(), evaluation_batch_size=16)
    one, two = (run_trial(Programs(t, chunk=2), t).curves for t in (trial, arrays))
    np.testing.assert_allclose(one["evaluation_loss"], two["evaluation_loss"], rtol=1e-5)
    np.testing.assert_allclose(one["evaluation_error"], two["evaluation_error"], rtol=1e-6)


def test_predictions_of_streams_are_in_the_order_of_their_records():
    trial = trial_of(predictions=True, evaluation_batch_size=5)
    arrays = dataclasses.replace(trial, workload=StandIn())
    one, two = (run_trial(Programs(t, chunk=2), t).curves["prediction"] for t in (trial, arrays))
    np.testing.assert_array_equal(one, two)


def test_sharpness_is_measured_on_the_first_examples():
    trial = trial_of(curvature_examples=6)
    arrays = dataclasses.replace(trial, workload=StandIn())
    one, two = (run_trial(Programs(t), t).results["sharpness"] for t in (trial, arrays))
    assert one == pytest.approx(two, rel=1e-4)


def test_gradient_noise_is_measured_on_the_drawn_examples():
    trial = trial_of(noise_steps=(0, 2))
    arrays = dataclasses.replace(trial, workload=StandIn())
    one, two = (run_trial(Programs(t), t).curves["gradient_trace"] for t in (trial, arrays))
    np.testing.assert_allclose(one, two, rtol=1e-4)


@pytest.mark.parametrize("killed_after", [7, 0])
def test_a_resumed_stream_has_the_bits_of_an_undisturbed_one(tmp_path, monkeypatch, killed_after):
    trial, programs = trial_of("shifted"), Programs(trial_of(), chunk=4)
    undisturbed = run_trial(programs, trial)

    class Killed(Exception):
        pass

    def kill(step, metrics):
        if step == killed_after:
            raise Killed

    checkpoints = Checkpoints(tmp_path, "error")
    if killed_after:
        with pytest.raises(Killed):
            run_trial(programs, trial, checkpoints, on_evaluation=kill)
    resumed = run_trial(programs, trial, checkpoints)
    checkpoints.close()
    for name in CURVES:
        assert resumed.curves[name].tobytes() == undisturbed.curves[name].tobytes(), name


def test_what_does_not_decode_ends_the_run():
    trial = trial_of("refused")
    with pytest.raises(DataError, match=r"^image 7 does not decode; prepare it again$"):
        run_trial(Programs(trial), trial)


@pytest.mark.parametrize("workload", [StandIn(), Streamed()])
def test_batches_larger_than_the_data_are_refused(workload):
    trial = stand_in_trial(workload=workload, batch_size=33)
    with pytest.raises(InputError, match=r"^batch_size 33: expected at most 32, the size of the training set; choose"):
        run_trial(Programs(trial), trial)


def test_pieces_hold_as_many_batches_as_fit():
    example = {"image": np.zeros((224, 224, 3), np.uint8), "label": np.zeros((), np.int32)}
    assert piece_batches(example, 1, 1024, 64) == 1
    assert piece_batches(example, 1, 64, 64) == PIECE_BYTES // (64 * (224 * 224 * 3 + 4)) == 6
    assert piece_batches({"label": example["label"]}, 2, 8, 64) == 64


def test_a_stream_is_not_read_before_it_is_needed():
    feed = feed_of([trial_of()], 64)
    assert isinstance(feed, StreamFeed)
    piece = feed.training(0, 0)
    assert piece.indices is None
    assert {name: values.shape for name, values in piece.examples.items()} == {
        "image": (1, 64, 8, 4),
        "label": (1, 64, 8),
    }
    assert not np.any(jax.tree.leaves(jax.tree.map(np.asarray, dict(piece.examples)))[0])


def test_memory_of_streams_is_that_of_their_pieces():
    one, two = (training_bytes(Programs(trial_of(), lanes=lanes), trial_of()) for lanes in (1, 2))
    piece = 64 * 8 * (4 * 4 + 4)
    assert piece < one < two
