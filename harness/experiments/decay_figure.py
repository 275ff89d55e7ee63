"""The figure of `decay-schedules`: loss against base rate, training curves, fresh seeds, the constant rate early."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.trial_table import at, paired_differences
from harness.experiments.decay_schedules import (
    AVERAGED,
    CONSTANT,
    OTHERS,
    SETTINGS,
    arms_of,
    best_points,
    better_of,
    constant_losses,
    early_step,
    fresh,
    in_round,
    loss,
    points_of,
)
from harness.figures.loss_curves import LossSeries, draw_loss_curves
from harness.figures.rate_sweep import RateSeries, draw_rate_sweep
from harness.figures.style import COLOURS, MARKERS, panels, plain_log_ticks
from harness.records import TrialRecord

_LABELS = {CONSTANT: "constant", "linear": "linear", "cosine": "cosine", "square_root": "square root"}
_LABELS[AVERAGED] = "constant, iterates averaged"
_STYLES = dict(zip((CONSTANT, "linear", "cosine", "square_root"), zip(COLOURS, MARKERS, strict=True), strict=False))
_STYLES[AVERAGED] = _STYLES[CONSTANT]
_BINS = 25  # means of the training loss along a curve: a step sees few symbols


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the four panels, of a control all but that of the constant rate early and at the end.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    control = any(record.arm == AVERAGED for record in records)
    judged = [arm for arm in arms_of(control) if arm not in OTHERS]
    title = f"decay-schedules at scale {scale}" + (
        ", control: iterates of the constant rate averaged" if control else ""
    )
    figure, axes = panels(3 if control else 4, title)
    sweep = [series for arm in arms_of(control) for series in _sweep(records, arm, scale)]
    draw_rate_sweep(axes[0], sweep, "final validation loss (nats)", "diverged")
    axes[0].set(xlabel="base learning rate", title="every schedule tuned apart\n(mean, best and worst seed)")
    draw_loss_curves(
        axes[1],
        [_training(records, arm, scale) for arm in judged],
        f"training loss at the best base rate of each\n(one seed, means over {_BINS} equal parts)",
    )
    axes[1].set_ylabel("training loss (nats)")
    _draw_excess(axes[2], records, scale, judged)
    if not control:
        _draw_early(axes[3], records, scale)
    for panel in (*axes[:2], *axes[3:]):
        panel.legend()
    return figure


def _sweep(records: Sequence[TrialRecord], arm: str, scale: str) -> list[RateSeries]:
    """Loss against base rate, for each averaging decay a line."""
    groups: dict[float | None, list] = {}
    for point in points_of(arm, SETTINGS[scale]):
        trials = at(in_round(records, arm, "sweep"), arm, **point)
        groups.setdefault(point.get("averaging_decay"), []).append((point["learning_rate"], trials))
    colour, marker = _STYLES[arm]
    return [
        RateSeries(
            label=_LABELS[arm] + (f" by {decay:g}" if decay else ""),
            rates=[rate for rate, _ in found],
            errors=[np.array([loss(trial, scale) for trial in trials.values()]) for _, trials in found],
            unstable=[any(trial.status != "complete" for trial in trials.values()) for _, trials in found],
            colour=(colour, *COLOURS[4:])[index],
            marker=marker,
        )
        for index, (decay, found) in enumerate(groups.items())
    ]


def _training(records: Sequence[TrialRecord], arm: str, scale: str) -> LossSeries:
    """The training loss of the first fresh seed at the best rate."""
    point = best_points(records, arm, scale)[0]
    curve = next(iter(fresh(records, arm, scale)[0].values())).curves["train_loss"]
    parts = np.array_split(curve, min(_BINS, len(curve)))
    ends = np.cumsum([len(part) for part in parts])
    label = f"{_LABELS[arm]}, {point['learning_rate']:g}"
    return LossSeries(label, [ends], [np.array([part.mean() for part in parts])], _STYLES[arm][0])


def _draw_excess(axes: Axes, records: Sequence[TrialRecord], scale: str, arms: Sequence[str]) -> None:
    """Loss over that of linear decay, one dot a fresh seed, with the mean."""
    linear = better_of(records, "linear", scale)
    others = [arm for arm in arms if arm != "linear"]
    for place, arm in enumerate(others):
        excess = paired_differences(better_of(records, arm, scale), linear, partial(loss, scale=scale))
        sideways = place + np.linspace(-0.15, 0.15, len(excess))
        axes.plot(sideways, excess, _STYLES[arm][1], color=_STYLES[arm][0], markersize=4, alpha=0.7)
        axes.plot([place - 0.25, place + 0.25], [excess.mean()] * 2, color="black", linewidth=1.5)
        axes.annotate(f"{excess.mean():+.3f}", (place + 0.27, excess.mean()), va="center")
    axes.axhline(0, color=_STYLES["linear"][0], linewidth=1)
    axes.set_xticks(range(len(others)), [_LABELS[arm] for arm in others])
    axes.set(xlim=(-0.5, len(others) - 0.3), ylabel="validation loss minus linear decay's (nats)")
    axes.set_title("fresh seeds, each at the better of its two best rates\n(one dot a seed; bar: mean)")


def _draw_early(axes: Axes, records: Sequence[TrialRecord], scale: str) -> None:
    """The constant rate's loss against the rate, early and at the end, every seed thin."""
    rates = SETTINGS[scale].rates
    early, late = constant_losses(records, scale)
    for losses, when, colour in ((early, f"after {early_step(scale):,} steps", COLOURS[4]), (late, "end", COLOURS[0])):
        means = losses.mean(axis=1)
        best = int(np.argmin(means))
        axes.plot(rates, losses, color=colour, linewidth=0.6, alpha=0.4)
        axes.plot(rates, means, "o-", color=colour, linewidth=2, markersize=4, label=f"{when} (mean; thin: seeds)")
        axes.plot(rates[best], means[best], "*", color=colour, markersize=13, markeredgecolor="black", zorder=5)
    axes.set(xscale="log", xlabel="constant learning rate", ylabel="validation loss (nats)")
    axes.set_title("the best constant rate early and at the end\n(star: best mean)")
    plain_log_ticks(axes.xaxis)
