"""Does a learning rate that decays to 0 end lower than a constant one, and do linear and cosine decay end alike?

    playbook reproduce decay-schedules              about 2 minutes on 2 CPU cores
    playbook reproduce decay-schedules --control    about 1 minute

The playbook says (L810-830): the best family of schedules is not known, but it is important to have some schedule that
is not constant, and to tune it; different learning rates work best at different times; linear and cosine decay are its
defaults. It has no figure. The figure to expect: the loss against the base rate of every schedule, the decays below the
constant rate at their best, and their best at a higher rate.

Every schedule has its own best base rate, chosen by mean loss on the seeds of the first round; the second round
retrains the two best rates of each on fresh seeds, which alone are judged. Steps, warmup, data and seeds are the same.
`square_root` is swept and drawn beside them, and not judged.

The control takes away why decay should help: the noise that a high rate leaves at the end. It averages the iterates of
the constant rate (Polyak averaging; the averaging decay is tuned beside the rate), the decays stay as they are. It was
written down beforehand that decay then helps no more: the averaged constant rate ends no worse than either decay.

`schedule.linear-cosine-same` compares the better of either decay's two rates on the judged seeds themselves. The rates
were chosen on other seeds, but that last choice of two is not made afresh, and flatters both decays alike: the best of
four seeds may be a rate chosen badly, whose loss would pass for a difference of the schedules. With the best rates of
the first round alone the difference at seed 0 is -.0170 [-.0233, -.0109] (-.0246 to -.0096 at the level of Holm's
correction) against .009, contradicted as well.

What differs at `laptop` from a published training: a Transformer of 2 layers and width 32 on windows of 32 characters,
and so few steps that the loss still falls. Settings come from pilot seeds, which no verdict uses; see `Settings`.

What was found at seeds 0 and 1: decay helps, by .044 and .032 nats of linear decay at the better of its rates, and less
for cosine, which ends .016 and .012 above linear (intervals .010 to .022 and .010 to .014), more than the trial
standard deviation of .009: that they end alike is contradicted. Both have the same mean rate, but cosine spends the
last tenth of the steps at 1% of it where linear has 5%, while the loss still falls. Defazio et al. 2023 (arXiv
2310.07831) have linear decay ahead of cosine too, on larger problems. The choice matters a third of what decay itself
does. The best constant rate falls by a factor of two between 150 steps and the end. The best rate of the square-root
schedule is the largest swept, so that its loss, above the constant rate's, says little. Control at seed 0: the averaged
constant rate ends .021 below linear decay, so that decay does not help but loses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.trial_table import at, paired_differences
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, no_worse, same
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONSTANT, AVERAGED = "constant", "constant_averaged"
DECAYS = ("linear", "cosine")
"""The schedules that the playbook prefers, which the claims are about."""

OTHERS = ("square_root",)
"""Schedules that are only drawn."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots, on the pilot range of seed 0, 3 or 4 replicates of each. With 1,000 steps at batch 4 and rates a factor
    of 2 apart a constant rate ends at 2.321, linear decay at 2.289, cosine at 2.300, an averaged constant rate at 2.263
    to 2.276 (averaging decays of .98, .99 and .995); with 2,000 steps at batch 2 at 2.297, 2.268 and 2.279 (not
    averaged); with 2,000 at batch 4 at 2.193, 2.143 and 2.153. As it stands: constant 2.246 and 2.244 at 3.8e-3 and
    6e-3, linear 2.206 and cosine 2.219 at 6e-3, averaged 2.178 there, where the rates above and below are worse. Trial
    standard deviation .009 of both decays at their best, hence delta; spread of the paired differences from the
    constant rate up to .015, so that 12 seeds have a power over .95 for a gain of .025. Linear lies below cosine by
    .013 with a spread of .003: more than delta, as in the other pilots (.010 to .012), which was left as it is. At 150
    of 1,050 steps the best constant rates of 3 seeds were 1.2e-2, 6e-3 and 1.2e-2, at the end 6e-3, 6e-3 and 3e-3.

    `accelerator` and `paper` are reasoned, not piloted: rates around the workload's own, averages over a hundredth to a
    thirtieth of the steps, a delta of a hundredth of a nat.

    Attributes:
      fields: of the workload that are set.
      rates: base rates, ascending in equal ratios.
      averaging_decays: that the control tries.
      delta: tolerated difference of losses of linear and cosine decay, nats: the trial standard deviation.
      stated: gain of decay that the power is for, nats.
      selection: seeds of the first round.
      constant_selection: the same of the constant rate, whose first round is judged as well; more of them choose its
        rate the better.
      judged: fresh seeds of the second.
      batch_size: examples per step; that of the workload if None.
      steps: after warmup; those of the workload if None.
      warmup_steps: those of the workload if None.
      evaluation_batch_size: that of the workload if None.
    """

    fields: Mapping[str, int | str]
    rates: tuple[float, ...]
    averaging_decays: tuple[float, ...]
    delta: float
    stated: float
    selection: int
    constant_selection: int
    judged: int
    batch_size: int | None = None
    steps: int | None = None
    warmup_steps: int | None = None
    evaluation_batch_size: int | None = None


SETTINGS = {
    "smoke": Settings(
        fields={},
        rates=(3e-3, 1e-2),
        averaging_decays=(0.5,),
        delta=0.01,
        stated=0.03,
        selection=2,
        constant_selection=2,
        judged=2,
    ),
    "laptop": Settings(
        fields={"layers": 2, "width": 32, "heads": 2, "mlp_width": 64, "length": 32},
        rates=(2.4e-3, 3.8e-3, 6e-3, 9.5e-3, 1.5e-2),
        averaging_decays=(0.98, 0.99),
        delta=0.009,
        stated=0.025,
        selection=4,
        constant_selection=8,
        judged=12,
        batch_size=4,
        steps=1500,
        warmup_steps=75,
    ),
    "accelerator": Settings(
        fields={},
        rates=(2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
        averaging_decays=(0.99, 0.997),
        delta=0.01,
        stated=0.03,
        selection=4,
        constant_selection=8,
        judged=12,
        batch_size=64,
        steps=3000,
        warmup_steps=300,
    ),
    "paper": Settings(
        fields={},
        rates=(4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3),
        averaging_decays=(0.9997, 0.9999),
        delta=0.01,
        stated=0.03,
        selection=1,
        constant_selection=8,
        judged=8,
    ),
}

TUNED = 2
"""Best base rates of a schedule, the best first, that a claim has to hold for: decay at its best has to beat the
constant rate at both of its own, and to lose at both of its own to be contradicted. With the best alone, a rate chosen
badly passes for a bad schedule."""

EARLY = 0.05
"""Share of the steps after warmup at which the best constant rate is held against that at the end."""

HELPS = Claim(
    "schedule.nonconstant-helps",
    "A learning rate that decays ends at a lower loss than a constant one, each at its own best base rate.",
    "Lower limits of the paired differences in final validation loss on fresh seeds, constant at each of its two best "
    "rates minus linear, and minus cosine decay, at their best, above 0, and contradicted only where a decay loses at "
    "its second best too; rates are chosen by mean loss on other seeds.",
)
SAME = Claim(
    "schedule.linear-cosine-same",
    "Linear and cosine decay end at the same loss.",
    "90% interval of the paired difference in final validation loss on fresh seeds, linear minus cosine, each at the "
    "better of its two rates on these seeds, within plus or minus the trial standard deviation.",
)
FALLS = Claim(
    "schedule.best-rate-falls",
    "Different rates work best at different times: early in training a higher constant rate is best than at the end.",
    f"Over the seeds of the first round, lower limit of the paired log2 ratio of the constant rate with the lowest "
    f"validation loss after {EARLY:.0%} of the steps to that with the lowest at the end, above 0.",
)
CONTROL = Claim(
    "schedule.control-no-worse",
    "Where the iterates of the constant rate are averaged, it ends no worse than the decays.",
    "Upper limits of the paired differences in final validation loss on fresh seeds, averaged constant at its best "
    "minus linear and cosine at each of their two best rates, under the trial standard deviation, and contradicted "
    "only where it is worse at its second best too.",
)


def arms_of(control: bool) -> tuple[str, ...]:
    """The schedules of a plan, what is held against the decays first."""
    return (AVERAGED, *DECAYS) if control else (CONSTANT, *DECAYS, *OTHERS)


def _arm(name: str) -> Arm:
    return Arm(name, fields={"schedule": "constant" if name == AVERAGED else name})


def points_of(arm: str, settings: Settings) -> list[dict[str, float]]:
    """The hyperparameters that an arm is tuned over."""
    rates = [{"learning_rate": rate} for rate in settings.rates]
    if arm != AVERAGED:
        return rates
    return [{**rate, "averaging_decay": decay} for decay in settings.averaging_decays for rate in rates]


def early_step(scale: str) -> int:
    """The step, warmup included, of the first evaluation."""
    study = _study("", scale, CONSTANT, [], range(0), {})
    return int(study.hyperparameters["warmup_steps"]) + round(EARLY * study.steps)


def _study(
    name: str,
    scale: str,
    arm: str,
    points: Sequence[Mapping[str, float]],
    replicates: range,
    overrides: Mapping[str, str],
    evaluation_steps: Sequence[int] = (),
) -> Study:
    settings, size = SETTINGS[scale], workload_scale("transformer", scale)
    warmup = size.hyperparameters["warmup_steps"] if settings.warmup_steps is None else settings.warmup_steps
    return Study(
        name=name,
        workload=configure(configure(size.workload, settings.fields), overrides),
        arms=(_arm(arm),),
        points=points,
        replicates=replicates,
        hyperparameters={**size.hyperparameters, "warmup_steps": warmup},
        batch_size=settings.batch_size or size.batch_size,
        steps=settings.steps or size.steps,
        evaluation_batch_size=settings.evaluation_batch_size or size.evaluation_batch_size,
        evaluation_steps=evaluation_steps,
        optimizer=size.optimizer,
    )


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = SETTINGS[scale]
    studies = []
    for arm in arms_of(control):
        seeds = range(settings.constant_selection if arm == CONSTANT else settings.selection)
        early = (early_step(scale),) if arm == CONSTANT else ()
        studies.append(_study(f"sweep-{arm}", scale, arm, points_of(arm, settings), seeds, overrides, early))
    return studies


def _retrain(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The second round: the best points of every arm on fresh seeds."""
    settings = SETTINGS[scale]
    seeds = range(settings.constant_selection, settings.constant_selection + settings.judged)
    return [
        _study(f"best-{arm}", scale, arm, best_points(records, arm, scale), seeds, overrides)
        for arm in arms_of(control)
        if arm not in OTHERS
    ]


