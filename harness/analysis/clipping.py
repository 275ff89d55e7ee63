"""The playbook's clipping threshold (L1038-1046): a percentile of unclipped gradient norms, and how much it clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.records import InputError

PERCENTILE = 90.0
"""Of the unclipped norms: the playbook's starting point (L1041)."""

AGGRESSIVE = 0.5
"""Share of clipped steps above which clipping is extremely aggressive, a strange way to lower the rate (L1045-1046)."""


def threshold(norms: Sequence[np.ndarray], percentile: float) -> float:
    """The percentile of the finite norms of all steps of all runs.

    Args:
      norms: gradient norms of each run, (steps,).
      percentile: in (0, 100).

    Returns:
      More than 0, linear between neighbours.

    Raises:
      InputError: no norm is finite, or the percentile is 0.
    """
    pooled = np.concatenate([np.asarray(one, np.float64) for one in norms])
    pooled = pooled[np.isfinite(pooled)]
    if not pooled.size:
        raise InputError("gradient norms of the unclipped runs: expected finite ones, there are none; lower the rate")
    found = float(np.percentile(pooled, percentile))
    if found <= 0:
        raise InputError(
            f"gradient norms of the unclipped runs: expected a {percentile:g}th percentile above 0, got {found:g}; "
            "a threshold of 0 stops training, raise --percentile"
        )
    return found


def share_clipped(norms: np.ndarray, thresholds: np.ndarray | float) -> float:
    """The share of steps that are clipped: those whose norm is not below the threshold, so also what is not finite."""
    return float(np.mean(~(np.asarray(norms, np.float64) < thresholds)))
