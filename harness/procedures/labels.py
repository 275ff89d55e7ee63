"""Whether a run trained: stable, unstable by a rise of its loss, or stuck without one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from harness.analysis.instability import EARLY_SHARE, LASTING_RISE, Instability, classify
from harness.records import TrialRecord

STUCK = "stuck"
"""Type of a run whose loss does not rise, but falls far less than that of a run that trains: a post-LN Transformer at
ten times its usual rate fails like that, and so does a network that collapses to chance."""

LEAST_PROGRESS = 0.5
"""Share of the fall of a loss that trains which a run has made at least after as many steps, if it is not stuck: one
that collapses makes almost none, one that is merely delayed by its warmup most of it."""


def label(record: TrialRecord, training_steps: int, reference: np.ndarray | None = None) -> Instability:
    """Classifies a run's training loss; what is early is so by the length of the whole training.

    Args:
      record: of a run, which may be shorter than training.
      training_steps: of the whole training.
      reference: training loss that trains, (steps,) nats; None where no run is to be called stuck.
    """
    loss = np.asarray(record.curves["train_loss"], np.float64)
    early = EARLY_SHARE * max(training_steps, len(loss)) / len(loss)
    found = classify(loss, record.curves["gradient_norm"], early_share=early)
    if reference is not None and found.type == "stable" and progress(loss, reference) < LEAST_PROGRESS:
        return dataclasses.replace(found, type=STUCK)
    return found


def count_failed(records: Sequence[TrialRecord], training_steps: int, reference: np.ndarray | None = None) -> int:
    """How many runs are not stable by `label`."""
    return sum(label(record, training_steps, reference).type != "stable" for record in records)


def progress(loss: np.ndarray, reference: np.ndarray) -> float:
    """The fall of a loss as a share of the reference's fall after as many steps, by medians of the last tenth.

    Args:
      loss: training loss, (n,) nats.
      reference: training loss, (m,) nats; where it ends, its end.

    Returns:
      1 for the same fall, 0 for none; NaN where the reference falls by less than `LASTING_RISE`, or a value is not
      finite.
    """
    steps = min(len(loss), len(reference))
    fall = reference[0] - np.median(reference[steps - max(1, steps // 10) : steps])
    own = loss[0] - np.median(loss[-max(1, len(loss) // 10) :])
    return float(own / fall) if fall >= LASTING_RISE and np.isfinite(own) else float("nan")


def median_loss(records: Sequence[TrialRecord]) -> np.ndarray:
    """Training loss of the longest runs, their median at each step, float64 (steps,) nats."""
    curves = [record.curves["train_loss"] for record in records]
    longest = max(map(len, curves))
    return np.median(np.array([curve for curve in curves if len(curve) == longest], np.float64), axis=0)