def loss(record: TrialRecord, scale: str) -> float:
    """The final validation loss, nats; an infeasible trial counts with that of guessing among all symbols."""
    if record.status == "complete":
        return record.results["final_loss"]
    return float(np.log(workload_scale("transformer", scale).workload.classes))


def in_round(records: Sequence[TrialRecord], arm: str, purpose: str) -> list[TrialRecord]:
    """The trials of an arm in the first round, `sweep`, or in the second, `best`."""
    return [record for record in records if record.study == f"{purpose}-{arm}"]


def best_points(records: Sequence[TrialRecord], arm: str, scale: str) -> list[dict[str, float]]:
    """The `TUNED` points of the lowest mean losses in the first round, the best first."""
    points = points_of(arm, SETTINGS[scale])
    swept = in_round(records, arm, "sweep")
    means = [np.mean([loss(trial, scale) for trial in at(swept, arm, **point).values()]) for point in points]
    return [points[index] for index in np.argsort(means, kind="stable")[:TUNED]]


def fresh(records: Sequence[TrialRecord], arm: str, scale: str) -> list[dict[int, TrialRecord]]:
    """The trials of the second round by replicate, of each of the best points."""
    retrained = in_round(records, arm, "best")
    return [at(retrained, arm, **point) for point in best_points(records, arm, scale)]


