"""Looks of figures for papers and slides: a drawn figure, given sizes, line styles and legends that fit the page.

Colours alone do not carry a series: in greyscale two of `COLOURS` are one grey (see `tests/test_redraw.py`, which
measures them), so each colour has dash patterns, a marker and a hatch of its own here.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import ScaledTranslation

from harness.figures.style import COLOURS, MARKERS

DASHES = ("-", (0, (6, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 0.8)), (0, (10, 2, 3, 2)))
"""One a colour, in units of the line's width."""

SECOND_DASHES = ("--", *((0, tuple(length / 2 for length in pattern)) for _, pattern in DASHES[1:]))
"""What is dashed in a figure, such as published curves: finer dashes of its colour."""

HATCHES = ("", "///", "\\\\\\", "...", "xxx", "+++")

_OF_COLOUR = {colour.lower(): index for index, colour in enumerate(COLOURS)}
_LETTER = 0.53  # mean width of a letter over its font size
_LINE = 1.25  # of a line over its font size
_GAP = 3  # points between a panel's labels and its legend


class Style(NamedTuple):
    """What a page asks of a figure.

    Attributes:
      width: of the figure, inches.
      height: of the figure, inches; None for as many rows as there are.
      row: height of a row where the figure's is None, inches.
      text: size of titles and labels, points.
      small: size of ticks, legends and notes, points.
      lines: what widths of lines are multiplied by.
      marks: what sizes of markers are multiplied by.
      panels: the most panels that a page has room for; None for any number.
    """

    width: float
    height: float | None
    row: float
    text: float
    small: float
    lines: float
    marks: float
    panels: int | None


STYLES = {
    # The text width of ICML is 6.75 inches, of IEEE 7.16: drawn at 1:1, letters are as large as said.
    "paper": Style(width=6.75, height=None, row=2.6, text=7, small=6, lines=0.7, marks=0.7, panels=None),
    "slides": Style(width=13.333, height=7.5, row=0, text=12, small=10.5, lines=1.6, marks=1.4, panels=4),
}


