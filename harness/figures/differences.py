"""A panel of paired differences per group, one dot a seed, on a linear axis around 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.figures.style import COLOURS

_MARKS = ("--", ":", "-.")


def draw_differences(
    axes: Axes, groups: Mapping[str, Sequence[float]], ylabel: str, title: str, marks: Mapping[str, float] | None = None
) -> None:
    """Draws every difference, spread sideways, with a bar at the mean and its value beside it.

    Args:
      axes: to draw on.
      groups: label to differences, in units of the axis.
      ylabel: of the axis.
      title: of the panel.
      marks: label to a height that is drawn across the panel, such as a threshold; at most three.
    """
    axes.axhline(0, color="black", linewidth=0.8)
    for index, (values, colour) in enumerate(zip(groups.values(), COLOURS, strict=False)):
        sideways = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(len(values))
        axes.plot(index + sideways, values, "o", color=colour, markersize=4, alpha=0.7)
        if len(values):
            mean = float(np.mean(values))
            axes.plot([index - 0.22, index + 0.22], [mean, mean], color="black", linewidth=1.5)
            axes.annotate(f"{mean:.2g}", (index + 0.25, mean), va="bottom")
    for (label, height), line in zip((marks or {}).items(), _MARKS, strict=False):
        axes.axhline(height, color="black", linestyle=line, linewidth=0.8, label=label)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set(xlim=(-0.5, len(groups) - 0.3), ylabel=ylabel, title=title)
    if marks:
        axes.legend()
