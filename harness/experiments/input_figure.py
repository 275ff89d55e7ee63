"""The figure of `harness.experiments.input_pipeline`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.experiments.input_pipeline import ARMS, MATTERS, milliseconds, ratios
from harness.figures.dots import draw_dots
from harness.figures.style import COLOURS, panels
from harness.records import TrialRecord

_SHARES = {"input_share": "waits for examples", "compute_share": "computes", "host_share": "idles otherwise"}
_LABELS = [arm.name.replace(", ", ",\n") for arm in ARMS]


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the loops' time per step, where it goes, and the ratios that are judged."""
    del scale
    figure, (times, shares, compared) = panels(3, "Input pipeline: four loops over the same examples", columns=3)
    found = milliseconds(records)
    named = dict(zip(_LABELS, found.values(), strict=True))
    draw_dots(times, named, "time per step (ms)", "Time per step")
    _draw_shares(shares, records)
    effects = ratios(found)
    for index, (values, colour) in enumerate(zip(effects.values(), COLOURS, strict=False)):
        sideways = index + np.linspace(-0.12, 0.12, len(values))
        compared.plot(sideways, values, "o", color=colour, markersize=4, alpha=0.6)
        compared.plot([index - 0.2, index + 0.2], [np.mean(values)] * 2, color="black")
        compared.annotate(f"{np.mean(values):.2f}", (index + 0.23, np.mean(values)), va="center")
    compared.axhspan(-MATTERS, MATTERS, color="grey", alpha=0.15, label="less than a tenth")
    compared.set_xticks(
        range(len(effects)), ["nothing ahead\n/ reads ahead", "waits\n/ overlaps", "reads ahead:\nwaits / not"]
    )
    compared.set(xlim=(-0.5, len(effects) - 0.3), ylabel="log2 ratio of the time per step", title="What is judged")
    compared.legend()
    return figure


def _draw_shares(axes: Axes, records: Sequence[TrialRecord]) -> None:
    """Bars of the device's time in each loop, from the profiled trials."""
    below = np.zeros(len(ARMS))
    profiled = [[r for r in records if r.arm == arm.name and "input_share" in r.timings] for arm in ARMS]
    for (column, label), colour in zip(_SHARES.items(), COLOURS, strict=False):
        values = [np.mean([record.timings[column] for record in of_arm]) for of_arm in profiled]
        axes.bar(range(len(ARMS)), values, bottom=below, color=colour, width=0.6, label=label)
        below += np.array(values)
    axes.set_xticks(range(len(ARMS)), _LABELS)
    axes.set(ylim=(0, 1.25), ylabel="share of the time", title="The device (one profile each)")
    axes.legend(ncols=3, loc="upper center")
