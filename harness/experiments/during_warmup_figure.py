"""The figure of `instability-during-warmup`: losses of whole runs and around failures, times of failure, sharpness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.lost_progress import LOST_RISE, SMOOTHED_STEPS, lost_progress
from harness.analysis.stability_threshold import adam_threshold
from harness.analysis.trial_table import at, values
from harness.figures.loss_curves import LossSeries, draw_loss_curves
from harness.figures.published import published
from harness.figures.sharpness import SharpnessSeries, draw_preconditioned_sharpness
from harness.figures.style import COLOURS, PUBLISHED_ALPHA, panels, plain_log_ticks, shared_legend
from harness.records import TrialRecord

CURVES = 2
"""Seeds whose losses are drawn; more only hide each other."""

_GREY = "0.35"


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the four panels.

    Args:
      records: of all studies, of one arm.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    arm = records[0].arm
    trials = [record for record in records if record.study != "curvature"]
    by_warmup = {
        int(steps): list(at(trials, arm, warmup_steps=steps).values()) for steps in values(trials, arm, "warmup_steps")
    }
    control = arm == "pre_ln"
    title = f"instability-during-warmup at scale {scale}" + (", control: pre-LN" if control else "")
    if not control:
        title += "; faint and dashed: published (post-LN Transformer, warmups of 1 to 40,000 steps)"
    figure, axes = panels(4, title)
    colours = dict(zip(by_warmup, COLOURS, strict=False))
    series = [] if control else _published()
    series += [
        LossSeries(
            f"warmup of {warmup:,} steps" if warmup > 1 else "warmup of 1 step",
            [np.arange(1, len(_smooth(trial)) + 1) for trial in found[:CURVES]],
            [_smooth(trial) for trial in found[:CURVES]],
            colours[warmup],
        )
        for warmup, found in by_warmup.items()
    ]
    peak = trials[0].hyperparameters["learning_rate"]
    draw_loss_curves(
        axes[0], series, f"training loss to a peak rate of {peak:g}\n(up to {CURVES} seeds, median of 21 steps)"
    )
    axes[0].set_ylabel("training loss (nats)")
    _draw_around(axes[1], by_warmup, colours)
    _draw_times(axes[2], by_warmup, colours, control)
    measured = [record for record in records if record.study == "curvature"]
    draw_preconditioned_sharpness(
        axes[3],
        [
            SharpnessSeries(trial, adam_threshold(trial), colours[int(trial.hyperparameters["warmup_steps"])])
            for trial in measured
        ],
    )
    shared_legend(figure, axes[:1])
    return figure


def _smooth(trial: TrialRecord) -> np.ndarray:
    """Running median of the training loss at every step, (n,) nats; windows are cut off at the ends."""
    loss = trial.curves["train_loss"]
    padded = np.pad(loss.astype(np.float64), SMOOTHED_STEPS // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED_STEPS), axis=1)


def _published() -> list[LossSeries]:
    """Landmarks of the published losses: the start, the lowest point, and when it was left."""
    series = []
    for index, row in enumerate(published("fig6_warmup_instability")):
        last = float(row["diverges_at_step"] or row["lowest_at_step"])
        steps = np.array([1.0, float(row["lowest_at_step"]), last])
        losses = np.array([float(row["initial_loss"]), float(row["lowest_loss"]), float(row["lowest_loss"])])
        label = "published: start, lowest loss, divergence" if index == 0 else None
        series.append(LossSeries(label, [steps], [losses], _GREY, published=True))
    return series


def _draw_around(axes: Axes, by_warmup: dict[int, list[TrialRecord]], colours: dict[int, str]) -> None:
    """Draws the losses of the failures of every warmup, against steps since the end of the warmup."""
    for warmup, found in by_warmup.items():
        for trial in found[: 2 * CURVES]:
            smooth = _smooth(trial)
            since = np.arange(1, len(smooth) + 1) - warmup
            axes.plot(since, smooth, color=colours[warmup], linewidth=0.9, alpha=0.8)
    longest = max(len(found[0].curves["train_loss"]) - warmup for warmup, found in by_warmup.items() if found)
    axes.axvline(0, color="black", linewidth=1, linestyle=":")
    axes.set(
        xlim=(-0.4 * longest, longest),
        xlabel="steps since the end of warmup",
        ylabel="training loss (nats)",
        title=f"around the failures\n(up to {2 * CURVES} seeds, dotted: the peak rate is reached)",
    )


def _draw_times(axes: Axes, by_warmup: dict[int, list[TrialRecord]], colours: dict[int, str], control: bool) -> None:
    """Draws when each seed fails, in units of its warmup, and how many do."""
    for place, (warmup, found) in enumerate(by_warmup.items()):
        ends = [lost_progress(trial.curves["train_loss"]) for trial in found]
        times = [end.step / warmup for end in ends if end.risen]
        sideways = np.linspace(-0.15, 0.15, len(times)) if len(times) > 1 else np.zeros(len(times))
        axes.plot(place + sideways, times, "o", color=colours[warmup], markersize=4, alpha=0.7)
        axes.annotate(
            f"{len(times)} of {len(ends)} fail",
            (place, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=8,
        )
    ratios = (
        []
        if control
        else [
            float(row["diverges_at_step"]) / float(row["warmup_steps"])
            for row in published("fig6_warmup_instability")
            if row["diverges_at_step"]
        ]
    )
    axes.plot(
        np.full(len(ratios), len(by_warmup)),
        ratios,
        "D",
        color=_GREY,
        markersize=5,
        alpha=PUBLISHED_ALPHA,
        clip_on=False,
    )
    names = [f"{warmup:,}" for warmup in by_warmup] + ([] if control else ["published"])
    axes.axhline(1, color="black", linewidth=1, linestyle=":")
    axes.set_xticks(range(len(names)), names)
    axes.set(
        xlim=(-0.5, len(names) - 0.5),
        ylim=(0.3, 3000),
        yscale="log",
        xlabel="warmup (steps)",
        ylabel="step of failure / steps of warmup",
    )
    axes.set_title(
        f"when a failing loss is first {LOST_RISE:g} nats over its minimum\n(dotted: the end of the warmup)", pad=18
    )
    plain_log_ticks(axes.yaxis)
