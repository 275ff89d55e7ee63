"""Tuned apart, a small and a large batch reach the same error; the settings of one do not suit the other.

    playbook reproduce batch-size-retuning              about 4 minutes on 2 CPU cores
    playbook reproduce batch-size-retuning --control    about 1 minute

The playbook says: a change of the batch size alone often changes the validation error, but the difference goes away
where the pipeline is optimised for each batch size; what interacts with it most are the hyperparameters of the
optimizer and of regularisation; the noise of small batches can regularise, so that larger batches are more prone to
overfitting and may need stronger regularisation or further techniques of it; the number of steps may have to be
adjusted too. It shows no figure of this. The figure to expect: the valley of the larger batch lies at a higher learning
rate and a stronger weight decay; at the decay of the smaller batch its training loss is far lower and its error higher.

There are two pipelines. In the plain one, weight decay alone regularises, and with the learning rate is searched. In
the full one, label smoothing is searched too, as a further technique of regularisation. Either is searched for both
batch sizes at the same quasi-random points and seeds, so that nothing but the batch size can move the winners. Each
search is made anew many times, with points and seeds of its own: these searches are the units that are judged. The
second round retrains on fresh seeds the winners, and at the large batch size the plain winner with the weight decay of
the small one's. The median over these seeds counts.

The main claim is judged on the full pipeline, the others on the plain one. In pilots the plain one left a difference of
.0044, seven tenths of the trial standard deviation, which the full one took away; it is drawn, not judged.

The control judges the main claim on the plain pipeline, so that it takes away both the tuning and the smoothing: it
shows that equality is not found where the large batch is not tuned, not that in the full pipeline it is tuning that
brings it. There the small batch's decay and smoothing may do for the large one as well (see `Settings`), which leaves
less for a control to show. A control on the full pipeline has not been run.

What seeds 0 and 1 showed at `laptop`: all four claims are reproduced, at either. The typical difference between the
batch sizes is .0006 and -.0018 in the full pipeline and .0061 and .0054 in the plain one: with weight decay alone the
large batch stays behind by about a trial standard deviation, so that what the playbook says takes a further technique
of regularisation here. With the small batch's decay it is .036 and .034 worse on average. Its winners' rates are 5.7
and 2.5 times as large, their decays 2.0 and 2.1 times.

Equal steps, not equal epochs, and so many that twice as many change neither best error; see `Settings`. At equal epochs
a batch that is 16 times as large has 16 times fewer steps, and would be judged on its underfitting. Its rate is not
tuned again for the smaller decay: the best one is then low, which at equal steps is early stopping, a regularisation
too.

What is trained is a small fully connected network on 1,000 digits with a fifth of the labels replaced, where training
to the end does overfit, since this takes two thousand trials. The momentum is .9 throughout.

Errors are judged by the typical search, as the playbook says that the difference "typically" goes away: by the shares
of searches on either side of a threshold, against one half, which is the exact interval of the median and holds for
every distribution. What the choice of a winner costs is skewed. The interval of the mean, with a true mean at the
margin, was falsely found within it in 11% of 2,000 null experiments with lognormal costs that differ in spread, and in
23% where one winner in twenty fails by .05; nominal are 5%.

A claim is out of range where the winners of more than half of its searches at a batch size lie at the same end of the
searched space (`EDGE`).

Settings come from pilot seeds, which no verdict uses; see `Settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.analysis.trial_table import final_error
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, out_of_range, share_above
from harness.records import Claim, TrialRecord, Verdict
from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT, FROZEN = "kept", "frozen"
"""Arms at the large batch size: its plain winner with the small one's weight decay, and all that the small one's winner
has. The second is the control's."""

EDGE, OUTER = 0.5, 0.1
"""Share of searches whose winners lie in the outer part of the space at one end, a tenth of it, above which nothing is
judged. By chance a tenth of them would."""

HALF = 0.5
"""Share of searches that the typical one belongs to: the interval of a median against a threshold is that of the share
beyond it against one half."""

LATE = 0.1
"""Share of the steps, the last ones, over which the training loss is averaged: a batch of 8 alone says little."""

