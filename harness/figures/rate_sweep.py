"""A panel of errors against learning rates, unstable points crossed and the best starred."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.figures.style import PUBLISHED_ALPHA, plain_log_ticks


@dataclasses.dataclass(frozen=True)
class RateSeries:
    """One line of the panel.

    Attributes:
      label: for the legend; None leaves it out.
      rates: learning rates, (n,), ascending.
      errors: errors of every seed at each rate, n arrays in units of the axis.
      unstable: whether each point is crossed, (n,).
      colour: of the line.
      marker: of the points.
      published: draw it faint, without spread and star.
    """

    label: str | None
    rates: Sequence[float]
    errors: Sequence[np.ndarray]
    unstable: Sequence[bool]
    colour: str
    marker: str = "o"
    published: bool = False


def draw_rate_sweep(axes: Axes, series: Sequence[RateSeries], ylabel: str, crossed_label: str = "unstable") -> None:
    """Draws means over seeds, with bars from the best to the worst seed; `crossed_label` says what a cross is."""
    for line in series:
        means = np.array([np.mean(errors) for errors in line.errors])
        faint = {"alpha": PUBLISHED_ALPHA, "linestyle": "--"} if line.published else {}
        axes.plot(line.rates, means, marker=line.marker, color=line.colour, label=line.label, markersize=4, **faint)
        crossed = np.asarray(line.unstable, bool)
        axes.plot(
            np.asarray(line.rates)[crossed],
            means[crossed],
            "x",
            color=line.colour,
            markersize=9,
            markeredgewidth=2,
            alpha=faint.get("alpha", 1.0),
        )
        if line.published:
            continue
        # The mean of equal errors may round to beside them.
        low = np.maximum(0, means - [np.min(errors) for errors in line.errors])
        high = np.maximum(0, [np.max(errors) for errors in line.errors] - means)
        axes.errorbar(
            line.rates, means, [low, high], fmt="none", ecolor=line.colour, elinewidth=0.8, capsize=2, alpha=0.6
        )
        if len(means) < 2:
            continue  # one rate has no best
        best = int(np.argmin(means))
        axes.plot(
            line.rates[best], means[best], "*", color=line.colour, markersize=13, markeredgecolor="black", zorder=5
        )
    axes.plot([], [], "kx", markersize=7, markeredgewidth=2, label=crossed_label)
    axes.plot([], [], "k*", markersize=9, label="best")
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel=ylabel)
    plain_log_ticks(axes.xaxis, axes.yaxis)
