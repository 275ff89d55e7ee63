"""The figure of `eval-sampling`: what the size of a sample buys, what its reuse costs, and unshuffled curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.evaluation_sample import planned_correlation
from harness.analysis.trial_table import at
from harness.experiments.eval_sampling import CORRELATION, EVALUATIONS_PER_EPOCH, REGRET, agreement, flagged
from harness.experiments.sampled_searches import SETTINGS, part_errors, trials_of, winners
from harness.figures.differences import draw_differences
from harness.figures.style import COLOURS, panels, plain_log_ticks
from harness.records import TrialRecord

_DRAWN_CURVES = 3  # more only hide each other


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the four panels, of a control the first two.

    Args:
      records: of all rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    settings = SETTINGS[scale]
    control = not any(record.study == "order" for record in records)
    title = f"eval-sampling at scale {scale}" + (", control: all trials share one setting" if control else "")
    figure, axes = panels(2 if control else 4, title)
    examples = part_errors(trials_of(records, 0, ("first",))).shape[1] * settings.part
    sizes = [size for size in (50, 100, 200, 400, 650, 1300, 2000) if size <= examples // 2]
    found = [agreement(records, scale, size) for size in sizes]
    for panel, values, threshold, label, name in (
        (axes[0], [c for c, _ in found], CORRELATION, "rank correlation with the rest", "trials ranked by a sample"),
        (axes[1], [r for _, r in found], REGRET, "regret (spreads between trials)", "winner on a sample, on the rest"),
    ):
        each = np.array(values)
        panel.plot(sizes, each, color=COLOURS[0], linewidth=0.5, alpha=0.35)
        panel.plot(sizes, each.mean(axis=1), color=COLOURS[0], linewidth=2, marker="o", markersize=4, label="mean")
        panel.axhline(threshold, color="black", linestyle="--", linewidth=0.8, label=f"threshold {threshold:g}")
        panel.axvline(settings.stated, color="black", linestyle=":", linewidth=0.8, label="stated size")
        panel.set(xscale="log", xlabel="examples in the sample", ylabel=label)
        panel.set_title(f"{name}\n(one thin line a search of {settings.first} trials)")
        panel.legend()
        plain_log_ticks(panel.xaxis)
    planned = [planned_correlation(settings.error, settings.spread, size) for size in sizes]
    axes[0].plot(sizes, planned, color="black", linewidth=1, linestyle="-.", label="planned correlation of errors")
    axes[0].legend()
    if not control:
        picked = winners(records, scale)
        draw_differences(
            axes[2],
            {
                "test error, reused\nminus fresh samples": picked["reused"] - picked["fresh"],
                "reused: test error\nminus shown": picked["reused"] - picked["reused sample"],
                "fresh: test error\nminus shown": picked["fresh"] - picked["fresh sample"],
            },
            "difference in error",
            "winners of three rounds on untouched data\n(one dot a search, and the mean)",
            {"trial standard deviation": settings.trial_sd},
        )
        _draw_orders(axes[3], records)
    return figure


def _draw_orders(axes: Axes, records: Sequence[TrialRecord]) -> None:
    """Validation loss over the last ten epochs less its mean over the epoch around, with and without shuffling."""
    for (arm, label), colour in zip(
        {"unshuffled": "sorted by label", "shuffled": "shuffled"}.items(), COLOURS[1:], strict=False
    ):
        trials = list(at(records, arm).values())
        count = sum(flagged(trial)[0] for trial in trials)
        for index, trial in enumerate(trials[:_DRAWN_CURVES]):
            losses = trial.curves["evaluation_loss"][-11 * EVALUATIONS_PER_EPOCH :]
            around = np.convolve(losses, np.full(EVALUATIONS_PER_EPOCH, 1 / EVALUATIONS_PER_EPOCH), "valid")
            margin = EVALUATIONS_PER_EPOCH // 2
            swings = losses[margin : margin + len(around)] - around
            name = f"{label}; periodic: {count} of {len(trials)} runs"
            epochs = np.arange(len(swings)) / EVALUATIONS_PER_EPOCH
            axes.plot(epochs, swings, color=colour, linewidth=1, label=None if index else name)
    axes.set(xlabel="epoch of the last ten", ylabel="validation loss less its epoch's mean (nats)")
    axes.set_title("order of the training data\n(single seeds)")
    axes.set_ylim(top=1.5 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper right")