MOVED = 0.0
"""Log2 ratio of large to small that a hyperparameter's best value has to exceed. At the same points nothing but the
batch size can move it, so that any move counts; the interval says how far it is."""

_FRESH = 1_000  # replicates from here on are seeds that no search used


class Pipeline(NamedTuple):
    """What is tuned apart for either batch size.

    Attributes:
      arms: of the small and of the large batch size, whose searches and retrained winners have these names.
      searched: names of the hyperparameters.
      searches: independent searches at either batch size.
      trials: of each search.
    """

    arms: tuple[str, str]
    searched: tuple[str, ...]
    searches: int
    trials: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots, on the pilot range of seed 0. Grids at batches of 8 and 128: with weight decay alone the lowest errors
    were .123 (rate .02, decay .0085) and .130 (.12, .016); with twice the steps .132 and .134 instead of .130 and .133,
    over 3 other seeds. At a batch of 8 a rate from .1 on diverges.
    Plain pipeline, 12 searches of 20 trials: errors .1257 and .1301, with a standard deviation of the difference of
    .0054; with the small batch's decay .1735, its training loss lower in all 12; rates and decays of the winners 2.9
    and 2.7 times as large. What searches of 60 trials would reach, by a surface fitted to all of these, is .1254 and
    .1300: it is not too few trials that leave a difference.
    Full pipeline, 8 searches of 26 trials with smoothings up to .6: .1144 and .1121, standard deviation .0028, half of
    the winners near the high end; of 32 trials up to .8: .1145 and .1113, standard deviation .0024. Then again 4
    searches of both pipelines: .1237 and .1270; .1118 and .1099, three of four winners at the high end of the
    smoothing, which was widened. With smoothings fixed at .3, 8 searches gave .1147 and .1182.
    The trial standard deviation of the full pipeline's winners is .0064 over its 20 searches. Where 85% of searches lie
    within it either way, 24 searches reproduce equality with a power of .93; the others' power is over .99 with 16.

    In the full pipeline the decay and smoothing of the small batch may do for the large one as well: of the 8 searches
    with smoothings up to .8, the large batch's error was then higher in 5, and by more than .006 in 4; with smoothings
    up to .6 in all of 8. So strong a regularisation leaves little for the noise of small batches to do. Hence the
    claims on overfitting are judged on the plain pipeline.

    A ResNet 8 of width 8 on the same digits with two fifths of the labels replaced, 800 steps and the virtual batch
    size of the norms fixed, one seed a point: .138 at a batch of 16 (rate .2, decay .005) and .140 at 64 (.3, .1),
    where a decay of .005 gave .343 (.1, two seeds). It takes 1.7 and 2.8 seconds a trial, too long for searches as
    units.

    `accelerator` and `paper` are reasoned, not piloted.

    Attributes:
      workload: name and scale.
      fields: of the workload that are set.
      sizes: the small and the large batch size.
      steps: of every trial.
      rates: ends of the searched learning rates.
      decays: ends of the searched weight decays.
      smoothings: ends of the searched label smoothings, from 0.
      plain: searches of the plain pipeline, and trials of each.
      full: of the full pipeline.
      fresh: seeds on which a winner is retrained; odd, for the median.
      delta: trial standard deviation.
      optimizer: update rule with momentum.
    """

    workload: tuple[str, str]
    fields: Mapping[str, float]
    sizes: tuple[int, int]
    steps: int
    rates: tuple[float, float]
    decays: tuple[float, float]
    smoothings: tuple[float, float]
    plain: tuple[int, int]
    full: tuple[int, int]
    fresh: int
    delta: float
    optimizer: str = "heavy_ball"


NOISY = {"training_examples": 1000, "label_noise": 0.2}
"""Fields of workloads on embedded data: a task that can be overfitted."""

SETTINGS = {
    "smoke": Settings(
        workload=("mlp", "smoke"),
        fields=NOISY,
        sizes=(8, 64),
        steps=40,
        rates=(0.006, 0.4),
        decays=(5e-4, 3e-2),
        smoothings=(0.0, 0.9),
        plain=(2, 3),
        full=(2, 3),
        fresh=1,
        delta=0.0064,
    ),
    "laptop": Settings(
        workload=("mlp", "laptop"),
        fields={**NOISY, "validate_on_rest": True},
        sizes=(8, 128),
        steps=2000,
        rates=(0.006, 0.4),
        decays=(5e-4, 3e-2),
        smoothings=(0.0, 0.9),
        plain=(16, 20),
        full=(24, 30),
        fresh=5,
        delta=0.0064,
    ),
    "accelerator": Settings(
        workload=("resnet", "accelerator"),
        fields={"depth": 18, "side": 32, "label_noise": 0.2, "virtual_batch_size": 16},
        sizes=(16, 256),
        steps=1900,
        rates=(0.003, 0.3),
        decays=(1e-4, 1e-2),
        smoothings=(0.0, 0.9),
        plain=(12, 12),
        full=(20, 16),
        fresh=3,
        delta=0.01,
    ),
    "paper": Settings(
        workload=("resnet", "paper"),
        fields={"virtual_batch_size": 64},
        sizes=(256, 4096),
        steps=186_667,
        rates=(0.05, 5.0),
        decays=(3e-6, 3e-4),
        smoothings=(0.0, 0.4),
        plain=(12, 16),
        full=(20, 20),
        fresh=3,
        delta=0.002,
        optimizer="nesterov",
    ),
}

_CHOSEN = "Over independent searches with winners retrained on fresh seeds and medians over these"

SAME = Claim(
    "retune.same-best-error",
    "Tuned apart, a small and a large batch typically reach the same validation error.",
    f"{_CHOSEN}, by exact 95% intervals of the shares of searches whose paired difference in final error, large minus "
    f"small batch size, is under the trial standard deviation, and above minus it: both lower limits above {HALF}.",
)
MOVES = Claim(
    "retune.optimum-moves",
    "The best learning rate of the large batch is higher.",
    f"Over independent searches, lower limit of the log2 ratio of the winners' learning rates, large to small batch "
    f"size and searched at the same points, above {MOVED:g}.",
)
OVERFITS = Claim(
    "retune.large-batch-overfits",
    "Without more regularisation than suits the small batch the large one typically overfits.",
    f"{_CHOSEN}, the winner at the large batch size with the weight decay of the small one's, against the small one's: "
    f"the shares of searches in which its final error is higher, and its training loss lower, have both lower 95% "
    f"limits above {HALF}.",
)
STRONGER = Claim(
    "retune.stronger-regularisation",
    "The best weight decay of the large batch is stronger.",
    f"Over independent searches, lower limit of the log2 ratio of the winners' weight decays, large to small batch "
    f"size and searched at the same points, above {MOVED:g}.",
)
CONTROL = Claim(
    "retune.control-differs",
    "With all hyperparameters of the small batch the large one typically does worse.",
    f"{_CHOSEN}, the share of searches in which the final error at the large batch size exceeds that at the small "
    f"one, both with the small one's winner, by more than the trial standard deviation has its lower 95% limit above "
    f"{HALF}.",
)


class Fresh(NamedTuple):
    """Medians over fresh seeds of an arm, for every search.

    Attributes:
      error: final validation error, float64 (searches,).
      training_loss: in nats, without weight decay, float64 (searches,).
    """

    error: np.ndarray
    training_loss: np.ndarray


def plain_of(settings: Settings) -> Pipeline:
    """The pipeline that weight decay alone regularises."""
    return Pipeline(("small", "large"), ("learning_rate", "weight_decay"), *settings.plain)


def full_of(settings: Settings) -> Pipeline:
    """The pipeline with label smoothing."""
    searched = ("learning_rate", "weight_decay", "label_smoothing")
    return Pipeline(("small_smoothed", "large_smoothed"), searched, *settings.full)


def space_of(settings: Settings, pipeline: Pipeline) -> Space:
    """The space that both batch sizes are searched in."""
    axes = (
        Hyperparameter("learning_rate", *settings.rates, "log"),
        Hyperparameter("weight_decay", *settings.decays, "log"),
        Hyperparameter("label_smoothing", *settings.smoothings),
    )
    return Space(tuple(axis for axis in axes if axis.name in pipeline.searched))


def study_of(arm: str, search: int, purpose: str) -> str:
    """Name of a study; its purpose is `search` or `fresh`."""
    return f"{arm}-{purpose}-{search}"


def _study(
    settings: Settings,
    arm: str,
    search: int,
    purpose: str,
    points: Sequence[Mapping[str, float]],
    overrides: Mapping[str, str],
) -> Study:
    scale = workload_scale(*settings.workload)
    # Fresh seeds of a search are the same for every arm, which pairs them.
    first = search if purpose == "search" else _FRESH + search * settings.fresh
    return Study(
        name=study_of(arm, search, purpose),
        workload=configure(configure(scale.workload, settings.fields), overrides),
        arms=(Arm(arm),),
        points=points,
        replicates=range(first, first + (1 if purpose == "search" else settings.fresh)),
        hyperparameters={"momentum": 0.9, "warmup_steps": 0},
        batch_size=settings.sizes[0 if arm.startswith("small") else 1],
        steps=settings.steps,
        evaluation_batch_size=scale.evaluation_batch_size,
        optimizer=settings.optimizer,
        schedule="cosine",
    )


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = SETTINGS[scale]
    plain, full = plain_of(settings), full_of(settings)
    return [
        _study(
            settings,
            arm,
            search,
            "search",
            sample(space_of(settings, pipeline), "halton", search, pipeline.trials),
            overrides,
        )
        for pipeline, arms in ([(plain, plain.arms[:1])] if control else [(plain, plain.arms), (full, full.arms)])
        for arm in arms
        for search in range(pipeline.searches)
    ]


def _retrain(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The second round: winners, and what is held against them, on fresh seeds."""
    settings = SETTINGS[scale]
    plain, full = plain_of(settings), full_of(settings)
    small, large = ({} if control and arm != "small" else _winners(records, plain, arm) for arm in plain.arms)
    if control:
        found = {"small": small, FROZEN: small}
    else:
        kept = [{**its, "weight_decay": other["weight_decay"]} for its, other in zip(large, small, strict=True)]
        found = {"small": small, "large": large, KEPT: kept, **{arm: _winners(records, full, arm) for arm in full.arms}}
    return [
        _study(settings, arm, search, "fresh", [point], overrides)
        for arm, points in found.items()
        for search, point in enumerate(points)
    ]


