"""A panel of boxes: the best of k trials against k, as figure 3 draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from harness.figures.style import COLOURS, PUBLISHED_ALPHA

_NAMES = {"q1": "q1", "med": "median", "q3": "q3", "whislo": "bottom_whisker", "whishi": "top_whisker"}
"""What matplotlib calls a column of a box."""


def draw_best_of_boxes(
    axes: Axes, rows: Sequence[Mapping[str, float | str]], published: Sequence[Mapping[str, str]] = ()
) -> None:
    """Draws a box a budget: quartiles, median and whiskers.

    Args:
      axes: panel.
      rows: one a budget, with the columns of `fig3_best_of_k`.
      published: rows of that table, drawn faint behind.
    """
    for table, colour, alpha in ((published, "black", PUBLISHED_ALPHA), (rows, COLOURS[0], 1.0)):
        boxes = [{name: float(row[column]) for name, column in _NAMES.items()} for row in table]
        line = {"color": colour, "alpha": alpha}
        axes.bxp(
            boxes,
            [int(row["trials"]) for row in table],
            widths=0.6,
            showfliers=False,
            boxprops=line,
            medianprops={**line, "linewidth": 2},
            whiskerprops=line,
            capprops=line,
            manage_ticks=False,
        )
    axes.set(xlabel="trials k", ylabel="validation error of the best (share of examples)")
