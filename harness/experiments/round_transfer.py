"""What a short round of tuning says of a long one, by the playbook's tiers, and how its schedule is lengthened.

    playbook reproduce round-transfer              about 4 minutes on 2 CPU cores
    playbook reproduce round-transfer --control    about 1 minute

The playbook says (L619-678): where compute bounds the training, tune in short runs first, then run few good points for
long. What a short run finds carries over by tiers: what resolves early instability very likely (warmup length), the
architecture likely, the optimizer's hyperparameters loosely, the learning-rate schedule hardly ever perfectly. It
speculates that the added steps should extend the time at a high rate: the decay of a linear schedule keeps its length
and the constant phase before it grows; a cosine schedule is stretched. It has no figure. The figure to expect: the
regret of what the short round chose falls tier by tier, and the best base rate falls from the short round to the long.

Each part of the plan tunes one kind of hyperparameter, over the same candidates in both rounds; every round has seeds
of its own. The best of the short round and the best of the long one are trained for long on fresh seeds, which alone
are judged. *Regret* is the loss of the former minus that of the latter, in units of trial standard deviation. Where
both rounds choose alike it is 0 by definition.

The schedule is chosen once, by median loss over the seeds of a round, and the seeds are what is replicated. In every
other part it is the choice: that two rounds choose alike may be luck, which more fresh seeds do not show. There each
replicate is a *tuning* of its own: a short and a long round of one trial per candidate, on a seed of its own each, and
a fresh seed for the two choices. The long round chooses by as many trials as the short one, since
that is what tuning in long runs would have chosen; a single choice for all, by more seeds, would be better, but its own
luck would be shared by all tunings, and the interval would not see it. A claim holds where more than half of the
tunings lose less than the threshold and the mean regret is under it. The first keeps luck with two candidates, which
agree in half of the tunings, from passing; the second what loses seldom but much.

That rule is not the first: the other parts too were chosen once, and judged by the mean over fresh seeds. Where both
rounds chose alike that was the judgement of twelve zeros, reproduced whatever the chance of choosing alike.

- *schedule*: family by base rate. The base rate belongs to it, since L659 warns of choosing rates shortsightedly. In
  the long round each schedule of the short one is lengthened in two ways, extended as above and stretched, and has to
  lose in both, so that the claim does not hang on the speculation; the long round chooses among all of these.
- *warmup*: on a post-LN Transformer that too short a warmup keeps from training. Candidates end at a tenth of the long
  round (L1019), and at the length of the short one, which has to hold them. Where most long rounds choose the longest,
  or the shortest, what is best may lie beyond, and the claim is out of range (`EDGE`). Warmup and schedule share a
  fixed number of steps; if warmup were prepended, longer would mean more training. Which warmup is needed depends on
  the rate, which is the same in both rounds.
- *normalization* and *depth*: two choices of architecture, the latter at about the same number of parameters.
- *optimizer*: beta1 by beta2 of Adam.

The last three are at the base rate that suits linear decay in each round, and with the constant phase extended, as the
schedule is to be tuned again anyhow. `harness.studies.transfer` has the tiers and the rule of lengthening.

`transfer.extend-constant-phase` is about running the short round's point for long, at its own base rate;
`transfer.extend-retuned`, a claim of ours, about the same with the base rate tuned again in the long round.

The control takes away the difference in length: both rounds are long. It was written down beforehand that the regret of
the schedule is then the same as 0, which contradicts the main claim.

What differs at `laptop` from a published training: a Transformer of 2 layers and width 32 on windows of 32 characters,
and 100 against 800 steps, at both of which the loss still falls. Settings come from pilot seeds, which no verdict uses.

Found at `laptop`, seeds 0 and 1: the short round's best schedule, linear decay from .0145, loses 2.8 and 2.9 trial
standard deviations (.04 nats) to the long round's best where it is stretched, and 4.6 and 4.7 where its constant phase
is extended, since the best rate is .0066 there; so the schedule does not transfer. The other parts, at seed 1: every
one of the 15 tunings chooses the wider layer, and 80 steps of warmup, in both rounds. That is the longest candidate, so
that the warmup is out of range; longer ones, beyond a tenth of the long round, would be better still by the pilots. No
normalization wins in all long rounds and in 12 short ones; the other 3 lose 1.7 to 3.0 by normalizing before, .5 on
average, but up to 1.5 by the interval, which leaves the architecture undecided. The optimizer is chosen alike in 5
tunings only; yet none loses more than 1.4, .2 on average, so that it carries over, loosely. At the rate of the short
round the constant phase extended is worse than the decay stretched, by 1.8 of linear decay at both seeds, 1.9 and 1.2
of square-root decay: a high rate that suited 100 steps is kept for 700 more. The speculation is contradicted as it
stands at seed 1, and undecided at seed 0, since other claims are undecided and leave it a stricter level; before
tunings were judged one by one it was contradicted at both; at seed 2, fresh, it is again, by 2.1 [1.6, 2.5], and the
other five verdicts are the same. At seed 0 the other parts have the same verdicts, the architecture's worst mean is .4
and up to 1.4 by the interval, and 14 of 15 tunings lose little by the optimizer. With the rate tuned again it holds:
extended is better by 1.9 of linear and 5.3 of square-root decay at both seeds. Control at seed 0: both rounds choose
linear decay from .0066, regret 0, and the main claim is contradicted, as written down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.analysis.trial_table import at, paired_differences
from harness.experiments.experiment import Experiment
from harness.experiments.transfer_settings import (
    DEPTH,
    FRESH,
    LONG,
    NORMALIZATION,
    OPTIMIZER,
    SCHEDULE,
    SETTINGS,
    SHORT,
    WARMUP,
    Candidate,
    candidates,
    parts_of,
)
from harness.experiments.verdict import Judgement, every, larger, no_worse, out_of_range, same, share_above
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from harness.studies.transfer import KEPT
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TUNED = 2
"""Points of the short round that have to lose for the schedule not to transfer: the best alone may be a lucky one."""

DELTA = 1.0
"""Regret, in units of trial spread, from which on it matters: what one seed more or less does to a trial."""

LOOSE = 2.0
"""The same of the optimizer's hyperparameters, which the playbook expects to transfer loosely (L651)."""

