"""Figure 6: after too short a warmup a post-LN Transformer trains well, then diverges; a longer one is stable.

    playbook reproduce instability-during-warmup              about 3 minutes on 2 CPU cores
    playbook reproduce instability-during-warmup --control    about 2 minutes

The playbook shows training losses under warmups of 1 to 40,000 steps to the same peak rate: all but the longest fall,
then jump up at or after the end of their warmup, and stay there. The figure to expect: the same, the loss of the short
warmup back at what guessing characters by frequency gives, that of the long one far below.

Seen at seeds 0 and 1 of `laptop`: 19 and 21 of 24 seeds fail after 250 steps of warmup, at 1.1 to 6.2 times the warmup
(published 1.5 to 2.5, and 500 after a warmup of one step), and 1 of 24 in each after 1,000. After 1 and 60 steps
training does not start well: the loss stays at that of guessing, so that by the rule nothing is lost. Adam's
preconditioned sharpness, of one seed each, is mostly 2 to 90 times its threshold from the end of the short warmup on.
In the long warmup it is mostly under the threshold until the rate nears its peak, and then also up to 60 times it.

That a run has to start well to lose anything, by a fall of as much as it then rises, was added to the rule of the main
claim after seeds 0 and 1: a loss that climbs from its first value counted too. At seed 0 no run is of that kind. Under
a long warmup such a run still fails.

What differs at `laptop`: a Transformer of 3 layers of width 32 on windows of 32 characters, batch 8, a constant rate
after the warmup, and as many steps at the peak rate after every warmup, so that a short one has no more time to fail
than a long one. The published run of 40,000 steps ends with its warmup; ours go on for twice the longest.

Settings come from pilot seeds, which no verdict uses; see `_Settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.analysis.lost_progress import LOST_RISE, LostProgress, lost_progress
from harness.analysis.trial_table import at
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, share_above, share_below
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 0.5
"""Share of seeds above which a warmup is called too short, and below which it is called long enough."""


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Of a scale; `laptop` is chosen on pilots.

    Pilots at `laptop`, a line a setting: rises of the end over the running minimum in nats, one a seed; `LOST_RISE`
    or more is a failure.

        rate .033, warmup 250,  2000 steps at the peak: .69 .54 .50
        rate .033, warmup 200,  1500 steps:             .29 .29 .63 .62 .45 .65
        rate .033, warmup 1000, 2000 steps:             .12 .09 .08 .38 .12
        rate .035, warmup 200,  1500 steps:             .41 .40 .43 .05 .45 .51
        rate .035, warmup 1000, 2000 steps:             .30 .20 .32 .40
        rate .032, warmup 250,  2000 steps:             .45 .26 .51 .75
        rate .032, warmup 1000, 2000 steps:             .23 .10

    The rate .0325 lies between. So warmup helps here in a narrow band: 8% above it the long warmup fails too, late.
    With 4 layers the band lies at .025. With 6 it lies at .01, and the short warmup does not get under the loss of
    guessing by frequency before it fails, so that nothing is lost. Pre-LN (4 layers) trained at every rate up to .16.

    Where 85% of the seeds fail after the short warmup and 15% after the long one, 24 seeds each reproduce a claim with
    a power of .94 at the stricter step of Holm's correction (18 of 24 have to be on its side). Of 20,000 simulated null
    experiments, where a coin decides which seeds fail, 1.3% reproduced the first claim and less than .1% the second.

    `accelerator` and `paper` are reasoned, not piloted: the published architectures at a few times the rate of the
    workload, warmups over orders of magnitude as published.

    Attributes:
      rate: at the peak.
      short: steps of the warmup that is too short.
      long: steps of the warmup that is long enough.
      drawn: further warmups, which are only drawn.
      steps: at the peak rate, at least twice `long`.
      replicates: paired seeds of the judged warmups.
      drawn_replicates: seeds of the others.
      curvature_examples: batch of the sharpness.
      curvature_steps: when it is measured, of one seed of the judged warmups; those of the longest run.
      workload: fields of the workload that are set.
      batch_size: examples per step; that of the workload if None.
    """

    rate: float
    short: int
    long: int
    drawn: tuple[int, ...]
    steps: int
    replicates: int
    drawn_replicates: int
    curvature_examples: int
    curvature_steps: tuple[int, ...]
    workload: Mapping[str, int]
    batch_size: int | None = None


_SMALL = {"layers": 3, "width": 32, "heads": 2, "mlp_width": 128, "length": 32}

