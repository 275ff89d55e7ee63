"""A panel of single measurements per group, one dot a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.figures.style import COLOURS, plain_log_ticks


def draw_dots(axes: Axes, groups: Mapping[str, Sequence[float]], ylabel: str, title: str) -> None:
    """Draws every value on a log axis, spread sideways, with a bar at the median and its value beside it."""
    for index, (values, colour) in enumerate(zip(groups.values(), COLOURS, strict=False)):
        sideways = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(len(values))
        axes.plot(index + sideways, values, "o", color=colour, markersize=4, alpha=0.7)
        if len(values):
            median = float(np.median(values))
            axes.plot([index - 0.2, index + 0.2], [median, median], color="black", linewidth=1.5)
            axes.annotate(f"{median:.3g}", (index + 0.23, median), va="center")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set(xlim=(-0.5, len(groups) - 0.3), yscale="log", ylabel=ylabel, title=title)
    plain_log_ticks(axes.yaxis)
