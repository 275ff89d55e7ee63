"""A panel of Adam's preconditioned sharpness along training, with the stability threshold that its rate sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.figures.style import plain_log_ticks
from harness.records import TrialRecord


@dataclasses.dataclass(frozen=True)
class SharpnessSeries:
    """One run of the panel.

    Attributes:
      trial: of Adam, with its curvature measured.
      threshold: of every step, float64 (steps,), infinite where the rate is 0.
      colour: of its lines.
      label: for the legend; None leaves it out.
    """

    trial: TrialRecord
    threshold: np.ndarray
    colour: str
    label: str | None = None


def draw_preconditioned_sharpness(axes: Axes, series: Sequence[SharpnessSeries]) -> None:
    """Draws each run's largest eigenvalue where it is above 0, and dashed the threshold of each step."""
    for run in series:
        curves = run.trial.curves
        sharpness = curves["preconditioned_sharpness"]
        shown = np.isfinite(sharpness) & (sharpness > 0)
        steps = np.maximum(curves["sharpness_step"][shown], 1)  # before the first step stands at it
        axes.plot(steps, sharpness[shown], "o-", color=run.colour, markersize=3, label=run.label)
        finite = np.flatnonzero(np.isfinite(run.threshold))
        axes.plot(finite + 1, run.threshold[finite], "--", color=run.colour, linewidth=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="step",
        ylabel="preconditioned sharpness",
        title="preconditioned sharpness of one seed\n(dashed: Adam's stability threshold at its rate)",
    )
    plain_log_ticks(axes.xaxis)
