"""The figure of `harness.experiments.feasible_batch_sizes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.experiments.feasible_batch_sizes import INPUT_BOUND, full_from, input_shares, throughput
from harness.figures.style import COLOURS, panels, plain_log_ticks
from harness.records import TrialRecord


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws throughput, time per step and the share of input against the batch size."""
    del scale
    figure, (speeds, times, shares) = panels(3, "Feasible batch sizes: throughput, and what limits it", columns=3)
    plain, accumulated = throughput(records), throughput(records, "accumulated")
    milliseconds = {size: 1e3 * size / speed for size, speed in plain.items()}
    _dots(speeds, plain, "batch in one piece", COLOURS[0], "o")
    _dots(speeds, accumulated, "gradients accumulated", COLOURS[1], "s")
    _dots(times, milliseconds, "batch in one piece", COLOURS[0], "o")
    slow = {size: 1e3 * size / speed for size, speed in accumulated.items()}
    _dots(times, slow, "gradients accumulated", COLOURS[1], "s")
    sizes = np.array(list(plain))
    start = np.median(plain[sizes[0]])
    full = max(np.median(speed) for speed in plain.values())
    speeds.plot(sizes, start * sizes / sizes[0], "--", color="grey", label="doubles with the batch")
    if (edge := full_from(plain)) is not None:
        speeds.axvline(edge, color="grey", linestyle=":", label=f"device full from {edge}")
    speeds.set_ylim(0.7 * start, 1.6 * full)
    times.plot(sizes, 1e3 * sizes / full, "--", color="grey", label="doubles with the batch (device full)")
    times.axhline(1e3 * sizes[0] / start, color="grey", linestyle=":", label="flat (device not full)")
    for axes, ylabel, title in (
        (speeds, "examples per second", "Throughput"),
        (times, "time per step (ms)", "Time per step"),
    ):
        axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel=ylabel, title=title)
        axes.legend()
        axes.xaxis.set_major_locator(_at(sizes))
        axes.xaxis.minorticks_off()
        plain_log_ticks(axes.xaxis, axes.yaxis)
    _draw_shares(shares, input_shares(records))
    return figure


def _dots(axes: Axes, values: Mapping[int, np.ndarray], label: str, colour: str, marker: str) -> None:
    """Every replicate a dot, medians on a line."""
    for size, each in values.items():
        axes.plot([size] * len(each), each, marker, color=colour, markersize=3, alpha=0.35)
    if values:
        medians = [np.median(each) for each in values.values()]
        axes.plot(list(values), medians, f"{marker}-", color=colour, markersize=5, label=label)


def _draw_shares(axes: Axes, shares: Mapping[int, Sequence[float]]) -> None:
    for size, each in shares.items():
        axes.plot([size] * len(each), each, "o", color=COLOURS[2], markersize=5, alpha=0.7)
    axes.axhline(INPUT_BOUND, color="grey", linestyle="--", label=f"input-bound above {INPUT_BOUND:g}")
    axes.set(xscale="log", ylim=(-0.03, 1), xlabel="batch size", ylabel="share of the time")
    axes.set_title("The device waits for examples")
    axes.xaxis.set_major_locator(_at(list(shares)))
    axes.xaxis.minorticks_off()
    plain_log_ticks(axes.xaxis)
    axes.legend()


def _at(sizes: Sequence[int]):
    from matplotlib.ticker import FixedLocator

    return FixedLocator(sizes)
