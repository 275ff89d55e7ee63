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
    Pipeline,
    Settings,
    error,
    fresh_of,
    full_of,
    log2_ratio,
    plain_of,
    space_of,
    winners_of,
)
from harness.figures.dots import draw_dots
from harness.figures.isolation_plot import IsolationSeries, draw_isolation
from harness.figures.style import COLOURS, MARKERS, panels, plain_log_ticks
from harness.records import TrialRecord

BUCKETS = 6
"""Parts of a searched range, equal on its log scale."""

SHOWN = 2.5
"""Times the lowest error up to which errors of the searches are drawn; what lies above has diverged."""


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the figure; its caption is `EXPERIMENT.figure`.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    settings = SETTINGS[scale]
    plain, full = plain_of(settings), full_of(settings)
    control = any(record.arm == FROZEN for record in records)
    reach = f"batch {settings.sizes[0]} and {settings.sizes[1]}, {settings.steps} steps, {plain.searches} searches"
    reach += f" of {plain.trials} trials" if control else f" ({full.searches} with smoothing)"
    figure, axes = panels(6, f"batch-size-retuning at scale {scale}{', control' * control}: {reach}", columns=3)
    arms = plain.arms[:1] if control else plain.arms
    _draw_search(axes[0], records, settings, plain, arms, "learning_rate")
    _draw_search(axes[1], records, settings, plain, arms, "weight_decay")
    _draw_winners(axes[2], records, settings, plain, arms)
    labels = _labels(settings, control)
    fresh = {arm: fresh_of(records, full if arm in full.arms else plain, arm) for arm in labels}
    for (arm, found), colour, marker in zip(fresh.items(), COLOURS, MARKERS, strict=False):
        if arm not in full.arms:  # the smoothing is in the training loss
            label = labels[arm].replace("\n", " ")
            axes[3].plot(found.training_loss, found.error, marker, color=colour, alpha=0.6, label=label)
    axes[3].set(xlabel="training loss of the last steps (nats)", ylabel="validation error")
    axes[3].set_title("winners on fresh seeds: what is fitted,\nand what is learnt (medians of each search)")
    axes[3].legend()
    errors = {labels[arm]: found.error for arm, found in fresh.items()}
    draw_dots(axes[4], errors, "validation error", "winners on fresh seeds\n(medians of each search)")
    axes[4].set_yscale("linear")
    differences = {
        labels[arm]: found.error - fresh["small_smoothed" if arm in full.arms else "small"].error
        for arm, found in fresh.items()
        if not arm.startswith("small")
    }
    colours = [colour for arm, colour in zip(fresh, COLOURS, strict=False) if not arm.startswith("small")]
    _draw_differences(axes[5], differences, settings.delta, colours)
    for panel in axes[4:]:
        panel.tick_params(axis="x", labelsize=7)
    return figure


def _labels(settings: Settings, control: bool) -> dict[str, str]:
    """Arm to what it is called, in lines for the ticks of an axis."""
    small, large = settings.sizes
    if control:
        return {"small": f"{small},\ntuned", FROZEN: f"{large},\nset as {small}"}
    return {
        "small": f"{small},\ntuned",
        "large": f"{large},\ntuned",
        KEPT: f"{large},\ndecay as {small}",
        "small_smoothed": f"{small},\nsmoothing too",
        "large_smoothed": f"{large},\nsmoothing too",
    }


def _draw_search(
    axes: Axes,
    records: Sequence[TrialRecord],
    settings: Settings,
    pipeline: Pipeline,
    arms: Sequence[str],
    name: str,
) -> None:
    """Errors of all trials against one hyperparameter, and the best of each bucket, in the median over searches."""
    axis = space_of(settings, pipeline)[name]
    edges = np.geomspace(axis.low, axis.high, BUCKETS + 1)
    series = []
    for arm, batch, colour, marker in zip(arms, settings.sizes, COLOURS, MARKERS, strict=False):
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
    what = name.replace("_", " ")
    title = f"the searches without smoothing:\nbest trial by {what} (median over searches)"
    draw_isolation(axes, series, what, "validation error", title)
    axes.set_ylim(top=SHOWN * min(min(line.errors) for line in series))
    axes.legend()


def _draw_winners(
    axes: Axes, records: Sequence[TrialRecord], settings: Settings, pipeline: Pipeline, arms: Sequence[str]
) -> None:
    """The winners in the searched space, and their geometric means."""
    for arm, batch, colour, marker in zip(arms, settings.sizes, COLOURS, MARKERS, strict=False):
        found = winners_of(records, pipeline, arm)
        rates, decays = found["learning_rate"], found["weight_decay"]
        axes.plot(rates, decays, marker, color=colour, alpha=0.4, markersize=5, label=f"batch {batch}")
        middle = [[np.exp(np.log(values).mean())] for values in (rates, decays)]
        axes.plot(*middle, marker, color=colour, markersize=11, markeredgecolor="black", zorder=5)
    axes.plot([], [], "o", color="white", markersize=9, markeredgecolor="black", label="geometric mean")
    axes.set(xscale="log", yscale="log", xlim=settings.rates, ylim=settings.decays)
    title = "winners in the searched space"
    if len(arms) == len(settings.sizes):
        rate, decay = (2 ** log2_ratio(records, pipeline, n).mean() for n in ("learning_rate", "weight_decay"))
        title += f": the large\nbatch's rate is {rate:.2g}, its decay {decay:.2g} times that of the small"
    axes.set(xlabel="learning rate", ylabel="weight decay", title=title)
    axes.legend(loc="lower right")
    plain_log_ticks(axes.xaxis, axes.yaxis)


def _draw_differences(axes: Axes, groups: Mapping[str, np.ndarray], delta: float, colours: Sequence[str]) -> None:
    """Paired differences of every search, each group's mean, and the margin within which errors are the same."""
    axes.axhspan(-delta, delta, color="grey", alpha=0.15, label=f"same: within {delta:g}")
    axes.axhline(0, color="black", linewidth=0.8)
    for index, (values, colour) in enumerate(zip(groups.values(), colours, strict=True)):
        sideways = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(len(values))
        axes.plot(index + sideways, values, "o", color=colour, markersize=4, alpha=0.7)
        mean = float(np.mean(values))
        axes.plot([index - 0.2, index + 0.2], [mean, mean], color="black", linewidth=1.5)
        axes.annotate(f"{mean:+.3f}", (index + 0.23, mean), va="center")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set(xlim=(-0.5, len(groups) - 0.3), ylabel="difference in validation error")
    axes.set_title("paired differences of the searches\nto the small batch (bars: means)")
    axes.legend()
