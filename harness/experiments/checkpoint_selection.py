"""The best checkpoint, chosen in retrospect, against the last one, on examples that it was not chosen by (L760-769).

    playbook reproduce checkpoint-selection              about 2 minutes on 2 CPU cores
    playbook reproduce checkpoint-selection --control    half a minute

The playbook says: run a fixed number of steps and choose the best checkpoint in retrospect; where the validation error
fluctuates around a value, the best is often not the last. And it warns (L474-477): choosing the best suppresses
overfitting in favour of configurations that regularise more, and whatever makes training worse regularises, a low
learning rate for instance, so that bad values of nuisance hyperparameters may win. It has no figure. The picture to
expect: curves that fluctuate, or rise after their lowest point, with the chosen checkpoint well before the end and
below it; without weight decay a low rate wins, with it a high one.

On the examples that it is chosen by, the best checkpoint is never worse than the last. So the validation examples are
cut into two halves: the best on one is measured on the other, and the other way round. The mean of the two is a seed's
gain (`harness.analysis.checkpoint_choice`); every seed has validation examples of its own. An infeasible trial has
chance error at every checkpoint, hence a gain of 0.

What `laptop` is: ResNet 8 of width 8 on 8x8 `mnist5k` at batch 32. *Fluctuating*: all 4,000 training examples at a
constant rate that is too high to settle. *Overfitting*: 1,000 examples of which two fifths have a random label, no
weight decay, constant rate. *Elsewhere*: the first task with a rate that decays to 0, which settles, and with a low
constant one, which still improves at the end. The warning is tested on the second task with a rate that decays: it is
chosen by mean error without and with weight decay, on seeds of a first round; both rates, each without and with weight
decay, are trained on fresh seeds. What is compared there are last checkpoints, since L475 is about the choice among
trials; that the choice of a checkpoint acts alike, by stopping at a high training loss, is the last part of the claim.

Found at `laptop`, seeds 0 and 1: gains of .044 and .071 where the error fluctuates, of .18 and .17 where the model
overfits; the low rate, .0178 and .0178, costs .077 and .082 of error once there is weight decay. That the choice does
no harm elsewhere stays undecided at both. Once a decaying rate has flattened the curve, half of the validation set, 500
examples, picks a lucky checkpoint, six to seven evaluations before the last, which costs .004 and .002 of an error of
.05: less than the trial standard deviation of .0066, but 25 seeds are needed to show it. Where the curve still improves
at the end, gains scatter by .012 to .017, and it takes 70.

Settings come from pilot seeds, which no verdict uses; see `Settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.analysis.checkpoint_choice import choice_gain
from harness.analysis.trial_table import at, final_error, paired_differences
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, no_worse, same
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVALUATIONS = 40
"""Evaluations of a trial, evenly spaced over its steps, before training left out."""

STATED_GAIN = 0.01
"""Gain in error that the power of the main claim is for: a point of error, the least that a reader would act on."""

LOSS_GAP = 0.1
"""Nats of training loss from which on one configuration trains worse than another: what a plot of both curves shows."""

WINDOW = 31
"""Steps whose training losses are averaged: an epoch of the overfitted task at `laptop`."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
      workload: name and scale of the workload.
      fields: of the workload that are set.
      steps: after warmup; those of the workload if None.
      batch_size: that of the workload if None.
      evaluation_batch_size: examples per evaluation batch; an even number of batches fits the validation set.
    """

    workload: tuple[str, str]
    fields: Mapping[str, Any]
    steps: int | None = None
    batch_size: int | None = None
    evaluation_batch_size: int = 500


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots, on the pilot range of seed 0. Gain on the other half, mean (standard deviation) over 16 seeds: at a
    constant rate of .562 .015 (.019), of 1 .074 (.065, 6 seeds), with which 16 seeds reach a power of .95 at the first
    step of Holm's correction; overfitting .16 (.05); with a rate that decays from .316 -.0005 (.0036), from .105 -.002
    (.002, 6 seeds); at a constant rate of .01 .003 (.008, 6 seeds). Trial standard deviations: .0066 with the decaying
    rate, .0147 on the noisy task with decay at .316. Chosen rates: .0178 without decay and .316 with it, 4 seeds each.
    On 16 fresh seeds: training loss without decay 1.16 and .24, error .249 and .325; error with decay .244 and .148;
    best checkpoint without decay at .316 after 286 of 800 steps, where the training loss is 1.24 nats higher.

    Where it flips: were the rate chosen by best checkpoints instead of last ones, all rates from .0178 to .562 would
    tie without decay (errors on the other half .215 to .233, 3 to 5 seeds), since an early checkpoint then does what
    the low rate does: retrospective selection moves the warning from rates to checkpoints. With a constant rate in the
    place of one that decays, the rate chosen with decay is .0316, the one without .01, and that is hardly worse with
    decay (.285 against .265, 2 seeds).

    Null calibration, 2,000 simulated experiments a row: where all 40 checkpoints are equally good (an error of .05, a
    tenth of the seeds diverged) the choice is found to gain in 2.2% and to lose in 3%; of paired differences at a
    threshold, of normal, bimodal and tied shape, 12 and 16 seeds, 1.2 to 2.8% pass it; 2.5% are allowed.

    Attributes:
      clean: task of the arms that do not overfit.
      noisy: task that is overfitted.
      fluctuating: constant rate at which the clean task does not settle.
      improving: constant rate at which it still improves at the end.
      decayed: base rate of its cosine schedule.
      overfitting: constant rate of the noisy task.
      decay: weight decay that suits the noisy task.
      rates: among which it is chosen, ascending, at most half a decade apart.
      selection: seeds of the first round, which chooses the rates.
      judged: seeds of the arms whose gain is judged.
      fresh: seeds of the second round.
      delta: trial standard deviation of the error of the decayed arm.
      noisy_delta: trial standard deviation of the error on the noisy task, at the rate chosen with decay.
    """

    clean: Task
    noisy: Task
    fluctuating: float
    improving: float
    decayed: float
    overfitting: float
    decay: float
    rates: tuple[float, ...]
    selection: int
    judged: int
    fresh: int
    delta: float
    noisy_delta: float


