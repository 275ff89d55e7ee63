"""The figure of `unstable-learning-rates`: rate sweeps, losses above the best rate, rate sensitivity, sharpness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.rate_sensitivity import RateSensitivity, rate_sensitivity
from harness.analysis.stability_threshold import adam_threshold
from harness.analysis.trial_table import at, values
from harness.experiments.unstable_learning_rates import MENDED, chance, final_loss, first_round, of_study, swept_arm
from harness.figures.dots import draw_dots
from harness.figures.loss_curves import LossSeries, draw_loss_curves
from harness.figures.published import published
from harness.figures.rate_sweep import RateSeries, draw_rate_sweep
from harness.figures.sharpness import SharpnessSeries, draw_preconditioned_sharpness
from harness.figures.style import COLOURS, MARKERS, panels
from harness.records import TrialRecord

CURVES = 2
"""Seeds whose losses are drawn; more only hide each other."""

_LABELS = {"post_ln": "post-LN", MENDED: "pre-LN"}
_COLOURS = dict(zip(_LABELS, COLOURS, strict=False))
_MARKERS = dict(zip(_LABELS, MARKERS, strict=False))
_RATE_COLOURS = COLOURS[2:5]
_GREY = "0.35"


def draw(records: Sequence[TrialRecord], scale: str, infeasible: float) -> Figure:
    """Draws the four panels.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
      infeasible: validation loss from which a trial is infeasible, nats.
    """
    swept = swept_arm(records)
    arms = list(dict.fromkeys([swept, MENDED]))
    control = swept == MENDED
    title = f"unstable-learning-rates at scale {scale}"
    title += ", control: pre-LN" if control else "; faint and dashed: published"
    figure, axes = panels(4, title)
    sweeps = [] if control else [_published_sweep(infeasible)]
    sweeps += [_sweep(records, arm, infeasible, chance(scale)) for arm in arms]
    draw_rate_sweep(axes[0], sweeps, "validation loss (nats)")
    axes[0].axhline(infeasible, color="black", linewidth=1, linestyle=":")
    axes[0].set_title("validation loss against learning rate\n(mean, best and worst seed; dotted: infeasible)")
    axes[0].legend()
    series = [] if control else [_published_loss()]
    rates = [("fresh", "best rate"), ("above", "5 times"), ("above-drawn", "10 times")]
    for (study, label), colour in zip(rates, _RATE_COLOURS, strict=True):
        trials = [trial for trial in of_study(records, study) if trial.arm == swept][:CURVES]
        curves = [trial.curves["train_loss"] for trial in trials]
        rate = trials[0].hyperparameters["learning_rate"]
        steps = [np.arange(1, len(curve) + 1) for curve in curves]
        series.append(LossSeries(f"{label}, {rate:.3g}", steps, curves, colour))
    draw_loss_curves(axes[1], series, f"training loss of {_LABELS[swept]} at and above its best rate\n(up to 2 seeds)")
    axes[1].set_ylabel("training loss (nats)")
    axes[1].legend()
    _draw_sensitivity(axes[2], {arm: sensitivity(records, arm) for arm in arms})
    draw_preconditioned_sharpness(
        axes[3],
        [
            SharpnessSeries(trial, adam_threshold(trial), colour, f"rate {trial.hyperparameters['learning_rate']:.3g}")
            for trial, colour in zip(of_study(records, "curvature"), _RATE_COLOURS, strict=False)
        ],
    )
    axes[3].legend()
    return figure


def sensitivity(records: Sequence[TrialRecord], arm: str) -> RateSensitivity:
    """Learning-rate sensitivity of an arm over its sweep; the loss before training is that of the first batch."""
    swept = first_round(records, arm)
    rates = values(swept, arm, "learning_rate")
    by_rate = [at(swept, arm, learning_rate=rate) for rate in rates]
    losses = [[final_loss(trial, np.inf) for trial in trials.values()] for trials in by_rate]
    initial = [float(trial.curves["train_loss"][0]) for trial in by_rate[0].values()]
    return rate_sensitivity(rates, np.array(losses), np.array(initial))


def _draw_sensitivity(axes: Axes, found: Mapping[str, RateSensitivity]) -> None:
    """Draws the sensitivity of every seed, and says the mean with its interval."""
    names = {
        f"{_LABELS[arm]}\n{one.value:.2f} ({one.interval[0]:.2f} to {one.interval[1]:.2f})": one.by_seed
        for arm, one in found.items()
    }
    draw_dots(
        axes,
        names,
        "learning-rate sensitivity (nats)",
        "what a badly chosen rate of the sweep costs\n(one dot a seed; below: mean, 95% interval)",
    )


def _sweep(records: Sequence[TrialRecord], arm: str, infeasible: float, most: float) -> RateSeries:
    swept = first_round(records, arm)
    rates = values(swept, arm, "learning_rate")
    losses = [
        np.array([final_loss(trial, most) for trial in at(swept, arm, learning_rate=rate).values()]) for rate in rates
    ]
    return RateSeries(
        label=_LABELS[arm],
        rates=rates,
        errors=losses,
        unstable=[np.mean(at_rate >= infeasible) > 0.5 for at_rate in losses],
        colour=_COLOURS[arm],
        marker=_MARKERS[arm],
    )


def _published_sweep(infeasible: float) -> RateSeries:
    """The published sweep; its infeasible points, which have no loss, stand at the infeasible one."""
    rows = published("fig7a_axis")
    return RateSeries(
        label=None,
        rates=[float(row["learning_rate"]) for row in rows],
        errors=[np.array([float(row["validation_loss"] or infeasible)]) for row in rows],
        unstable=[row["infeasible"] == "1" for row in rows],
        colour=_GREY,
        published=True,
    )


def _published_loss() -> LossSeries:
    rows = published("fig7b_loss")
    steps = np.array([float(row["step"]) for row in rows])
    losses = np.array([float(row["train_loss"]) for row in rows])
    return LossSeries("published, landmarks", [steps], [losses], _GREY, published=True)
