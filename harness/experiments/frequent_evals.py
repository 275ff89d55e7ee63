"""Figure 5: evaluating at every step of the start of training shows an instability that the usual schedule misses.

    playbook reproduce frequent-evals              about 3 minutes on 2 CPU cores
    playbook reproduce frequent-evals --control    about 2 minutes

The playbook says: some models are unstable early, recover, and then train slowly but stably; common evaluation
schedules miss it, since they do not evaluate often enough. To check, train for about 500 steps at twice the current
best learning rate and evaluate at every step. The figure to expect: the loss of the stride bug rises many times over
within the first ten steps, which a schedule of one evaluation an epoch shows nothing of; standard strides never rise.

The first round finds the best rate of either workload, on seeds of its own; the second trains both at twice their best
on fresh seeds, and those runs alone are judged. What is evaluated is the training loss, as in the published figure: a
validation loss would add the lag of the running batch statistics, which takes about ten steps of its own. The loss is
that of each step's batch, as a training log has it.

With every step evaluated an instability is seen where `harness.analysis.instability.classify` calls the curve
anything but stable. The usual schedule has too few points for that and is given every help instead: it evaluates before
training, and a single value a little over the lowest before is enough. Its period is counted in steps, not as a share
of training: the published 200 of 14,600 would be every one or two of the 100 steps of a laptop's run, while the spike
lasts about ten steps at both scales. An epoch is 62 steps at `laptop`, so that the usual schedule is three times as
dense as the published one. How much of the spike other schedules show is drawn.

What differs at `laptop`: Wide ResNet 10-1 instead of 28-10, `mnist5k` at 12x12 instead of CIFAR-10, where at 8x8 the
bug's best rate lies too far below the unstable ones for its double to show anything; 100 steps at batch 64 for each
rate of the sweep, Nesterov momentum and cosine decay as published.

Settings come from pilot seeds, which no verdict uses; see `_Settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.instability import LASTING_RISE, SPIKE_RISE, UNSTABLE_SHARE, classify, largest_rise
from harness.analysis.trial_table import at, final_error, values
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, same, share_above, share_below
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTOR = 2.0
"""The probe's rate over the best one (L953)."""

PERIODS = (1, 2, 4, 8, 16, 31, 62, 125, 250)
"""Steps between two evaluations, of the panel that shows from which period on the spike is missed."""

