"""A panel of errors against one hyperparameter: every trial faint, and a line through the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes

from harness.figures.style import PUBLISHED_ALPHA, plain_log_ticks


@dataclasses.dataclass(frozen=True)
class IsolationSeries:
    """One line of the panel and the trials that it was drawn from.

    Attributes:
      label: for the legend; None leaves it out.
      values: of the hyperparameter, (n,), ascending.
      errors: what the line shows at each value, (n,) in units of the axis.
      colour: of line and trials.
      trials: (values, errors) of the single trials, each (m,).
      marker: of the points of the line.
      width: of the line, in points.
      published: draw it faint and dashed.
    """

    label: str | None
    values: Sequence[float]
    errors: Sequence[float]
    colour: str
    trials: tuple[Sequence[float], Sequence[float]] = ((), ())
    marker: str = "o"
    width: float = 1.5
    published: bool = False


def draw_isolation(
    axes: Axes, series: Sequence[IsolationSeries], xlabel: str, ylabel: str, title: str, xlog: bool = True
) -> None:
    """Draws the lines over their trials; the best point of each line that is not published is starred.

    Args:
      axes: the panel.
      series: at least one.
      xlabel: the hyperparameter.
      ylabel: what the errors are.
      title: of the panel.
      xlog: whether the hyperparameter is drawn on a log scale.
    """
    for line in series:
        axes.plot(*line.trials, ".", color=line.colour, alpha=0.2, markersize=5, markeredgewidth=0)
        look = {"alpha": PUBLISHED_ALPHA, "linestyle": "--"} if line.published else {}
        axes.plot(
            line.values,
            line.errors,
            marker=line.marker,
            color=line.colour,
            label=line.label,
            markersize=4,
            linewidth=line.width,
            **look,
        )
        if not line.published:
            best = min(range(len(line.errors)), key=lambda i: line.errors[i])
            axes.plot(
                line.values[best],
                line.errors[best],
                "*",
                color=line.colour,
                markersize=12,
                markeredgecolor="black",
                markeredgewidth=0.7,
                zorder=5,
            )
    axes.plot([], [], "k*", markersize=9, label="best of its line")
    axes.set(xscale="log" if xlog else "linear", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
    plain_log_ticks(*((axes.xaxis, axes.yaxis) if xlog else (axes.yaxis,)))
