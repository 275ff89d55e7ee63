"""Tuned apart, a small and a large batch reach the same error; the settings of one do not suit the other.

    playbook reproduce batch-size-retuning              about 3 minutes on 2 CPU cores
    playbook reproduce batch-size-retuning --control    about 1 minute

The playbook says: a change of the batch size alone often changes the validation error, but the difference goes away
where the pipeline is optimised for each batch size; what interacts with it most are the hyperparameters of the
optimizer and of regularisation; the noise of small batches can regularise, so that larger batches are more prone to
overfitting and may need stronger regularisation; the number of steps may have to be adjusted too. It shows no figure of
this. The figure to expect: the valley of the larger batch lies at a higher learning rate and a stronger weight decay,
and is as deep; at the decay of the smaller batch its training loss is far lower and its error higher.

Both batch sizes are searched over learning rate and weight decay, at the same quasi-random points and seeds, so that
nothing but the batch size can move the winners. The search is made anew many times, with points and seeds of its own:
these searches are the units that are judged. The second round retrains on fresh seeds the winner at either batch size,
and at the large one its winner with the weight decay of the small one's. The median over these seeds counts.

Equal steps, not equal epochs, and so many that both batch sizes have fitted what they can; see `Settings`. At equal
epochs a batch that is 16 times as large has 16 times fewer steps, and would be judged on its underfitting. Its rate is
not tuned again for the smaller decay: the best one is then low, which at equal steps is early stopping, a
regularisation too.

What is trained is a small fully connected network on 1,000 digits with a fifth of the labels replaced, where training
to the end does overfit, since this takes two thousand trials. The momentum is .9 throughout; at both batch sizes the
rate searched is in effect that over 1 - momentum.

Errors are judged by the typical search, as the playbook says that the difference "typically" goes away: by the shares
of searches on either side of a threshold, against one half, which is the exact interval of the median and holds for
every distribution. What the choice of a winner costs is skewed. The interval of the mean, with a true mean at the
margin, was falsely found within it in 11% of 2,000 null experiments with lognormal costs that differ in spread, and in
23% where one winner in twenty fails by .05; nominal are 5%.

A claim is out of range where the winners of more than half of the searches at a batch size lie at the same end of the
searched space (`EDGE`).

Settings come from pilot seeds, which no verdict uses; see `Settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.analysis.batch_scaling import is_on_edge
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

SIZES = ("small", "large")
"""The batch sizes by name, which are also the arms of the winners that are retrained."""

KEPT, FROZEN = "kept", "frozen"
"""Arms at the large batch size: its winner with the small one's weight decay, and all that the small one's winner has.
The second is the control's."""

EDGE = 0.5
"""Share of searches whose winners lie in the outer tenth of the space at one end, above which nothing is judged. By
chance a tenth of them would."""

HALF = 0.5
"""Share of searches that the typical one belongs to: the interval of a median against a threshold is that of the share
beyond it against one half."""

LATE = 0.1
"""Share of the steps, the last ones, over which the training loss is averaged: a batch of 8 alone says little."""

MOVED = 0.0
"""Log2 ratio of large to small that a hyperparameter's best value has to exceed. At the same points nothing but the
batch size can move it, so that any move counts; the interval says how far it is."""

_FRESH = 1_000  # replicates from here on are seeds that no search used


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    Attributes:
      workload: name and scale.
      fields: of the workload that are set.
      sizes: the small and the large batch size.
      steps: of every trial.
      rates: ends of the searched learning rates.
      decays: ends of the searched weight decays.
      searches: independent searches at either batch size.
      trials: of each search.
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
    searches: int
    trials: int
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
        rates=(0.006, 0.2),
        decays=(3e-3, 3e-2),
        searches=2,
        trials=3,
        fresh=1,
        delta=0.0085,
    ),
    "laptop": Settings(
        workload=("mlp", "laptop"),
        fields={**NOISY, "validate_on_rest": True},
        sizes=(8, 128),
        steps=2000,
        rates=(0.006, 0.2),
        decays=(3e-3, 3e-2),
        searches=24,
        trials=20,
        fresh=5,
        delta=0.0085,
    ),
    "accelerator": Settings(
        workload=("resnet", "accelerator"),
        fields={"depth": 18, "side": 32, "label_noise": 0.2, "virtual_batch_size": 16},
        sizes=(16, 256),
        steps=1900,
        rates=(0.003, 0.3),
        decays=(1e-4, 1e-2),
        searches=20,
        trials=12,
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
        searches=20,
        trials=20,
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
    f"{_CHOSEN}, the winner at the large batch size with the weight decay of the small one's winner, against that "
    f"winner: the shares of searches in which its final error is higher, and its training loss lower, have both lower "
    f"95% limits above {HALF}.",
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


def space_of(settings: Settings) -> Space:
    """The space that both batch sizes are searched in."""
    return Space(
        (
            Hyperparameter("learning_rate", *settings.rates, "log"),
            Hyperparameter("weight_decay", *settings.decays, "log"),
        )
    )


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
        batch_size=settings.sizes[0 if arm == "small" else 1],
        steps=settings.steps,
        evaluation_batch_size=scale.evaluation_batch_size,
        optimizer=settings.optimizer,
        schedule="cosine",
    )


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = SETTINGS[scale]
    space = space_of(settings)
    return [
        _study(
            settings,
            arm,
            search,
            "search",
            sample(space, "halton", search, settings.trials),
            overrides,
        )
        for arm in (SIZES[:1] if control else SIZES)
        for search in range(settings.searches)
    ]