VISIBLE_RISE = LASTING_RISE
"""Nats by which a single evaluation has to exceed the lowest before it, for the usual schedule to show an instability:
the least rise that counts where every step is evaluated and it lasts. A generous schedule makes the claim harder."""


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots: 5 replicates of the pilot range of seed 0. Errors of the sweep with the bug .048, .039, .050 and .74 at
    .025, .05, .1 and .2, so that the best rate is .05; with standard strides .041, .040, .040, .043 and .065 at .1, .2,
    .4, .8 and 1.6 (trial standard deviation .007), so that it is any of the first four. 500 steps at .1 with the bug: 5
    of 5 classified as unstable at initialisation, all of them recovered, the loss up to 4.7 to 7.2; shown by an
    evaluation an epoch a rise of at most .17. With standard strides 0 of 3 at .8, with a rise of at most .16, and 0 of
    2 at 1.6 (1 of 5 in 100 steps). Where all seeds do as the pilot's, 12 decide both claims after Holm's correction,
    and 11 of 12 do. 6 seeds of the sweep tell the bug's best rate from its neighbours, which are .009 and .011 worse
    with a standard error of .003.

    At 8x8, which was tried first, the bug's best rate was between .03 and .1 and the first rate that spikes .178, so
    that its double would often have shown nothing: a lower resolution has a less sharp loss (see stride-instability).

    `accelerator` and `paper` are reasoned, not piloted: rates around the published best ones (.01 with the bug, .215
    without), one seed of the sweep for the time, and the period of the published figure.

    Attributes:
      fields: of the workload that are set.
      rates: of the sweep, ascending, a factor of about 2 apart: a coarser sweep leaves the best rate uncertain by more
        than the factor that is judged.
      selection: seeds of the sweep.
      judged: fresh seeds of the probe.
      usual: steps between two evaluations of the usual schedule.
      probe_steps: steps of the probe, at a constant rate.
      steps: of the sweep; those of the workload at this scale if None.
    """

    fields: Mapping[str, int]
    rates: tuple[float, ...]
    selection: int
    judged: int
    usual: int
    probe_steps: int = 500
    steps: int | None = None


_SETTINGS = {
    "smoke": _Settings({}, (0.05, 0.4), selection=1, judged=2, usual=6, probe_steps=12),
    "laptop": _Settings(
        {"side": 12},
        (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
        selection=6,
        judged=12,
        usual=62,  # an epoch of 4,000 examples
    ),
    "accelerator": _Settings(
        {}, (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28), selection=1, judged=12, usual=200
    ),
    "paper": _Settings(
        {},
        (0.001, 0.00215, 0.00464, 0.01, 0.0215, 0.0464, 0.1, 0.215, 0.464, 1.0),  # those of figure 4
        selection=1,
        judged=12,
        usual=200,
        steps=14_600,  # read off the figure; the workload has the 200 epochs of another paper
    ),
}

_SEEN = "every step shows an instability where the curve is classified as anything but stable"

HIDDEN = Claim(
    "evals.hidden-by-sparse",
    "The instability of the first steps is seen where every step is evaluated, and missed by the usual schedule.",
    f"At twice the bug's best rate the share of seeds whose instability is seen is above {UNSTABLE_SHARE} with every "
    f"step evaluated and below it with the usual schedule, by exact 95% intervals; {_SEEN}, the usual schedule where "
    f"one evaluation is {VISIBLE_RISE} nats over the lowest before it.",
)
REVEALS = Claim(
    "evals.twice-best-reveals",
    "500 steps at twice the best rate, every step evaluated, tell an unstable workload from a stable one.",
    f"The share of seeds with an instability, each workload at twice its own best rate, is above {UNSTABLE_SHARE} with "
    f"the stride bug and below it with standard strides, by exact 95% intervals; {_SEEN}.",
)
CONTROL = Claim(
    "evals.control-same",
    "With unchanged strides every step shows no more than the usual schedule does.",
    "90% interval, over seeds at twice the best rate, of the largest rise over the running minimum with every step "
    f"evaluated minus that of the usual schedule, within plus or minus {SPIKE_RISE} nats, the rise of a spike.",
)


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The first round: every rate, for either workload."""
    settings = _SETTINGS[scale]
    steps = settings.steps or workload_scale("wide_resnet", scale).steps
    seeds = range(settings.selection)
    return [_study("sweep", scale, overrides, _arms(control, seeds), settings.rates, seeds, steps, "cosine")]


