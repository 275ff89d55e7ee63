"""A panel of how far a loss is seen to rise, by the number of steps between two evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.figures.style import plain_log_ticks


def draw_rises(
    axes: Axes,
    periods: Sequence[int],
    groups: Mapping[str, np.ndarray],
    colours: Sequence[str],
    threshold: float,
    usual: int,
    title: str,
) -> None:
    """Draws each seed thin and the median thick.

    Args:
      axes: to draw on.
      periods: steps between two evaluations, ascending, (n,).
      groups: label to the largest rise of each seed at each period, nats, (seeds, n); infinite ones are drawn at the
        upper border.
      colours: one a group.
      threshold: nats from which on a rise counts for a schedule that is not every step, drawn dashed.
      usual: period of the usual schedule, drawn dotted.
      title: of the panel.
    """
    finite = [rises[np.isfinite(rises)] for rises in groups.values()]
    top = 1.1 * max([threshold, *(float(values.max()) for values in finite if len(values))])
    for (label, rises), colour in zip(groups.items(), colours, strict=False):
        shown = np.minimum(rises, top)
        axes.plot(periods, shown.T, color=colour, linewidth=0.6, alpha=0.4)
        axes.plot(periods, np.median(shown, axis=0), color=colour, linewidth=2, marker="o", markersize=4, label=label)
    axes.axhline(threshold, color="black", linestyle="--", linewidth=0.8, label=f"{threshold:g} nats, enough to show")
    axes.axvline(usual, color="black", linestyle=":", linewidth=0.8, label="usual schedule")
    axes.set(
        xscale="log",
        ylim=(-0.03 * top, 1.02 * top),
        xlabel="steps between two evaluations",
        ylabel="largest rise shown (nats)",
        title=title,
    )
    axes.legend()
    plain_log_ticks(axes.xaxis)
