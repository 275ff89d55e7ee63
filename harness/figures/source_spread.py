"""Panels of where results vary from: p-values of equal pairs, and the spread of each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.figures.style import COLOURS, MARKERS, plain_log_ticks


def draw_p_values(axes: Axes, p_values: Sequence[float], level: float) -> None:
    """Draws the empirical distribution of p-values, with what no difference at all would give at most.

    Args:
      axes: panel.
      p_values: one a pair.
      level: of the test.
    """
    ordered = np.sort(p_values)
    shares = np.arange(1, len(ordered) + 1) / len(ordered)
    axes.step([0, *ordered, 1], [0, *shares, 1], where="post", color=COLOURS[0], label=f"{len(ordered)} pairs")
    axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="nothing but the examples' chance")
    significant = float(np.mean(ordered < level))
    axes.axvline(level, color=COLOURS[1], label=f"p = {level:g}: {significant:.0%} of pairs are under it")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="p-value", ylabel="share of pairs at most")
    axes.legend(loc="lower right")


def draw_spreads(axes: Axes, spreads: Mapping[str, tuple[float, float, float]]) -> None:
    """Draws standard deviations with their intervals on a log axis.

    Args:
      axes: panel.
      spreads: label of a source to its standard deviation and the limits of it, from the top down.
    """
    places = np.arange(len(spreads))[::-1]
    for place, (sd, low, high), colour, marker in zip(places, spreads.values(), COLOURS, MARKERS, strict=False):
        if sd > 0:
            axes.errorbar(sd, place, xerr=[[sd - low], [high - sd]], fmt=marker, color=colour, capsize=3)
    axes.set_yticks(places, list(spreads))
    axes.set(ylim=(-0.5, len(spreads) - 0.5), xscale="log")
    plain_log_ticks(axes.xaxis)