def _probes(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The second round: either workload at twice its best rate, on fresh seeds."""
    settings = _SETTINGS[scale]
    fresh = range(settings.selection, settings.selection + settings.judged)
    return [
        _study(
            f"probe-{arm.name}",
            scale,
            overrides,
            [arm],
            [FACTOR * best_rate(records, arm.name)],
            fresh,
            settings.probe_steps,
            "constant",
        )
        for arm in _arms(control, fresh)
    ]


def _arms(control: bool, replicates: range) -> list[Arm]:
    """Standard strides and the bug; the control's second arm differs by initialisation and order alone."""
    standard = Arm("standard")
    if control:
        other = [_OTHER_SEEDS + r for r in replicates]
        return [standard, Arm("stride_bug", seeds_of={"init": other, "order": other})]
    return [standard, Arm("stride_bug", {"group_strides": (1, 2, 1)})]


_OTHER_SEEDS = 10_000  # replicates that no study uses for anything else


def _study(
    name: str,
    scale: str,
    overrides: Mapping[str, str],
    arms: Sequence[Arm],
    rates: Sequence[float],
    replicates: range,
    steps: int,
    schedule: str,
) -> Study:
    size = workload_scale("wide_resnet", scale)
    return Study(
        name=name,
        workload=configure(configure(size.workload, _SETTINGS[scale].fields), overrides),
        arms=tuple(arms),
        points=[{"learning_rate": rate} for rate in rates],
        replicates=replicates,
        hyperparameters=size.hyperparameters,
        batch_size=size.batch_size,
        steps=steps,
        evaluation_batch_size=size.evaluation_batch_size,
        optimizer="nesterov",
        schedule=schedule,
    )


def best_rate(records: Sequence[TrialRecord], arm: str) -> float:
    """The rate of the lowest mean error of the sweep, an infeasible trial counting with chance error."""
    swept = [record for record in records if record.study == "sweep"]
    means = {
        rate: np.mean([_error(trial) for trial in at(swept, arm, learning_rate=rate).values()])
        for rate in values(swept, arm, "learning_rate")
    }
    return min(means, key=means.__getitem__)


_error = partial(final_error, classes=10)


def probes(records: Sequence[TrialRecord], arm: str) -> list[TrialRecord]:
    """The runs at twice the best rate of an arm."""
    return [record for record in records if record.study == f"probe-{arm}"]


def evaluated(loss: np.ndarray, period: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """What a schedule shows of a training-loss curve: its value before training and at every `period`-th step.

    Args:
      loss: training loss of each step in nats, (n,), n at most `steps`; it ends where it was no longer finite.
      period: steps between two evaluations.
      steps: of the whole run.

    Returns:
      Steps evaluated, counted from 1, and the loss there, NaN past the end of the curve.
    """
    shown = np.unique(np.concatenate([[1], np.arange(period, steps + 1, period)]))
    whole = np.full(steps, np.nan)
    whole[: len(loss)] = loss
    return shown, whole[shown - 1]


def _seen(trials: Sequence[TrialRecord]) -> int:
    """Trials whose instability is seen where every step is evaluated."""
    return sum(classify(trial.curves["train_loss"]).type != "stable" for trial in trials)


def shown_rise(trial: TrialRecord, period: int, steps: int) -> float:
    """The largest rise of the training loss over its lowest value so far that a schedule shows, nats."""
    return largest_rise(evaluated(trial.curves["train_loss"], period, steps)[1], steps=1)


def _hidden_rise(trial: TrialRecord, period: int, steps: int) -> float:
    """By how much more every step shows the loss to rise than a schedule does, nats."""
    rises = [shown_rise(trial, of, steps) for of in (1, period)]
    # A loss that is not finite counts as one of chance level, which is what an infeasible trial's error is.
    first, second = (rise if np.isfinite(rise) else _CHANCE_LOSS for rise in rises)
    return first - second


_CHANCE_LOSS = float(np.log(10))


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = _SETTINGS[scale]
    bug, standard = (probes(records, arm) for arm in ("stride_bug", "standard"))
    shown = sum(shown_rise(trial, settings.usual, settings.probe_steps) >= VISIBLE_RISE for trial in bug)
    seen = share_above(_seen(bug), len(bug), UNSTABLE_SHARE, 1.0)
    hidden = every(seen, share_below(shown, len(bug), UNSTABLE_SHARE, 0.0))
    if control:
        rises = [_hidden_rise(trial, settings.usual, settings.probe_steps) for trial in bug]
        return [(HIDDEN, hidden), (CONTROL, same(rises, SPIKE_RISE))]
    reveals = every(seen, share_below(_seen(standard), len(standard), UNSTABLE_SHARE, 0.0))
    return [(HIDDEN, hidden), (REVEALS, reveals)]


_LABELS = {"standard": "standard strides (1,2,2)", "stride_bug": "stride bug (1,2,1)"}
_PUBLISHED_ARMS = {"standard": "standard", "stride_1x1": "stride_bug"}
_DRAWN_CURVES = 4  # more only hide each other


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.figures.loss_curves import LossSeries, draw_loss_curves
    from harness.figures.rate_sweep import RateSeries, draw_rate_sweep
    from harness.figures.rises import draw_rises
    from harness.figures.style import COLOURS, MARKERS, panels, shared_legend

    settings = _SETTINGS[scale]
    colours, markers = (dict(zip(_LABELS, of, strict=False)) for of in (COLOURS, MARKERS))
    swept = [record for record in records if record.study == "sweep"]
    control = at(swept, "stride_bug")[0].seeds != at(swept, "standard")[0].seeds
    labels = {**_LABELS, "stride_bug": "standard, other seeds"} if control else _LABELS
    title = f"frequent-evals at scale {scale}" + (", control" if control else "")
    if not control:
        title += "; faint and dashed: published (Wide ResNet 28-10, CIFAR-10)"
    figure, axes = panels(4, title)
    rates = {arm: FACTOR * best_rate(records, arm) for arm in labels}
    for panel, period, name in (
        (axes[0], 1, "every step evaluated"),
        (axes[1], settings.usual, f"the same runs, every {settings.usual} steps"),
    ):
        series = [] if control else _published(period, colours)
        for arm, label in labels.items():
            shown = [
                evaluated(trial.curves["train_objective"], period, settings.probe_steps)
                for trial in probes(records, arm)[:_DRAWN_CURVES]
            ]
            series.append(
                LossSeries(f"{label}, rate {rates[arm]:g}", [s for s, _ in shown], [v for _, v in shown], colours[arm])
            )
        draw_loss_curves(panel, series, f"training loss at twice the best rate\n({name})")
    # The same range, so that what is missing is seen to be.
    axes[1].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())
    periods = [period for period in PERIODS if period <= settings.probe_steps]
    rises = {
        labels[arm]: np.array([[shown_rise(t, period, settings.probe_steps) for period in periods] for t in found])
        for arm in labels
        if (found := probes(records, arm))
    }
    draw_rises(
        axes[2],
        periods,
        rises,
        list(colours.values()),
        VISIBLE_RISE,
        settings.usual,
        "what a schedule shows of the same runs\n(each seed, and the median)",
    )
    lines = []
    for arm in labels:
        found = [at(swept, arm, learning_rate=rate) for rate in settings.rates]
        lines.append(
            RateSeries(
                labels[arm],
                settings.rates,
                [np.array([_error(trial) for trial in trials.values()]) for trials in found],
                [_seen(list(trials.values())) > UNSTABLE_SHARE * len(trials) for trials in found],
                colours[arm],
                markers[arm],
            )
        )
    draw_rate_sweep(axes[3], lines, "validation error (share of examples)")
    axes[3].set_title("the sweep that finds the best rates")
    for arm in labels:
        axes[3].axvline(rates[arm], color=colours[arm], linestyle=":", linewidth=1)
    axes[3].plot([], [], "k:", linewidth=1, label="twice the best rate")
    shared_legend(figure, [axes[0], axes[3]])
    return figure


def _published(period: int, colours: Mapping[str, str]) -> list:
    """The published curves, of the usual schedule without what lies before its first evaluation."""
    from harness.figures.loss_curves import LossSeries
    from harness.figures.published import published

    series = []
    for name, arm in _PUBLISHED_ARMS.items():
        rows = [row for row in published("fig5_frequent_evals") if row["series"] == name]
        shown = [row for row in rows if period == 1 or int(row["step"]) >= _PUBLISHED_USUAL]
        steps, losses = (np.array([float(row[column]) for row in shown]) for column in ("step", "train_loss"))
        series.append(LossSeries(None, [steps], [losses], colours[arm], published=True))
    return series


_PUBLISHED_USUAL = 200
"""Steps between two evaluations of the published usual schedule."""


EXPERIMENT = Experiment(
    name="frequent-evals",
    title="Evaluating every step of the start of training shows an instability that the usual schedule misses",
    source="figure 5",
    figure="Training loss at twice the best rate with every step evaluated, and of the same runs as the usual schedule "
    "shows it, with standard strides and with the stride bug; the largest rise that a schedule shows against the steps "
    "between two evaluations; error against learning rate of the sweep, twice the best rates dotted. Published points "
    "stand faint behind.",
    claims=(HIDDEN, REVEALS),
    control="Both arms have unchanged strides and differ by initialisation and order alone: no schedule sees an "
    "instability at twice the best rate, so that the main claim is contradicted, and every step shows no more than the "
    "usual schedule.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    flips=("model", "data", "batch"),
    follow_ups=(_probes,),
)
