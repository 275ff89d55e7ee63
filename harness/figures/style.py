"""One look for every figure, and how figures are saved."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, told apart by most colour-blind readers."""

MARKERS = ("o", "s", "^", "D", "v", "P")
PUBLISHED_ALPHA = 0.35
"""Published curves stand faint behind ours."""

_DOTS_PER_INCH = 150

_SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "svg.hashsalt": "playbook-bench",  # equal figures give equal bytes
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


def panels(count: int, title: str, columns: int = 2) -> tuple[Figure, Sequence[Axes]]:
    """Makes a figure of `count` panels in rows of `columns`, without touching pyplot's global state."""
    rows = -(-count // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def plain_log_ticks(*axes: Axis) -> None:
    """Labels log axes with plain numbers: the decades, and more between them the fewer are shown."""

    def between(value: float, axis: Axis) -> str:
        low, high = axis.get_view_interval()
        digits = "23456789" if high < 3 * low else "235" if high < 60 * low else ""
        return f"{value:g}" if f"{value:e}"[0] in digits else ""

    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(FuncFormatter(lambda value, _, axis=axis: between(value, axis)))


def shared_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Puts one legend for several panels below the figure, each label once."""
    handles = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)


def save(
    draw: Callable[[], Figure], folder: Path, name: str = "figure", formats: Sequence[str] = ("png", "svg", "pdf")
) -> None:
    """Draws in this look and writes `<name>.<format>` in each format, equal bytes for equal figures.

    Letters are drawn as paths in SVG and embedded as TrueType in PDF, so that no file asks for a font of its reader's.

    Args:
      draw: to the figure.
      folder: that is there.
      name: of the files.
      formats: some of png, svg and pdf.
    """
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "ModDate": None}}
    with matplotlib.rc_context(_SETTINGS):
        figure = draw()
        for kind in formats:
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata.get(kind))
            content = few_colours(file.getvalue()) if kind == "png" else file.getvalue()
            (folder / f"{name}.{kind}").write_bytes(content)


def few_colours(png: bytes) -> bytes:
    """A PNG with 256 colours of its own: a third of the size, equal bytes for equal ones.

    The palette covers the colours that there are, not the frequent ones, so that faint published points keep theirs: in
    the recorded figures no pixel is off by more than 23 of 255, and white stays white. Dithering would only add noise.
    """
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    file = io.BytesIO()
    few.save(file, "PNG", optimize=True, dpi=(_DOTS_PER_INCH, _DOTS_PER_INCH))
    return file.getvalue()