def error(record: TrialRecord) -> float:
    """Final validation error; an infeasible trial counts with chance error."""
    return final_error(record, _classes(record))


def training_loss(record: TrialRecord) -> float:
    """Mean of the training loss over the last steps, in nats; an infeasible trial counts with that of chance."""
    if record.status != "complete":
        return float(np.log(_classes(record)))
    losses = record.curves["train_loss"]
    return float(np.mean(losses[-max(1, round(LATE * len(losses))) :]))


def _classes(record: TrialRecord) -> int:
    return 1000 if record.hyperparameters.get("workload.dataset") == "imagenet2012" else 10


def _winners(records: Sequence[TrialRecord], pipeline: Pipeline, arm: str) -> list[dict[str, float]]:
    """The points with the lowest error of every search."""
    by_study = _by_study(records)
    best = [min(by_study[study_of(arm, search, "search")], key=error) for search in range(pipeline.searches)]
    return [{name: trial.hyperparameters[name] for name in pipeline.searched} for trial in best]


def winners_of(records: Sequence[TrialRecord], pipeline: Pipeline, arm: str) -> dict[str, np.ndarray]:
    """The winners of every search of an arm, name to float64 (searches,)."""
    found = _winners(records, pipeline, arm)
    return {name: np.array([point[name] for point in found]) for name in pipeline.searched}


