"""Figure 8: warmup of the learning rate makes higher rates usable, for pre-LN and post-LN Transformers.

    playbook reproduce warmup-benefit              about 3 minutes on 2 CPU cores
    playbook reproduce warmup-benefit --control    about 3 minutes

The playbook says: prepend a warmup, and peak rates far above the `unstable_base_learning_rate` can be used; ten times
that rate is the one to try (L1014). The figure to expect: four curves of validation loss against the base learning
rate, each flat and then up at once to a loss that has learned next to nothing; those of post-LN go up first, and each
goes up later with warmup. In the published figure warmup moves the largest stable rate by a factor of 4.6 (post-LN) and
2.8 (pre-LN), which is less than ten, and the best loss hardly: 1.618 against 1.597 for pre-LN.

The warmup is prepended (L1020), so that arms have equal steps at the peak rate and those with warmup more in all. The
control gives the other arm those steps instead: a warmup of one step, and as many more at the peak as have the same
integral of the rate.

What differs at `laptop`: 6 layers of width 32 on characters of plays in windows of 32, batch 4, Adam, 300 steps at a
constant rate after 150 of warmup. These are the steps of the playbook's search for a warmup, twice as many at the peak
as before it (L1018), and not of a training: the warmup is half of them, where at most a tenth is allowed (L1019). A
warmup of a tenth did nothing for post-LN in the pilots, and lowered the loss of pre-LN without moving where it fails.

Training that fails in the sweep does not blow up. Most of post-LN is stuck at 3.38 nats, the loss of guessing by the
frequencies of the symbols, and that of pre-LN comes nearer to it as the rate rises, with hardly a spike: in the pilots
1 of 47 unusable runs had one. So a rate is called by its final loss, as the published figure marks "poor optimization".

What was found at seed 0, with the same verdicts at seed 1: warmup moves the largest stable rate by factors of 3.7
(pre-LN, at least: 7 of 10 seeds are stable at the highest rate with warmup) and 2.8 (post-LN), and lowers the
learning-rate sensitivity from .25 to .12 and from .32 to .19 nats, each by .13 (95% intervals .10 to .15 and .09 to
.17). The tenfold rate is out of reach, none of 12 seeds is usable there: the factors of the published figure are below
ten as well. Post-LN without warmup is best at the lowest rate of its grid; a still lower one was worse in a pilot of
400 steps. The preconditioned sharpness begins far above what Adam stands at the peak rate, and below what it stands at
the first steps of a warmup; post-LN that is stuck lies far below.

The control at seed 0 is undecided on its equality: pre-LN is the same in 15 of 16 seeds, but post-LN, whose loss the 75
more steps lower by .1 nats, reaches .24 further in log2 (95% interval of its own .07 to .43; within .28 was asked for),
a sixth of what warmup does. Neither its sensitivity nor pre-LN's falls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.rate_sensitivity import RateSensitivity, rate_sensitivity
from harness.analysis.trial_table import at, paired_differences
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, no_worse, out_of_range, same, share_above
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORMALIZATIONS = {"pre_ln": "before", "post_ln": "after"}
"""Plain arm to the workload's field; the arm with warmup has `_warmup` behind its name. As in the published table."""

