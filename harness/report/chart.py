"""Small charts of a page as numbers: what stands where. The template draws them, so that every text is escaped.

Matplotlib takes a second to import and a tenth of one a panel; a page of fifty panels should take less than that.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from harness.analysis.axes import Axis, positions

WIDTH, HEIGHT = 340, 240
LEFT, RIGHT, TOP, BOTTOM = 70, 12, 10, 40
"""Pixels of a chart, and its margins."""

CHARACTER = 5.2
"""Mean width of a tick's letters, in pixels."""


class Tick(NamedTuple):
    """A labelled place on an axis, in pixels."""

    at: float
    label: str


class Point(NamedTuple):
    """A trial, in pixels; `kind` is its style, `text` what hovering tells."""

    x: float
    y: float
    kind: str
    text: str


class Line(NamedTuple):
    """A line through `points`, as SVG writes them; `kind` is its style, `text` what hovering tells."""

    points: str
    kind: str
    text: str


class Box(NamedTuple):
    """A box with whiskers, in pixels, y downwards."""

    x: float
    width: float
    q1: float
    median: float
    q3: float
    low: float
    high: float
    text: str


@dataclass
class Chart:
    """A chart, ready to be drawn.

    Attributes:
      title: above it.
      x_label: below it.
      y_label: left of it.
      description: text alternative.
      x_ticks: of the x axis.
      y_ticks: of the y axis.
      points: of trials.
      lines: behind the points.
      boxes: of distributions.
      bands: (x, width, top, height) behind everything.
    """

    title: str
    x_label: str
    y_label: str
    description: str
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    bands: list[tuple[float, float, float, float]] = field(default_factory=list)


def across(at: np.ndarray) -> np.ndarray:
    """Pixels from the left of positions in [0, 1]; 3% of the width stay free at either end."""
    return np.round(LEFT + (0.03 + 0.94 * np.asarray(at)) * (WIDTH - LEFT - RIGHT), 1)


def up(at: np.ndarray) -> np.ndarray:
    """Pixels from the top of positions in [0, 1], 1 being high."""
    return np.round(TOP + (0.97 - 0.94 * np.asarray(at)) * (HEIGHT - TOP - BOTTOM), 1)


def padded(low: float, high: float) -> Axis:
    """A linear axis of values from low to high, also where they are one, or as good as one."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return Axis(low, high)
    room = abs(low) * 0.05 or 1.0
    return Axis(low - room, high + room)


def on(axis: Axis, values: np.ndarray | Sequence[float]) -> np.ndarray:
    """Positions on an axis, cut to [0, 1]."""
    return np.clip(positions("", np.asarray(values, np.float64), axis), 0, 1)


def ticks(axis: Axis, place, most: int = 5) -> list[Tick]:
    """Round numbers on an axis, at most about `most`.

    Args:
      axis: its range and scale.
      place: `across` or `up`.
      most: about how many.
    """
    low, high, scale = axis
    if scale == "log":
        numbers = _decades(low, high, most)
    elif scale == "reverse_log":
        numbers = [1 - one for one in reversed(_decades(1 - high, 1 - low, most))]
    else:
        numbers = _steps(low, high, most)
    if len(numbers) < 2:
        numbers = [low, high]
    places = place(on(axis, numbers))
    return [Tick(float(at), text) for at, text in zip(places, _labels(numbers, scale), strict=True)]


def label(value: float, digits: int = 6) -> str:
    """A short number: 0.01, 3e-5, 0.999."""
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.{digits}g}")


def _labels(numbers: list[float], scale: str) -> list[str]:
    """Labels of ascending numbers, with the digits that tell them apart: 1.0000001 is not 1."""
    if scale == "reverse_log" and numbers[-1] > 1 - 1e-6:
        return [f"1-{label(1 - one, 2)}" for one in numbers]
    if scale != "linear":
        return [label(one) for one in numbers]
    apart = min(after - before for before, after in itertools.pairwise(numbers))
    digits = math.ceil(math.log10(max(map(abs, numbers)) / apart)) + 1
    return [label(one, min(max(digits, 6), 15)) for one in numbers]


def named(values: Sequence[object]) -> tuple[Mapping[object, float], list[Tick]]:
    """Positions of categories side by side, and their ticks."""
    at = {value: (i + 0.5) / len(values) for i, value in enumerate(values)}
    room = max(4, min(12, int((WIDTH - LEFT - RIGHT) / CHARACTER / len(values)) - 1))
    texts = [str(value) for value in values]
    if len(texts) > 1 and max(map(len, texts)) > room:
        columns = enumerate(zip(*texts, strict=False))
        common = next((i for i, letters in columns if len(set(letters)) > 1), 0)
        texts = [f"…{text[common:]}" if common > 2 else text for text in texts]
    texts = [text if len(text) <= room else f"{text[: room - 1]}…" for text in texts]
    return at, [Tick(float(across(at[value])), text) for value, text in zip(values, texts, strict=True)]


def path(x: np.ndarray, y: np.ndarray) -> str:
    """Points of a line, as SVG writes them."""
    return " ".join(f"{a:g},{b:g}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def _decades(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, math.ceil((last - first + 1) / most))
    decades = [10.0**power for power in range(first, last + 1, stride)]
    if len(decades) > 2:
        return decades
    for multiples in ((1, 2, 5), (1, 3)):
        finer = [m * 10.0**power for power in range(first - 1, last + 1) for m in multiples]
        inside = [one for one in finer if low * (1 - 1e-9) <= one <= high * (1 + 1e-9)]
        if len(inside) <= most:
            return inside
    return decades if len(decades) > 1 else inside


def _steps(low: float, high: float, most: int) -> list[float]:
    rough = high / most - low / most  # neither overflows
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [one * step for one in range(first, math.floor(high / step + 1e-9) + 1)]
