"""The input pipeline: batches of a stream in a fixed order, read and decoded by Grain in threads or processes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
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

    Yields:
      A batch: fields of (batch size / hosts, ...).

    Raises:
      DataError: a record cannot be read or decoded, or the extra `data` is missing.
    """
    if stop <= start:
        return
    grain = _grain()
    share = _Share(stream, order, augment_seed, batch_size, start, batch_size // hosts, host)
    dataset = grain.MapDataset.range((stop - start) * share.size).map(share).batch(share.size)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ahead = BATCHES_AHEAD * share.size
    reading = grain.ReadOptions(num_threads=1 if workers else threads, prefetch_buffer_size=ahead)
    # Threads take single examples, so that a batch is decoded by all of them.
    iterator = dataset.to_iter_dataset(reading)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=BATCHES_AHEAD)
        iterator = iterator.mp_prefetch(options)
    yield from iterator


@dataclasses.dataclass(frozen=True)
class _Share:
    """Prepares the n-th example of a host's share.

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

    def __call__(self, number: int) -> dict[str, Any]:
        step, slot = divmod(number, self.size)
        position = (self.start + step) * self.batch_size + self.host * self.size + slot
        generator = np.random.default_rng([self.augment_seed, position])
        return self.stream.prepare(self.stream.records[self.order[position]], generator)


def _grain() -> Any:
    try:
        import grain
    except ImportError:
        raise DataError("the package grain is missing; install it with: pip install 'playbook-bench[data]'") from None
    return grain
