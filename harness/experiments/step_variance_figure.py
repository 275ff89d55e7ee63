"""The figure of `step-variance`: late validation errors, their spread by arm, and by the size of the validation set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.experiments.step_variance import (
    AVERAGING,
    BASELINE,
    BATCH,
    DECAY,
    SCALED,
    SETTINGS,
    arms_of,
    complete,
    late_errors,
    log_sd,
    whole,
)
from harness.figures.dots import draw_dots
from harness.figures.style import COLOURS, MARKERS, panels, plain_log_ticks, shared_legend
from harness.records import TrialRecord

_LABELS = {
    BASELINE: "baseline",
    BATCH: "larger batch",
    SCALED: "larger batch, rate raised",
    DECAY: "linear decay",
    AVERAGING: "Polyak averaging",
}


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the four panels: late curves, spread by arm on small sets and on the whole one, spread against their size.

    Args:
      records: of the experiment or its control.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    settings = SETTINGS[scale]
    control = any(record.study == "control" for record in records)
    trials = {arm.name: list(complete(records, arm.name).values()) for arm in arms_of(settings, control)}
    trials = {arm: found for arm, found in trials.items() if found}
    title = f"step-variance at scale {scale}" + (", control: full-batch gradients" if control else "")
    figure, axes = panels(4, title)
    everything = f"all {settings.part * _parts(trials):,}"
    for (arm, found), colour in zip(trials.items(), COLOURS, strict=False):
        steps, errors = found[0].curves["evaluation_step"], late_errors(found[0])
        shown = errors.mean(axis=1) if control else errors[:, 0]
        axes[0].plot(steps, shown, color=colour, linewidth=1, label=_LABELS[arm])
    axes[0].set(xlabel="step", ylabel="validation error (share of examples)")
    axes[0].set_title(f"one seed, evaluated on {everything if control else settings.part} examples")
    for panel, all_data in ((axes[1], False), (axes[2], True)):
        size = everything if all_data else f"{settings.part}"
        note = f"one dot a seed; up to {settings.negligible:g} counts as that"
        draw_dots(
            panel,
            {
                _LABELS[arm].replace(" ", "\n"): [
                    2.0 ** log_sd(t, settings, whole(t) if all_data else 1) for t in found
                ]
                for arm, found in trials.items()
            },
            "late standard deviation of the error",
            f"spread of late evaluations on {size} examples\n({note})",
        )
    limits = [panel.get_ylim() for panel in axes[1:3]]
    for panel in axes[1:3]:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    _draw_sizes(axes[3], trials, scale)
    shared_legend(figure, (axes[0], axes[3]))
    return figure


def _parts(trials: dict[str, list[TrialRecord]]) -> int:
    return whole(next(iter(trials.values()))[0])


def _draw_sizes(axes: Axes, trials: dict[str, list[TrialRecord]], scale: str) -> None:
    """Spread against the size of the validation set, with what independent examples would give."""
    settings = SETTINGS[scale]
    parts = _parts(trials)
    counts = [count for count in (1, 2, 5, 10, 20) if count <= parts]
    for (arm, found), colour, marker in zip(trials.items(), COLOURS, MARKERS, strict=False):
        means = [2.0 ** np.mean([log_sd(trial, settings, count) for trial in found]) for count in counts]
        sizes = [settings.part * count for count in counts]
        axes.plot(sizes, means, marker=marker, color=colour, markersize=5, label=_LABELS[arm])
        if arm == BASELINE:
            ideal = means[0] / np.sqrt(np.array(counts))
            axes.plot(sizes, ideal, ":", color="black", label="if examples were independent")
    axes.set(xscale="log", yscale="log", xlabel="examples of the validation set")
    axes.set(ylabel="late standard deviation of the error", title="spread against the size of the validation set")
    plain_log_ticks(axes.xaxis, axes.yaxis)