_DIGITS = {"dataset": "mnist5k", "side": 8}
_NOISE = {"training_examples": 1000, "label_noise": 0.4}

SETTINGS = {
    "smoke": Settings(
        clean=Task(("resnet", "smoke"), _DIGITS),
        noisy=Task(("resnet", "smoke"), {**_DIGITS, **_NOISE}),
        fluctuating=0.316,
        improving=0.01,
        decayed=0.1,
        overfitting=0.1,
        decay=0.0178,
        rates=(0.0316, 0.1),
        selection=1,
        judged=2,
        fresh=2,
        delta=0.0066,
        noisy_delta=0.015,
    ),
    "laptop": Settings(
        clean=Task(("resnet", "laptop"), _DIGITS, steps=600, batch_size=32),
        noisy=Task(("resnet", "laptop"), {**_DIGITS, **_NOISE}, steps=800, batch_size=32),
        fluctuating=1.0,
        improving=0.01,
        decayed=0.316,
        overfitting=0.1,
        decay=0.0178,
        rates=(0.01, 0.0178, 0.0316, 0.0681, 0.147, 0.316, 0.562),
        selection=4,
        judged=16,
        fresh=12,
        delta=0.0066,
        noisy_delta=0.015,
    ),
    # Reasoned, not piloted: rates as at `laptop`, deltas of half a point of error and a point.
    "accelerator": Settings(
        clean=Task(("wide_resnet", "accelerator"), {}),
        noisy=Task(("wide_resnet", "accelerator"), _NOISE),
        fluctuating=0.562,
        improving=0.01,
        decayed=0.1,
        overfitting=0.1,
        decay=0.01,
        rates=(0.00316, 0.01, 0.0316, 0.1, 0.316),
        selection=1,
        judged=8,
        fresh=8,
        delta=0.005,
        noisy_delta=0.01,
    ),
    # ImageNet cannot be given wrong labels here; without weight decay and smoothing it is overfitted all the same.
    "paper": Settings(
        clean=Task(("resnet", "paper"), {}),
        noisy=Task(("resnet", "paper"), {}),
        fluctuating=4.13,
        improving=0.413,
        decayed=4.13,
        overfitting=4.13,
        decay=5e-5,
        rates=(0.413, 1.31, 4.13, 13.1),
        selection=1,
        judged=8,
        fresh=8,
        delta=0.002,
        noisy_delta=0.002,
    ),
}

_ELSEWHERE = "examples that it was not chosen by, cross-over of two halves of the validation set"

