"""The figure of `warmup-benefit`: loss against rate, training curves, curvature, learning-rate sensitivity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from harness.analysis.stability_threshold import adam_threshold
from harness.experiments.warmup_benefit import (
    ARMS,
    NORMALIZATIONS,
    SETTINGS,
    USABLE_SHARE,
    first_round,
    of_study,
    peak_steps,
    plain_of,
    sensitivity,
    sweep_losses,
    unstable_rate,
)
from harness.figures.dots import draw_dots
from harness.figures.loss_curves import LossSeries, draw_loss_curves
from harness.figures.published import published
from harness.figures.rate_sweep import RateSeries, draw_rate_sweep
from harness.figures.sharpness import SharpnessSeries, draw_preconditioned_sharpness
from harness.figures.style import COLOURS, MARKERS, panels, shared_legend
from harness.records import TrialRecord

_LABELS = {
    "pre_ln": "pre-LN",
    "pre_ln_warmup": "pre-LN, warmup",
    "post_ln": "post-LN",
    "post_ln_warmup": "post-LN, warmup",
}
_COLOURS = dict(zip(ARMS, COLOURS, strict=False))
_MARKERS = dict(zip(ARMS, MARKERS, strict=False))
_DRAWN_CURVES = 2  # seeds whose loss curves are drawn; more only hide each other
_SMOOTHING = 10  # steps whose losses are averaged in the drawing: a step sees few symbols


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the six panels, of a control all but the published points and the curvature.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    settings = SETTINGS[scale]
    control = any(record.study.startswith("control-") for record in records)
    labels = dict(_LABELS)
    if control:
        labels.update({f"{plain}_warmup": f"{_LABELS[plain]}, more steps" for plain in NORMALIZATIONS})
        heading = ["control: no warmup, and the same integral of the rate"]
    else:
        peak = peak_steps(scale)
        share = settings.warmup_steps / peak
        heading = [
            f"{settings.warmup_steps:,} steps of warmup before {peak:,}: {share:.0%} (the playbook: at most 10%)",
            "faint and dashed: published",
        ]
    curvature = [plain for plain in NORMALIZATIONS if of_study(records, f"curvature-{plain}")]
    own = 3 + len(curvature)
    figure, axes = panels(own + (not control), "; ".join([f"warmup-benefit at scale {scale}", *heading]))

    sweep = [_sweep(records, arm, labels[arm], scale) for arm in ARMS]
    if not control:
        draw_rate_sweep(axes[0], _published() + sweep, "validation loss (nats)")
        axes[0].set(xlabel="base learning rate", title="loss against base learning rate, published points behind")
    swept, curves, sensitivities, *sharpness = axes[-own:]
    draw_rate_sweep(swept, sweep, "validation loss (nats)")
    swept.axhline(settings.usable, color="grey", linestyle=":", label="usable below")
    swept.set(xlabel="base learning rate", title="loss against base learning rate\n(mean, best and worst seed)")
    rates = {plain: _shown_rate(records, plain, scale) for plain in NORMALIZATIONS}
    groups = [_losses(records, arm, rates[plain_of(arm)], labels[arm]) for arm in ARMS]
    draw_loss_curves(
        curves,
        groups,
        "training loss at the lowest unstable rate without warmup\n"
        f"(pre-LN {rates['pre_ln']:g}, post-LN {rates['post_ln']:g}; single seeds, means of {_SMOOTHING} steps)",
    )
    curves.set_ylabel("training loss (nats)")
    found = {arm: sensitivity(records, arm, scale) for arm in ARMS}
    draw_dots(
        sensitivities,
        {_with_interval(labels[arm], found[arm]): found[arm].by_seed for arm in ARMS},
        "learning-rate sensitivity (nats)",
        "sensitivity over the rates of each normalisation\n"
        f"(one dot a seed; below: mean and {found[ARMS[0]].level:.0%} interval)",
    )
    for panel, plain in zip(sharpness, curvature, strict=True):
        runs = [
            SharpnessSeries(run, adam_threshold(run), _COLOURS[run.arm], labels[run.arm])
            for run in of_arms(records, plain)
        ]
        draw_preconditioned_sharpness(panel, runs)
        panel.legend()
        rate = f"{_LABELS[plain]}, rate {settings.curvature[plain]:g}"
        panel.set_title(f"preconditioned sharpness of {rate}\n(dashed: Adam's stability threshold at its rate)")
    shared_legend(figure, (swept, curves))
    return figure


def of_arms(records: Sequence[TrialRecord], plain: str) -> list[TrialRecord]:
    """The runs whose curvature was measured, without and with warmup."""
    return [record for record in records if record.study == f"curvature-{plain}"]


def _with_interval(label: str, found) -> str:
    low, high = found.interval
    return f"{label.replace(', ', chr(10))}\n{found.value:.2f}\n[{low:.2f}, {high:.2f}]"


def _sweep(records: Sequence[TrialRecord], arm: str, label: str, scale: str) -> RateSeries:
    settings = SETTINGS[scale]
    losses = sweep_losses(records, arm, scale)
    failing = np.mean(losses >= settings.usable, axis=1) >= 1 - USABLE_SHARE
    return RateSeries(label, settings.rates[plain_of(arm)], list(losses), failing, _COLOURS[arm], _MARKERS[arm])


def _published() -> list[RateSeries]:
    series = []
    for arm in ARMS:
        rows = [row for row in published("fig8_warmup") if row["series"] == arm]
        series.append(
            RateSeries(
                None,
                [float(row["learning_rate"]) for row in rows],
                [np.array([float(row["validation_loss"])]) for row in rows],
                [row["poor_optimization"] == "1" for row in rows],
                _COLOURS[arm],
                _MARKERS[arm],
                published=True,
            )
        )
    return series


def _shown_rate(records: Sequence[TrialRecord], plain: str, scale: str) -> float:
    """The lowest unstable rate without warmup, or the highest of all."""
    rates = SETTINGS[scale].rates[plain]
    return unstable_rate(sweep_losses(records, plain, scale), rates, SETTINGS[scale].usable) or rates[-1]


def _losses(records: Sequence[TrialRecord], arm: str, rate: float, label: str) -> LossSeries:
    trials = list(first_round(records, arm, rate).values())[:_DRAWN_CURVES]
    curves = [_means(trial.curves["train_loss"]) for trial in trials]
    steps = [
        (np.arange(len(curve)) + 0.5) * min(_SMOOTHING, len(trial.curves["train_loss"]))
        for curve, trial in zip(curves, trials, strict=True)
    ]
    return LossSeries(label, steps, curves, _COLOURS[arm])


def _means(curve: np.ndarray) -> np.ndarray:
    """Means of `_SMOOTHING` steps each; of a shorter curve, its mean."""
    width = min(_SMOOTHING, len(curve))
    return curve[: len(curve) // width * width].reshape(-1, width).mean(axis=1)
