"""What the retrospective choice of a checkpoint brings, measured on examples that it was not chosen by."""

from __future__ import annotations

import numpy as np


def choice_gain(by_batch: np.ndarray) -> float:
    """The last checkpoint's value less that of the best one, lower being better, by cross-over of two halves.

    The validation examples are cut into two halves, every second evaluation batch. The checkpoint that is best on one
    half, the first of equal ones, is measured on the other, and the other way round. On the examples that it was chosen
    by, the best is never worse than the last; on others the expectation is 0 where all checkpoints are equally good,
    and negative where the last is the best.

    Args:
      by_batch: error or loss of every checkpoint on every evaluation batch, each of as many examples, (checkpoints,
        batches) with at least 2 batches.

    Returns:
      Mean over the two halves, in the units of the values; above 0 where the choice brings something.

    Raises:
      ValueError: fewer than 2 batches, no checkpoint, or values that are not finite.
    """
    halves, chosen = _choice(by_batch)
    return float(np.mean([halves[half, -1] - halves[half, chosen[1 - half]] for half in (0, 1)]))


def chosen_value(by_batch: np.ndarray) -> float:
    """The value of the best checkpoint by the same cross-over, without the bias of a least one among many.

    Args:
      by_batch: as in `choice_gain`; checkpoints of several trials may follow each other, which makes it the outcome of
        a study.

    Returns:
      Mean over the two halves, in the units of the values.

    Raises:
      ValueError: as `choice_gain`.
    """
    halves, chosen = _choice(by_batch)
    return float(np.mean([halves[half, chosen[1 - half]] for half in (0, 1)]))


def _choice(by_batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values on each half, (2, checkpoints), and the best checkpoint by each, (2,)."""
    by_batch = np.asarray(by_batch, np.float64)
    if by_batch.ndim != 2 or by_batch.shape[1] < 2 or not len(by_batch):
        raise ValueError(f"values of shape {by_batch.shape}, expected (checkpoints, batches) with 2 batches or more")
    if not np.isfinite(by_batch).all():
        raise ValueError("values are not all finite; leave out the evaluations after a divergence")
    halves = np.stack([by_batch[:, 0::2].mean(axis=1), by_batch[:, 1::2].mean(axis=1)])
    return halves, np.argmin(halves, axis=1)
