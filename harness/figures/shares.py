"""A panel of shares, from 0 to 1, against a setting on a log axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from harness.figures.style import COLOURS, MARKERS, plain_log_ticks


def draw_shares(
    axes: Axes, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, title: str
) -> None:
    """Draws lines, label to (settings above 0, shares), with a dashed line at one half."""
    for (label, (x, y)), colour, marker in zip(lines.items(), COLOURS, MARKERS, strict=False):
        axes.plot(x, y, color=colour, marker=marker, markersize=5, label=label)
    axes.axhline(0.5, color="black", linestyle="--", linewidth=0.8)
    axes.set(xscale="log", ylim=(-0.04, 1.04), xlabel=xlabel, ylabel=ylabel, title=title)
    axes.legend()
    plain_log_ticks(axes.xaxis)
