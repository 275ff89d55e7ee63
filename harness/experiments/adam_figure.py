"""The figure of `adam-budgets`: winners by budget, differences from the recommended space, the reverse, all trials."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from harness.experiments.adam_budgets import SETTINGS, SPACES, Settings, expected, gain_over_reverse, loss_by
from harness.experiments.verdict import sign_flip_interval
from harness.figures.differences import draw_differences
from harness.figures.style import COLOURS, MARKERS, panels, plain_log_ticks
from harness.records import TrialRecord

_LABELS = ("rate", "+ beta1", "+ epsilon", "+ beta2")
_LEVEL = 0.95
_HEADROOM = 0.75  # nats above the best trial that the panel of all trials shows


def draw(records: Sequence[TrialRecord], scale: str, control: bool) -> Figure:
    """Draws the four panels.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
      control: whether the reversed order is what is judged.
    """
    settings, losses = SETTINGS[scale], expected(records, scale)
    title = f"adam-budgets at scale {scale}" + (", control: budgets swapped" if control else "")
    figure, axes = panels(4, title)
    _draw_winners(axes[0], losses, settings, control)
    _draw_against(axes[1], losses, settings, control)
    gains = gain_over_reverse(losses) * (-1 if control else 1)
    groups = {f"{budget} trials": gains[:, index] for index, budget in enumerate(settings.budgets)}
    names = ("recommended", "swapped") if control else ("reversed", "recommended")
    draw_differences(
        axes[2],
        {**groups, "mean": gains.mean(axis=1)},
        f"{names[0]} minus {names[1]} order (nats)",
        "what is judged against its reverse\n(one dot a pool; below 0: it loses to its reverse)",
    )
    _draw_trials(axes[3], records, scale)
    return figure


def _draw_winners(axes: Axes, losses: np.ndarray, settings: Settings, control: bool) -> None:
    # Pools have their own validation examples; what these add to every space alike is taken out of the bars.
    levelled = losses - losses.mean(axis=(1, 2), keepdims=True) + losses.mean()
    budgets = np.array(settings.budgets, float)
    for space, (label, colour, marker) in enumerate(zip(_LABELS, COLOURS, MARKERS, strict=False)):
        at = budgets * 1.03 ** (space - 1.5)
        axes.plot(at, losses[:, :, space].mean(axis=0), color=colour, marker=marker, markersize=4, label=label)
        for index, place in enumerate(at):
            axes.plot([place] * 2, _limits(levelled[:, index, space]), color=colour, linewidth=1)
        chosen = len(SPACES) - 1 - space if control else space
        mean = losses[:, chosen, space].mean()
        axes.plot(at[chosen], mean, "o", color="black", fillstyle="none", markersize=11)
    label = "swapped" if control else "recommended"
    axes.plot([], [], "o", color="black", fillstyle="none", markersize=8, label=label)
    axes.set(xscale="log", xlabel="trials of a search", ylabel="loss of the retrained winner (nats)")
    axes.set_title(f"the best of k trials on fresh seeds\n(mean over {len(losses)} pools, 95% intervals)")
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets], minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend()


def _draw_against(axes: Axes, losses: np.ndarray, settings: Settings, control: bool) -> None:
    order = range(len(SPACES))[::-1] if control else range(len(SPACES))
    for space, (colour, marker) in enumerate(zip(COLOURS[: len(SPACES)], MARKERS, strict=False)):
        for budget, chosen in enumerate(order):
            if space == chosen:
                continue
            differences = losses[:, budget, chosen] - losses[:, budget, space]
            place = budget + 0.16 * (space - 1.5)
            axes.plot([place] * 2, _limits(differences), color=colour, linewidth=1.5)
            near = abs(space - chosen) == 1
            fill = "full" if near else "none"
            axes.plot(place, differences.mean(), marker, color=colour, markersize=5, fillstyle=fill, linestyle="none")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhline(settings.delta, color="black", linestyle="--", linewidth=0.8, label="margin: trial standard deviation")
    labels = [f"{budget} trials:\n{_LABELS[chosen]}" for budget, chosen in zip(settings.budgets, order, strict=True)]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yscale("symlog", linthresh=2 * settings.delta)
    axes.set_yticks([-0.1, -0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05], minor=False)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set(ylabel="loss minus that of another space (nats)")
    axes.set_title(
        "how much worse the space of a budget is than others\n(colours as on the left; filled: judged; 95% intervals)"
    )
    axes.legend()


def _draw_trials(axes: Axes, records: Sequence[TrialRecord], scale: str) -> None:
    loss = loss_by(scale)
    best = min(map(loss, records))
    for space in reversed(range(len(SPACES))):  # the fewest dimensions on top
        trials = [r for r in records if r.arm == SPACES[space] and r.study.startswith("search")]
        rates = [trial.hyperparameters["learning_rate"] for trial in trials]
        values = np.minimum([loss(trial) for trial in trials], best + _HEADROOM)
        axes.plot(rates, values, MARKERS[space], color=COLOURS[space], markersize=2.5, alpha=0.5, label=_LABELS[space])
    axes.set(xscale="log", xlabel="base learning rate", ylabel="final validation loss (nats)")
    axes.set_title(f"all trials of the searches\n(those above {best + _HEADROOM:.2f} drawn there)")
    plain_log_ticks(axes.xaxis)
    axes.legend()


def _limits(values: np.ndarray) -> tuple[float, float]:
    """An interval of the mean; the mean alone where there are too few values for one."""
    limits = sign_flip_interval(values, _LEVEL)
    return limits if np.isfinite(limits).all() else (float(values.mean()), float(values.mean()))