def fresh_of(records: Sequence[TrialRecord], pipeline: Pipeline, arm: str) -> Fresh:
    """Medians over the fresh seeds of an arm."""
    by_study = _by_study(records)
    trials = [by_study[study_of(arm, search, "fresh")] for search in range(pipeline.searches)]
    return Fresh(*(np.array([np.median([of(t) for t in group]) for group in trials]) for of in (error, training_loss)))


def _by_study(records: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    studies: dict[str, list[TrialRecord]] = {}
    for record in records:
        studies.setdefault(record.study, []).append(record)
    return studies


def crowded(settings: Settings, pipeline: Pipeline, winners: Mapping[str, np.ndarray]) -> list[str]:
    """The ends of the space, such as `learning_rate high`, at which more than `EDGE` of the winners lie.

    The low end of the smoothing, none of it, is not one that could be widened.
    """
    found = []
    for name, axis in space_of(settings, pipeline).items():
        places = np.array([axis.to_unit(value) for value in winners[name].tolist()])
        for end, share in (("low", np.mean(places < OUTER)), ("high", np.mean(places > 1 - OUTER))):
            if share > EDGE and (name, end) != ("label_smoothing", "low"):
                found.append(f"{name} {end}")
    return found


def log2_ratio(records: Sequence[TrialRecord], pipeline: Pipeline, name: str) -> np.ndarray:
    """Log2 ratio of the winners' values of a hyperparameter, large to small batch size, float64 (searches,)."""
    small, large = (winners_of(records, pipeline, arm)[name] for arm in pipeline.arms)
    return np.log2(large / small)


def _same(excess: np.ndarray, delta: float) -> Judgement:
    """Whether the typical difference lies within plus or minus delta; a tie with a margin lies outside."""
    return every(*(_most(side) for side in (excess < delta, excess > -delta)))


def _overfits(kept: Fresh, small: Fresh) -> Judgement:
    return every(_most(kept.error > small.error), _most(kept.training_loss < small.training_loss))


def _most(outcomes: np.ndarray) -> Judgement:
    """Whether most searches show an outcome, bool (searches,)."""
    return share_above(int(outcomes.sum()), len(outcomes), HALF, 0.9)


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    plain, full = plain_of(settings), full_of(settings)

    def within(pipeline: Pipeline, judged: Judgement) -> Judgement:
        arms = pipeline.arms[:1] if control else pipeline.arms
        if any(crowded(settings, pipeline, winners_of(records, pipeline, arm)) for arm in arms):
            return out_of_range(judged.effect, judged.delta, judged.n)
        return judged

    if control:
        small, frozen = (fresh_of(records, plain, arm).error for arm in ("small", FROZEN))
        excess = frozen - small
        return [
            (SAME, within(plain, _same(excess, settings.delta))),
            (CONTROL, within(plain, _most(excess > settings.delta))),
        ]
    small, large = (fresh_of(records, full, arm).error for arm in full.arms)
    overfits = _overfits(*(fresh_of(records, plain, arm) for arm in (KEPT, "small")))
    return [
        (SAME, within(full, _same(large - small, settings.delta))),
        (MOVES, within(plain, larger(log2_ratio(records, plain, "learning_rate"), MOVED, 1.0))),
        (OVERFITS, within(plain, overfits)),
        (STRONGER, within(plain, larger(log2_ratio(records, plain, "weight_decay"), MOVED, 0.5))),
    ]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.retuning_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="batch-size-retuning",
    title="Tuned apart, a small and a large batch reach the same error",
    source="changing the batch size; tuning the batch size to improve validation performance",
    figure="Errors of all trials of the searches without smoothing against learning rate and against weight decay, at "
    "either batch size; the winners in the searched space; errors on fresh seeds against training loss; the same by "
    "arm; paired differences of the searches with the margin of equality, without and with smoothing.",
    claims=(SAME, MOVES, OVERFITS, STRONGER),
    control="The large batch is not tuned: it is trained with everything that suits the small one in the plain "
    "pipeline, and does worse by more than the trial standard deviation, so that the main claim is contradicted. That "
    "claim itself is judged in the full pipeline, with label smoothing, where the small batch's regularisation may do "
    "for the large one as well; of that no control has been run.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_retrain,),
)
