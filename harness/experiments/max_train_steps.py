"""The fastest full fit of a sweep as the first `max_train_steps`; what more steps and noise do (L575-580, L584-615).

    playbook reproduce max-train-steps              about 3 minutes on 2 CPU cores
    playbook reproduce max-train-steps --control    about 2 minutes

The playbook says: sweep constant rates without augmentation and regularisation; the steps that the fastest trial needs
to fit the training set perfectly are the first `max_train_steps` (L607-610); beware of rates that are all too small,
which make it far too large (L611-613). In doubt train longer: with retrospective selection of the checkpoint that does
no harm (L587). With few steps a good error takes a perfectly tuned schedule, with many almost any will do (L575). What
adds noise to the gradient, a smaller batch, augmentation or dropout, costs steps (L577-580). It has no figure. The
picture to expect: error against steps falls up to about the estimate and is flat beyond; the errors of a study's
schedules, far apart at a quarter of the estimate, lie together at four times as many.

*Workable.* The playbook wants the best result without wasted steps (L586). So a first value is called workable where
four times as many steps are no better than by the trial standard deviation, and a quarter as many are worse. The unit
is a replicate with a sweep of its own: the fewest steps of a run to a full fit (`harness.analysis.full_fit`; the whole
length of the sweep where none fits) are its estimate, for which a second round trains studies at a quarter, at once and
at four times as many steps, with rates that decay. A study's error is that of its best trial at its best checkpoint,
both chosen on one half of the validation set, measured on the other, and the other way round
(`harness.analysis.checkpoint_choice`): on the examples that it is chosen by the best of more is always better. An
infeasible trial has chance error.

*Longer.* The same for the main claim's studies at the estimate and at four times as many, and for studies at the same
numbers of steps on a task that is overfitted, where many of the labels are random, so that the last checkpoint of a
long run is far from the best one. Whether more steps help is not asked.

*Noise.* Steps to a target are counted until the mean loss of a fixed number of steps is at most the target. Both arms
have the rates of a grid, each replicate counts with the rate that is fastest. The training loss is the one that is
minimised, with augmentation and dropout on. Of noisier runs that do not reach the target the budget counts, which
understates what the noise costs; where more than a tenth of the replicates do not reach it without the noise, it is
undecided (`CENSORED`). The batch's arm without noise is the sweep.

Found at `laptop`, seeds 0 and 1: the fastest runs fit after 153 to 266 steps, never at an end of the sweep. A quarter
of them costs .082 and .097 of error, four times as many bring .007 and .008, which is less than the trial standard
deviation but not shown to be: a replicate scatters by .012 and .014, so that 16 replicates are too few (a power of .9
takes about 80), and the main claim is undecided at both. So is longer training, by its overfitted part, where it costs
.014 and .009 at a scatter of .035 and .022; where nothing is overfitted it is no worse. The share of good schedules is
.22, .43 and .45 at a quarter, once and four times at seed 0 and .23, .34 and .36 at seed 1, which is enough at seed 0
alone. The means of the schedules lie .43 apart at a quarter and .04 at four times (seed 0), but of six schedules that
are nearly equal the least error is a lucky one, and few are within .0125 of it. A quarter of the batch takes 3.5 and
3.3 times as many steps, augmentation 3.8 and 3.7, dropout 1.6 at both. Control at seed 0: a quarter is worse by
.003, the same within the trial standard deviation; the fastest rate is the highest of the sweep in all of 12.

The axis of steps has no meaning in its flip maps, since the second round takes its numbers of steps from the first;
text and photographs cannot be halved.

Settings come from pilot seeds, which no verdict uses; see `harness.experiments.max_steps_settings.Settings`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.analysis.checkpoint_choice import chosen_value
from harness.analysis.full_fit import FIT, Pace, boundary_of, fastest_first, read_paces, steps_to_fit
from harness.experiments.experiment import Experiment
from harness.experiments.max_steps_settings import (
    AUGMENTATION,
    BUDGETS,
    CENSORED,
    CONTROL,
    COSTS,
    DROPOUT,
    EASES,
    ESTIMATE,
    EVALUATIONS,
    FOUR_TIMES,
    LONGER,
    NOISES,
    NOISY,
    OVERFITTED,
    PLAIN,
    QUARTER,
    SETTINGS,
    SMALLER_BATCH,
    STATED_COST,
    SWEEP,
    WINDOW,
    WORKABLE,
    Images,
    Text,
)
from harness.experiments.verdict import Judgement, every, larger, no_worse, out_of_range, same
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.resnet.shifted import ShiftedResNet
from workloads.workload import Scale, configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _study(
    name: str,
    task: Images,
    arms: Sequence[Arm],
    rates: Sequence[float],
    replicates: Sequence[int],
    steps: int,
    overrides: Mapping[str, str],
    evaluations: int = 1,
    **fields: Any,
) -> Study:
    size = workload_scale(*task.workload)
    return Study(
        name=name,
        workload=configure(configure(size.workload, {**task.fields, **fields}), overrides),
        arms=tuple(arms),
        points=[{"learning_rate": rate} for rate in rates],
        replicates=replicates,
        hyperparameters={**_unregularised(size), "warmup_steps": 0},
        batch_size=task.batch_size or size.batch_size,
        steps=steps,
        evaluation_batch_size=task.evaluation_batch_size,
        evaluation_steps=sorted({round(steps * k / evaluations) for k in range(1, evaluations)} - {0}),
        optimizer=size.optimizer,
        fields={"evaluation_by_batch": True},
    )


def _unregularised(size: Scale) -> dict[str, float]:
    kept = {name: value for name, value in size.hyperparameters.items() if name != "label_smoothing"}
    return {**kept, "weight_decay": 0.0}


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The first round: the sweep, and both arms of every source of noise; of a control only its sweep."""
    settings = SETTINGS[scale]
    task, arms = settings.sweep, [Arm(SWEEP)]
    if control:
        replicates = range(settings.control_replicates)
        return [_study(SWEEP, task, arms, settings.control_rates, replicates, settings.control_steps, overrides)]
    swept = _study(SWEEP, task, arms, task.rates, range(settings.replicates), task.steps, overrides)
    replicates = range(settings.noise_replicates)
    noise = settings.noise
    plain = _study(PLAIN, noise, [Arm(PLAIN)], noise.rates, replicates, noise.steps, overrides)
    shifted = ShiftedResNet.of(plain.workload, settings.shift)
    return [
        swept,
        dataclasses.replace(
            plain,
            name=SMALLER_BATCH,
            arms=(Arm(PLAIN), Arm(NOISY, fields={"batch_size": settings.small_batch})),
        ),
        dataclasses.replace(plain, name=AUGMENTATION, workload=shifted, arms=(Arm(NOISY),)),
        _dropout_study(scale, settings.text, replicates),
    ]


