"""The figure of `max-train-steps`: a sweep with its estimate, errors against steps, good schedules, costs of noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.full_fit import FIT, pass_means
from harness.experiments.max_steps_settings import (
    BUDGETS,
    ESTIMATE,
    FOUR_TIMES,
    NOISES,
    NOISY,
    OVERFITTED,
    PLAIN,
    QUARTER,
    SETTINGS,
    SWEEP,
)
from harness.experiments.max_train_steps import (
    budget_of,
    edge_of,
    errors_at,
    estimate,
    good_share,
    pass_steps,
    replicates_of,
    schedule_errors,
    steps_with,
    study_of,
)
from harness.figures.differences import draw_differences
from harness.figures.style import COLOURS, panels, plain_log_ticks
from harness.records import TrialRecord


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the six panels, of a control the first three.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    control = not study_of(records, NOISES[0])
    budgets = [budget for budget in BUDGETS if study_of(records, f"{budget}-{replicates_of(records)[0]}")]
    title = f"max-train-steps at scale {scale}" + (", control: rates that are all too small" if control else "")
    figure, axes = panels(3 if control else 6, title, columns=3)
    _draw_sweep(axes[0], records, scale)
    _draw_errors(axes[1], records, budgets, scale)
    _draw_schedules(axes[2], records, budgets, scale)
    if not control:
        _draw_overfitted(axes[3], records)
        _draw_longer(axes[4], records, scale)
        _draw_costs(axes[5], records, scale)
    return figure


def _draw_sweep(axes: Axes, records: Sequence[TrialRecord], scale: str) -> None:
    """Training loss of the first replicate's sweep, the mean of a pass, with the estimate."""
    replicates = replicates_of(records)
    swept = [record for record in study_of(records, SWEEP) if record.replicate == replicates[0]]
    for trial, colour in zip(swept, COLOURS, strict=False):
        window = pass_steps(trial, scale)
        means = pass_means(trial.curves["train_loss"], window)
        steps = window + np.arange(len(means))
        axes.plot(steps, means, color=colour, linewidth=1, label=f"rate {trial.hyperparameters['learning_rate']:g}")
    steps = estimate(records, replicates[0], scale)
    axes.axhline(FIT, color="black", linestyle="--", linewidth=0.8, label=f"full fit, {FIT:g}")
    axes.plot([steps], [FIT], "k*", markersize=11, label=f"estimate, {steps:,} steps", zorder=5)
    highest = sum(edge_of(records, replicate, scale) == "high" for replicate in replicates)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="training loss of the last pass (nats)")
    axes.set_title(f"one sweep of constant rates\n(fastest rate the highest in {highest} of {len(replicates)} sweeps)")
    axes.legend()
    plain_log_ticks(axes.xaxis, axes.yaxis)


def _steps(records: Sequence[TrialRecord], budget: str) -> list[float]:
    """Steps of every replicate's study at a budget."""
    return [study_of(records, f"{budget}-{r}")[0].hyperparameters["steps"] for r in replicates_of(records)]


def _draw_errors(axes: Axes, records: Sequence[TrialRecord], budgets: Sequence[str], scale: str) -> None:
    """Error of every replicate's studies against their steps."""
    steps = np.array([_steps(records, budget) for budget in budgets])
    errors = np.array([errors_at(records, budget, scale) for budget in budgets])
    axes.plot(steps, errors, color=COLOURS[0], linewidth=0.8, alpha=0.4)
    for budget, x, y, colour in zip(budgets, steps, errors, COLOURS[1:], strict=False):
        axes.plot(x, y, "o", color=colour, markersize=4, label=f"{_LABELS[budget]}, mean {np.mean(y):.3f}")
    axes.set(xscale="log", xlabel="steps of a study", ylabel="validation error (share of examples)")
    axes.set_title("studies at multiples of their estimate\n(one line a replicate, best trial and checkpoint)")
    axes.legend()
    plain_log_ticks(axes.xaxis)


_LABELS = {QUARTER: "a quarter", ESTIMATE: "the estimate", FOUR_TIMES: "four times"}


