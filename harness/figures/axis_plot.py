"""A panel of the playbook's figure 1: the error of every trial of a search along one hyperparameter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.figures.style import COLOURS, plain_log_ticks


def draw_axis_plot(
    axes: Axes,
    values: Sequence[float],
    errors: Sequence[float],
    infeasible: Sequence[bool],
    best: int,
    published: tuple[Sequence[float], Sequence[float]] | None,
    edge: float | None,
    xlabel: str,
    ylabel: str,
    title: str,
) -> None:
    """Draws one point a trial on log axes, infeasible ones as crosses along the top.

    Args:
      axes: the panel.
      values: of the hyperparameter, (n,), above 0.
      errors: (n,), above 0; not read where a trial is infeasible.
      infeasible: (n,).
      best: how many of the best trials are starred.
      published: values and errors of published points, drawn faint; None for none.
      edge: where the outermost part of the range begins on the side in question, drawn as a line; None for none.
      xlabel: of the values.
      ylabel: of the errors.
      title: of the panel.
    """
    values, errors, bad = np.asarray(values), np.asarray(errors, float), np.asarray(infeasible, bool)
    order = np.flatnonzero(~bad)[np.argsort(errors[~bad], kind="stable")]
    star, rest = order[:best], order[best:]
    axes.plot(values[rest], errors[rest], "o", color=COLOURS[0], markersize=4.5, label="trial")
    axes.plot(values[star], errors[star], "*", color=COLOURS[4], markeredgecolor="black", markersize=11, label="best")
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
    if published is not None:
        axes.plot(*published, "D", color="grey", alpha=0.6, markersize=6, label="published (ImageNet)")
    top = axes.get_ylim()[1]
    # In axis units, so that crosses of infeasible trials stand above every error.
    axes.plot(values[bad], np.full(bad.sum(), top * 1.06), "x", color="red", markersize=6, label="infeasible")
    if edge is not None and np.isfinite(edge):
        axes.axvline(edge, color="grey", linestyle=":", label="outermost fifth")
    plain_log_ticks(axes.xaxis, axes.yaxis)
