"""The figure of `weight-decay-isolation`: isolation plots, the same at fixed rates, buckets, and baselines."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.experiments.weight_decay_isolation import (
    SETTINGS,
    Settings,
    choose,
    error,
    first_round,
    fresh_round,
    levels_of,
    search_of,
    tuned_errors,
)
from harness.figures.dots import draw_dots
from harness.figures.isolation_plot import IsolationSeries, draw_isolation
from harness.figures.published import published
from harness.figures.style import COLOURS, MARKERS, panels
from harness.records import TrialRecord


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the four panels, of a control the first two.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    settings = SETTINGS[scale]
    control = not any(record.arm == "mlp_search" for record in records)
    grid = settings.resnet
    title = f"weight-decay-isolation at scale {scale}" + (", control" if control else "")
    figure, axes = panels(2 if control else 4, title)
    decays = range(1, len(grid.decays) + 1) if control else grid.decays
    xlabel = "level of a hyperparameter without effect" if control else "weight decay"
    ylabel = "validation error (share of examples)"
    levels = levels_of(grid, range(settings.selection), control)
    first = {
        arm.name: {
            rate: [error(t) for t in first_round(records, arm.name, rate, settings.selection)] for rate in grid.rates
        }
        for arm in levels
    }
    choice = choose(records, grid, settings.selection, control)
    fresh = [
        np.mean([error(t) for t in fresh_round(records, name, choice.rates[name][0], settings.selection).values()])
        for name in first
    ]
    single = [[e for errors in first[arm.name].values() for e in errors] for arm in levels]
    lines = [] if control else [_published()]
    lines.append(
        IsolationSeries(
            "best trial of each level" if control else "best trial of each decay",
            decays,
            [min(min(errors) for errors in first[arm.name].values()) for arm in levels],
            COLOURS[0],
            trials=(np.repeat(decays, [len(errors) for errors in single]), np.concatenate(single)),
        )
    )
    lines.append(IsolationSeries("mean of fresh seeds at the chosen rate", decays, fresh, COLOURS[1], marker="s"))
    draw_isolation(axes[0], lines, xlabel, ylabel, "isolation plot: the rate optimised away", xlog=not control)
    by_rate = [
        IsolationSeries(
            f"rate {rate:g}",
            decays,
            [np.mean(first[arm.name][rate]) for arm in levels],
            colour,
            marker=marker,
            width=1.0,
        )
        for rate, colour, marker in zip(
            grid.rates, _rate_colours(len(grid.rates)), itertools.cycle(MARKERS), strict=False
        )
    ]
    draw_isolation(axes[1], by_rate, xlabel, ylabel, "the same at each fixed rate (means)", xlog=not control)
    axes[1].set_ylim(top=2 * axes[1].get_ylim()[1])  # room for the legend
    if control:
        for panel in axes:
            panel.set_xticks(decays)
    else:
        _draw_searches(axes[2], records, settings, xlabel, ylabel)
        _draw_baselines(axes[3], records, settings, ylabel)
    for panel, columns in zip(axes[:3], (1, 2, 1), strict=False):
        panel.legend(loc="upper left", ncols=columns)
    return figure


def _draw_searches(axes: Axes, records: Sequence[TrialRecord], settings: Settings, xlabel: str, ylabel: str) -> None:
    """The bucketed plots of the quasi-random studies, and the isolation plot of their grid."""
    grid = settings.mlp
    trials = [record for record in records if record.arm == "mlp_search"]
    lines = []
    for number in range(settings.searches):
        slices = [piece for piece in search_of(records, grid, number).slices if piece.trial >= 0]
        lines.append(
            IsolationSeries(
                None if number else "best of each bucket, one line a study",
                [piece.value for piece in slices],
                [piece.best for piece in slices],
                COLOURS[2],
                width=0.5,
                trials=((), ()) if number else _decays_and_errors(trials),
            )
        )
    choice = choose(records, grid, settings.selection, control=False)
    means = [choice.errors[arm.name] for arm in levels_of(grid, range(settings.selection), control=False)]
    lines.append(IsolationSeries("grid, means at the best rate", grid.decays, means, COLOURS[3], width=2.0, marker="D"))
    draw_isolation(axes, lines, xlabel, ylabel, "bucketed plots of quasi-random trials\n(fully connected network)")


def _decays_and_errors(trials: Sequence[TrialRecord]) -> tuple[list[float], list[float]]:
    return [trial.hyperparameters["weight_decay"] for trial in trials], [error(trial) for trial in trials]


def _draw_baselines(axes: Axes, records: Sequence[TrialRecord], settings: Settings, ylabel: str) -> None:
    """Errors on the fresh seeds: the best decay, and none with its rate tuned or not."""
    groups = {}
    for name, grid in (("ResNet", settings.resnet), ("MLP", settings.mlp)):
        labels = ("best\ndecay", "no decay,\ntuned", "no decay,\nnot tuned")
        for label, errors in zip(labels, tuned_errors(records, grid, settings.tunings), strict=True):
            groups[f"{name}\n{label}"] = errors
    draw_dots(axes, groups, ylabel, "baselines without decay\n(one dot a tuning, on a fresh seed; bar: median)")


def _rate_colours(count: int) -> list:
    """From light to dark with the rate."""
    return list(matplotlib.colormaps["viridis_r"](np.linspace(0.1, 1, count)))


def _published() -> IsolationSeries:
    rows = published("fig2_weight_decay")
    return IsolationSeries(
        "published (ResNet-50, ImageNet)",
        [float(row["weight_decay"]) for row in rows],
        [float(row["best_validation_error"]) for row in rows],
        "black",
        published=True,
    )