HELPS = Claim(
    "checkpoint.helps-when-noisy",
    "Where the validation error fluctuates or the model overfits, the best checkpoint is better than the last on fresh "
    "examples too.",
    f"Lower limits above 0 of the mean gain in error, last checkpoint minus chosen one on {_ELSEWHERE}: over seeds at "
    "a constant high rate, and over seeds that overfit.",
)
NO_WORSE = Claim(
    "checkpoint.best-no-worse",
    "Where the curve only improves, the best checkpoint is no worse than the last on fresh examples.",
    f"Upper limits of the mean difference in error, chosen checkpoint minus last one on {_ELSEWHERE}, under the trial "
    "standard deviation: with a rate that decays, and with one so low that the error still falls at the end.",
)
HIDES = Claim(
    "checkpoint.hides-overfitting",
    "On a task that is overfitted, selection favours what regularises by training badly, a low rate or an early "
    "checkpoint, and this rate is a bad one as soon as there is a proper regulariser.",
    "On fresh seeds, of the rate chosen without weight decay against the one chosen with it, lower limits of the "
    f"paired differences: without decay its training loss is higher by more than {LOSS_GAP} nats and its error lower "
    "by more than 0; with decay its error is higher by more than the trial standard deviation; and without decay, at "
    "the rate chosen with it, the training loss of the best checkpoint is higher than that of the last by more than "
    f"{LOSS_GAP} nats.",
)
CONTROL = Claim(
    "checkpoint.control-same",
    "Where curves only improve, the best checkpoint and the last are the same on fresh examples.",
    f"90% intervals of the mean gain in error on {_ELSEWHERE}, within plus or minus the trial standard deviation, for "
    "both arms.",
)

LOW, HIGH = "low-rate", "high-rate"
"""Studies of the second round: at the rate chosen without decay, and at the one chosen with it."""

NO_DECAY, DECAY = "no_decay", "decay"
"""Arms of the overfitted task."""


