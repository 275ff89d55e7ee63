"""Draws `batch-size-scaling`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.batch_scaling import Scaling, fit_scaling
from harness.experiments.batch_scaling_settings import SETTINGS, Settings, Task
from harness.experiments.batch_size_scaling import (
    Table,
    critical_batch_size,
    effective_rate,
    fitted_curve,
    noise_of,
    reached,
    table_of,
    tasks_of,
    winner_of,
)
from harness.figures.scaling import draw_regimes, draw_to_target
from harness.figures.style import COLOURS, MARKERS, panels, plain_log_ticks
from harness.records import InputError, TrialRecord


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the figure; its caption is `EXPERIMENT.figure`."""
    settings = SETTINGS[scale]
    control = not any(record.hyperparameters["batch_size"] == settings.main.sizes[0] for record in records)
    main, *others = tasks_of(scale, control)
    table = table_of(records, main)
    title = f"batch-size-scaling at scale {scale}" + (", control" if control else "")
    reach = f"{main.searches} searches of {main.trials} trials at every batch size, error {main.target:g}"
    figure, axes = panels(5 if control else 6, f"{title}: {reach}", columns=3)
    _draw_steps(axes[0], records, main, table, control)
    _draw_examples(axes[1], table, settings)
    _draw_rates(axes[2], records, main)
    _draw_time(axes[3], axes[4], records, main, table)
    if not control:
        _draw_prediction(axes[5], records, [main, *others])
    return figure


def _draw_steps(axes: Axes, records: Sequence[TrialRecord], task: Task, table: Table, control: bool) -> None:
    sizes = np.array(table.sizes, float)
    draw_to_target(
        axes, sizes, table.steps, table.void, "steps to the target", "steps to the target\n(winners retrained)"
    )
    if not control:
        first = np.exp(np.log(table.steps[:, 0]).mean())
        fitted = fitted_curve(table)
        bottom = np.min(table.steps) / 1.3
        axes.plot(sizes, first * sizes[0] / sizes, ":", color="black", label="perfect scaling")
        axes.set_ylim(bottom, None)
        if fitted is not None:
            fine = np.geomspace(sizes[0], sizes[-1], 100)
            curve = Scaling(*fitted[:1], (0, 0), 0.95, fitted[1])
            axes.plot(fine, curve.steps(fine), color=COLOURS[1], label="fit: least steps x (1 + critical / batch)")
            draw_regimes(axes, *curve.regimes)
            low, high = _jackknife(table)
            label = f"critical batch size {fitted[0]:.0f} ({low:.0f} to {high:.0f})"
            axes.axvline(fitted[0], color=COLOURS[1], linestyle="--", label=label)
            noise = noise_of(records, task)
            if np.isfinite(noise):
                axes.axvline(noise, color=COLOURS[3], linestyle="-.", label=f"noise scale {noise:.0f}")
    axes.legend(fontsize=6, loc="lower left")


def _jackknife(table: Table, level: float = 0.95) -> tuple[float, float]:
    """t interval of the critical batch size, of a jackknife over searches in its logarithm."""
    from scipy.special import stdtrit

    count = len(table.steps)
    whole = np.log(critical_batch_size(table))
    rest = [np.delete(np.arange(count), row) for row in range(count)]
    left_out = [
        np.log(critical_batch_size(table._replace(steps=table.steps[rows], censored=table.censored[rows])))
        for rows in rest
    ]
    pseudo = count * whole - (count - 1) * np.array(left_out)
    if count < 2 or not np.all(np.isfinite(pseudo)):
        return 0.0, float("inf")
    half = stdtrit(count - 1, (1 + level) / 2) * pseudo.std(ddof=1) / np.sqrt(count)
    return float(np.exp(whole - half)), float(np.exp(whole + half))


def _draw_examples(axes: Axes, table: Table, settings: Settings) -> None:
    examples = table.steps * np.array(table.sizes)
    title = "examples to the target: what an\nexample budget sees, and what it hides"
    draw_to_target(axes, table.sizes, examples, table.void, "examples (steps x batch size)", title)
    label = f"example budget {settings.examples:,}"
    axes.axhline(settings.examples, color="black", linestyle="--", label=label)
    axes.axhspan(settings.examples, axes.get_ylim()[1], color="grey", alpha=0.1, label="hidden by it")
    axes.legend()


