"""A panel of boxes: the best of k trials against k, as figure 3 draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from harness.analysis.best_of_k import BestOf
from harness.figures.style import COLOURS, PUBLISHED_ALPHA


def draw_best_of_boxes(axes: Axes, boxes: BestOf, published: Sequence[Mapping[str, str]] = ()) -> None:
    """Draws a box a budget: quartiles, median and whiskers.

    Args:
      axes: panel.
      boxes: of the best of k for each k.
      published: rows of `fig3_best_of_k`, drawn faint behind.
    """
    if published:
        names = {"q1": "q1", "med": "median", "q3": "q3", "whislo": "bottom_whisker", "whishi": "top_whisker"}
        rows = [{name: float(row[column]) for name, column in names.items()} for row in published]
        _boxes(axes, rows, [int(row["trials"]) for row in published], "black", PUBLISHED_ALPHA)
    columns = zip(boxes.q1, boxes.median, boxes.q3, boxes.low, boxes.high, strict=True)
    rows = [dict(zip(("q1", "med", "q3", "whislo", "whishi"), column, strict=True)) for column in columns]
    _boxes(axes, rows, boxes.ks.tolist(), COLOURS[0], 1.0)
    axes.set(xlabel="trials k", ylabel="validation error of the best (share of examples)")


def _boxes(axes: Axes, rows: list[dict[str, float]], positions: list[int], colour: str, alpha: float) -> None:
    line = {"color": colour, "alpha": alpha}
    axes.bxp(
        rows,
        positions,
        widths=0.6,
        showfliers=False,
        boxprops=line,
        medianprops={**line, "linewidth": 2},
        whiskerprops=line,
        capprops=line,
        manage_ticks=False,
    )
