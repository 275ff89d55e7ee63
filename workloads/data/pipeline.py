"""The input pipeline: batches of a stream in a fixed order, read and decoded by Grain in threads or processes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from workloads.workload import DataError, Stream

BATCHES_AHEAD = 2
"""Batches that each worker process, or all threads together, hold ready."""


class Order(Protocol):
    """Index of the record at each position of an endless order; it travels to worker processes."""

    def __getitem__(self, position: int) -> int:
        """The index at a position from 0."""


def batches(
    stream: Stream,
    order: Order,
    augment_seed: int,
    batch_size: int,
    start: int,
    stop: int,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
    read_ahead: bool = True,
) -> Iterator[dict[str, np.ndarray]]:
    """Reads this host's share of the batches of steps `start` to `stop`.

    An example is a function of (order, augmentation seed, position) alone, position = step x batch size + slot: the
    same whatever the number of workers and hosts, and after a resume. Host h of H has the h-th of H equal parts of the
    slots, so no two read the same position.

    Args:
      stream: what to read.
      order: index of the record at each position.
      augment_seed: with the position it seeds the generator that `stream.prepare` gets.
      batch_size: examples of a step, of all hosts together; divisible by the number of hosts.
      start: first step.
      stop: step after the last.
      workers: processes that decode; 0 for threads of this process.
      host: number of this host.
      hosts: how many there are.
      read_ahead: whether batches are read before they are asked for; without it there are no workers either.

    Yields:
      A batch: fields of (batch size / hosts, ...).

    Raises:
      DataError: a record cannot be read or decoded, or the extra `data` is missing.
    """
    if stop <= start:
        return
    grain = _grain()
    share = _Share(stream, order, augment_seed, batch_size, start, batch_size // hosts, host)
    dataset = grain.MapDataset.range(stop - start).map(share)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not workers:
        threads = threads + 1  # while one waits for Python's lock another decodes
    reading = grain.ReadOptions(num_threads=1 if workers else threads, prefetch_buffer_size=max(BATCHES_AHEAD, threads))
    if not read_ahead:
        reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    iterator = dataset.to_iter_dataset(reading)
    if workers and read_ahead:
        from absl import flags

        flags.FLAGS.mark_as_parsed()  # Grain's workers read flags, which nothing here parses
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=BATCHES_AHEAD)
        iterator = iterator.mp_prefetch(options)
    try:
        yield from iterator
    except DataError as error:
        raise DataError(str(error).splitlines()[0]) from None  # Grain adds lines of its own


@dataclasses.dataclass(frozen=True)
class _Share:
    """Reads and prepares a host's share of the batch of the n-th step from the first.

    Attributes:
      size: slots of a batch that are this host's.
    """

    stream: Stream
    order: Order
    augment_seed: int
    batch_size: int
    start: int
    size: int
    host: int

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        first = (self.start + number) * self.batch_size + self.host * self.size
        positions = range(first, first + self.size)
        records = read_many(self.stream.records, [self.order[position] for position in positions])
        examples = [
            self.stream.prepare(record, np.random.default_rng([self.augment_seed, position]))
            for record, position in zip(records, positions, strict=True)
        ]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def read_many(records: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
    """Reads records at once where their source can, by `__getitems__`: TFDS does so six times as fast as one by one."""
    read = getattr(records, "__getitems__", None)
    return [records[index] for index in indices] if read is None else read(indices)


def _grain() -> Any:
    try:
        import grain
    except ImportError:
        raise DataError("the package grain is missing; install it with: pip install 'playbook-bench[data]'") from None
    return grain