def _study(
    name: str,
    task: Task,
    arms: Sequence[Arm],
    rates: Sequence[float],
    replicates: range,
    schedule: str,
    overrides: Mapping[str, str],
    evaluations: int = EVALUATIONS,
) -> Study:
    size = workload_scale(*task.workload)
    total = (task.steps or size.steps) + int(size.hyperparameters["warmup_steps"])
    return Study(
        name=name,
        workload=configure(configure(size.workload, task.fields), overrides),
        arms=tuple(arms),
        points=[{"learning_rate": rate} for rate in rates],
        replicates=replicates,
        hyperparameters=size.hyperparameters,
        batch_size=task.batch_size or size.batch_size,
        steps=task.steps or size.steps,
        evaluation_batch_size=task.evaluation_batch_size,
        evaluation_steps=sorted({round(total * k / evaluations) for k in range(1, evaluations)} - {0}),
        optimizer=size.optimizer,
        schedule=schedule,
        fields={"evaluation_by_batch": True},
    )


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The first round: curves of every kind, and the rates among which is chosen, by last checkpoints."""
    settings = SETTINGS[scale]
    judged = range(settings.judged)

    def curves(arm: str, task: Task, rate: float, schedule: str, **hyperparameters: float) -> Study:
        return _study(arm, task, [Arm(arm, {}, hyperparameters)], [rate], judged, schedule, overrides)

    if control:  # both arms on the clean task, with a rate that decays
        rates = {"fluctuating": settings.decayed, "overfitting": settings.decayed / 3}
        return [curves(arm, settings.clean, rate, "cosine") for arm, rate in rates.items()]
    arms = [Arm(NO_DECAY, {}, {"weight_decay": 0.0}), Arm(DECAY, {}, {"weight_decay": settings.decay})]
    seeds = range(settings.selection)
    return [
        curves("fluctuating", settings.clean, settings.fluctuating, "constant"),
        curves("decayed", settings.clean, settings.decayed, "cosine"),
        curves("improving", settings.clean, settings.improving, "constant"),
        curves("overfitting", settings.noisy, settings.overfitting, "constant", weight_decay=0.0),
        _study("rates", settings.noisy, arms, settings.rates, seeds, "cosine", overrides, evaluations=1),
    ]


def _fresh_round(
    records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]
) -> list[Study]:
    """The second round: both chosen rates, without and with decay, on fresh seeds."""
    if control:
        return []
    settings = SETTINGS[scale]
    arms = [Arm(NO_DECAY, {}, {"weight_decay": 0.0}), Arm(DECAY, {}, {"weight_decay": settings.decay})]
    fresh = range(settings.selection, settings.selection + settings.fresh)
    return [
        _study(name, settings.noisy, arms, [chosen_rate(records, arm)], fresh, "cosine", overrides)
        for name, arm in ((LOW, NO_DECAY), (HIGH, DECAY))
    ]


def chosen_rate(records: Sequence[TrialRecord], arm: str) -> float:
    """The rate of the lowest mean error at the last checkpoint in the first round, the lowest of equal ones."""
    swept = study_of(records, "rates")
    rates = sorted({record.hyperparameters["learning_rate"] for record in swept})
    return min(rates, key=lambda rate: np.mean([error(t) for t in at(swept, arm, learning_rate=rate).values()]))


def study_of(records: Sequence[TrialRecord], name: str) -> list[TrialRecord]:
    """The trials of a study."""
    return [record for record in records if record.study == name]


def error(trial: TrialRecord) -> float:
    """Error of the last checkpoint; an infeasible trial counts with chance error."""
    return final_error(trial, trial_classes(trial))


def trial_classes(trial: TrialRecord) -> int:
    """Classes of the data that an image workload was trained on."""
    return 1000 if trial.hyperparameters.get("workload.dataset") == "imagenet2012" else 10


def gains(records: Sequence[TrialRecord], study: str) -> np.ndarray:
    """Gain by the choice of the checkpoint of every seed, 0 of an infeasible one, float64 (n,)."""
    return np.array([_gain(trial) if trial.status == "complete" else 0.0 for trial in study_of(records, study)])


def _gain(trial: TrialRecord) -> float:
    checkpoints = len(trial.curves["evaluation_step"])
    return choice_gain(trial.curves["evaluation_error_by_batch"].reshape(checkpoints, -1))


def training_loss(trial: TrialRecord, step: float | None = None) -> float:
    """Mean training loss, nats, of the steps up to a checkpoint, the last if None; of an infeasible trial by chance."""
    if trial.status != "complete":
        return float(np.log(trial_classes(trial)))
    losses = trial.curves["train_loss"][: None if step is None else int(step)]
    return float(np.mean(losses[-WINDOW:]))


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    unsettled = {arm: gains(records, arm) for arm in ("fluctuating", "overfitting")}
    helps = every(*(larger(found, 0.0, STATED_GAIN) for found in unsettled.values()))
    if control:
        return [(HELPS, helps), (CONTROL, every(*(same(found, settings.delta) for found in unsettled.values())))]
    elsewhere = every(*(no_worse(-gains(records, arm), settings.delta, 0.0) for arm in ("decayed", "improving")))
    low = {arm: at(study_of(records, LOW), arm) for arm in (NO_DECAY, DECAY)}
    high = {arm: at(study_of(records, HIGH), arm) for arm in (NO_DECAY, DECAY)}
    early = [
        training_loss(t, t.results["best_step"]) - training_loss(t) if t.status == "complete" else 0.0
        for t in high[NO_DECAY].values()
    ]
    hides = every(
        larger(paired_differences(low[NO_DECAY], high[NO_DECAY], training_loss), LOSS_GAP),
        larger(paired_differences(high[NO_DECAY], low[NO_DECAY], error), 0.0),
        larger(paired_differences(low[DECAY], high[DECAY], error), settings.noisy_delta),
        larger(early, LOSS_GAP),
    )
    return [(HELPS, helps), (NO_WORSE, elsewhere), (HIDES, hides)]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.checkpoint_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="checkpoint-selection",
    title="The best checkpoint against the last one, on examples that it was not chosen by",
    source="retrospective checkpoint selection",
    figure="Validation error of runs that fluctuate and of runs that overfit, best checkpoints starred; gain of the "
    "chosen checkpoint over the last on the other half of the validation examples; error and training loss "
    "against learning rate without and with weight decay; errors on fresh seeds of the two rates that were chosen.",
    claims=(HELPS, NO_WORSE, HIDES),
    control="Both arms of the main claim train on the clean task with a rate that decays, so that their curves only "
    "improve: the choice brings nothing, the main claim is undecided or contradicted, and best and last are the same.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_fresh_round,),
)
