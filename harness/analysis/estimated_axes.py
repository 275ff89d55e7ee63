"""Ranges and scales of hyperparameters whose search space nobody wrote down, estimated from the trials."""

from __future__ import annotations

import numpy as np

from harness.analysis.axes import Axis, positions
from harness.records import TrialTable

WIDE = 10.0
"""High over low from which a range may be on a log scale: a narrower one looks alike on either."""


def estimate_axes(table: TrialTable) -> dict[str, Axis]:
    """Estimates an axis for every numeric hyperparameter that varies.

    The range is the observed one. Of the scales that the values allow, the one on which they lie most evenly is taken:
    with the smallest Kolmogorov distance to the uniform distribution, `linear` where none is better.

    Args:
      table: finished trials.

    Returns:
      Name to axis; a category, or a number that does not vary, has none.
    """
    axes = {}
    for name, values in table.hyperparameters.items():
        if values.dtype == object:
            continue
        finite = np.unique(values[np.isfinite(values)])
        if len(finite) > 1:
            sample = values[np.isfinite(values)]
            candidates = [Axis(float(finite[0]), float(finite[-1]), scale) for scale in _scales(finite)]
            axes[name] = min(candidates, key=lambda axis: _unevenness(name, sample, axis))
    return axes


def _scales(ascending: np.ndarray) -> list[str]:
    """Scales that distinct values allow, the simplest first, which wins a tie."""
    low, high = ascending[0], ascending[-1]
    scales = ["linear"]
    if low > 0 and high >= WIDE * low:
        scales.append("log")
    if low >= 0 and high < 1 and 1 - low >= WIDE * (1 - high):
        scales.append("reverse_log")
    return scales


def _unevenness(name: str, values: np.ndarray, axis: Axis) -> float:
    at = np.sort(positions(name, values, axis))
    n = len(at)
    return round(float(max(np.max(np.arange(1, n + 1) / n - at), np.max(at - np.arange(n) / n))), 6)
