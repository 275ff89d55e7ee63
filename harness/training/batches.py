"""Which examples each step sees: an index stream that is a function of (order seed, step) alone."""

from functools import lru_cache

import numpy as np

from harness.records import InputError


class Order:
    """The index stream by position: place p of it is slot p % batch size of step p // batch size.

    Epochs follow one another without a gap, each in a permutation of its own; a batch may reach over their border, so
    that every batch is full.
    """

    def __init__(self, order_seed: int, examples: int):
        """Prepares the stream.

        Args:
          order_seed: seed of the order.
          examples: size of the training set.
        """
        self._seed = order_seed
        self._examples = examples

    def __getitem__(self, position: int) -> int:
        """Index of the example at a position from 0."""
        epoch, place = divmod(position, self._examples)
        return int(_permutation(self._seed, epoch, self._examples)[place])


@lru_cache(maxsize=2)  # positions are asked for one by one, and near a border of two epochs by turns
def _permutation(order_seed: int, epoch: int, examples: int) -> np.ndarray:
    return np.random.default_rng([order_seed, epoch]).permutation(examples)


def step_indices(order_seed: int, examples: int, batch_size: int, start: int, stop: int) -> np.ndarray:
    """Indices of the training examples of steps `start` to `stop`, from `Order`'s stream.

    Args:
      order_seed: seed of the order.
      examples: size of the training set.
      batch_size: examples per step.
      start: first step.
      stop: step after the last.

    Returns:
      int32 (stop - start, batch_size).
    """
    if start == stop:
        return np.zeros((0, batch_size), np.int32)
    first, last = start * batch_size, stop * batch_size
    epochs = range(first // examples, -(-last // examples))
    stream = [_permutation(order_seed, epoch, examples) for epoch in epochs]
    offset = epochs.start * examples
    return np.concatenate(stream)[first - offset : last - offset].reshape(-1, batch_size).astype(np.int32)


def check_batch_size(batch_size: int, examples: int) -> None:
    """Raises InputError where a training batch is larger than the training set."""
    if batch_size > examples:
        raise InputError(
            f"batch_size {batch_size}: expected at most {examples}, the size of the training set; choose a smaller "
            f"one, such as with --set batch_size={max(1, examples // 2)}"
        )


def padded_batches(examples: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Batches that hold every example once, the last filled up with examples of weight 0.

    Args:
      examples: size of the set.
      batch_size: examples per batch.

    Returns:
      Indices, int32, and weights, float32 (1 or 0), both (batches, batch_size).
    """
    batches = -(-examples // batch_size)
    slots = np.arange(batches * batch_size)
    indices = np.where(slots < examples, slots, 0).astype(np.int32)
    return indices.reshape(batches, -1), (slots < examples).astype(np.float32).reshape(batches, -1)
