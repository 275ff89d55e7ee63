"""A sample of the validation set for periodic evaluations: how large, how long it lasts, what periods tell (L734-757).

    playbook reproduce eval-sampling              about 3 minutes on 2 CPU cores
    playbook reproduce eval-sampling --control    about 1 minute

The playbook says: where the validation set is too large for periodic evaluations, sample it; performance on the sample
has to agree with that on the whole set; the sample has to be small enough to be quick, and large enough to measure
improvements, and to be used again and again without being fitted, which is rarely a concern in practice. And a metric
that is periodic over the steps is the sign of a bug, such as training data that is not shuffled (L734). It has no
figure. The picture to expect: the rank correlation of trials between sample and rest rises with the size of the
sample, near the correlation of errors that the size is planned by; trials picked by a sample that was used in every
round are as good on untouched test data as those picked by fresh samples; the validation loss of unshuffled runs goes
up and down with every epoch.

*The stated size.* A trial's error on n examples scatters by at most p (1 - p) / n around the true one, so that it takes
`harness.analysis.evaluation_sample.sample_size` examples for errors that correlate by `PLANNED_CORRELATION` with the
true ones, given a typical error p and the spread between trials, both from pilots. `stated` of a scale is that number,
to whole parts of the validation set. The claim asks for less, a rank correlation of `CORRELATION`, at this size and at
its double, since ranks and a skewed spread are not what the formula is about.

*Reuse.* Every unit is a search of its own in three rounds: 20 quasi-random trials, 8 in half the range of each
hyperparameter around the winner, 8 in a quarter of it. One search picks its winners by one and the same sample
throughout; the other has a fresh sample of the same size for every round, and its last pick is by a sample that no
trial was ever chosen by. The first two rounds are common to both. Both winners are measured on the half of the
validation examples that no sample is from.

What `laptop` is: searches take 1,584 trials, so that they train a fully connected network, 1,000 training examples
of 8x8 `mnist5k`, a fifth of their labels random, and 4,000 held-out ones. The order of the data is judged on ResNet 8
of width 8 with 1,000 clean examples, batch 100, a low constant rate and 5 evaluations an epoch; unshuffled means sorted
by label. Points of the searches are the same for every seed of the experiment; initialisation, order and split are
not. Overrides of the workload go to the ResNet.

Found at `laptop`, seeds 0 and 1: rank correlation with the rest .75 with 50 examples, .87 with 200, .92 with 400, .95
with the stated 650 and .96 with 1,300, where the sample's winner loses at most a quarter of the spread in 32 to 34 of
36 searches. From 1,300 on the ranks fall short of the planned correlation of errors: near ties between trials and the
rest's own sampling error keep them under 1. Reuse costs -.002 and .0005 of error, nothing; a sample shows its winner
.01 too good, reused or fresh. All 32 unshuffled runs are flagged with the period of an epoch, no shuffled one.

Settings come from pilot seeds, which no verdict uses; see `harness.experiments.sampled_searches.Settings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.evaluation_sample import fisher_z, rank_correlation, regret
from harness.analysis.training_curves import check_curves
from harness.analysis.trial_table import at
from harness.experiments.experiment import Experiment
from harness.experiments.sampled_searches import (
    SETTINGS,
    SPACE,
    WIDTHS,
    Searches,
    narrowed_rounds,
    part_errors,
    trials_of,
    winners,
)
from harness.experiments.verdict import Judgement, every, larger, no_worse, same, share_above, share_below
from harness.records import Claim, Curve, TrialRecord, Verdict
from harness.search.samplers import sample
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLANNED_CORRELATION = 0.95
"""Between errors on a sample of the stated size and true errors, by its formula."""

CORRELATION = 0.9
"""Rank correlation with the rest of the validation set that a sample has to exceed."""

REGRET = 0.25
"""Of the spread between trials: what the sample's winner may lose on the rest against the rest's own winner."""

MOST, FEW = 0.5, 0.3
"""Shares of searches, and of runs: most unshuffled ones have to be flagged, and few shuffled ones."""

EVALUATIONS_PER_EPOCH = 5

AGAIN = 3
"""Times that the control trains a winner again."""

_SIZES = (1, 2)
"""Samples that are judged, in units of the stated size."""

AGREES = Claim(
    "eval.sample-agrees",
    "From the stated size on, a random sample of the validation set ranks trials as the rest of the set does.",
    f"At the stated size and at its double, over searches: lower limit of the mean Fisher z of the rank correlation of "
    f"trials' errors, sample against rest, above that of a correlation of {CORRELATION}; and by an exact 95% interval, "
    f"share of searches above {MOST} in which the sample's winner loses on the rest at most {REGRET} of the spread "
    "between trials against the rest's own winner.",
)
ADAPTIVE = Claim(
    "eval.adaptive-overfitting-small",
    "To pick by one sample again and again costs little on fresh test data.",
    "Upper limit of the paired difference in test error, the winner of a search of three rounds that reuses one sample "
    "minus the winner of a search with a fresh sample for each round, under the trial standard deviation.",
)
PERIODIC = Claim(
    "eval.periodicity-finds-bugs",
    "Training data that is not shuffled shows as a period of one epoch in the validation loss.",
    f"By exact 95% intervals, share of unshuffled runs above {MOST} whose validation loss is periodic and repeats "
    f"itself every epoch, and share of shuffled runs below {FEW} that are called periodic at all, by "
    "`harness.analysis.training_curves`.",
)
CONTROL = Claim(
    "eval.control-same",
    "Where all trials share a setting, the sample's winner is no better than the others once it is trained again.",
    f"90% interval of the paired difference in error outside of the sample, winner trained again {AGAIN} times minus "
    "mean of its search, within plus or minus the trial standard deviation.",
)


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The first round of every search, and the runs whose order is judged."""
    settings, searches = SETTINGS[scale], Searches(scale)
    studies = []
    for unit in range(settings.units):
        points = sample(SPACE, "halton", unit, settings.first)
        studies += searches.round("first", unit, 0, [settings.shared] * settings.first if control else points)
    return studies if control else [*studies, _order_study(scale, overrides)]