def _dropout_study(scale: str, text: Text, replicates: range) -> Study:
    size = workload_scale("transformer", scale)
    warmup = size.hyperparameters["warmup_steps"] if text.warmup_steps is None else text.warmup_steps
    return Study(
        name=DROPOUT,
        workload=configure(size.workload, {**text.fields, "dropout": 0.0}),
        arms=(Arm(PLAIN), Arm(NOISY, {"dropout": text.dropout})),
        points=[{"learning_rate": rate} for rate in text.rates],
        replicates=replicates,
        hyperparameters={**_unregularised(size), "warmup_steps": warmup},
        batch_size=text.batch_size or size.batch_size,
        steps=text.steps or size.steps,
        evaluation_batch_size=size.evaluation_batch_size,
        optimizer=size.optimizer,
    )


def _train(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The second round: for each replicate its studies at multiples of its estimate, of a control without the most."""
    settings, task = SETTINGS[scale], SETTINGS[scale].sweep
    arms = [Arm(schedule, fields={"schedule": schedule}) for schedule in settings.schedules]
    linear = [Arm("linear", fields={"schedule": "linear"})]
    budgets = [QUARTER, ESTIMATE] if control else list(BUDGETS)
    studies = []
    for replicate in replicates_of(records):
        steps = {name: max(1, round(BUDGETS[name] * estimate(records, replicate, scale))) for name in budgets}
        studies += [
            _study(
                f"{name}-{replicate}",
                settings.sweep,
                arms,
                settings.rates,
                [replicate],
                n,
                overrides,
                EVALUATIONS[name],
            )
            for name, n in steps.items()
        ]
        studies += [
            _study(
                f"{OVERFITTED}-{name}-{replicate}",
                task,
                linear,
                settings.overfitted_rates,
                [replicate],
                steps[name],
                overrides,
                EVALUATIONS[name],
                **settings.overfitted,
            )
            for name in (ESTIMATE, FOUR_TIMES)
            if not control
        ]
    return studies


def study_of(records: Sequence[TrialRecord], name: str) -> list[TrialRecord]:
    """The trials of a study."""
    return [record for record in records if record.study == name]


def replicates_of(records: Sequence[TrialRecord]) -> list[int]:
    """The replicates that were swept, ascending."""
    return sorted({record.replicate for record in study_of(records, SWEEP)})


def paces_of(records: Sequence[TrialRecord], replicate: int, scale: str) -> list[Pace]:
    """How soon the runs of a replicate's sweep fit the training set, ascending by rate."""
    runs = [record for record in study_of(records, SWEEP) if record.replicate == replicate]
    return read_paces(runs, FIT, pass_steps(runs[0], scale))


def pass_steps(record: TrialRecord, scale: str) -> int:
    """Steps of a pass over the training set."""
    examples = record.hyperparameters.get("workload.training_examples") or SETTINGS[scale].sweep.examples
    return math.ceil(examples / record.hyperparameters["batch_size"])


def estimate(records: Sequence[TrialRecord], replicate: int, scale: str) -> int:
    """The fewest steps to a full fit in a replicate's sweep; the whole length of the sweep where no run fits."""
    fitted = fastest_first(paces_of(records, replicate, scale))
    return int(fitted[0].median) if fitted else int(study_of(records, SWEEP)[0].hyperparameters["steps"])


def edge_of(records: Sequence[TrialRecord], replicate: int, scale: str) -> str | None:
    """Which end of a replicate's sweep its fastest rate is (without one that of the least loss), None inside."""
    paces = paces_of(records, replicate, scale)
    fitted = fastest_first(paces)
    return boundary_of(paces, (fitted[0] if fitted else min(paces, key=lambda pace: pace.loss)).rate)


def _by_batch(trial: TrialRecord, classes: int) -> np.ndarray:
    """Errors of every checkpoint on every evaluation batch, (checkpoints, batches); chance error if infeasible."""
    if trial.status != "complete":
        return np.full((1, 2), 1 - 1 / classes)
    errors = np.asarray(trial.curves["evaluation_error_by_batch"], np.float64)
    by_batch = errors.reshape(len(trial.curves["evaluation_step"]), -1)
    return np.stack([by_batch[:, 0::2].mean(axis=1), by_batch[:, 1::2].mean(axis=1)], axis=1)


def study_error(trials: Sequence[TrialRecord], scale: str) -> float:
    """Error of the best trial at its best checkpoint, chosen and measured on halves of the validation set by turns."""
    classes = workload_scale(*SETTINGS[scale].sweep.workload).workload.classes
    return chosen_value(np.concatenate([_by_batch(trial, classes) for trial in trials]))


def errors_at(records: Sequence[TrialRecord], budget: str, scale: str, task: str = "") -> np.ndarray:
    """The error of every replicate's study at a budget, float64 (replicates,); `task` is empty or `overfitted-`."""
    return np.array(
        [study_error(study_of(records, f"{task}{budget}-{r}"), scale) for r in replicates_of(records)], np.float64
    )


def schedule_errors(records: Sequence[TrialRecord], budget: str, scale: str) -> np.ndarray:
    """The error of every schedule of the studies at a budget, float64 (replicates, schedules)."""
    studies = [study_of(records, f"{budget}-{r}") for r in replicates_of(records)]
    return np.array([[study_error([trial], scale) for trial in study] for study in studies])


def good_share(errors: np.ndarray, delta: float) -> np.ndarray:
    """Share of schedules within delta of the best one of their study; (replicates, schedules) to (replicates,)."""
    return np.mean(errors <= errors.min(axis=1, keepdims=True) + delta, axis=1)


def steps_with(records: Sequence[TrialRecord], noise: str, arm: str, scale: str) -> np.ndarray:
    """Steps to the target of every replicate at its fastest rate, float64 (replicates,); infinite if not reached."""
    settings = SETTINGS[scale]
    target = settings.text.target if noise == DROPOUT else settings.target
    study = SMALLER_BATCH if (noise, arm) == (AUGMENTATION, PLAIN) else noise
    fastest: dict[int, float] = {}
    for trial in study_of(records, study):
        if trial.arm == arm:
            found = None
            if trial.status == "complete":
                after_warmup = trial.curves["train_loss"][int(trial.hyperparameters["warmup_steps"]) :]
                found = steps_to_fit(after_warmup, target, WINDOW)
            fastest[trial.replicate] = min(fastest.get(trial.replicate, math.inf), found or math.inf)
    return np.array([fastest[replicate] for replicate in sorted(fastest)])


def noise_cost(plain: np.ndarray, noisy: np.ndarray, budget: float) -> Judgement:
    """Judges that a source of noise raises the steps to the target.

    Args:
      plain: steps without it, float64 (replicates,), infinite where stopped before.
      noisy: the same with it.
      budget: steps after which runs are stopped.
    """
    costs = np.log2(np.minimum(noisy, budget) / np.minimum(plain, budget))
    if np.mean(np.isinf(plain)) > CENSORED:
        return out_of_range(float(np.mean(costs)), 0.0, len(costs))
    return larger(costs, 0.0, STATED_COST)


def budget_of(records: Sequence[TrialRecord], noise: str) -> float:
    """Steps after warmup after which the runs of a source of noise are stopped."""
    return float(study_of(records, noise)[0].hyperparameters["steps"])


def noise_costs(records: Sequence[TrialRecord], scale: str) -> dict[str, Judgement]:
    """The judgement of every source of noise, by name."""
    return {
        noise: noise_cost(
            *(steps_with(records, noise, arm, scale) for arm in (PLAIN, NOISY)), budget_of(records, noise)
        )
        for noise in NOISES
    }


def workable(quarter: np.ndarray, at_estimate: np.ndarray, four_times: np.ndarray | None, delta: float) -> Judgement:
    """Judges an estimate by the errors of its studies, each float64 (replicates,).

    Args:
      quarter: at a quarter of it.
      at_estimate: at the estimate.
      four_times: at four times it; of None that part is left out, which only makes the rule easier to pass.
      delta: tolerated excess over four times as many steps.
    """
    wanting = larger(quarter - at_estimate, 0.0, delta)
    return wanting if four_times is None else every(no_worse(at_estimate - four_times, delta, 0.0), wanting)


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    quarter, at_estimate = (errors_at(records, budget, scale) for budget in (QUARTER, ESTIMATE))
    if control:
        return [
            (WORKABLE, workable(quarter, at_estimate, None, settings.delta)),
            (CONTROL, same(quarter - at_estimate, settings.delta)),
        ]
    four_times = errors_at(records, FOUR_TIMES, scale)
    overfitted = [errors_at(records, budget, scale, f"{OVERFITTED}-") for budget in (FOUR_TIMES, ESTIMATE)]
    longer = every(
        no_worse(four_times - at_estimate, settings.delta, 0.0),
        no_worse(overfitted[0] - overfitted[1], settings.overfitted_delta, 0.0),
    )
    shares = [good_share(schedule_errors(records, b, scale), settings.delta) for b in (FOUR_TIMES, QUARTER)]
    return [
        (WORKABLE, workable(quarter, at_estimate, four_times, settings.delta)),
        (LONGER, longer),
        (EASES, larger(shares[0] - shares[1], 0.0)),
        (COSTS, every(*noise_costs(records, scale).values())),
    ]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.max_steps_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="max-train-steps",
    title="The constant-rate sweep as a first max_train_steps, training longer, and what gradient noise costs in steps",
    source="deciding how long to train when training is not compute-bound",
    figure="Training loss of one sweep by rate with the estimate marked; error of studies against their steps; errors "
    "of the schedules of every study; steps to a training loss without and with each source of gradient noise.",
    claims=(WORKABLE, LONGER, EASES, COSTS),
    control="The rates of the sweep are all too small, so that its estimate is far too large and the fastest rate is "
    "the highest of the sweep: a quarter of the steps does as well (the same), and the main claim is not reproduced.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_train,),
    flips=("model", "batch"),
)
