"""How many of Adam's hyperparameters to tune with how many trials.

    playbook reproduce adam-budgets              about 3 minutes on 2 CPU cores
    playbook reproduce adam-budgets --control    about 3 minutes

The playbook says (L854-865): not all hyperparameters of Adam matter alike; with under 10 trials tune the learning rate
alone, with 10 to 25 beta1 too, with 25 or more epsilon too, and with substantially more than 25 also beta2. It shows no
figure of this. The figure to expect: the loss of the best of k trials against k, one line a search space; the lines
cross, and at each k the lowest is that of the space which the playbook recommends there.

There are four nested spaces: the rate; with 1 - beta1, log-uniform; with epsilon, log-uniform over ten decades, from
where it does nothing to where Adam is momentum with another rate; with 1 - beta2, log-uniform. What a space does not
tune stays at the values of Kingma & Ba 2015, arXiv 1412.6980: .9, 1e-8 and .999.

*Searches.* A pool is the first 60 points of a scrambled Halton sequence in each of the spaces; the larger ones have the
coordinates and the seeds of the smaller ones. A search of k trials is k points of it in a row, the next one the next k:
12 disjoint searches of 5, 4 of 15, 2 of 30 and 1 of 60. The winner by a search's own losses is retrained on three
fresh seeds, whose median alone counts: a good setting that fails once in a while is not to be told by one seed.
Searches of one pool share trials, winners and seeds: *the pool is the unit*, with a scrambling and a split of its own,
and its losses are means over its searches. Points are those of the pool's number, the same for every seed of the
experiment; initialisation, data order and split are not.

Retraining has initialisations and orders of its own, not a validation split: winners are judged on the examples of the
pool's split, on which they were chosen. So a loss is still low by what suits those examples, the more the more trials
it is the best of; spaces are compared at equal numbers of trials, on one split.

*What is judged.* The advice is about which space to choose at a budget, so it holds where the recommended space is no
worse than the spaces next to it, the one that tunes one hyperparameter less and the one that tunes one more, by a
margin of the trial standard deviation, which a single run does not show. With that alone a task on which nothing
matters would agree, with this advice and with its reverse. So it also has to matter: over the four budgets the
recommended spaces have to beat the reversed order of them. Ours, labelled so: at each budget the recommended space is
held against the smaller one next to it, or at the smallest against all larger ones, at no margin. They say which step
of the advice pays.

*Calibration*: 2,000 simulated experiments of 10 pools, searches and retrainings and all, with the difference shifted to
the threshold. With smooth, skewed, tied losses, with runs that fail at random and beyond an edge near the best rate,
1.6 to 4% are falsely found no worse and 1.4 to 3.8% falsely worse, nominal 2.5%; the order falsely better in 1.9 to
3.2%. The whole claim with all parts at their thresholds is never met and falsely contradicted in at most 2.5%. Where 5%
of the winners of 15 fail in most of their retrainings, which none of 64 did in pilots, it is up to 7.8% for one part
(beta1 no worse than the rate alone) and 4.4% for the order.

The control gives the smallest budget the largest space and so on. Its trials are the same; what is held to be best at a
budget is reversed, and it was written down beforehand that it loses to the order it reverses.

A claim is out of range where more than half of the winners of 60 trials lie in the outer tenth of an axis, at an end
that could be widened: beta1 = 0 and the low end of epsilon, where it does nothing, are none.

A loss counts with at most that of guessing, log(symbols), as an infeasible trial does.

What was found at seeds 0 and 1: the order beats its reverse, by .026 and .027 (95% intervals .019 to .033, .020 to
.034), and beta1 pays at 15 trials, by .035 at both. The main claim is undecided at both, since epsilon does not pay at
30: there it is .012 and .015 worse than stopping at beta1 (.002 to .022, .006 to .026; .002 in the pilots). At 5 trials
the rate alone is .046 to .060 better than three and four hyperparameters, and .008 and .019 than two; at 60 beta2
neither pays nor costs, and stopping at beta1 is as good or better (by -.001 and .009). No effect is stated for the
claims on the rate alone, epsilon and beta2, since the pilots showed none (-.001, -.002 and -.007 nats, see `Settings`):
undecided, they have the reason `interval`, which says nothing of their power. Control: contradicted. With 10
pools a claim of seven parts that stays undecided has an interval only once two others are decided. The points of both
seeds are the same.

What differs at `laptop`: a Transformer of one layer and width 16 on windows of 32 characters, 110 steps, since
thousands of trials are needed. Settings come from pilot seeds and points, which no verdict uses; see `Settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, no_worse, out_of_range
from harness.records import Claim, TrialRecord, Verdict
from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPACES = ("rate", "beta1", "epsilon", "beta2")
"""The nested spaces in ascending order, each named after the hyperparameter that it adds. The i-th is recommended at
the i-th budget."""

UNTUNED = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
"""What a space leaves out."""

EDGE, OUTER = 0.5, 0.1
"""Share of the winners of the largest budget in the outer part of an axis at one end, a tenth of it, above which
nothing is judged. By chance a tenth of them would lie there."""

_WALLS = (("beta1", "low"), ("epsilon", "low"))  # ends that widening does not change
_FRESH = 1_000_000  # replicates from here on are seeds that no search used


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots, on pilot seeds, split and points, 4 pools as at `laptop`, but with one retraining of the winners of 5.
    Losses of the winners of 5, 15, 30 and 60 trials: rate alone 2.624, 2.602, 2.603, 2.605; with beta1 2.623, 2.567,
    2.556, 2.559; with epsilon 2.704, 2.574, 2.558, 2.553; with beta2 2.682, 2.574, 2.561, 2.560. Standard deviations of
    the judged differences over pools: .017 at 5 trials (a retraining that failed by .37 in it, hence three of each),
    .007 to .008 at 15, .002 to .005 at 30, .006 at 60. The order gains .027 over its reverse, standard deviation .006.
    Against a difference of 0, 10 pools have a power of .9 or more in each part but the first, .7 at the first step of
    Holm's correction; in the first .35, without that retraining more. That of beta2 lay at .006, where it is low.
    Best rates .04 to .13, beta1 .3 to .75: inside the space. Three pools with rates to .1 and epsilon to .01 before had
    the best rates at their high end.
    Typical standard deviation of a winner of 15 or more over three retrainings: median .0079 of 64 winners, which for a
    normal distribution is .0095. One such run in 64 was .06 or more worse than the winner had been, hence medians.

    `accelerator` and `paper` are reasoned, not piloted. With the 8 pools of `paper` a claim of seven parts cannot be
    contradicted.

    Attributes:
      workload: scale of the `transformer` workload.
      fields: of it that are set.
      rates: ends of the searched learning rates.
      budgets: trials of a search, ascending, each dividing the last, which is that of the pool.
      pools: independent pools, the units.
      fresh: seeds on which a winner is retrained; odd, for the median.
      delta: tolerated loss of the recommended space, nats: the trial standard deviation.
      stated: gain over the reversed order that the power is for, nats.
      batch_size: examples per step; that of the workload if None.
      steps: after warmup; those of the workload if None.
      warmup_steps: those of the workload if None.
      evaluation_batch_size: that of the workload if None.
    """

    workload: str
    fields: Mapping[str, int | str]
    rates: tuple[float, float]
    budgets: tuple[int, int, int, int]
    pools: int
    fresh: int
    delta: float
    stated: float
    batch_size: int | None = None
    steps: int | None = None
    warmup_steps: int | None = None
    evaluation_batch_size: int | None = None