HALF = 0.5
"""Share of tunings that have to lose little. Of two candidates as many are chosen alike by luck."""

STATED = 0.9
"""Share of tunings with little regret that the power is for."""

EDGE = 0.5
"""Share of long rounds that choose the same end of the warmups, above which the claim on them is out of range."""


_REGRET = (
    "paired differences in final validation loss in the long round, on fresh seeds, the short round's best minus the "
    "long round's best, both chosen by median loss on other seeds, in units of trial standard deviation"
)
_TYPICAL = (
    "Over independent tunings, each a short and a long round of one trial per candidate on seeds of its own, lower 95% "
    "limit of the share that loses less than {0:g} trial standard deviations above one half, and upper limit of the "
    "mean loss under {0:g}; what a tuning loses is the difference in final validation loss in the long round, on a "
    "fresh seed, the short round's choice minus the long round's"
)

SCHEDULE_DOES_NOT = Claim(
    "transfer.schedule-does-not",
    "The best learning-rate schedule of a short training is not the best of a long one: tuned again it does better.",
    f"Lower limits of the {_REGRET}, above {DELTA:g} for each of the short round's {TUNED} best, however lengthened, "
    "with its constant phase extended and stretched; contradicted only by the best.",
)
WARMUP_CARRIES = Claim(
    "transfer.warmup-carries",
    "The warmup length that resolves early instability in a short training does in a long one.",
    f"{_TYPICAL.format(DELTA)}. Out of range where more than half of the long rounds choose the longest candidate, or "
    "the shortest.",
)
ARCHITECTURE = Claim(
    "transfer.architecture-likely",
    "The architecture that wins in a short training, by the place of its normalization or by its depth, does about as "
    "well in a long one as what wins there.",
    f"{_TYPICAL.format(DELTA)}; of both.",
)
OPTIMIZER_SOMEWHAT = Claim(
    "transfer.optimizer-somewhat",
    "The optimizer's hyperparameters of a short training do about as well in a long one as those tuned in it.",
    f"{_TYPICAL.format(LOOSE)}.",
)
EXTEND = Claim(
    "transfer.extend-constant-phase",
    "To lengthen a training with linear or square-root decay, one may keep the rate and the length of the decay and "
    "extend the constant phase, rather than stretch the decay.",
    "For both decays, upper limits of the paired differences in final validation loss on fresh seeds, extended minus "
    f"stretched, at the short round's best rate, under {DELTA:g} trial standard deviation.",
)
EXTEND_RETUNED = Claim(
    "transfer.extend-retuned",
    "With the base rate tuned again in the long training, the constant phase extended does no worse than the decay "
    "stretched.",
    "As transfer.extend-constant-phase, each at its own best rate of the long round, chosen on other seeds.",
)
CONTROL = Claim(
    "transfer.control-same",
    "Between rounds of equal length the best schedule of the first does as well as that of the second.",
    f"90% interval of the {_REGRET}, within plus or minus {DELTA:g}.",
)


