"""A panel of lines on log axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from harness.figures.style import COLOURS, MARKERS, plain_log_ticks


def draw_lines(
    axes: Axes, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, title: str
) -> None:
    """Draws lines, label to (x, y), all above 0, with a mark at each point where they are few."""
    for (label, (x, y)), colour, marker in zip(lines.items(), COLOURS, MARKERS, strict=False):
        axes.plot(x, y, color=colour, marker=marker if len(x) < 10 else None, markersize=5, label=label)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend()
    plain_log_ticks(axes.xaxis, axes.yaxis)