ARMS = tuple(arm for plain in NORMALIZATIONS for arm in (plain, f"{plain}_warmup"))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots, 4 to 6 replicates of the pilot range of seed 0. With 6 layers and 300 steps warmups of 30, 100 and 150
    steps let post-LN train up to 1e-3, 2.15e-3 and 3.16e-3; with 10 layers of width 16 it hardly trains. A cosine
    schedule blurs the edge, a beta2 of .999 changes little. As it stands: loss at the best rate 2.567 and 2.503 (pre-LN
    without and with warmup), 2.853 and 2.645 (post-LN), with standard deviations of .009, .009, .064 and .025: hence
    the deltas. Largest stable rates, post-LN: 1e-3 to 2.15e-3 without warmup, 3.16e-3 or 4.64e-3 with it, higher in 6
    of 6 seeds; the control's differ by one step of the grid in 1 of 6. Pre-LN on a grid that began at 3.16e-3: 3.16e-2
    in 6 of 6 without, at losses of 2.83 to 2.94, next to the usable one, and 6.81e-2 or more in 6 of 6 with; the grid
    was moved down so that its rates lie further from the edge. 10 seeds decide with 4 ties, 8 with 2.

    Of 2,000 null experiments each, walls drawn from one distribution for both arms (normal, skewed, tied, bimodal,
    mostly outside of the grid; one trial of 100 infeasible or lucky), the largest stable rate was called higher in at
    most 1.8% and lower in at most 1.9%, nominally 2.5% each.

    `accelerator` and `paper` are reasoned, not piloted: rates of the published figure, a warmup of a tenth of the other
    steps, deltas of a hundredth of a nat.

    Attributes:
      fields: of the workload that are set.
      rates: plain arm to its rates, ascending in equal ratios, with and without warmup. Those of pre-LN begin where
        those of post-LN are about to end, since each is sure to train below its own, and to fail above.
      warmup_steps: of the arms with warmup.
      usable: validation loss in nats below which a rate is usable: half of the way from the loss of guessing by the
        frequencies of the symbols, where a Transformer that fails gets stuck, to the best loss of pre-LN.
      deltas: tolerated difference of the best losses of each normalisation, nats: the trial standard deviation.
      replicates: paired seeds of the sweep.
      control_replicates: the same of the control, which has to show equality.
      judged: fresh seeds of the best rates.
      tenfold: fresh seeds at ten times the unstable rate.
      batch_size: examples per step; that of the workload if None.
      steps: at the peak rate; those of the workload if None.
      schedule: of the learning rate; that of the workload if None.
      evaluation_batch_size: that of the workload if None.
      curvature: plain arm to the rate at which curvature is measured along the training of one seed; none if empty.
      curvature_examples: batch of it.
    """

    fields: Mapping[str, int | str]
    rates: Mapping[str, tuple[float, ...]]
    warmup_steps: int
    usable: float
    deltas: Mapping[str, float]
    replicates: int
    control_replicates: int
    judged: int
    tenfold: int
    batch_size: int | None = None
    steps: int | None = None
    schedule: str | None = None
    evaluation_batch_size: int | None = None
    curvature: Mapping[str, float] = dataclasses.field(default_factory=dict)
    curvature_examples: int = 16


_PUBLISHED_RATES = (1e-4, 1.67e-4, 2.78e-4, 4.64e-4, 7.74e-4, 1.29e-3, 2.15e-3, 3.59e-3, 5.99e-3, 1e-2)

SETTINGS = {
    "smoke": Settings(
        fields={},
        rates=dict.fromkeys(NORMALIZATIONS, (1e-3, 1e-2, 1e-1)),
        warmup_steps=2,
        usable=2.95,
        deltas={"pre_ln": 0.02, "post_ln": 0.02},
        replicates=2,
        control_replicates=2,
        judged=2,
        tenfold=2,
        schedule="constant",
        curvature={"pre_ln": 1e-2, "post_ln": 1e-2},
        curvature_examples=4,
    ),
    "laptop": Settings(
        fields={"layers": 6, "width": 32, "heads": 2, "mlp_width": 64, "length": 32},
        rates={
            "pre_ln": (2.51e-3, 5.41e-3, 1.17e-2, 2.51e-2, 5.41e-2, 0.117),
            "post_ln": (1e-3, 1.47e-3, 2.15e-3, 3.16e-3, 4.64e-3, 6.81e-3),
        },
        warmup_steps=150,
        usable=2.95,
        deltas={"pre_ln": 0.01, "post_ln": 0.05},
        replicates=10,
        control_replicates=16,
        judged=10,
        tenfold=12,
        batch_size=4,
        steps=300,
        schedule="constant",
        evaluation_batch_size=64,
        curvature={"pre_ln": 5.41e-2, "post_ln": 3.16e-3},
    ),
    "accelerator": Settings(
        fields={},
        rates=dict.fromkeys(NORMALIZATIONS, _PUBLISHED_RATES),
        warmup_steps=100,
        usable=2.4,  # half of the way from 3.37 to about 1.4
        deltas={"pre_ln": 0.01, "post_ln": 0.01},
        replicates=8,
        control_replicates=16,
        judged=8,
        tenfold=12,
        batch_size=64,
        steps=1000,
    ),
    "paper": Settings(
        fields={},
        rates=dict.fromkeys(NORMALIZATIONS, _PUBLISHED_RATES),
        warmup_steps=10_000,
        usable=5.0,  # half of the way from about 7 to 3.1
        deltas={"pre_ln": 0.01, "post_ln": 0.01},
        replicates=8,
        control_replicates=16,
        judged=8,
        tenfold=12,
        steps=100_000,
    ),
}

PUBLISHED_RATIOS = {"pre_ln": 3.59e-3 / 1.29e-3, "post_ln": 4.64e-4 / 1e-4}
"""Largest stable rate with warmup over that without, in the published figure."""

PUBLISHED_PRE_OVER_POST = {"": 1.29e-3 / 1e-4, "_warmup": 3.59e-3 / 4.64e-4}
"""Largest stable rate of pre-LN over that of post-LN, without and with warmup."""

FACTOR = 10.0
"""Of the unstable rate: what the playbook would try with warmup (L1014)."""

TUNED = 2
"""Best rates of an arm: warmup at its best has to be no worse than both without, and worse at both of its own to be
contradicted. With the best alone, chosen by noise, a cost of just delta passed for none in up to 3.9% of 2,000
null experiments instead of 2.5%; now in at most 2.4%."""

USABLE_SHARE = 0.5
"""Share of seeds above which a rate is usable."""

SAME_STEPS = 0.5
"""Steps of the grid of rates that the control's largest stable rate may move by on average."""