def pages(count: int, style: Style) -> list[range]:
    """Which of a figure's `count` panels stand on each page, about as many on each."""
    number = -(-count // style.panels) if style.panels else 1
    most = -(-count // number)
    return [range(first, min(first + most, count)) for first in range(0, count, most)]


def restyle(figure: Figure, style: Style, page: range) -> Figure:
    """Gives a figure of `harness.figures.style.panels` another look, inside the settings that it was drawn in.

    Args:
      figure: changed in place.
      style: one of `STYLES`.
      page: the panels that are kept, one of `pages`.

    Returns:
      The figure.
    """
    _tell_apart(figure)  # before panels go, so that a series looks the same on all pages
    for index, panel in enumerate(list(figure.axes)):
        if index not in page:
            panel.remove()
    panels = figure.axes
    columns = _columns(panels, style)
    rows = -(-len(panels) // columns)
    figure.set_size_inches(style.width, style.height or style.row * rows + 0.3)
    grid = figure.add_gridspec(rows, columns)
    for index, panel in enumerate(panels):
        panel.set_subplotspec(grid[index])
    _scale(figure, style)
    width = 72 * style.width / columns
    titles = [panel.get_title() for panel in panels]
    _wrap(figure, width, 72 * figure.get_figheight() / rows, style)
    _move_legends(figure, width, style)
    _fit(figure, titles, style)
    return figure


def _columns(panels: Sequence[Axes], style: Style) -> int:
    if style.height is None:  # the width of a page has room for two
        return min(2, len(panels))
    return 3 if len(panels) in (3, 5, 6) else 2


def _tell_apart(figure: Figure) -> None:
    """Dashes, markers and hatches by colour, the same in all panels, where a panel has several of the colours."""
    of_panels = [_drawn(panel) for panel in figure.axes]
    if all(len({_index(artist) for artist in drawn} - {None}) < 2 for drawn in of_panels):
        return
    handles = [handle for legend in _legends(figure) for handle in legend.legend_handles]
    for artist in (*itertools.chain.from_iterable(of_panels), *handles):
        index = _index(artist)
        if index is None:
            continue
        if isinstance(artist, Patch):
            artist.set_hatch(HATCHES[index])
        elif isinstance(artist, Line2D):
            if artist.get_linestyle() == "-":
                artist.set_linestyle(DASHES[index])
            elif artist.get_linestyle() == "--":
                artist.set_linestyle(SECOND_DASHES[index])
            if artist.get_marker() == ".":  # which is drawn at half its size
                artist.set_markersize(artist.get_markersize() / 2)
            if artist.get_marker() in (".", *MARKERS):
                artist.set_marker(MARKERS[index])


def _drawn(panel: Axes) -> list[Artist]:
    return [*panel.lines, *panel.patches]


def _legends(figure: Figure) -> list[Legend]:
    return [legend for legend in (*figure.legends, *(panel.get_legend() for panel in figure.axes)) if legend]


def _index(artist: Artist) -> int | None:
    """Which of `COLOURS` an artist is drawn in; None for another colour."""
    if isinstance(artist, Line2D):
        colour = artist.get_color()
    elif isinstance(artist, Patch):
        colour = artist.get_facecolor()
    else:
        return None
    return _OF_COLOUR.get(to_hex(colour))


def _scale(figure: Figure, style: Style) -> None:
    """Sizes of letters, lines and markers."""
    for panel in figure.axes:
        panel.tick_params(which="both", labelsize=style.small, width=0.8 * style.lines, length=3 * style.lines)
        panel.grid(linewidth=0.8 * style.lines)
        for text in (panel.title, panel.xaxis.label, panel.yaxis.label):
            text.set_fontsize(style.text)
        for text in panel.texts:
            text.set_fontsize(style.small)
        for spine in panel.spines.values():
            spine.set_linewidth(0.8 * style.lines)
        for collection in panel.collections:
            collection.set_linewidth(np.multiply(collection.get_linewidth(), style.lines))
    handles = [handle for legend in _legends(figure) for handle in legend.legend_handles]
    for artist in (*itertools.chain.from_iterable(map(_drawn, figure.axes)), *handles):
        if isinstance(artist, Line2D):
            artist.set_markersize(style.marks * artist.get_markersize())
            artist.set_markeredgewidth(style.lines * artist.get_markeredgewidth())
        if isinstance(artist, Line2D | Patch):
            artist.set_linewidth(style.lines * artist.get_linewidth())


def _wrap(figure: Figure, width: float, height: float, style: Style) -> None:
    """Breaks titles and labels that their panel, `width` times `height` points, has no room for."""
    if figure.get_suptitle():
        size = 1.1 * style.text
        figure.suptitle(_broken(figure.get_suptitle(), 72 * style.width, size), fontsize=size)
    for panel in figure.axes:
        panel.title.set_text(_broken(panel.get_title(), 0.8 * width, style.text))
        panel.xaxis.label.set_text(_broken(panel.get_xlabel(), 0.8 * width, style.text))
        panel.yaxis.label.set_text(_broken(panel.get_ylabel(), 0.5 * height, style.text))
        if isinstance(panel.xaxis.get_major_locator(), FixedLocator) and len(panel.get_xticks()):
            names = [label.get_text() for label in panel.get_xticklabels()]
            room = 0.75 * width / len(names)
            panel.set_xticks(panel.get_xticks(), [_broken(name, room, style.small) for name in names])


def _fit(figure: Figure, titles: Sequence[str], style: Style) -> None:
    """Breaks titles at their panel's frame, and makes the names beside it as small as its height asks for."""
    figure.draw_without_rendering()  # now it is known how wide the frames are
    for panel, title in zip(figure.axes, titles, strict=True):
        panel.title.set_text(_broken(title, 72 * panel.bbox.width / figure.dpi, style.text))
    figure.draw_without_rendering()  # and how high
    for panel in figure.axes:
        if isinstance(panel.yaxis.get_major_locator(), FixedLocator):
            lines = sum(1 + label.get_text().count("\n") for label in panel.get_yticklabels() if label.get_text())
            room = 72 * panel.bbox.height / figure.dpi / max(lines, 1)
            panel.tick_params("y", labelsize=min(style.small, room / _LINE))


def _broken(text: str, room: float, size: float) -> str:
    letters = max(4, int(room / (_LETTER * size)))
    return "\n".join(textwrap.fill(line, letters, break_long_words=False) for line in text.split("\n"))


def _move_legends(figure: Figure, width: float, style: Style) -> None:
    """Puts each legend below its panel or the figure, where larger letters hide no point."""
    with_legend = [(panel, panel.get_legend()) for panel in figure.axes if panel.get_legend()]
    for _, legend in with_legend:
        legend.set_visible(False)
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # now it is known how far down ticks and labels reach
    for panel, legend in with_legend:
        below = panel.bbox.y0 - panel.xaxis.get_tightbbox(canvas.get_renderer()).y0
        down = ScaledTranslation(0, -below / figure.dpi - _GAP / 72, figure.dpi_scale_trans)
        panel.legend(
            **_entries(legend, width, style),
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            bbox_transform=panel.transAxes + down,
            borderaxespad=0,
        )
    here = {label for panel in figure.axes for label in panel.get_legend_handles_labels()[1]}
    for legend in list(figure.legends):
        legend.remove()
        entries = _entries(legend, 72 * style.width, style, here)
        if entries["handles"]:
            figure.legend(**entries, loc="outside lower center")


def _entries(legend: Legend, room: float, style: Style, here: Container[str] | None = None) -> dict[str, Any]:
    """What a new legend has of an old one, or of what is `here`, in as many columns as `room` points hold."""
    entries = [
        (handle, text.get_text())
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True)
        if here is None or text.get_text() in here
    ]
    labels = [_broken(label, 0.8 * room, style.small) for _, label in entries]
    longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    columns = int(0.85 * room / ((longest + 6.5) * 0.48 * style.small))  # a handle takes 6.5 letters
    return {
        "handles": [handle for handle, _ in entries],
        "labels": labels,
        "ncols": max(1, min(len(labels), columns)),
        "fontsize": style.small,
        "columnspacing": 1.2,
        "labelspacing": 0.3,
    }
