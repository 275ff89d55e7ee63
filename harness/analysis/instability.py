"""The label `unstable`, put on a finished training-loss curve: what counts as a spike."""

import numpy as np

SPIKE_RISE = 1.5
"""Rise over the running minimum, in nats, that a spike has at least.

Fixed on pilots (8x8 `mnist5k`, Wide ResNet 10-1, 100 steps at batch 64, rates .01, .562 and 1, 16 pilot seeds each):
over `SPIKE_STEPS` the loss rose at most .94 with published strides, at most 1.09 with the stride bug and warmup at
.562, and at least 1.67 (.562) and 3.03 (1) with the bug alone, where it fails to train.
"""

SPIKE_STEPS = 2
"""Consecutive steps through which it stays that high, so that one odd batch is no spike."""

UNSTABLE_SHARE = 0.5
"""Share of seeds with a spike above which a setting is called unstable."""


def largest_rise(loss: np.ndarray, steps: int = SPIKE_STEPS) -> float:
    """The largest rise of a loss over its running minimum that lasts a number of steps.

    Args:
      loss: training loss of each step in nats, (n,); a value that is not finite counts as an endless rise.
      steps: how many consecutive steps the rise has to last.

    Returns:
      Nats; 0 for a curve shorter than `steps`, infinity for one that ends in a value that is not finite.
    """
    loss = np.asarray(loss, np.float64)
    if loss.size and not np.all(np.isfinite(loss)):
        return float("inf")
    if loss.size < steps:
        return 0.0
    rise = loss - np.minimum.accumulate(loss)
    return float(np.lib.stride_tricks.sliding_window_view(rise, steps).min(axis=1).max())


def has_spike(loss: np.ndarray) -> bool:
    """Whether a training-loss curve, (n,) nats, rises by `SPIKE_RISE` for `SPIKE_STEPS` steps."""
    return largest_rise(loss) >= SPIKE_RISE
