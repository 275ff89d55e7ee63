"""The figure of `residual-normalization`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.instability import UNSTABLE_SHARE
from harness.analysis.trial_table import at, final_error, values
from harness.experiments.residual_normalization import ARMS, SETTINGS, final_loss, trains
from harness.figures.dots import draw_dots
from harness.figures.loss_curves import LossSeries, draw_loss_curves
from harness.figures.published import published
from harness.figures.rate_sweep import RateSeries, draw_rate_sweep
from harness.figures.style import COLOURS, MARKERS, PUBLISHED_ALPHA, panels, shared_legend
from harness.records import TrialRecord
from workloads.workload import workload_scale

_LABELS = {
    "before": "x + f(Norm(x))",
    "inside": "x + Norm(f(x))",
    "after": "Norm(x + f(x))",
    "after_zero": "Norm(x + a f(x)), a from 0",
    "none": "x + f(x)",
    "none_zero": "x + a f(x), a from 0 (ReZero)",
}

_TICKS = {
    "before": "x +\nf(Norm(x))",
    "inside": "x +\nNorm(f(x))",
    "after": "Norm(\nx + f(x))",
    "after_zero": "Norm(\nx + a f(x))",
    "none": "x + f(x)",
    "none_zero": "x + a f(x)",
}

_DRAWN_CURVES = 3
"""Seeds whose loss curves are drawn; more only hide each other."""

_PUBLISHED_MODELS = {"standard": "before", "norm_on_residual": "after"}
"""Model of the published table to the arm whose placement it has."""

_OPTIMIZERS = {"nesterov": "Nesterov", "adamw": "AdamW"}


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the four panels.

    Args:
      records: of the experiment or its control.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    settings = SETTINGS[scale]
    control = all(record.study == "control" for record in records)
    arms = [arm for arm in ARMS if any(record.arm == arm for record in records)]
    colours = dict(zip(ARMS, COLOURS, strict=True))
    title = f"residual-normalization at scale {scale}" + (", control: one block" if control else "")
    if not control:
        title += "; faint: published (ResNet-200 v2, ImageNet, best trials)"
    figure, axes = panels(4, title)

    sweep = [_sweep(records, arm, scale, colours[arm]) for arm in arms]
    draw_rate_sweep(axes[0], sweep, "validation loss (nats)", "does not train")
    axes[0].axhline(settings.trained, color="grey", linewidth=0.8, linestyle=":", label="trains below")
    axes[0].set_title("final loss against learning rate\n(mean, best and worst seed; at most that of equal chances)")
    for panel, rate in ((axes[1], settings.low), (axes[2], settings.high[0])):
        groups = [_losses(records, arm, rate, colours[arm]) for arm in arms if at(records, arm, learning_rate=rate)]
        draw_loss_curves(panel, groups, f"training loss at learning rate {rate:g}\n(single seeds)")
        panel.set_ylabel("training loss (nats)")
    _draw_errors(axes[3], records, arms, scale, control)
    shared_legend(figure, axes)
    return figure


def _sweep(records: Sequence[TrialRecord], arm: str, scale: str, colour: str) -> RateSeries:
    settings = SETTINGS[scale]
    rates = values(records, arm, "learning_rate")
    trials = [list(at(records, arm, learning_rate=rate).values()) for rate in rates]
    return RateSeries(
        label=_LABELS[arm],
        rates=rates,
        errors=[np.array([final_loss(trial, scale) for trial in found]) for found in trials],
        unstable=[np.mean([trains(trial, settings.trained) for trial in found]) < UNSTABLE_SHARE for found in trials],
        colour=colour,
        marker=MARKERS[list(ARMS).index(arm)],
    )


def _losses(records: Sequence[TrialRecord], arm: str, rate: float, colour: str) -> LossSeries:
    trials = list(at(records, arm, learning_rate=rate).values())[:_DRAWN_CURVES]
    curves = [trial.curves["train_loss"] for trial in trials]
    return LossSeries(_LABELS[arm], [np.arange(1, len(curve) + 1) for curve in curves], curves, colour)


def _draw_errors(axes: Axes, records: Sequence[TrialRecord], arms: Sequence[str], scale: str, control: bool) -> None:
    """Errors of every seed at the first of the high rates, and the published ones behind."""
    rate = SETTINGS[scale].high[0]
    classes = workload_scale("transformer", scale).workload.classes
    groups = {
        _TICKS[arm]: [final_error(trial, classes) for trial in at(records, arm, learning_rate=rate).values()]
        for arm in arms
    }
    draw_dots(axes, groups, "validation error", "")
    axes.set_title(
        f"error at learning rate {rate:g}\n(share of symbols; one dot a seed"
        + (")" if control else "; published: of images)")
    )
    axes.tick_params(axis="x", labelsize=7.5)
    if control:
        return
    rows = [
        row
        for row in published("stride_and_clipping_tables")
        if row["workload"] == "imagenet_resnet_200_v2" and not row["fix"]
    ]
    for optimizer, marker in zip(_OPTIMIZERS, ("o", "s"), strict=True):
        label = f"published, {_OPTIMIZERS[optimizer]}"
        for row in rows:
            if row["optimizer"] != optimizer:
                continue
            place = arms.index(_PUBLISHED_MODELS[row["model"]]) - 0.3
            if row["error"]:
                axes.plot(place, float(row["error"]), marker, color="black", alpha=PUBLISHED_ALPHA, label=label)
                label = None
            else:
                axes.plot(place, 0.999, "x", color="black", alpha=PUBLISHED_ALPHA)
                axes.annotate("none feasible", (place, 0.999), (0, 5), textcoords="offset points", fontsize=7)