def differences(records: Sequence[TrialRecord], arm: str, other: str, scale: str) -> np.ndarray:
    """Losses of an arm minus those of another, nats: best points of the one, of the other, fresh seeds."""
    measure = partial(loss, scale=scale)
    return np.array(
        [
            [paired_differences(own, others, measure) for others in fresh(records, other, scale)]
            for own in fresh(records, arm, scale)
        ]
    )


def helps(excess: Sequence[np.ndarray], stated: float | None = None) -> Judgement:
    """Judges that decay beats the constant rate.

    Args:
      excess: for each decay, losses of the constant rate minus those of the decay, (TUNED, TUNED, seeds): best points
        of the constant rate, of the decay, and fresh seeds.
      stated: gain that the power is for.
    """
    at_rank = [every(*(larger(row[rank], 0.0, stated) for one in excess for row in one)) for rank in range(TUNED)]
    return dataclasses.replace(at_rank[0], p_against=max(judgement.p_against for judgement in at_rank))


def ends_no_worse(excess: Sequence[np.ndarray], delta: float) -> Judgement:
    """Judges that the averaged constant rate is worse than the decays by less than delta; `excess` as in `helps`."""
    at_rank = [every(*(no_worse(row, delta, 0.0) for one in excess for row in one[rank])) for rank in range(TUNED)]
    return dataclasses.replace(at_rank[0], p_against=max(judgement.p_against for judgement in at_rank))