CENSORED_SHARE = 0.5
"""Share of an arm's seeds at an end of the sweep from which what is undecided is so for its `range`. The ends draw a
ratio towards 1, so that neither a claim nor its opposite is decided by them."""

_STABLE = (
    "the largest stable rate of a seed is the last one, going up from its best, whose final validation loss is below "
    "the usable one"
)

EXTENDS = Claim(
    "warmup.extends-range",
    "Warmup raises the largest stable learning rate, of pre-LN and of post-LN Transformers.",
    "For both, lower limit of the paired log2 ratio of the largest stable rates, with warmup over without, above 0; "
    f"{_STABLE}.",
)
TENFOLD = Claim(
    "warmup.tenfold",
    "With warmup, ten times the unstable learning rate becomes usable.",
    f"For both, the share of fresh seeds whose final loss is usable with warmup at {FACTOR:g} times the unstable rate "
    f"is above {USABLE_SHARE}, by exact 95% intervals; the unstable rate is the lowest, above the best, at which no "
    "more than half of the sweep's seeds are usable without warmup.",
)
NARROWER = Claim(
    "warmup.post-ln-narrower",
    "The range of stable learning rates of post-LN ends earlier than that of pre-LN, with and without warmup.",
    "Without warmup and with it, lower limit of the paired log2 ratio of the largest stable rates, pre-LN over "
    "post-LN, above 0; rates outside of those that both were swept at count as the nearest of these.",
)
BEST = Claim(
    "warmup.best-no-worse",
    "The best loss with warmup is no worse than without.",
    "For both, upper limits of the paired differences in final validation loss on fresh seeds, with warmup at its best "
    "rate minus without at either of its two best, under the trial standard deviation, and contradicted only where the "
    "second-best rate with warmup is worse too; rates are chosen by mean loss in the sweep.",
)
CONTROL = Claim(
    "warmup.control-same",
    "A warmup of one step with the same integral of the rate leaves the largest stable rate the same.",
    "For both, 90% interval of the paired log2 ratio of the largest stable rates within plus or minus half a step of "
    "the grid of rates.",
)