def _draw_schedules(axes: Axes, records: Sequence[TrialRecord], budgets: Sequence[str], scale: str) -> None:
    """Error of every schedule over the best of its study."""
    delta, names, most = SETTINGS[scale].delta, [], 0.0
    for place, (budget, colour) in enumerate(zip(budgets, COLOURS[1:], strict=False)):
        errors = schedule_errors(records, budget, scale)
        excess = (errors - errors.min(axis=1, keepdims=True)).ravel()
        most = max(most, float(excess.max()))
        sideways = np.linspace(-0.25, 0.25, len(excess))
        axes.plot(place + sideways, excess, "o", color=colour, markersize=3, alpha=0.6)
        names.append(f"{_LABELS[budget]}\n{np.mean(good_share(errors, delta)):.0%} within")
    axes.axhline(delta, color="black", linestyle="--", linewidth=0.8, label=f"the best + {delta:g}")
    axes.set_xticks(range(len(budgets)), names)
    axes.set(xlim=(-0.5, len(budgets) - 0.5), ylabel="error over the best of the study (share)")
    axes.set_yscale("symlog", linthresh=2 * delta)
    axes.set_ylim(-delta / 4, 1.3 * max(most, 2 * delta))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("schedules of every study\n(base rate and decay; all replicates)")
    axes.legend()


def _draw_overfitted(axes: Axes, records: Sequence[TrialRecord]) -> None:
    """Validation error along the first replicate's runs on the overfitted task."""
    first = replicates_of(records)[0]
    for budget, colour in zip((ESTIMATE, FOUR_TIMES), COLOURS[2:], strict=False):
        for place, trial in enumerate(study_of(records, f"{OVERFITTED}-{budget}-{first}")):
            steps, errors = trial.curves["evaluation_step"], trial.curves["evaluation_error"]
            label = f"{_LABELS[budget]}, rate {trial.hyperparameters['learning_rate']:g}"
            axes.plot(steps, errors, color=colour, linewidth=1, linestyle=("-", "--", ":")[place % 3], label=label)
            if trial.status == "complete":
                best = trial.results["best_step"], trial.results["best_error"]
                axes.plot(*best, "*", color=colour, markersize=11, markeredgecolor="black", zorder=5)
    axes.plot([], [], "k*", markersize=9, label="best checkpoint")
    axes.set(xscale="log", xlabel="step", ylabel="validation error (share of examples)")
    axes.set_title("overfitted task, one replicate\n(linear decay, by base rate)")
    axes.legend()
    plain_log_ticks(axes.xaxis)


def _draw_longer(axes: Axes, records: Sequence[TrialRecord], scale: str) -> None:
    settings = SETTINGS[scale]
    groups = {
        label: errors_at(records, FOUR_TIMES, scale, task) - errors_at(records, ESTIMATE, scale, task)
        for label, task in (("task of\nthe sweep", ""), ("overfitted", f"{OVERFITTED}-"))
    }
    marks = {f"tolerated, {settings.delta:g}": settings.delta}
    if settings.overfitted_delta != settings.delta:
        marks[f"tolerated if overfitted, {settings.overfitted_delta:g}"] = settings.overfitted_delta
    title = "four times the steps minus the estimate\n(best trial and checkpoint; one dot a replicate)"
    draw_differences(axes, groups, "difference of error (share of examples)", title, marks)


def _draw_costs(axes: Axes, records: Sequence[TrialRecord], scale: str) -> None:
    groups, censored = {}, 0
    for noise in NOISES:
        budget = budget_of(records, noise)
        plain, noisy = (steps_with(records, noise, arm, scale) for arm in (PLAIN, NOISY))
        censored += int(np.isinf(noisy).sum())
        groups[noise.replace("-", "\n")] = np.log2(np.minimum(noisy, budget) / np.minimum(plain, budget))
    title = f"steps to a training loss, noisier over plain\n({censored} replicates stopped at the budget before)"
    draw_differences(axes, groups, "log2 ratio of steps", title)