def _retrain(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The second round: winners, and what is held against them, on fresh seeds."""
    settings, studies = SETTINGS[scale], []
    for search in range(settings.searches):
        small = winner_of(records, "small", search)
        points = {"small": small}
        if control:
            points[FROZEN] = small
        else:
            points["large"] = winner_of(records, "large", search)
            points[KEPT] = {**points["large"], "weight_decay": small["weight_decay"]}
        studies += [_study(settings, arm, search, "fresh", [point], overrides) for arm, point in points.items()]
    return studies


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


def winner_of(records: Sequence[TrialRecord], arm: str, search: int) -> dict[str, float]:
    """The point of a search with the lowest error, name to value."""
    name = study_of(arm, search, "search")
    best = min((record for record in records if record.study == name), key=error)
    return {name: best.hyperparameters[name] for name in ("learning_rate", "weight_decay")}


def winners_of(records: Sequence[TrialRecord], arm: str, settings: Settings) -> dict[str, np.ndarray]:
    """The winners of every search at a batch size, name to float64 (searches,)."""
    found = [winner_of(records, arm, search) for search in range(settings.searches)]
    return {name: np.array([point[name] for point in found]) for name in found[0]}


def fresh_of(records: Sequence[TrialRecord], arm: str, settings: Settings) -> Fresh:
    """Medians over the fresh seeds of an arm."""
    by_study: dict[str, list[TrialRecord]] = {}
    for record in records:
        by_study.setdefault(record.study, []).append(record)
    trials = [by_study[study_of(arm, search, "fresh")] for search in range(settings.searches)]
    return Fresh(*(np.array([np.median([of(t) for t in group]) for group in trials]) for of in (error, training_loss)))


def crowded(settings: Settings, winners: Mapping[str, np.ndarray]) -> list[str]:
    """The ends of the space, such as `learning_rate high`, at which more than `EDGE` of the winners lie."""
    found = []
    for name, (low, high) in (("learning_rate", settings.rates), ("weight_decay", settings.decays)):
        for end, others in (("low", np.less), ("high", np.greater)):
            at_end = [
                is_on_edge(winners[name], n, low, high, log=True) and others(winners[name][n] ** 2, low * high)
                for n in range(settings.searches)
            ]
            if np.sum(at_end) > EDGE * settings.searches:
                found.append(f"{name} {end}")
    return found


def log2_ratio(winners: Mapping[str, Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """Log2 ratio of the winners' values of a hyperparameter, large to small batch size, float64 (searches,)."""
    return np.log2(winners["large"][name] / winners["small"][name])


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
    winners = {arm: winners_of(records, arm, settings) for arm in (SIZES[:1] if control else SIZES)}
    small, other = (fresh_of(records, arm, settings) for arm in ("small", FROZEN if control else "large"))
    excess = other.error - small.error
    found = [(SAME, _same(excess, settings.delta))]
    if control:
        found.append((CONTROL, _most(excess > settings.delta)))
    else:
        found += [
            (MOVES, larger(log2_ratio(winners, "learning_rate"), MOVED, 1.0)),
            (OVERFITS, _overfits(fresh_of(records, KEPT, settings), small)),
            (STRONGER, larger(log2_ratio(winners, "weight_decay"), MOVED, 0.5)),
        ]
    if any(crowded(settings, of_size) for of_size in winners.values()):
        return [(claim, out_of_range(judged.effect, judged.delta, judged.n)) for claim, judged in found]
    return found


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.retuning_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="batch-size-retuning",
    title="Tuned apart, a small and a large batch reach the same error",
    source="changing the batch size; tuning the batch size to improve validation performance",
    figure="Errors of all trials of the searches against learning rate and against weight decay, at either batch size; "
    "the winners in the searched space; errors on fresh seeds against training loss; the same by arm; paired "
    "differences of the searches with the margin of equality.",
    claims=(SAME, MOVES, OVERFITS, STRONGER),
    control="The large batch is not tuned: it is trained with everything that suits the small one, and does worse by "
    "more than the trial standard deviation, so that the main claim is contradicted.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_retrain,),
)