def _studies_of(
    part: str,
    round_: str,
    chosen: Sequence[Candidate],
    replicates: Sequence[int],
    scale: str,
    overrides: Mapping[str, str],
    suffix: str = "",
) -> list[Study]:
    """A study for each number of steps among candidates of a part, in the order of their first."""
    settings, size = SETTINGS[scale], workload_scale("transformer", scale)
    by_steps: dict[int, list[Candidate]] = {}
    for candidate in chosen:
        by_steps.setdefault(candidate.steps, []).append(candidate)
    return [
        Study(
            name=f"{part}-{round_}" + (f"-{own[0].name.split()[0]}" if part == WARMUP else "") + suffix,
            workload=configure(configure(size.workload, settings.fields), overrides),
            arms=tuple(
                Arm(
                    candidate.name,
                    workload=candidate.fields,
                    hyperparameters=candidate.hyperparameters,
                    fields={"schedule": candidate.schedule},
                )
                for candidate in own
            ),
            points=({},),
            replicates=replicates,
            hyperparameters={**size.hyperparameters, "warmup_steps": settings.warmup_steps},
            batch_size=settings.batch_size or size.batch_size,
            steps=steps,
            evaluation_batch_size=settings.evaluation_batch_size or size.evaluation_batch_size,
            optimizer=size.optimizer,
        )
        for steps, own in by_steps.items()
    ]


def seeds_of(part: str, round_: str, scale: str) -> range:
    """Replicates of a round; no two rounds of a part share one, as the seeds of a next round are new.

    Of a simple part, which is any but the schedule's, each tuning has one in every round, in order.
    """
    settings = SETTINGS[scale]
    counts = dict.fromkeys((SHORT, LONG, FRESH), settings.tunings)
    if part == SCHEDULE:
        counts = {**settings.selection, FRESH: settings.judged}
    before = sum(count for other, count in counts.items() if list(counts).index(other) < list(counts).index(round_))
    return range(before, before + counts[round_])


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    return [
        study
        for part in parts_of(control)
        for round_ in (SHORT, LONG)
        for study in _studies_of(
            part,
            round_,
            list(candidates(part, round_, scale, control).values()),
            seeds_of(part, round_, scale),
            scale,
            overrides,
        )
    ]


