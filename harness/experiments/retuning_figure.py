"""Draws `batch-size-retuning`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.experiments.batch_size_retuning import (
    FROZEN,
    KEPT,
    SETTINGS,
    SIZES,
    Settings,
    error,
    fresh_of,
    log2_ratio,
    space_of,
    winners_of,
)
from harness.figures.dots import draw_dots
from harness.figures.isolation_plot import IsolationSeries, draw_isolation
from harness.figures.style import COLOURS, MARKERS, panels, plain_log_ticks
from harness.records import TrialRecord

BUCKETS = 6
"""Parts of a searched range, equal on its log scale."""


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the figure; its caption is `EXPERIMENT.figure`.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    settings = SETTINGS[scale]
    control = any(record.arm == FROZEN for record in records)
    labels = _labels(settings, control)
    title = f"batch-size-retuning at scale {scale}" + (", control" if control else "")
    reach = f"{settings.searches} searches of {settings.trials} trials, {settings.steps} steps"
    figure, axes = panels(6, f"{title}: {reach}", columns=3)
    sizes = SIZES[:1] if control else SIZES
    _draw_search(axes[0], records, settings, sizes, "learning_rate", "rate")
    _draw_search(axes[1], records, settings, sizes, "weight_decay", "decay")
    winners = {arm: winners_of(records, arm, settings) for arm in sizes}
    _draw_winners(axes[2], settings, winners)
    fresh = {arm: fresh_of(records, arm, settings) for arm in labels}
    for (arm, found), colour, marker in zip(fresh.items(), COLOURS, MARKERS, strict=False):
        axes[3].plot(found.training_loss, found.error, marker, color=colour, alpha=0.6, label=_line(labels[arm]))
    axes[3].set(yscale="log", xlabel="training loss of the last steps (nats)", ylabel="validation error")
    axes[3].set_title("fresh seeds: what is fitted, and\nwhat is learnt (medians of each search)")
    axes[3].legend()
    plain_log_ticks(axes[3].yaxis)
    errors = {labels[arm]: found.error for arm, found in fresh.items()}
    draw_dots(axes[4], errors, "validation error", "fresh seeds: errors\n(medians of each search)")
    others = {labels[arm]: found.error - fresh["small"].error for arm, found in fresh.items() if arm != "small"}
    _draw_differences(axes[5], others, settings.delta)
    return figure


def _labels(settings: Settings, control: bool) -> dict[str, str]:
    """Arm to what it is called, in lines for the ticks of an axis."""
    small, large = settings.sizes
    if control:
        return {"small": f"batch {small},\ntuned", FROZEN: f"batch {large},\nas {small}"}
    return {
        "small": f"batch {small},\ntuned",
        "large": f"batch {large},\ntuned",
        KEPT: f"batch {large},\ndecay as {small}",
    }


def _line(label: str) -> str:
    return label.replace("\n", " ")


def _draw_search(
    axes: Axes, records: Sequence[TrialRecord], settings: Settings, sizes: Sequence[str], name: str, short: str
) -> None:
    """Errors of all trials against one hyperparameter, and the best of each bucket, in the median over searches."""
    axis = space_of(settings)[name]
    edges = np.geomspace(axis.low, axis.high, BUCKETS + 1)
    series = []
    for arm, batch, colour, marker in zip(sizes, settings.sizes, COLOURS, MARKERS, strict=False):
        trials = [r for r in records if r.arm == arm and r.study.startswith(f"{arm}-search-")]
        values = np.array([trial.hyperparameters[name] for trial in trials])
        errors = np.array([error(trial) for trial in trials])
        searches = np.array([trial.replicate for trial in trials])
        bucket = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, BUCKETS - 1)
        middles, best = [], []
        for at in range(BUCKETS):
            inside = bucket == at
            if inside.any():
                middles.append(float(np.sqrt(edges[at] * edges[at + 1])))
                lowest = [errors[inside & (searches == search)].min() for search in np.unique(searches[inside])]
                best.append(float(np.median(lowest)))
        label = f"batch {batch}"
        series.append(IsolationSeries(label, middles, best, colour, trials=(values, errors), marker=marker))
    xlabel = name.replace("_", " ")
    draw_isolation(
        axes, series, xlabel, "validation error", f"the searches: best trial by {short}\n(median over searches)"
    )


def _draw_winners(axes: Axes, settings: Settings, winners: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """The winners in the searched space, and their geometric means."""
    for (_, found), batch, colour, marker in zip(winners.items(), settings.sizes, COLOURS, MARKERS, strict=False):
        rates, decays = found["learning_rate"], found["weight_decay"]
        axes.plot(rates, decays, marker, color=colour, alpha=0.4, markersize=5, label=f"batch {batch}")
        middle = [np.exp(np.log(values).mean()) for values in (rates, decays)]
        axes.plot(*middle, marker, color=colour, markersize=12, markeredgecolor="black", zorder=5)
    axes.set(xscale="log", yscale="log", xlim=settings.rates, ylim=settings.decays)
    axes.set(xlabel="learning rate", ylabel="weight decay")
    title = "winners in the searched space\n(large: geometric means)"
    if len(winners) == len(SIZES):
        rate, decay = (2 ** log2_ratio(winners, name).mean() for name in ("learning_rate", "weight_decay"))
        title = f"winners in the searched space: the large batch's\nrate is {rate:.2g}, its decay {decay:.2g} times"
    axes.set_title(title)
    axes.legend()
    plain_log_ticks(axes.xaxis, axes.yaxis)


def _draw_differences(axes: Axes, groups: Mapping[str, np.ndarray], delta: float) -> None:
    """Paired differences of every search, each group's mean, and the margin within which errors are the same."""
    axes.axhspan(-delta, delta, color="grey", alpha=0.15, label=f"same: within {delta:g}")
    axes.axhline(0, color="black", linewidth=0.8)
    for index, ((_, values), colour) in enumerate(zip(groups.items(), COLOURS[1:], strict=False)):
        sideways = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(len(values))
        axes.plot(index + sideways, values, "o", color=colour, markersize=4, alpha=0.7)
        mean = float(np.mean(values))
        axes.plot([index - 0.2, index + 0.2], [mean, mean], color="black", linewidth=1.5)
        axes.annotate(f"{mean:+.3f}", (index + 0.23, mean), va="center")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set(xlim=(-0.5, len(groups) - 0.3), ylabel="difference in validation error")
    axes.set_title("paired differences of the searches\nto the small batch, tuned (bars: means)")
    axes.legend()
