"""The figure of `optimizer-stability`: a sweep of each optimizer, best errors, and losses at untuned rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from harness.analysis.instability import UNSTABLE_SHARE, has_spike
from harness.analysis.trial_table import at, values
from harness.experiments.optimizer_stability import (
    OPTIMIZERS,
    WORKLOADS,
    best_rate,
    error,
    fresh,
    name_of,
    swept,
    usable_error,
)
from harness.figures.dots import draw_dots
from harness.figures.loss_curves import LossSeries, draw_loss_curves
from harness.figures.published import published
from harness.figures.rate_sweep import RateSeries, draw_rate_sweep
from harness.figures.style import COLOURS, MARKERS, PUBLISHED_ALPHA, panels, shared_legend
from harness.records import TrialRecord

_TITLES = {"nesterov": "Nesterov momentum", "adamw": "AdamW"}
_LABELS = {"standard": "standard strides (1,2,2)", "stride_bug": "stride bug (1,2,1)"}
_PUBLISHED_SWEEP = {"standard": "standard", "stride_1x1": "stride_bug"}
_PUBLISHED_ERRORS = {"standard": "stride_2", "stride_bug": "stride_1"}
_DRAWN_CURVES = 4  # more only hide each other


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the four panels.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    seeds = [swept(records, name_of("nesterov", workload))[0].seeds for workload in WORKLOADS]
    control = seeds[0] != seeds[1]
    labels = {**_LABELS, "stride_bug": "standard, other seeds"} if control else _LABELS
    title = f"optimizer-stability at scale {scale}" + (", control" if control else "")
    if not control:
        title += "; faint: published (Wide ResNet 28-10, CIFAR-10)"
    figure, axes = panels(4, title)
    for panel, optimizer in zip(axes, OPTIMIZERS, strict=False):
        lines = _published_sweep() if optimizer == "nesterov" and not control else []
        lines += [
            _sweep(records, optimizer, workload, labels[workload], colour, marker)
            for workload, colour, marker in zip(WORKLOADS, COLOURS, MARKERS, strict=False)
        ]
        draw_rate_sweep(panel, lines, "validation error (share of examples)")
        panel.axhline(
            usable_error(records, optimizer), color="black", linestyle="--", linewidth=0.8, label="highest usable error"
        )
        panel.set_title(f"{_TITLES[optimizer]}: error against learning rate\n(mean, best and worst seed)")
    _draw_best(axes[2], records, control)
    losses = []
    for optimizer, colour in zip(OPTIMIZERS, COLOURS[2:], strict=False):
        rate = best_rate(records, name_of(optimizer, "standard"))
        arm = name_of(optimizer, "stride_bug")
        trials = list(at(swept(records, arm), arm, learning_rate=rate).values())[:_DRAWN_CURVES]
        curves = [trial.curves["train_objective"] for trial in trials]
        steps = [np.arange(1, len(curve) + 1) for curve in curves]
        losses.append(LossSeries(f"{_TITLES[optimizer]}, rate {rate:g}", steps, curves, colour))
    draw_loss_curves(axes[3], losses, f"{labels['stride_bug']},\nat the best rate of standard strides (single seeds)")
    axes[3].legend()
    shared_legend(figure, axes[:2])
    return figure


def _draw_best(axes, records: Sequence[TrialRecord], control: bool) -> None:
    """Errors on fresh seeds, each arm at its own best rate, with the published ones."""
    groups, shown = {}, []
    for optimizer in OPTIMIZERS:
        for workload in WORKLOADS:
            arm = name_of(optimizer, workload)
            rate = best_rate(records, arm)
            short = "standard" if workload == "standard" else "other seeds" if control else "stride bug"
            groups[f"{_TITLES[optimizer].split()[0]}\n{short}\nrate {rate:g}"] = [
                error(trial) for trial in fresh(records, arm).values()
            ]
            shown.append(_published_error(optimizer, workload))
    note = "fresh seeds" if control else "fresh seeds; grey bars: published"
    draw_dots(axes, groups, "validation error (share of examples)", f"best errors, tuned apart\n({note})")
    if not control:
        style = {"color": "black", "alpha": PUBLISHED_ALPHA, "markersize": 10}
        axes.plot(range(len(shown)), shown, "_", markeredgewidth=3, **style)


def _published_error(optimizer: str, workload: str) -> float:
    (row,) = (
        row
        for row in published("stride_and_clipping_tables")
        if (row["workload"], row["model"], row["optimizer"], row["fix"])
        == ("cifar10_wrn_28_10", _PUBLISHED_ERRORS[workload], optimizer, "")
    )
    return float(row["error"])


def _sweep(
    records: Sequence[TrialRecord], optimizer: str, workload: str, label: str, colour: str, marker: str
) -> RateSeries:
    arm = name_of(optimizer, workload)
    trials = swept(records, arm)
    rates = values(trials, arm, "learning_rate")
    found = [list(at(trials, arm, learning_rate=rate).values()) for rate in rates]
    return RateSeries(
        label,
        rates,
        [np.array([error(trial) for trial in group]) for group in found],
        [sum(has_spike(t.curves["train_loss"]) for t in group) > UNSTABLE_SHARE * len(group) for group in found],
        colour,
        marker,
    )


def _published_sweep() -> list[RateSeries]:
    """Figure 4, the same experiment with momentum."""
    series = []
    for name, workload in _PUBLISHED_SWEEP.items():
        rows = [row for row in published("fig4_learning_rate") if row["series"] == name]
        series.append(
            RateSeries(
                None,
                [float(row["learning_rate"]) for row in rows],
                # A point past the axis is drawn at its border.
                [np.array([float(row["test_error"].lstrip(">"))]) for row in rows],
                [row["unstable"] == "1" for row in rows],
                COLOURS[WORKLOADS.index(workload)],
                published=True,
            )
        )
    return series