SETTINGS = {
    "smoke": Settings("smoke", {}, (1e-4, 1.0), (1, 2, 4, 4), 1, 1, 0.01, 0.02),
    "laptop": Settings(
        workload="laptop",
        fields={"layers": 1, "width": 16, "heads": 2, "mlp_width": 32, "length": 32},
        rates=(1e-4, 1.0),
        budgets=(5, 15, 30, 60),
        pools=10,
        fresh=3,
        delta=0.0095,
        stated=0.02,
        batch_size=8,
        steps=100,
        warmup_steps=10,
        evaluation_batch_size=128,
    ),
    # The published sizes would take days: here the model of `laptop`, many trials side by side.
    "accelerator": Settings("laptop", {}, (1e-5, 0.1), (5, 15, 30, 60), 10, 3, 0.01, 0.02),
    "paper": Settings("paper", {}, (1e-5, 0.1), (5, 15, 30, 60), 8, 3, 0.005, 0.01),
}

_JUDGED = "Over independent pools of quasi-random trials, winners retrained on fresh seeds with medians over these"

ORDER = Claim(
    "adam.budget-order",
    "The rate alone is best tuned with under 10 trials, beta1 too with 10 to 25, epsilon too with more, and beta2 too "
    "with substantially more.",
    f"{_JUDGED}: at each of the four budgets the upper limits of the paired difference in loss, recommended space "
    "minus each of those next to it, under the trial standard deviation; and the lower limit of the mean over budgets "
    "of the reversed order minus the recommended one above 0.",
)
FEW = Claim(
    "adam.few-rate-alone",
    "Ours: with the smallest budget, tuning more than the rate loses.",
    f"{_JUDGED}: lower limits of the paired difference in loss at the smallest budget, each larger space minus the "
    "rate alone, above 0.",
)
PAYS = tuple(
    Claim(
        f"adam.{added}-pays",
        f"Ours: at the budget from which {added} is recommended, tuning it too gains.",
        f"{_JUDGED}: lower limit of the paired difference in loss at budget {index + 1} of 4, the space without "
        f"{added} minus the one with it, above 0.",
    )
    for index, added in enumerate(SPACES)
    if index
)
CONTROL = Claim(
    "adam.control-loses",
    "With the budgets swapped, searches lose to those with the recommended order.",
    f"{_JUDGED}: lower limit of the mean over budgets of the paired difference in loss, swapped minus recommended "
    "order, above 0.",
)


