"""A panel of training-loss curves on log axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from harness.figures.style import PUBLISHED_ALPHA, plain_log_ticks


@dataclasses.dataclass(frozen=True)
class LossSeries:
    """One group of curves of the panel.

    Attributes:
      label: for the legend; None leaves it out.
      steps: step numbers from 1, one array a curve.
      losses: nats, one array a curve.
      colour: of the lines.
      published: draw them faint and dashed.
    """

    label: str | None
    steps: Sequence[np.ndarray]
    losses: Sequence[np.ndarray]
    colour: str
    published: bool = False


def draw_loss_curves(axes: Axes, series: Sequence[LossSeries], title: str) -> None:
    """Draws each seed's curve as a thin line."""
    for group in series:
        style = {"alpha": PUBLISHED_ALPHA, "linestyle": "--", "marker": "."} if group.published else {"alpha": 0.8}
        for index, (steps, losses) in enumerate(zip(group.steps, group.losses, strict=True)):
            label = group.label if index == 0 else None
            axes.plot(steps, losses, color=group.colour, linewidth=1, label=label, **style)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="training loss with L2 decay (nats)", title=title)
    plain_log_ticks(axes.xaxis, axes.yaxis)