_SETTINGS = {
    "smoke": _Settings(
        rate=0.03,
        short=2,
        long=6,
        drawn=(1,),
        steps=12,
        replicates=2,
        drawn_replicates=1,
        curvature_examples=4,
        curvature_steps=(0, 12),
        workload={},
    ),
    "laptop": _Settings(
        rate=0.0325,
        short=250,
        long=1000,
        drawn=(1, 60),
        steps=2000,
        replicates=24,
        drawn_replicates=2,
        curvature_examples=8,
        curvature_steps=(0, 50, 100, 150, 200, 250, 350, 500, 700, 1000, 1400, 2000, 3000),
        workload=_SMALL,
        batch_size=8,
    ),
    "accelerator": _Settings(
        rate=2e-3,
        short=100,
        long=4000,
        drawn=(1, 1000),
        steps=8000,
        replicates=12,
        drawn_replicates=2,
        curvature_examples=32,
        curvature_steps=(0, 100, 1000, 4000, 12_000),
        workload={},
        batch_size=64,
    ),
    "paper": _Settings(
        rate=5e-4,
        short=4000,
        long=40_000,
        drawn=(1, 1000, 10_000),
        steps=80_000,
        replicates=12,
        drawn_replicates=1,
        curvature_examples=64,
        curvature_steps=(0, 1000, 4000, 10_000, 40_000, 120_000),
        workload={},
    ),
}

_FAILS = (
    f"a run fails where the median loss of its last tenth is {LOST_RISE} nats or more over the minimum of its running "
    "median, or is not finite"
)
_STARTS_WELL = f"starts well where that median falls by {LOST_RISE} nats or more to its minimum"

SHORT = Claim(
    "warmup.too-short-diverges",
    "After too short a warmup training starts well, then diverges at or after the peak of the learning rate and stays "
    "there.",
    f"The share of seeds that start well and fail, and first rise so far at or after the end of the warmup, is above "
    f"{MOST} by an exact 95% interval; {_FAILS}, and {_STARTS_WELL}.",
)
LONG = Claim(
    "warmup.longer-is-stable",
    "After a longer warmup to the same peak training does not diverge, through at least twice the warmup at the peak "
    "rate.",
    f"The share of seeds that fail after the long warmup is below {MOST}, and after the short one above it, by exact "
    f"95% intervals; {_FAILS}, whether it started well or not.",
)


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = _SETTINGS[scale]
    size = workload_scale("transformer", scale)
    workload = configure(configure(size.workload, settings.workload), overrides)
    arm = Arm("pre_ln", {"normalization": "before"}) if control else Arm("post_ln", {"normalization": "after"})

    def study(name: str, warmups: Sequence[int], replicates: Sequence[int], curvature: bool = False) -> Study:
        return Study(
            name=name,
            workload=workload,
            arms=(arm,),
            points=[{"warmup_steps": steps} for steps in warmups],
            replicates=replicates,
            hyperparameters={**size.hyperparameters, "learning_rate": settings.rate},
            batch_size=settings.batch_size or size.batch_size,
            steps=settings.steps,
            evaluation_batch_size=size.evaluation_batch_size,
            optimizer=size.optimizer,
            curvature_examples=settings.curvature_examples if curvature else 0,
            curvature_steps=settings.curvature_steps if curvature else (0,),
        )

    judged = (settings.short, settings.long)
    return [
        study("judged", judged, range(settings.replicates)),
        study("drawn", settings.drawn, range(settings.drawn_replicates)),
        study("curvature", judged, [0], curvature=True),
    ]


def ends(records: Sequence[TrialRecord], warmup_steps: int) -> list[LostProgress]:
    """What became of each seed under a warmup, in the order of the seeds."""
    trials = [record for record in records if record.study != "curvature"]
    arms = {record.arm for record in trials}
    return [
        lost_progress(trial.curves["train_loss"])
        for arm in arms
        for trial in at(trials, arm, warmup_steps=warmup_steps).values()
    ]


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = _SETTINGS[scale]
    short, long = ends(records, settings.short), ends(records, settings.long)
    late = sum(end.lost and end.step >= settings.short for end in short)
    # A run that climbs from the start is not stable, though it loses nothing.
    too_short = share_above(sum(end.risen for end in short), len(short), MOST, 1.0)
    enough = share_below(sum(end.risen for end in long), len(long), MOST, 0.0)
    return [(SHORT, share_above(late, len(short), MOST, 1.0)), (LONG, every(enough, too_short))]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.during_warmup_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="instability-during-warmup",
    title="Too short a warmup lets a post-LN Transformer start well and then diverge",
    source="figure 6",
    figure="Training loss against step under warmups of several lengths to the same peak rate, published landmarks "
    "faint behind; the same around the failures, from the end of the warmup; when each seed fails, in units of its "
    "warmup; Adam's preconditioned sharpness along training with its stability threshold.",
    claims=(SHORT, LONG),
    control="Pre-LN at the same rates and warmups: no run diverges, so the main claim is contradicted, and longer "
    "warmup mends nothing.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    flips=("model", "batch"),
)
