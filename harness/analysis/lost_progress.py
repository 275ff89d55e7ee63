"""Training that starts well, then loses what it had learned: its loss rises over its running minimum and stays there.

The rises of `harness.analysis.instability` are held against the noise just before them and typed by when they begin.
Here the question is narrower, and asked of runs whose noise is known to be far under the threshold: is the loss at the
end higher, by `LOST_RISE`, than it had been, and when did it get there? It is asked of the running median of the loss,
whose minimum lies a few hundredths of a nat under the trend, by noise alone; `tests/test_lost_progress.py` holds that.
What climbs from its first value has risen and lost nothing: progress is what was fallen before, by as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOST_RISE = 0.3
"""Nats over the running minimum from which progress is lost: several times the .03 to .10 by which the end of a stable
run of a small Transformer lies over it (pilots of `instability-during-warmup`), and a fraction of what a run loses that
falls back to guessing by frequency."""

SMOOTHED_STEPS = 21
"""Steps of the running median: with 256 tokens a step its noise is a few hundredths of a nat."""

FINAL_SHARE = 0.1
"""Share of the steps, at the end, through which the loss has to stay that high in the median."""


@dataclass(frozen=True)
class LostProgress:
    """What became of a training loss.

    Attributes:
      lowest: least running median, nats; infinite where no loss was finite.
      lowest_step: its middle step, counted from 1.
      final: median of the last `FINAL_SHARE` of the steps, nats; infinite where training ended in a loss that is not
        finite.
      risen: whether `final` is over `lowest` by `LOST_RISE`.
      lost: whether it has risen, and the running median had fallen to `lowest` by `LOST_RISE` from its first value.
      step: the first step after the lowest, counted from 1, whose running median is over `lowest` by `LOST_RISE`; of a
        loss that ends not finite without such a rise its last step; None where it has not risen.
    """

    lowest: float
    lowest_step: int
    final: float
    risen: bool
    lost: bool
    step: int | None


def lost_progress(loss: np.ndarray) -> LostProgress:
    """Tells whether a training loss, (n,) nats, n at least 1, ended well above where it had been, and since when."""
    loss = np.asarray(loss, np.float64)
    finite = np.isfinite(loss)
    end = len(loss) if np.all(finite) else int(np.argmin(finite))
    if not end:
        return LostProgress(float("inf"), 1, float("inf"), True, False, 1)
    width = min(SMOOTHED_STEPS, end)
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(loss[:end], width), axis=1)
    at = int(np.argmin(smooth))
    lowest, middle = float(smooth[at]), 1 + width // 2
    final = float(np.median(loss[-max(1, int(FINAL_SHARE * len(loss))) :])) if end == len(loss) else float("inf")
    risen = final >= lowest + LOST_RISE
    lost = risen and bool(smooth[0] >= lowest + LOST_RISE)
    step = None
    if risen:
        over = smooth[at:] >= lowest + LOST_RISE
        step = at + int(np.argmax(over)) + middle if np.any(over) else len(loss)
    return LostProgress(lowest, at + middle, final, risen, lost, step)
