"""Panels of study variance: how the box of the best narrows, and how far retrained winners lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.figures.style import COLOURS, MARKERS


def draw_ratios(axes: Axes, ratios: Sequence[float], marks: Mapping[str, float]) -> None:
    """Draws the ratio of each study as a dot, with its median, and lines to hold it against.

    Args:
      axes: panel.
      ratios: one a study.
      marks: label to ratio.
    """
    axes.plot(np.sort(ratios), np.arange(1, len(ratios) + 1), MARKERS[0], color=COLOURS[0], label="a study")
    median = float(np.median(ratios))
    axes.axvline(median, color=COLOURS[0], label=f"their median, {median:.2f}")
    for (label, value), style in zip(marks.items(), ((0, (1, 1)), "--", "-."), strict=True):
        axes.axvline(value, color="black", linestyle=style, linewidth=1, label=f"{label}, {value:g}")
    axes.set(xlabel="interquartile range of the best: many trials over few", ylabel="studies, in order of the ratio")
    axes.set(xlim=(0, max(1.05, 1.05 * max(ratios))), ylim=(0, len(ratios) + 1))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower right", frameon=True)


def draw_winners(axes: Axes, found: np.ndarray, retrained: np.ndarray) -> None:
    """Draws winners in order of their retrained mean: as their study found them, and every retraining.

    Args:
      axes: panel.
      found: error of each winner in its study, (n,).
      retrained: its errors on fresh seeds, (n, m).
    """
    order = np.argsort(retrained.mean(axis=1), kind="stable")
    places = np.arange(1, len(order) + 1)
    axes.plot(np.repeat(places, retrained.shape[1]), retrained[order].ravel(), ".", color=COLOURS[0], label="retrained")
    axes.plot(places, retrained[order].mean(axis=1), color=COLOURS[0], label="mean of its retrainings")
    axes.plot(places, found[order], "x", color=COLOURS[1], markersize=4, label="as its study found it")
    axes.set(xlabel="winners of studies, in order", ylabel="validation error (share of examples)")
    axes.legend(loc="upper left")
