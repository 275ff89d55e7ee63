"""Where a pack's examples come from: arrays that lie on the devices, or streams that are read as they are needed."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from harness.training.batches import Order, check_batch_size, padded_batches, step_indices
from harness.training.devices import everywhere, place, split
from harness.training.trial import Trial
from workloads.data.pipeline import batches
from workloads.workload import Splits, Stream, Workload

PIECE_BYTES = 1 << 26
"""What a host holds at most of one call's examples of a stream, unless a single batch is larger."""


class Piece(NamedTuple):
    """Examples of a few batches, as the programs take them.

    Attributes:
      examples: field name to array: all examples, (lanes, examples, ...), or those of each batch, (lanes, batches,
        batch, ...).
      indices: of the examples of each batch, int32; None where the batches lie ready.
      weights: of an evaluation, float32 (batches, batch); None in training.
    """

    examples: Mapping[str, jax.Array]
    indices: np.ndarray | None
    weights: np.ndarray | None = None


class ArrayFeed:
    """Examples that all lie on the devices; a batch is gathered there.

    Attributes:
      chunk: most steps of a training piece.
      held_out: examples of the validation set.
      evaluation_batches: batches of an evaluation.
    """

    def __init__(self, lanes: Sequence[Trial], data: _OnDevices, chunk: int, mesh: Mesh | None):
        """Takes the data of every lane; the other arguments are `feed_of`'s."""
        self.chunk = chunk
        self._lanes = lanes
        self._train, self._validation = data
        self._examples = next(iter(self._train.values())).shape[1]
        self.held_out = next(iter(self._validation.values())).shape[1]
        self._padded = padded_batches(self.held_out, _evaluation_batch(lanes[0], mesh))
        self.evaluation_batches = len(self._padded[1])
        self._stored = None if lanes[0].shuffled else [_as_stored(self._train, lane) for lane in range(len(lanes))]

    def training(self, start: int, stop: int) -> Piece:
        """The examples of steps `start` to `stop`, at most `chunk`; indices int32 (lanes, chunk, batch)."""
        indices = np.zeros((len(self._lanes), self.chunk, self._lanes[0].batch_size), np.int32)
        orders = [lane.seeds["order"] for lane in self._lanes]
        for order in set(orders):  # paired arms share theirs
            rows = [lane for lane, other in enumerate(orders) if other == order]
            indices[rows, : stop - start] = step_indices(order, self._examples, indices.shape[2], start, stop)
        if self._stored is not None:
            places = np.arange(start * indices.shape[2], stop * indices.shape[2]) % self._examples
            for lane, stored in enumerate(self._stored):
                indices[lane, : stop - start] = stored[places].reshape(stop - start, indices.shape[2])
        return Piece(self._train, indices)

    def evaluation(self) -> Iterator[Piece]:
        """The validation examples, in one piece; indices int32 (batches, batch)."""
        yield Piece(self._validation, *self._padded)

    def first(self, lane: int, count: int) -> dict[str, np.ndarray]:
        """The first training examples of a lane, in its order, fields (count, ...)."""
        chosen = step_indices(self._lanes[lane].seeds["order"], self._examples, count, 0, 1)[0]
        return self._chosen(lane, chosen)

    def drawn(self, lane: int, generator: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
        """Endless training batches of a lane, drawn with replacement, fields (batch, ...)."""
        while True:
            yield self._chosen(lane, generator.integers(self._examples, size=self._lanes[lane].batch_size))

    def _chosen(self, lane: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.asarray(values[lane, rows]) for name, values in self._train.items()}


def _as_stored(train: Mapping[str, jax.Array], lane: int) -> np.ndarray:
    """Examples of a lane in the order of storage, int64 (examples,): by label where each has one, else as they are."""
    labels = train.get("label")
    if labels is None or labels.ndim != 2:
        return np.arange(next(iter(train.values())).shape[1])
    return np.argsort(np.asarray(labels[lane]), kind="stable")


class StreamFeed:
    """Examples that are read, decoded and put on the devices batch by batch, this host's part of each.

    Attributes:
      chunk: most steps of a training piece, and batches of a piece of an evaluation.
      held_out: examples of the validation set.
      evaluation_batches: batches of an evaluation.
    """

    def __init__(self, lanes: Sequence[Trial], splits: Sequence[Splits], chunk: int, mesh: Mesh | None, workers: int):
        """Opens the streams of every lane, which reads one example; the other arguments are `feed_of`'s."""
        self._lanes, self._splits, self._mesh, self._workers = lanes, splits, mesh, workers
        self._batch_size = lanes[0].batch_size
        self._evaluation_batch = _evaluation_batch(lanes[0], mesh)
        self.held_out = len(splits[0].validation.records)
        self._example = example_of(splits[0].train)
        self.evaluation_batches = math.ceil(self.held_out / self._evaluation_batch)
        largest = max(self._batch_size, self._evaluation_batch) // jax.process_count()
        self.chunk = piece_batches(self._example, len(lanes), largest, chunk)
        self._open: list[Iterator[dict[str, np.ndarray]]] = []
        self._next = -1

    def training(self, start: int, stop: int) -> Piece:
        """The examples of steps `start` to `stop`, at most `chunk`, fields (lanes, chunk, batch, ...)."""
        if stop == start:  # for a call that takes no step
            return Piece(self._piece([], 0, self._batch_size, self.chunk), None)
        if start != self._next:
            self._open = [
                self._batches(
                    splits.train,
                    self._order(trial, len(splits.train.records)),
                    trial.seeds["augment"],
                    self._batch_size,
                    start,
                    trial.total_steps,
                )
                for trial, splits in zip(self._lanes, self._splits, strict=True)
            ]
        self._next = stop
        return Piece(self._piece(self._open, stop - start, self._batch_size, self.chunk), None)

    def evaluation(self) -> Iterator[Piece]:
        """The validation examples in pieces of equal shape, the last filled up with batches of weight 0."""
        size = self._evaluation_batch
        _, weights = padded_batches(self.held_out, size)
        count = len(weights)
        room = min(self.chunk, count)
        weights = np.pad(weights, ((0, -count % room), (0, 0)))
        iterators = [
            self._batches(splits.validation, _InTurn(len(splits.validation.records)), 0, size, 0, count)
            for splits in self._splits
        ]
        for start in range(0, count, room):
            piece = self._piece(iterators, min(room, count - start), size, room)
            yield Piece(piece, None, weights[start : start + room])

    def first(self, lane: int, count: int) -> dict[str, np.ndarray]:
        """The first training examples of a lane, in its order, fields (count, ...)."""
        trial, stream = self._lanes[lane], self._splits[lane].train
        order = Order(trial.seeds["order"], len(stream.records))
        return next(batches(stream, order, trial.seeds["augment"], count, 0, 1))

    def drawn(self, lane: int, generator: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
        """Endless training batches of a lane, drawn with replacement, fields (batch, ...)."""
        trial, stream = self._lanes[lane], self._splits[lane].train
        while True:
            rows = generator.integers(len(stream.records), size=trial.batch_size)
            yield next(batches(stream, rows.tolist(), trial.seeds["augment"], trial.batch_size, 0, 1))

    def _order(self, trial: Trial, examples: int) -> Order | _InTurn:
        return Order(trial.seeds["order"], examples) if trial.shuffled else _InTurn(examples)

    def _batches(self, stream: Stream, order: Any, seed: int, size: int, start: int, stop: int) -> Iterator:
        hosts = (self._workers, jax.process_index(), jax.process_count())
        return batches(stream, order, seed, size, start, stop, *hosts, read_ahead=self._lanes[0].read_ahead)

    def _piece(self, iterators: Sequence[Iterator], count: int, size: int, room: int) -> dict[str, jax.Array]:
        """Takes the next batches of every lane's iterator, fills up to `room`, and puts them on the devices."""
        shape = (len(self._lanes), room, size // jax.process_count())
        fields = {name: np.zeros((*shape, *v.shape), v.dtype) for name, v in self._example.items()}
        for number in range(count):
            for lane, iterator in enumerate(iterators):
                for name, values in next(iterator).items():
                    fields[name][lane, number] = values
        return {name: place(values, split(self._mesh, 2)) for name, values in fields.items()}


class _InTurn:
    """The records one after another; the last batch is filled up with the first."""

    def __init__(self, examples: int):
        self._examples = examples

    def __getitem__(self, position: int) -> int:
        return position % self._examples


def feed_of(lanes: Sequence[Trial], chunk: int, mesh: Mesh | None = None, workers: int = 0) -> ArrayFeed | StreamFeed:
    """Opens the data of a pack.

    Args:
      lanes: a trial each, of one compile group.
      chunk: most steps that are wanted of a training piece.
      mesh: of the devices; None for one.
      workers: processes that decode streams.

    Raises:
      DataError: the data are missing or not the expected ones.
      InputError: a batch is larger than the training set.
    """
    data = _data(lanes[0].workload, tuple(trial.seeds["split"] for trial in lanes), mesh)
    if isinstance(data, _OnDevices):
        check_batch_size(lanes[0].batch_size, next(iter(data.train.values())).shape[1])
        return ArrayFeed(lanes, data, chunk, mesh)
    check_batch_size(lanes[0].batch_size, len(data[0].train.records))
    return StreamFeed(lanes, data, chunk, mesh, workers)


class _OnDevices(NamedTuple):
    """Training and validation sets of every lane, each field (lanes, examples, ...), on every device."""

    train: Mapping[str, jax.Array]
    validation: Mapping[str, jax.Array]


@functools.lru_cache(maxsize=1)  # packs of a study follow one another on the same data
def _data(workload: Workload, split_seeds: tuple[int, ...], mesh: Mesh | None) -> _OnDevices | tuple[Splits, ...]:
    """The data of every lane's split seed: arrays on the devices, or the streams."""
    splits = {seed: workload.data(seed) for seed in dict.fromkeys(split_seeds)}
    if any(isinstance(one.train, Stream) for one in splits.values()):
        return tuple(splits[seed] for seed in split_seeds)

    def stacked(sets: Sequence[Mapping[str, np.ndarray]]) -> dict[str, jax.Array]:
        return {name: place(np.stack([one[name] for one in sets]), everywhere(mesh)) for name in sets[0]}

    return _OnDevices(
        stacked([splits[s].train for s in split_seeds]), stacked([splits[s].validation for s in split_seeds])
    )


def piece_batches(example: Mapping[str, np.ndarray], lanes: int, batch_size: int, most: int) -> int:
    """How many batches of a stream one call gets: as many as `PIECE_BYTES` hold, at least 1.

    Args:
      example: the fields of one.
      lanes: of a pack.
      batch_size: examples of this host.
      most: that are wanted.
    """
    bytes_of_batch = lanes * batch_size * sum(values.nbytes for values in example.values())
    return max(1, min(most, PIECE_BYTES // bytes_of_batch))


def example_of(examples: Mapping[str, np.ndarray] | Stream) -> dict[str, np.ndarray]:
    """The fields of one example, for their shapes and dtypes."""
    if isinstance(examples, Stream):
        return examples.prepare(examples.records[0], np.random.default_rng(0))
    return {name: values[0] for name, values in examples.items()}


def _evaluation_batch(trial: Trial, mesh: Mesh | None) -> int:
    """The evaluation batch size, rounded up to a multiple of the devices: what fills a batch up weighs nothing."""
    count = 1 if mesh is None else mesh.size
    return math.ceil(trial.evaluation_batch_size / count) * count