def space_of(settings: Settings, space: int) -> Space:
    """The space of that number in `SPACES`."""
    axes = (
        Hyperparameter("learning_rate", *settings.rates, "log"),
        Hyperparameter("beta1", 0.0, 0.99, "reverse_log"),
        Hyperparameter("epsilon", 1e-10, 1.0, "log"),
        Hyperparameter("beta2", 0.9, 0.9999, "reverse_log"),
    )
    return Space(axes[: space + 1])


def points_of(settings: Settings, pool: int, space: int) -> list[dict[str, float]]:
    """The points of a pool in a space; those of a larger space have the same values of what both tune."""
    return sample(space_of(settings, space), "halton", pool, settings.budgets[-1])


def study_of(purpose: str, pool: int, space: int) -> str:
    """Name of studies; the purpose is `search` or `fresh`."""
    return f"{purpose}-{pool}-{SPACES[space]}"


def winners_of(losses: np.ndarray, budget: int) -> np.ndarray:
    """The winners of the disjoint searches of a pool, the first of equal ones.

    Args:
      losses: of the pool's trials, (trials,).
      budget: trials of a search, a divisor of their number.

    Returns:
      int64 (searches,), numbers of trials.
    """
    searches = losses.reshape(-1, budget)
    return np.arange(len(searches)) * budget + searches.argmin(axis=1)


def _placed(scale: str, overrides: Mapping[str, str]) -> Callable[..., Study]:
    """A maker of studies of one point: (purpose, pool, space, point, replicates) to the study."""
    settings = SETTINGS[scale]
    size = workload_scale("transformer", settings.workload)
    workload = configure(configure(size.workload, settings.fields), overrides)
    warmup = size.hyperparameters["warmup_steps"] if settings.warmup_steps is None else settings.warmup_steps

    def study(purpose: str, pool: int, space: int, point: Mapping[str, float], replicates: Sequence[int]) -> Study:
        return Study(
            name=study_of(purpose, pool, space),
            workload=workload,
            # Trials of a search are compared on the same validation examples.
            arms=(Arm(SPACES[space], seeds_of={"split": [pool] * len(replicates)}),),
            points=[point],
            replicates=replicates,
            hyperparameters={**UNTUNED, "warmup_steps": warmup},
            batch_size=settings.batch_size or size.batch_size,
            steps=settings.steps or size.steps,
            evaluation_batch_size=settings.evaluation_batch_size or size.evaluation_batch_size,
            optimizer="adam",
            schedule="cosine",
        )

    return study


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """Every trial of a pool with seeds of its own, the same in every space: a study of one point each."""
    settings, study = SETTINGS[scale], _placed(scale, overrides)
    return [
        study("search", pool, space, point, [pool * settings.budgets[-1] + trial])
        for pool in range(settings.pools)
        for space in range(len(SPACES))
        for trial, point in enumerate(points_of(settings, pool, space))
    ]