def _judging(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The last round: winners of the short round in the long one, and those of the long, on fresh seeds."""
    studies = []
    for part in parts_of(control):
        known = candidates(part, LONG, scale, control)
        if part != SCHEDULE:
            for tuning, (pair, seed) in enumerate(paired_with_fresh(records, part, scale)):
                if pair.short != pair.long:  # else the regret is 0 whatever the trials
                    own = [known[name] for name in pair]
                    studies += _studies_of(part, FRESH, own, [seed], scale, overrides, f"-{tuning}")
            continue
        names = [way for ways in carried(records, scale, control) for way in ways]
        names.append(ranking(records, part, LONG, scale)[0])
        if not control:
            names += [name for pair in extensions(records, scale).values() for both in pair for name in both]
        own = [known[name] for name in dict.fromkeys(names)]
        studies += _studies_of(part, FRESH, own, seeds_of(part, FRESH, scale), scale, overrides)
    return studies


def loss(record: TrialRecord, scale: str) -> float:
    """The final validation loss, nats; an infeasible trial counts with that of guessing among all symbols."""
    if record.status == "complete":
        return record.results["final_loss"]
    return float(np.log(workload_scale("transformer", scale).workload.classes))


def in_round(records: Sequence[TrialRecord], part: str, round_: str) -> list[TrialRecord]:
    """The trials of a part in a round."""
    return [record for record in records if f"{record.study}-".startswith(f"{part}-{round_}-")]


def losses(records: Sequence[TrialRecord], part: str, round_: str, scale: str) -> dict[str, np.ndarray]:
    """Candidate to final validation losses over the seeds of a round, nats, float64 (seeds,)."""
    own = in_round(records, part, round_)
    names = dict.fromkeys(record.arm for record in own)
    return {name: np.array([loss(trial, scale) for trial in at(own, name).values()]) for name in names}


def ranking(records: Sequence[TrialRecord], part: str, round_: str, scale: str) -> list[str]:
    """The candidates of a round that chooses, the best first, by median loss over its seeds: one may have diverged."""
    medians = {name: float(np.median(own)) for name, own in losses(records, part, round_, scale).items()}
    return sorted(medians, key=medians.__getitem__)


class Choice(NamedTuple):
    """Of a tuning of a simple part, the candidate that each of its rounds chooses."""

    short: str
    long: str


def choices(records: Sequence[TrialRecord], part: str, scale: str) -> list[Choice]:
    """What every tuning of a simple part chooses: the lowest loss on the seed of a round, the first of equal ones."""
    by_round = []
    for round_ in (SHORT, LONG):
        found = losses(records, part, round_, scale)
        names = [name for name in candidates(part, round_, scale, control=False) if name in found]
        best = np.argmin([found[name] for name in names], axis=0)
        by_round.append([names[index] for index in best])
    return [Choice(*pair) for pair in zip(*by_round, strict=True)]


def paired_with_fresh(records: Sequence[TrialRecord], part: str, scale: str) -> list[tuple[Choice, int]]:
    """Of every tuning of a simple part its choices and the fresh replicate on which they are compared."""
    return list(zip(choices(records, part, scale), seeds_of(part, FRESH, scale), strict=True))


def lengthened(name: str, scale: str, control: bool) -> list[str]:
    """What a schedule of the short round may become in the long one: extended, as the playbook says, and stretched."""
    family, rate = name.rsplit(" ", 1)
    known = candidates(SCHEDULE, LONG, scale, control)
    return [other for other in (f"{family} extended {rate}", name) if other in known]


def carried(records: Sequence[TrialRecord], scale: str, control: bool) -> list[list[str]]:
    """The schedules of the long round that the best of the short one become: the best first, each with all its ways."""
    return [lengthened(name, scale, control) for name in ranking(records, SCHEDULE, SHORT, scale)[:TUNED]]


def extensions(records: Sequence[TrialRecord], scale: str) -> dict[str, list[tuple[str, str]]]:
    """For each of `KEPT` the pairs of candidates (extended, stretched): at the short round's rate, and each at its own.

    The short round's rate is the best of that family in it; the others are the best of each in the long round.
    """
    found = {}
    for family in KEPT:
        short = next(name for name in ranking(records, SCHEDULE, SHORT, scale) if name.startswith(f"{family} "))
        ranked = ranking(records, SCHEDULE, LONG, scale)
        extended = next(name for name in ranked if name.startswith(f"{family} extended "))
        stretched = next(
            name for name in ranked if name.startswith(f"{family} ") and not name.startswith(f"{family} extended ")
        )
        pair = lengthened(short, scale, control=False)
        found[family] = [(pair[0], pair[-1]), (extended, stretched)]
    return found


def excess(records: Sequence[TrialRecord], part: str, name: str, other: str, scale: str) -> np.ndarray:
    """Loss of a candidate minus that of another on fresh seeds, in units of trial spread, float64 (seeds,)."""
    settings, own = SETTINGS[scale], in_round(records, part, FRESH)
    spread = settings.warmup_spread if part == WARMUP else settings.spread
    return paired_differences(at(own, name), at(own, other), partial(loss, scale=scale)) / spread


def schedule_regrets(records: Sequence[TrialRecord], scale: str, control: bool) -> list[dict[str, np.ndarray]]:
    """What the best schedules of the short round lose in the long one against its own best.

    Returns:
      For each of `carried`, candidate to `excess`.
    """
    best = ranking(records, SCHEDULE, LONG, scale)[0]
    return [
        {name: excess(records, SCHEDULE, name, best, scale) for name in ways}
        for ways in carried(records, scale, control)
    ]


def regrets(records: Sequence[TrialRecord], part: str, scale: str) -> np.ndarray:
    """What each tuning of a simple part loses by its short round, in units of trial spread, float64 (tunings,).

    It is that on the tuning's fresh seed, and 0 where both of its rounds choose alike.
    """
    found = []
    for (short, long), seed in paired_with_fresh(records, part, scale):
        own = [record for record in records if record.replicate == seed]
        found.append(0.0 if short == long else float(excess(own, part, short, long, scale)[0]))
    return np.array(found)


def does_not_transfer(by_rank: Sequence[Sequence[np.ndarray]], stated: float | None = None) -> Judgement:
    """Judges that the schedule of the short round loses in the long one.

    Args:
      by_rank: of the short round's best points, the best first, for each way to lengthen it the regrets on fresh seeds,
        in units of trial spread.
      stated: regret that the power is for, in the same units.

    Returns:
      Reproduced where all lose more than `DELTA`; contradicted where the best of the short round does not, in one way.
    """
    ranks = [[larger(regret, DELTA, stated) for regret in ways] for ways in by_rank]
    return dataclasses.replace(
        every(*(part for parts in ranks for part in parts)), p_against=every(*ranks[0]).p_against
    )


def carries_over(regret: np.ndarray, delta: float) -> Judgement:
    """Judges that tunings lose less than delta, typically and on average, from the regrets of all, (tunings,)."""
    typically = share_above(int(np.count_nonzero(regret < delta)), len(regret), HALF, STATED)
    return every(typically, no_worse(regret, delta))


def warmup_out_of_range(chosen: Sequence[Choice], scale: str) -> bool:
    """Whether most long rounds choose the longest warmup, or most the shortest, so that what is best may lie beyond."""
    names = list(candidates(WARMUP, LONG, scale, control=False))
    return any(np.mean([pair.long == end for pair in chosen]) > EDGE for end in (names[0], names[-1]))


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    by_rank = [list(ways.values()) for ways in schedule_regrets(records, scale, control)]
    schedule = does_not_transfer(by_rank, SETTINGS[scale].stated)
    if control:
        return [(SCHEDULE_DOES_NOT, schedule), (CONTROL, same(by_rank[0][0], DELTA))]

    warmup, normalization, depth, optimizer = (
        carries_over(regrets(records, part, scale), LOOSE if part == OPTIMIZER else DELTA)
        for part in (WARMUP, NORMALIZATION, DEPTH, OPTIMIZER)
    )
    if warmup_out_of_range(choices(records, WARMUP, scale), scale):
        warmup = out_of_range(warmup.effect, warmup.delta, warmup.n)
    pairs = list(extensions(records, scale).values())
    at_short, at_own = (
        every(*(no_worse(excess(records, SCHEDULE, *both[which], scale), DELTA, 0.0) for both in pairs))
        for which in range(2)
    )
    return [
        (SCHEDULE_DOES_NOT, schedule),
        (WARMUP_CARRIES, warmup),
        (ARCHITECTURE, every(normalization, depth)),
        (OPTIMIZER_SOMEWHAT, optimizer),
        (EXTEND, at_short),
        (EXTEND_RETUNED, at_own),
    ]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.transfer_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="round-transfer",
    title="What a short round of tuning says of a long one, and how the schedule is lengthened",
    source="deciding how long to train when training is bound by compute",
    figure="Validation loss against base rate of every schedule in the short and in the long round, the best starred; "
    "regret of the short round's winners in the long one by tier, one dot a fresh seed for schedules and a tuning for "
    "the rest; extended against stretched schedules; loss against warmup length, with how often each is chosen; losses "
    "of architectures and optimizer settings in both rounds.",
    claims=(SCHEDULE_DOES_NOT, WARMUP_CARRIES, ARCHITECTURE, OPTIMIZER_SOMEWHAT, EXTEND, EXTEND_RETUNED),
    control="Both rounds are of the long one's length: the first round's schedule is as good as the second's, and the "
    "main claim is not reproduced.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_judging,),
)