def _draw_rates(axes: Axes, records: Sequence[TrialRecord], task: Task) -> None:
    """The winners of every search within the searched ranges."""
    by_study: dict[str, list[TrialRecord]] = {}
    for record in records:
        by_study.setdefault(record.study, []).append(record)
    lows, highs = zip(*(task.rates(size) for size in task.sizes), strict=True)
    axes.fill_between(task.sizes, lows, highs, color="grey", alpha=0.15, label="searched")
    winners = [
        (size, effective_rate(winner))
        for size in task.sizes
        for search in range(task.searches)
        if (winner := winner_of(task, by_study.get(task.study_of(size, search), []))) is not None
    ]
    if winners:
        axes.plot(
            *zip(*winners, strict=True), "o", color=COLOURS[0], alpha=0.5, markersize=4, label="winner of a search"
        )
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="learning rate / (1 - momentum)")
    axes.set_title("effective rate of the winners\nin their spaces")
    axes.legend()
    plain_log_ticks(axes.xaxis, axes.yaxis)


def _draw_time(time_axes: Axes, cost_axes: Axes, records: Sequence[TrialRecord], task: Task, table: Table) -> None:
    """Time on this machine, and resource consumption on one device or on as many as have their best throughput."""
    seconds = []
    for size in task.sizes:
        at = [r for r in records if r.arm == task.name and r.hyperparameters["batch_size"] == size]
        whole = [r for r in at if r.status == "complete" and "-noise-" not in r.study]
        seconds.append(np.median([r.timings["trial_seconds"] for r in whole]) / task.budget(size) if whole else np.nan)
    seconds, sizes = np.array(seconds), np.array(task.sizes)
    kept = np.isfinite(seconds)
    if not kept.any():
        return
    note = "(a shared machine, evaluations included)"
    draw_to_target(
        time_axes,
        sizes[kept],
        (table.steps * seconds)[:, kept],
        table.void[kept],
        "seconds to the target",
        f"time to the target: steps x time per step\n{note}",
    )
    spread = table.steps * sizes * np.nanmin(seconds / sizes)
    draw_to_target(
        cost_axes,
        sizes[kept],
        spread[:, kept],
        table.void[kept],
        "device-seconds to the target",
        "resource consumption:\nsteps x time per step x devices",
    )
    one = np.exp(np.log(table.steps).mean(axis=0)) * seconds
    cost_axes.plot(sizes[kept], one[kept], color=COLOURS[1], marker=MARKERS[1], label="one device")
    cost_axes.get_lines()[-2].set_label("devices at their best throughput")
    cost_axes.legend()


def _draw_prediction(axes: Axes, records: Sequence[TrialRecord], tasks: Sequence[Task]) -> None:
    for at, task in enumerate(tasks):
        table = table_of(records, task)
        critical, noise = critical_batch_size(table), noise_of(records, task)
        if not (np.isfinite(critical) and np.isfinite(noise)):
            continue
        low, high = _jackknife(table) if task.searches >= 8 else _resampled(records, task)
        colour, marker = COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]
        axes.plot([noise, noise], [max(low, 1), min(high, 1e5)], color=colour, alpha=0.5)
        axes.plot(noise, critical, marker, color=colour, markerfacecolor="none" if at >= 6 else colour, label=task.name)
    ends = np.array(axes.get_xlim())
    ends = np.array([max(ends[0], 4), max(ends[1], 100)])
    axes.plot(ends, ends, color="black", linewidth=1)
    axes.fill_between(ends, ends / 2, ends * 2, color="grey", alpha=0.15, label="within a factor of 2")
    axes.set(xscale="log", yscale="log", xlabel="mean noise scale along training", ylabel="critical batch size")
    axes.set_title("critical batch size against noise scale\n(lines: 95%, by resampling settings)")
    axes.legend(ncols=2)
    plain_log_ticks(axes.xaxis, axes.yaxis)


def _resampled(records: Sequence[TrialRecord], task: Task) -> tuple[float, float]:
    """Interval of the critical batch size by resampling the settings of the searches."""
    steps, infeasible = {}, {}
    for size in task.sizes:
        studies = {task.study_of(size, search) for search in range(task.searches)}
        trials = [record for record in records if record.study in studies]
        steps[size] = np.array([[reached(task, trial)] for trial in trials])
        infeasible[size] = np.array([[trial.status != "complete"] for trial in trials])
    try:
        return fit_scaling(steps, infeasible, {size: task.budget(size) for size in task.sizes}, 0).interval
    except InputError:
        return 0.0, float("inf")