def _retrain(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """Every winner, once, on fresh seeds that all winners of the pool share."""
    settings, study = SETTINGS[scale], _placed(scale, overrides)
    losses, _ = searched(records, scale)
    studies = []
    for pool, space in np.ndindex(settings.pools, len(SPACES)):
        points = points_of(settings, pool, space)
        first = _FRESH + pool * settings.fresh
        for trial in sorted({t for b in settings.budgets for t in winners_of(losses[pool, space], b).tolist()}):
            studies.append(study("fresh", pool, space, points[trial], range(first, first + settings.fresh)))
    return studies


def loss_by(scale: str) -> Callable[[TrialRecord], float]:
    """The final validation loss, nats, at most that of guessing, which an infeasible trial counts with."""
    chance = float(np.log(workload_scale("transformer", SETTINGS[scale].workload).workload.classes))
    return lambda record: min(record.results["final_loss"], chance) if record.status == "complete" else chance


def searched(records: Sequence[TrialRecord], scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Losses of the trials of the pools, float64 (pools, spaces, trials), and the trials, objects of the same shape."""
    settings, by_study = SETTINGS[scale], _by_study(records)
    trials = np.empty((settings.pools, len(SPACES), settings.budgets[-1]), object)
    for pool, space in np.ndindex(trials.shape[:2]):
        trials[pool, space] = sorted(by_study[study_of("search", pool, space)], key=lambda record: record.replicate)
    return np.vectorize(loss_by(scale), otypes=[float])(trials), trials


def expected(records: Sequence[TrialRecord], scale: str) -> np.ndarray:
    """Losses of winners, medians over fresh seeds, means over searches, float64 (pools, budgets, spaces)."""
    settings, by_study, loss = SETTINGS[scale], _by_study(records), loss_by(scale)
    losses, trials = searched(records, scale)
    found = np.empty((settings.pools, len(settings.budgets), len(SPACES)))
    for pool, space in np.ndindex(settings.pools, len(SPACES)):
        fresh: dict[float, list[float]] = {}  # by learning rate, which no two trials of a pool share
        for trial in by_study[study_of("fresh", pool, space)]:
            fresh.setdefault(trial.hyperparameters["learning_rate"], []).append(loss(trial))
        for index, budget in enumerate(settings.budgets):
            won = trials[pool, space][winners_of(losses[pool, space], budget)]
            medians = [np.median(fresh[trial.hyperparameters["learning_rate"]]) for trial in won]
            found[pool, index, space] = np.mean(medians)
    return found


def _by_study(records: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    studies: dict[str, list[TrialRecord]] = {}
    for record in records:
        studies.setdefault(record.study, []).append(record)
    return studies


def gain_over_reverse(losses: np.ndarray) -> np.ndarray:
    """How much the reversed order loses to the recommended one at each budget.

    Args:
      losses: of the winners, (pools, budgets, spaces).

    Returns:
      float64 (pools, budgets).
    """
    order = np.arange(len(SPACES))
    return losses[:, order, order[::-1]] - losses[:, order, order]


def follows_order(losses: np.ndarray, delta: float, stated: float | None = None) -> Judgement:
    """Judges that at the i-th budget the i-th space is no worse than its neighbours, and the order beats its reverse.

    Args:
      losses: of the winners, (pools, budgets, spaces).
      delta: margin.
      stated: gain over the reverse that the power is for.
    """
    neighbours = [(i, j) for i in range(len(SPACES)) for j in (i - 1, i + 1) if 0 <= j < len(SPACES)]
    return every(
        larger(gain_over_reverse(losses).mean(axis=1), 0.0, stated),
        *(no_worse(losses[:, i, i] - losses[:, i, j], delta, 0.0) for i, j in neighbours),
    )


def crowded(records: Sequence[TrialRecord], scale: str) -> list[str]:
    """The ends of axes, such as `learning_rate high`, at which more than `EDGE` of a space's best trials lie."""
    settings, (losses, trials) = SETTINGS[scale], searched(records, scale)
    ends = set()
    for space in range(len(SPACES)):
        best = trials[np.arange(settings.pools), space, losses[:, space].argmin(axis=1)]
        for axis in space_of(settings, space).hyperparameters:
            places = np.array([axis.to_unit(trial.hyperparameters[axis.name]) for trial in best])
            for end, share in (("low", np.mean(places < OUTER)), ("high", np.mean(places > 1 - OUTER))):
                if share > EDGE and (axis.name, end) not in _WALLS:
                    ends.add(f"{axis.name} {end}")
    return sorted(ends)


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings, losses = SETTINGS[scale], expected(records, scale)
    if control:
        reversed_losses = losses[:, :, ::-1]
        judged = [
            (ORDER, follows_order(reversed_losses, settings.delta, settings.stated)),
            (CONTROL, larger(-gain_over_reverse(reversed_losses).mean(axis=1), 0.0, settings.stated)),
        ]
    else:
        judged = [
            (ORDER, follows_order(losses, settings.delta, settings.stated)),
            (FEW, every(*(larger(losses[:, 0, more] - losses[:, 0, 0], 0.0) for more in range(1, len(SPACES))))),
            *((claim, larger(losses[:, i, i - 1] - losses[:, i, i], 0.0)) for i, claim in enumerate(PAYS, 1)),
        ]
    if crowded(records, scale):
        return [(claim, out_of_range(found.effect, found.delta, found.n)) for claim, found in judged]
    return judged


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.adam_figure import draw

    return draw(records, scale, control=any(verdict.claim == CONTROL for verdict in verdicts))


EXPERIMENT = Experiment(
    name="adam-budgets",
    title="The more trials, the more of Adam's hyperparameters to tune",
    source="how Adam's hyperparameters should be tuned",
    figure="Loss of the winners of searches on fresh seeds against the trials of a search, one line a space, with the "
    "recommended space of each budget marked; differences of the others from it, with the margin; what the reversed "
    "order loses at each budget; losses of all trials against the learning rate.",
    claims=(ORDER, FEW, *PAYS),
    control="The budgets are swapped: the smallest gets the largest space and so on. That order loses to the "
    "recommended one, so that the main claim is not reproduced.",
    studies=_studies,
    follow_ups=(_retrain,),
    judge=_judge,
    draw=_draw,
)