def _study(
    name: str,
    scale: str,
    arms: Sequence[Arm],
    rates: Sequence[float],
    replicates: range,
    overrides: Mapping[str, str],
    **named: object,
) -> Study:
    settings, size = SETTINGS[scale], workload_scale("transformer", scale)
    return dataclasses.replace(
        Study(
            name=name,
            workload=configure(configure(size.workload, settings.fields), overrides),
            arms=tuple(arms),
            points=[{"learning_rate": rate} for rate in rates],
            replicates=replicates,
            hyperparameters=size.hyperparameters,
            batch_size=settings.batch_size or size.batch_size,
            steps=peak_steps(scale),
            evaluation_batch_size=settings.evaluation_batch_size or size.evaluation_batch_size,
            optimizer=size.optimizer,
            schedule=settings.schedule or size.schedule,
        ),
        **named,
    )


def peak_steps(scale: str) -> int:
    """Steps after the warmup."""
    return SETTINGS[scale].steps or workload_scale("transformer", scale).steps


def plain_of(arm: str) -> str:
    """The arm without warmup of the same normalisation."""
    return arm.removesuffix("_warmup")


def _arm(name: str, warmup_steps: int) -> Arm:
    return Arm(name, {"normalization": NORMALIZATIONS[plain_of(name)]}, {"warmup_steps": warmup_steps})


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = SETTINGS[scale]
    seeds = range(settings.control_replicates if control else settings.replicates)
    warmup = settings.warmup_steps
    studies = []
    for plain, rates in settings.rates.items():
        if control:
            before = _study(f"control-{plain}", scale, [_arm(plain, 0)], rates, seeds, overrides)
            after = _study(f"control-{plain}-longer", scale, [_arm(f"{plain}_warmup", 1)], rates, seeds, overrides)
            studies += [before, dataclasses.replace(after, steps=after.steps + warmup // 2)]
        else:
            arms = [_arm(plain, 0), _arm(f"{plain}_warmup", warmup)]
            studies.append(_study(f"sweep-{plain}", scale, arms, rates, seeds, overrides))
    for plain, rate in {}.items() if control else settings.curvature.items():
        study = _study(
            f"curvature-{plain}",
            scale,
            [_arm(plain, 0), _arm(f"{plain}_warmup", warmup)],
            (rate,),
            range(_CURVATURE_SEED, _CURVATURE_SEED + 1),
            overrides,
            curvature_examples=settings.curvature_examples,
        )
        total = study.steps + warmup
        steps = sorted({round(total * share) for share in _CURVATURE_SHARES})
        studies.append(dataclasses.replace(study, curvature_steps=steps))
    return studies


_CURVATURE_SEED = 10_000  # a replicate that no claim is judged on
_CURVATURE_SHARES = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.66)


def loss(record: TrialRecord, scale: str) -> float:
    """The final validation loss, nats; an infeasible trial counts with that of guessing among all symbols."""
    if record.status == "complete":
        return record.results["final_loss"]
    return float(np.log(workload_scale("transformer", scale).workload.classes))


def first_round(records: Sequence[TrialRecord], arm: str, rate: float) -> dict[int, TrialRecord]:
    """The trials of the sweep, by replicate."""
    return at([r for r in records if r.study.startswith(("sweep-", "control-"))], arm, learning_rate=rate)


def sweep_losses(records: Sequence[TrialRecord], arm: str, scale: str) -> np.ndarray:
    """Final validation losses of the first round, float64 (rates, seeds)."""
    rates = SETTINGS[scale].rates[plain_of(arm)]
    return np.array([[loss(trial, scale) for trial in first_round(records, arm, rate).values()] for rate in rates])


def best_rates(losses: np.ndarray, rates: Sequence[float]) -> tuple[float, ...]:
    """The `TUNED` rates of the lowest mean losses, the best first; losses are (rates, seeds)."""
    return tuple(rates[index] for index in np.argsort(losses.mean(axis=1), kind="stable")[:TUNED])


def largest_stable(losses: np.ndarray, usable: float) -> np.ndarray:
    """Finds the largest stable rate of each seed.

    From the best rate up, so that a rate that is too low to get anywhere in time does not count as unstable.

    Args:
      losses: (rates, seeds) nats, the rates ascending.
      usable: nats below which a rate is usable.

    Returns:
      Index of the rate, int (seeds,); 0 where no rate is usable, which is the most that is known.
    """
    found = []
    for seed in losses.T:
        index = int(np.argmin(seed))
        while index + 1 < len(seed) and seed[index + 1] < usable:
            index += 1
        found.append(index if seed[index] < usable else 0)
    return np.array(found)


def unstable_rate(losses: np.ndarray, rates: Sequence[float], usable: float) -> float | None:
    """The lowest rate, above the best, at which no more than half of the seeds are usable; None where all are."""
    best = rates.index(best_rates(losses, rates)[0])
    shares = np.mean(losses < usable, axis=1)
    return next((rates[index] for index in range(best + 1, len(rates)) if shares[index] <= USABLE_SHARE), None)


def sensitivity(records: Sequence[TrialRecord], arm: str, scale: str) -> RateSensitivity:
    """The learning-rate sensitivity of an arm over the rates of the sweep.

    The loss at initialisation is that of the first training batch, which a seed has at every rate.
    """
    rates = SETTINGS[scale].rates[plain_of(arm)]
    initial = [float(trial.curves["train_loss"][0]) for trial in first_round(records, arm, rates[0]).values()]
    return rate_sensitivity(rates, sweep_losses(records, arm, scale), np.array(initial))


def _winners(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The second round on fresh seeds: every arm at its best rates, and warmup at ten times the unstable rate."""
    if control:
        return []
    settings = SETTINGS[scale]
    losses = {arm: sweep_losses(records, arm, scale) for arm in ARMS}
    studies = []
    for arm in ARMS:
        rates = best_rates(losses[arm], settings.rates[plain_of(arm)])
        fresh = range(settings.replicates, settings.replicates + settings.judged)
        own = _arm(arm, 0 if arm in NORMALIZATIONS else settings.warmup_steps)
        studies.append(_study(f"best-{arm}", scale, [own], rates, fresh, overrides))
    for plain, rates in settings.rates.items():
        unstable = unstable_rate(losses[plain], rates, settings.usable)
        if unstable is not None:
            fresh = range(settings.replicates, settings.replicates + settings.tenfold)
            arm = _arm(f"{plain}_warmup", settings.warmup_steps)
            studies.append(_study(f"tenfold-{plain}", scale, [arm], (FACTOR * unstable,), fresh, overrides))
    return studies


def of_study(records: Sequence[TrialRecord], name: str) -> dict[int, TrialRecord]:
    """The trials of a study of one arm and rate, by replicate."""
    return {record.replicate: record for record in records if record.study == name}


def _edges(records: Sequence[TrialRecord], scale: str) -> dict[str, np.ndarray]:
    """Arm to the largest stable rate of each seed."""
    settings = SETTINGS[scale]
    return {
        arm: np.array(settings.rates[plain_of(arm)])[largest_stable(sweep_losses(records, arm, scale), settings.usable)]
        for arm in ARMS
    }


def larger_edge(above: np.ndarray, below: np.ndarray, low: float, high: float, stated: float) -> Judgement:
    """Judges that one arm's largest stable rate exceeds another's.

    Args:
      above: of each seed, of the arm that is claimed to reach further.
      below: the same of the other arm.
      low: the lowest rate that both were swept at; edges below count as this.
      high: the highest; edges above count as this.
      stated: ratio that the power is for.

    Returns:
      The judgement of the paired log2 ratio, to which the sweep's ends are a reason of their own if it is undecided.
    """
    clipped = [np.clip(edges, low, high) for edges in (above, below)]
    judgement = larger(np.log2(clipped[0] / clipped[1]), 0.0, float(np.log2(stated)))
    censored = max(np.mean((edges == low) | (edges == high)) for edges in clipped)
    if judgement.reason is None and censored >= CENSORED_SHARE:
        return dataclasses.replace(judgement, reason="range")
    return judgement


def tuned_no_worse(differences: np.ndarray, delta: float) -> Judgement:
    """Judges that the best loss with warmup exceeds that without by less than delta.

    Args:
      differences: losses with warmup minus without, of each of the best rates with, of each without, and of each fresh
        seed, (TUNED, TUNED, seeds), the best rates first.
      delta: nats.
    """
    judgement = every(*(no_worse(one, delta, 0.0) for one in differences[0]))
    against = [no_worse(one, delta).p_against for one in differences[:, 0]]
    return dataclasses.replace(judgement, p_against=max(against))


def _no_worse(records: Sequence[TrialRecord], plain: str, scale: str) -> Judgement:
    fresh = {}
    for arm in (plain, f"{plain}_warmup"):
        trials = [record for record in records if record.study == f"best-{arm}"]
        rates = best_rates(sweep_losses(records, arm, scale), SETTINGS[scale].rates[plain])
        fresh[arm] = [at(trials, arm, learning_rate=rate) for rate in rates]
    differences = [
        [paired_differences(warmed, without, partial(loss, scale=scale)) for without in fresh[plain]]
        for warmed in fresh[f"{plain}_warmup"]
    ]
    return tuned_no_worse(np.array(differences), SETTINGS[scale].deltas[plain])


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    edges = _edges(records, scale)
    extends = every(
        *(
            larger_edge(edges[f"{plain}_warmup"], edges[plain], rates[0], rates[-1], PUBLISHED_RATIOS[plain])
            for plain, rates in settings.rates.items()
        )
    )
    if control:
        unchanged = [
            same(np.log2(edges[f"{plain}_warmup"] / edges[plain]), SAME_STEPS * float(np.log2(rates[1] / rates[0])))
            for plain, rates in settings.rates.items()
        ]
        return [(EXTENDS, extends), (CONTROL, every(*unchanged))]
    low, high = settings.rates["pre_ln"][0], settings.rates["post_ln"][-1]
    narrower = every(
        *(
            larger_edge(edges[f"pre_ln{warmup}"], edges[f"post_ln{warmup}"], low, high, ratio)
            for warmup, ratio in PUBLISHED_PRE_OVER_POST.items()
        )
    )
    tenfold, best = [], []
    for plain in NORMALIZATIONS:
        tried = of_study(records, f"tenfold-{plain}").values()
        usable = sum(loss(trial, scale) < settings.usable for trial in tried)
        tenfold.append(
            share_above(usable, len(tried), USABLE_SHARE, 1.0)
            if tried
            else out_of_range(float("nan"), USABLE_SHARE, settings.tenfold, (0.0, 1.0))
        )
        best.append(_no_worse(records, plain, scale))
    return [(EXTENDS, extends), (TENFOLD, every(*tenfold)), (NARROWER, narrower), (BEST, every(*best))]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.warmup_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="warmup-benefit",
    title="Warmup makes higher learning rates usable, for pre-LN and post-LN Transformers",
    source="figure 8",
    figure="Validation loss against base learning rate of pre-LN and post-LN with and without warmup, unusable points "
    "crossed and the best starred, with the published points and by itself; training loss where warmup decides; "
    "preconditioned sharpness along training with Adam's stability threshold; learning-rate sensitivity of every arm "
    "with its interval.",
    claims=(EXTENDS, TENFOLD, NARROWER, BEST),
    control="The warmup is replaced by a warmup of one step and as many more steps at the peak rate as have the same "
    "integral of the rate: the largest stable rates are the same, and the main claim is not reproduced.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_winners,),
)