def better_of(records: Sequence[TrialRecord], arm: str, scale: str) -> dict[int, TrialRecord]:
    """The trials of the second round at the better of an arm's points on its seeds."""
    found = fresh(records, arm, scale)
    return min(found, key=lambda trials: np.mean([loss(trial, scale) for trial in trials.values()]))


def constant_losses(records: Sequence[TrialRecord], scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Validation losses of the constant rate in the first round, early and at the end, float64 (rates, seeds) each."""
    swept = in_round(records, CONSTANT, "sweep")
    trials = [at(swept, CONSTANT, learning_rate=rate).values() for rate in SETTINGS[scale].rates]
    early = [
        [float(t.curves["evaluation_loss"][0]) if t.status == "complete" else loss(t, scale) for t in own]
        for own in trials
    ]
    return np.array(early), np.array([[loss(trial, scale) for trial in own] for own in trials])


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    excess = [differences(records, arms_of(control)[0], decay, scale) for decay in DECAYS]
    decays_help = helps(excess, settings.stated)
    if control:
        return [(HELPS, decays_help), (CONTROL, ends_no_worse(excess, settings.delta))]
    linear, cosine = (better_of(records, decay, scale) for decay in DECAYS)
    early, late = (np.array(settings.rates)[np.argmin(all_of, axis=0)] for all_of in constant_losses(records, scale))
    return [
        (HELPS, decays_help),
        (SAME, same(paired_differences(linear, cosine, partial(loss, scale=scale)), settings.delta)),
        (FALLS, larger(np.log2(early / late), 0.0, 1.0)),
    ]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.decay_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="decay-schedules",
    title="Whether decay of the learning rate beats a constant one, and linear and cosine decay end alike",
    source="choosing a learning rate decay schedule",
    figure="Validation loss against base learning rate of every schedule, the best starred; training loss at each "
    "schedule's best rate; losses on fresh seeds over that of linear decay; loss of the constant rate against the rate "
    "early and at the end.",
    claims=(HELPS, SAME, FALLS),
    control="The constant rate is evaluated at the average of its iterates, which takes away the noise at the end: it "
    "ends no worse than the decays, and the main claim is not reproduced.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_retrain,),
)
