"""Panels of steps, examples and time to a target against the batch size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.figures.style import COLOURS, plain_log_ticks


def draw_to_target(
    axes: Axes, sizes: Sequence[float], values: np.ndarray, hollow: np.ndarray, ylabel: str, title: str
) -> None:
    """Draws each search faint and the geometric mean over searches with a line, on log axes.

    Args:
      axes: the panel.
      sizes: batch sizes, (sizes,).
      values: (searches, sizes), above 0.
      hollow: batch sizes whose mean is drawn hollow, bool (sizes,).
      ylabel: of the values.
      title: of the panel.
    """
    axes.plot(
        np.broadcast_to(sizes, values.shape).ravel(), values.ravel(), ".", color=COLOURS[0], alpha=0.3, markersize=4
    )
    means = np.exp(np.log(values).mean(axis=0))
    axes.plot(sizes, means, color=COLOURS[0], linewidth=1, alpha=0.5)
    sizes = np.asarray(sizes)
    axes.plot(sizes[~hollow], means[~hollow], "o", color=COLOURS[0], label="geometric mean over searches")
    if hollow.any():
        void = {"markerfacecolor": "none", "color": COLOURS[0], "label": "void: at an edge, or censored"}
        axes.plot(sizes[hollow], means[hollow], "o", **void)
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel=ylabel, title=title)
    plain_log_ticks(axes.xaxis, axes.yaxis)


def draw_regimes(axes: Axes, perfect: float, maximal: float) -> None:
    """Shades the regimes of a scaling curve: perfect scaling, diminishing returns, maximal data parallelism."""
    left, right = axes.get_xlim()
    edges = np.clip([left, perfect, maximal, right], left, right)
    names = ("perfect scaling", "diminishing returns", "maximal data parallelism")
    for low, high, colour, name in zip(edges[:-1], edges[1:], (COLOURS[2], COLOURS[4], COLOURS[1]), names, strict=True):
        if high > low:
            axes.axvspan(low, high, color=colour, alpha=0.08, label=f"regime: {name}")
    axes.set_xlim(left, right)