def _order_study(scale: str, overrides: Mapping[str, str]) -> Study:
    settings = SETTINGS[scale]
    size = workload_scale(*settings.ordered)
    epoch = settings.examples // settings.batch_size
    return Study(
        name="order",
        workload=configure(configure(size.workload, settings.ordered_fields), overrides),
        arms=(Arm("unshuffled", fields={"shuffled": False}), Arm("shuffled")),
        points=[{"learning_rate": settings.rate, "warmup_steps": 0}],
        replicates=range(settings.runs),
        hyperparameters=size.hyperparameters,
        batch_size=settings.batch_size,
        steps=epoch * settings.epochs,
        evaluation_batch_size=size.evaluation_batch_size,
        evaluation_steps=range(0, epoch * settings.epochs, epoch // EVALUATIONS_PER_EPOCH),
        optimizer=size.optimizer,
        schedule="constant",
    )


def _second_round(
    records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]
) -> list[Study]:
    """Around the winner of the first round, common to both searches of a unit: their first sample is the same."""
    if not control:
        return narrowed_rounds(records, scale, {"second": 0}, ("first",), WIDTHS[0])
    settings, searches = SETTINGS[scale], Searches(scale)
    points = [settings.shared] * AGAIN  # the setting of every winner
    return [s for unit in range(settings.units) for s in searches.round("again", unit, settings.first, points)]


def _third_round(
    records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]
) -> list[Study]:
    """Around the winner so far by the sample used before, and by a fresh one."""
    return [] if control else narrowed_rounds(records, scale, {"reused": 0, "fresh": 1}, ("first", "second"), WIDTHS[1])


def agreement(records: Sequence[TrialRecord], scale: str, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """How a sample of the first parts ranks the trials of the first round against the rest of the validation set.

    Args:
      records: of the first round.
      scale: one of `SETTINGS`.
      examples: of the sample.

    Returns:
      Rank correlation and regret, in units of the spread between trials, of each unit, float64 (units,).
    """
    settings = SETTINGS[scale]
    size = examples // settings.part
    found = []
    for unit in range(settings.units):
        errors = part_errors(trials_of(records, unit, ("first",)))
        sampled, rest = errors[:, :size].mean(axis=1), errors[:, size:].mean(axis=1)
        found.append((rank_correlation(sampled, rest), regret(sampled, rest) / settings.spread))
    correlations, regrets = np.array(found).T
    return correlations, regrets


def flagged(trial: TrialRecord) -> tuple[bool, bool]:
    """Whether the validation loss is called periodic, and whether it then repeats itself every epoch.

    A curve that repeats itself every epoch is made of waves of an epoch and of whole parts of it, the tallest of which
    is found; a tenth allows for the resolution of the periodogram.
    """
    steps, losses = (trial.curves[f"evaluation_{name}"][1:] for name in ("step", "loss"))
    checks = check_curves([Curve(steps, losses)])[0]
    if checks is None or not checks.periodic:
        return False, False
    waves = EVALUATIONS_PER_EPOCH / checks.period
    return True, round(waves) >= 1 and abs(waves - round(waves)) <= 0.1


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    parts = []
    for times in _SIZES:
        correlations, regrets = agreement(records, scale, times * settings.stated)
        parts.append(larger(fisher_z(correlations), float(fisher_z(CORRELATION)), float(fisher_z(PLANNED_CORRELATION))))
        parts.append(share_above(int(np.sum(regrets <= REGRET)), len(regrets), MOST, 1.0))
    agrees = every(*parts)
    if control:
        return [(AGREES, agrees), (CONTROL, same(_retrained(records, scale), settings.trial_sd))]
    picked = winners(records, scale)
    orders = {arm: [flagged(trial) for trial in at(records, arm).values()] for arm in ("unshuffled", "shuffled")}
    periodic = every(
        share_above(sum(epoch for _, epoch in orders["unshuffled"]), settings.runs, MOST, 1.0),
        share_below(sum(any_period for any_period, _ in orders["shuffled"]), settings.runs, FEW, 0.0),
    )
    return [
        (AGREES, agrees),
        (ADAPTIVE, no_worse(picked["reused"] - picked["fresh"], settings.trial_sd, 0.0)),
        (PERIODIC, periodic),
    ]


def _retrained(records: Sequence[TrialRecord], scale: str) -> np.ndarray:
    """Error outside of the sample of winners that were trained again less the mean of their search, (units,)."""
    settings = SETTINGS[scale]
    size = settings.stated // settings.part
    found = []
    for unit in range(settings.units):
        again, search = (part_errors(trials_of(records, unit, (name,)))[:, size:] for name in ("again", "first"))
        found.append(again.mean() - search.mean())
    return np.array(found)


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.eval_sampling_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="eval-sampling",
    title="A sample of the validation set: how large, how often it can be used, and what a period in the curve tells",
    source="choosing a sample for periodic evaluation",
    figure="Rank correlation of trials' errors between a sample and the rest of the validation set, and regret of the "
    "sample's winner, against the size of the sample; test error of winners picked by a reused and by fresh samples, "
    "beside what the samples showed; swings of the validation loss within an epoch, data unshuffled and shuffled.",
    claims=(AGREES, ADAPTIVE, PERIODIC),
    control="All trials of a search share one setting, so that there is nothing to rank: the main claim is "
    "contradicted or undecided, and the sample's winner is no better than the others once it is trained again.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_second_round, _third_round),
)
