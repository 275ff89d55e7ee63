"""The figure of `checkpoint-selection`: curves with their best checkpoints, gains, and which rates are chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.trial_table import at
from harness.experiments.checkpoint_selection import (
    DECAY,
    HIGH,
    LOW,
    NO_DECAY,
    SETTINGS,
    chosen_rate,
    error,
    gains,
    study_of,
    training_loss,
)
from harness.figures.differences import draw_differences
from harness.figures.dots import draw_dots
from harness.figures.rate_sweep import RateSeries, draw_rate_sweep
from harness.figures.style import COLOURS, MARKERS, panels, plain_log_ticks
from harness.records import TrialRecord

_DRAWN_CURVES = 4  # more only hide each other


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the six panels, of a control the first three.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    settings = SETTINGS[scale]
    control = not study_of(records, "rates")
    title = f"checkpoint-selection at scale {scale}" + (", control: curves that only improve" if control else "")
    figure, axes = panels(3 if control else 6, title, columns=3)
    names = ("decayed rate", "lower decayed rate") if control else ("constant high rate", "overfitting")
    for panel, study, name in zip(axes, ("fluctuating", "overfitting"), names, strict=False):
        _draw_curves(panel, study_of(records, study)[:_DRAWN_CURVES], name)
    groups = {name: gains(records, study) for name, study in zip(names, ("fluctuating", "overfitting"), strict=True)}
    if not control:
        groups |= {"decayed\nrate": gains(records, "decayed"), "still\nimproving": gains(records, "improving")}
    draw_differences(
        axes[2],
        groups,
        "last minus chosen checkpoint (error)",
        "gain on examples not chosen by\n(one dot a seed, and the mean)",
    )
    if not control:
        _draw_rates(axes[3], axes[4], records, settings.decay)
        fresh = {
            f"{name} rate,\n{label}": [error(trial) for trial in at(study_of(records, study), arm).values()]
            for study, name in ((LOW, "low"), (HIGH, "high"))
            for arm, label in ((NO_DECAY, "no decay"), (DECAY, "decay"))
        }
        low, high = (chosen_rate(records, arm) for arm in (NO_DECAY, DECAY))
        draw_dots(
            axes[5],
            fresh,
            "validation error (share of examples)",
            f"fresh seeds at the rate chosen without decay,\n{low:g}, and at the one chosen with it, {high:g}",
        )
    return figure


def _draw_curves(axes: Axes, trials: Sequence[TrialRecord], name: str) -> None:
    for trial, colour in zip(trials, COLOURS, strict=False):
        steps, errors = (trial.curves[f"evaluation_{column}"] for column in ("step", "error"))
        axes.plot(steps, errors, color=colour, linewidth=1)
        if trial.status == "complete":
            axes.plot(
                trial.results["best_step"],
                trial.results["best_error"],
                "*",
                color=colour,
                markersize=12,
                markeredgecolor="black",
                zorder=5,
            )
    axes.plot([], [], "k*", markersize=9, label="best checkpoint")
    axes.set(yscale="log", xlabel="step", ylabel="validation error (share of examples)")
    axes.set_title(f"{name}\n(single seeds, all validation examples)")
    axes.legend()
    plain_log_ticks(axes.yaxis)


def _draw_rates(errors: Axes, losses: Axes, records: Sequence[TrialRecord], decay: float) -> None:
    """Error and training loss of the last checkpoint against the rate, without and with decay."""
    swept = study_of(records, "rates")
    rates = sorted({record.hyperparameters["learning_rate"] for record in swept})
    lines, labels = [], {NO_DECAY: "no weight decay", DECAY: f"weight decay {decay:g}"}
    for (arm, label), colour, marker in zip(labels.items(), COLOURS, MARKERS, strict=False):
        found = [list(at(swept, arm, learning_rate=rate).values()) for rate in rates]
        infeasible = [any(trial.status != "complete" for trial in trials) for trials in found]
        measured = [np.array([error(trial) for trial in trials]) for trials in found]
        lines.append(RateSeries(label, rates, measured, infeasible, colour, marker))
        means = [np.mean([training_loss(trial) for trial in trials]) for trials in found]
        losses.plot(rates, means, color=colour, marker=marker, markersize=4, label=label)
        losses.axvline(chosen_rate(records, arm), color=colour, linestyle=":", linewidth=1)
    draw_rate_sweep(errors, lines, "validation error (share of examples)", crossed_label="infeasible")
    errors.set_title("choosing the rate by the last checkpoint\n(mean, best and worst seed)")
    errors.legend()
    losses.plot([], [], "k:", linewidth=1, label="chosen rate")
    losses.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="training loss (nats)")
    losses.set_title("training loss at the end\n(mean over seeds)")
    losses.legend()
    plain_log_ticks(losses.xaxis, losses.yaxis)
