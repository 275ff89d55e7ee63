"""Figure 2: an isolation plot finds the best weight decay, every other hyperparameter optimised away.

    playbook reproduce weight-decay-isolation              about 4 minutes on 2 CPU cores
    playbook reproduce weight-decay-isolation --control    about 1 minute

The playbook says: plot the best error that any trial reached at each weight decay; the lowest point is the decay to
use, and to judge whether to have it at all, compare it with a baseline without decay whose learning rate was tuned as
well. Where the trials come from quasi-random search, cut the axis into buckets and take the best trial of each. The
figure to expect: a valley over the decays, both ends clearly worse; at one fixed rate the valley lies elsewhere.

What one fixed rate would have said at `laptop`, chosen on the pilot's 4 seeds and judged on the 8 of the first rounds
of seeds 0 and 1: the best decay falls as the rate rises, .1 (an end) at .0215, .018 from .046 to .215, .003 at .464,
.0006 at 1. The rule of the main claim holds from .046 to .464; at .0215 and at 1 it is undecided (the interior is .027
better than the largest decay, p .25, and .007 worse than the smallest), so that a study at either rate would find no
best decay inside of the range.

Weight decay is the scientific hyperparameter, the learning rate a nuisance hyperparameter. Both are chosen by mean
error on the seeds of the first round: the rate for each decay, and of the decays between the two ends the best. The
second round retrains what was chosen on seeds of its own, and those alone are judged.

What differs at `laptop`: ResNet 8 of width 8 on 8x8 `mnist5k` instead of ResNet-50 on ImageNet, with 1,000 training
examples of which two fifths have a random label, since a task that is hardly overfitted needs no decay; 400 steps at
batch 32 under a cosine schedule. The quasi-random studies take a thousand trials, so that they train a fully connected
network on the same task, and are held against a grid of its own. Overrides of the workload go to the ResNet.

Settings come from pilot seeds, which no verdict uses; see `Settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.analysis.axes import Axis
from harness.analysis.isolation import Isolation, isolate
from harness.analysis.trial_table import at, final_error, paired_differences
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, same, share_above
from harness.records import Claim, TrialRecord, TrialTable, Verdict
from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NOISY = {"training_examples": 1000, "label_noise": 0.4}
"""Fields of both workloads on embedded data. Pilots, ResNet, best error at decays of 1e-4, 1e-2 and .32, 2 seeds: .153,
.112 and .217 with a fifth of the labels replaced (600 steps); .204, .154 and .61 with two fifths (400 steps)."""

BY_CHANCE = 0.6
"""Share of buckets drawn at random among five that would agree with the grid: its value and the two beside it. Where
the grid's value is an end it is .4, so that the claim is then harder."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Decays and rates of one workload.

    Attributes:
      workload: name and scale of the workload.
      fields: of the workload that are set.
      decays: ascending and evenly spaced on a log scale, so that buckets can be centred on them; the two ends are what
        the interior has to beat.
      rates: ascending, at most half a decade apart: too few of them leave a decay untuned.
      batch_size: examples per step; that of the workload if None.
      steps: those of the workload if None.
      schedule: of the learning rate; that of the workload if None.
    """

    workload: tuple[str, str]
    fields: Mapping[str, float]
    decays: tuple[float, ...]
    rates: tuple[float, ...]
    batch_size: int | None = None
    steps: int | None = None
    schedule: str | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilot: both rounds as they stand, on the pilot range of seed 0. ResNet: rates of .464 three times, .215 and
    .0464 for the five decays, errors .184, .182, .161, .145 and .270 on fresh seeds; without decay .194 at its own
    rate, .207 at the best decay's. Spread of the paired differences between the nearer end and the interior .017, so
    that 8 seeds reach a power of .98 for the .040 that was seen; the 16 that are judged are more
    than that needs, and were so from this file's first version on. Trial standard deviation over settings but the
    largest decay .0148, of the fully connected network .0135. A spread of .02 gives the control's equality a power of
    .88 with 24 seeds. All 20 quasi-random studies picked the grid's decay; 20 reach a power of .92 where 95% do.

    No effect is stated for the power of `isolation.fair-baseline`: in the pilots it was 0 to .023, about its delta, so
    that where it is undecided its reason is `interval`. A network that normalises its batches is scale-invariant, so
    that without decay its error hardly depends on the rate between .05 and .5; the fully connected one, tuned to .007
    without decay, is at .38 instead of .18 at the .147 that suits its best decay. Hence the fourth claim.

    Both were judged by other rules at first: rates and decay were chosen once, by four seeds, and retrained on 16. What
    they said hung on that choice, which the interval does not see. Two decays, .00316 and .0178, are about as good,
    with rates of .464 and .1 to .215, and none is best at .464: at seed 0 the baseline lost .024 [.016, .033], at seeds
    2 and 3 the rates were one, 0 [0, 0], that is contradicted. With seed 0 recorded on another processor it was
    undecided. Now each tuning chooses anew; twelve, since with sixteen the experiment would take over four minutes.
    1,500 null experiments of normal errors, means of the grid here, moved so that a tuning gains just delta on average,
    2.5% being allowed: 2.7 to 4.1% contradicted, 1.5 to 2.1% reproduced. Where a quarter, half or three quarters of the
    tunings gain nothing and the others the same, 3.6%, 6.3% and 10.3% contradicted, at most 1.3% reproduced. At the
    means as they are, where a tuning gains .0004, 74% are contradicted.

    Seed 0 was run once before the interior had to beat the second-best rates too (see `TUNED`), with the same verdicts.
    The control's equality compares the better of two rates since a first run at seed 0, where a level's best rate was
    chosen badly: .0134 between ends and interior, all of it the rate's.

    `accelerator` and `paper` are reasoned, not piloted: rates around the workload's own; one seed of the first round
    for the time; deltas of a point and a fifth of a point of error.

    Attributes:
      resnet: the grid of figure 2.
      mlp: the grid, and by its ends the range, of the quasi-random studies.
      delta: trial standard deviation of the ResNet.
      mlp_delta: that of the fully connected network.
      selection: seeds of the first round.
      judged: fresh seeds of the second.
      control_judged: the same of the control, which has to show equality.
      tunings: units of the claims of a fair baseline, one seed to choose by and one to be judged by each.
      searches: quasi-random studies.
      search_trials: trials of each.
    """

    resnet: Grid
    mlp: Grid
    delta: float
    mlp_delta: float
    selection: int
    judged: int
    control_judged: int
    tunings: int
    searches: int
    search_trials: int


_DECAYS = (1e-4, 5.62e-4, 3.16e-3, 1.78e-2, 1e-1)

_MLP = Grid(
    ("mlp", "laptop"),
    NOISY,
    _DECAYS,
    (3.16e-3, 6.81e-3, 1.47e-2, 3.16e-2, 6.81e-2, 0.147, 0.316),
    schedule="cosine",
)

SETTINGS = {
    "smoke": Settings(
        resnet=Grid(("resnet", "smoke"), {}, (1e-4, 3.16e-3, 1e-1), (0.0464, 0.1, 0.215)),
        mlp=Grid(("mlp", "smoke"), {}, (1e-4, 3.16e-3, 1e-1), (0.0316, 0.1, 0.316)),
        delta=0.015,
        mlp_delta=0.0135,
        selection=1,
        judged=2,
        control_judged=2,
        tunings=2,
        searches=1,
        search_trials=9,
    ),
    "laptop": Settings(
        resnet=Grid(
            ("resnet", "laptop"),
            {"dataset": "mnist5k", "side": 8, **NOISY},
            _DECAYS,
            (2.15e-2, 4.64e-2, 0.1, 0.215, 0.464, 1.0),
            batch_size=32,
            steps=400,
        ),
        mlp=_MLP,
        delta=0.015,
        mlp_delta=0.0135,
        selection=4,
        judged=16,
        control_judged=24,
        tunings=12,
        searches=20,
        search_trials=50,
    ),
    "accelerator": Settings(
        resnet=Grid(
            ("resnet", "accelerator"),
            {"label_noise": 0.4},
            (1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
            (0.01, 0.0316, 0.1, 0.316),
        ),
        mlp=_MLP,
        delta=0.01,
        mlp_delta=0.0135,
        selection=1,
        judged=8,
        control_judged=16,
        tunings=8,
        searches=20,
        search_trials=50,
    ),
    "paper": Settings(
        resnet=Grid(
            ("resnet", "paper"),
            {},
            (1e-7, 1.78e-6, 3.16e-5, 5.62e-4, 1e-2),  # the published points
            (0.413, 1.31, 4.13, 13.1),
        ),
        mlp=_MLP,
        delta=0.002,
        mlp_delta=0.0135,
        selection=1,
        judged=8,
        control_judged=16,
        tunings=8,
        searches=20,
        search_trials=50,
    ),
}

PUBLISHED_GAIN = 0.2851 - 0.2344
"""By how much the published interior optimum beats the nearer of its ends."""

TUNED = 2
"""Rates of each end, the best first, that the interior has to beat, and of the interior that an end has to beat to
contradict. With the best alone, a rate chosen badly passes for a bad decay: where a decay does nothing but the largest
ruins all, the interior, the best of three, was falsely found better than the smallest in 5.4% of 3,000 null experiments
of normal errors, and an end better in 4.8% where no decay does anything; now in .8% and .8%, and where the error rises
five times as steeply beside the best rate in 3.2% and 1.2%, both of 2.5%."""

_CHOSEN = "the rates of each decay, and the decay between the ends, are chosen by mean error on other seeds"

INTERIOR = Claim(
    "isolation.interior-optimum",
    "The best weight decay lies inside of the range: it beats the smallest and the largest, each at its own best rate.",
    "Lower limits of the paired differences in final error, either end at each of its two best rates minus the "
    "interior decay at its best, above 0 on fresh seeds, and contradicted only where the interior loses at its second "
    f"best too; {_CHOSEN}.",
)
BASELINE = Claim(
    "isolation.fair-baseline",
    "Against a baseline without decay whose rate was not tuned anew, the gain of weight decay is overstated.",
    "Over independent tunings, each of one trial a setting on a seed of its own, which choose among the decays between "
    "the ends and the rates: lower limit of the difference in final error without decay on a fresh seed, at the rate "
    "of the decay chosen minus at the rate chosen for none, above the trial standard deviation.",
)
UNNORMALISED = Claim(
    "isolation.fair-baseline-unnormalised",
    "The same for a network without normalisation (ours, not the playbook's).",
    "As `isolation.fair-baseline`, of the fully connected network.",
)
BUCKETS = Claim(
    "isolation.buckets-agree",
    "The bucketed plot of quasi-random trials picks the decay of the grid or its neighbour.",
    f"Share of independent studies whose best bucket is at most one away from the grid's decay, by an exact 95% "
    f"interval above {BY_CHANCE}, what buckets drawn at random give.",
)
CONTROL = Claim(
    "isolation.control-same",
    "Of a hyperparameter without effect the interior is the same as the ends.",
    "90% interval of the paired difference in final error on fresh seeds, mean of the ends minus the interior, each at "
    f"the better of its two rates on these seeds, within plus or minus the trial standard deviation; {_CHOSEN}.",
)

NO_DECAY = 0.0
"""The weight decay of the baseline."""

_SEARCH_SEEDS = 1_000  # first replicate of the quasi-random studies
_TUNING_SEEDS = 2_000  # of the tunings
_TUNED_SEEDS = 3_000  # of the seeds that judge them
_OTHER_SEEDS = 10_000  # replicates that no study uses for anything else, so many per level of the control


class Choice(NamedTuple):
    """What the first round chose among the levels of a hyperparameter.

    Attributes:
      rates: arm to its `TUNED` best rates, the best first.
      interior: the best arm between the ends.
      best: the best of the levels.
      errors: arm to its mean error at its best rate.
    """

    rates: Mapping[str, tuple[float, ...]]
    interior: str
    best: str
    errors: Mapping[str, float]


class Tuning(NamedTuple):
    """What one tuning chose.

    Attributes:
      arm: of the best decay between the ends.
      rate: its rate.
      baseline: the rate of no decay.
    """

    arm: str
    rate: float
    baseline: float


def arm_of(grid: Grid, decay: float) -> Arm:
    """The arm of a decay, which is named after its workload, so that arms of two workloads never meet."""
    return Arm(f"{grid.workload[0]}_decay_{decay:g}", hyperparameters={"weight_decay": decay})


def levels_of(grid: Grid, replicates: range, control: bool) -> list[Arm]:
    """The arms of the hyperparameter that is studied, ends first and last.

    The control's hyperparameter does nothing, but that each of its levels trains with initialisations and orders of its
    own: what is left between any two settings when their effect is taken away.
    """
    if not control:
        return [arm_of(grid, decay) for decay in grid.decays]
    seeds = [[_OTHER_SEEDS * level + r for r in replicates] for level in range(1, len(grid.decays) + 1)]
    return [Arm(f"level_{n}", seeds_of={"init": own, "order": own}) for n, own in enumerate(seeds, start=1)]


def _study(
    name: str,
    grid: Grid,
    arms: Sequence[Arm],
    points: Sequence[Mapping[str, float]],
    replicates: range,
    overrides: Mapping[str, str],
) -> Study:
    size = workload_scale(*grid.workload)
    return Study(
        name=name,
        workload=configure(configure(size.workload, grid.fields), overrides if grid.workload[0] == "resnet" else {}),
        arms=tuple(arms),
        points=points,
        replicates=replicates,
        hyperparameters=size.hyperparameters,
        batch_size=grid.batch_size or size.batch_size,
        steps=grid.steps or size.steps,
        evaluation_batch_size=size.evaluation_batch_size,
        optimizer=size.optimizer,
        schedule=grid.schedule or size.schedule,
    )


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = SETTINGS[scale]
    seeds = range(settings.selection)
    studies = []
    for grid in (settings.resnet,) if control else (settings.resnet, settings.mlp):
        levels, none = levels_of(grid, seeds, control), [] if control else [arm_of(grid, NO_DECAY)]
        points = [{"learning_rate": rate} for rate in grid.rates]
        studies.append(_study(f"{grid.workload[0]}-grid", grid, levels + none, points, seeds, overrides))
        if not control:
            own = range(_TUNING_SEEDS, _TUNING_SEEDS + settings.tunings)
            studies.append(_study(f"{grid.workload[0]}-tunings", grid, levels[1:-1] + none, points, own, overrides))
    if control:
        return studies
    space = _space(settings.mlp)
    for number in range(settings.searches):
        # Points and training seeds are each search's own; its trials share their seeds, as those of one study do.
        points = sample(space, "halton", number, settings.search_trials)
        own = range(_SEARCH_SEEDS + number, _SEARCH_SEEDS + number + 1)
        studies.append(_study(f"search-{number}", settings.mlp, (Arm("mlp_search"),), points, own, overrides))
    return studies


def _space(grid: Grid) -> Space:
    """Decays and rates of the grid as ranges, so wide that each decay is the middle of a bucket."""
    half = (grid.decays[-1] / grid.decays[0]) ** (0.5 / (len(grid.decays) - 1))
    return Space(
        (
            Hyperparameter("weight_decay", grid.decays[0] / half, grid.decays[-1] * half, "log"),
            Hyperparameter("learning_rate", grid.rates[0], grid.rates[-1], "log"),
        )
    )


def _retrain(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The second round: what the first chose on fresh seeds, and what each tuning chose on one of its own."""
    settings = SETTINGS[scale]
    count = settings.control_judged if control else settings.judged
    fresh = range(settings.selection, settings.selection + count)
    studies = []
    for grid in (settings.resnet,) if control else (settings.resnet, settings.mlp):
        choice = choose(records, grid, settings.selection, control)
        levels = levels_of(grid, fresh, control)
        for arm in levels:
            compared = arm.name in (choice.interior, levels[0].name, levels[-1].name)
            points = [{"learning_rate": rate} for rate in choice.rates[arm.name][: TUNED if compared else 1]]
            studies.append(_study(f"{arm.name}-fresh", grid, (arm,), points, fresh, overrides))
        if not control:
            studies += _tuned(records, grid, settings.tunings, overrides)
    return studies


def _tuned(records: Sequence[TrialRecord], grid: Grid, count: int, overrides: Mapping[str, str]) -> list[Study]:
    """What each tuning chose, and no decay at the rate of the decay chosen, on a fresh seed."""
    arms = {arm.name: arm for arm in levels_of(grid, range(0), control=False)}
    studies = []
    for number, tuning in enumerate(tunings(records, grid, count)):
        fresh = range(_TUNED_SEEDS + number, _TUNED_SEEDS + number + 1)
        # Perhaps both rates are the same.
        for arm, rates in (
            (arms[tuning.arm], [tuning.rate]),
            (arm_of(grid, NO_DECAY), dict.fromkeys((tuning.baseline, tuning.rate))),
        ):
            points = [{"learning_rate": rate} for rate in rates]
            studies.append(_study(f"{arm.name}-tuned-{number}", grid, (arm,), points, fresh, overrides))
    return studies


error = partial(final_error, classes=10)


def choose(records: Sequence[TrialRecord], grid: Grid, selection: int, control: bool) -> Choice:
    """Chooses rates and levels by the first round's mean errors, an infeasible trial counting with chance error."""
    levels = [arm.name for arm in levels_of(grid, range(selection), control)]
    rates, errors = {}, {}
    for arm in levels + ([] if control else [arm_of(grid, NO_DECAY).name]):
        means = {rate: np.mean([error(t) for t in first_round(records, arm, rate, selection)]) for rate in grid.rates}
        rates[arm] = tuple(sorted(means, key=means.__getitem__)[:TUNED])
        errors[arm] = means[rates[arm][0]]
    return Choice(rates, min(levels[1:-1], key=errors.__getitem__), min(levels, key=errors.__getitem__), errors)


def first_round(records: Sequence[TrialRecord], arm: str, rate: float, selection: int) -> list[TrialRecord]:
    """The trials of the first round."""
    return [trial for r, trial in at(records, arm, learning_rate=rate).items() if r < selection]


def fresh_round(records: Sequence[TrialRecord], arm: str, rate: float, selection: int) -> dict[int, TrialRecord]:
    """The trials of the second round, by replicate, but for those that judge tunings."""
    return {r: trial for r, trial in at(records, arm, learning_rate=rate).items() if selection <= r < _SEARCH_SEEDS}


def tunings(records: Sequence[TrialRecord], grid: Grid, count: int) -> list[Tuning]:
    """What the tunings chose by the error of one trial a setting, the smaller decay and rate of equal ones."""
    none = arm_of(grid, NO_DECAY).name
    trials = {
        (arm, rate): at(records, arm, learning_rate=rate)
        for arm in [*(level.name for level in levels_of(grid, range(0), control=False)[1:-1]), none]
        for rate in grid.rates
    }
    found = []
    for r in range(_TUNING_SEEDS, _TUNING_SEEDS + count):
        errors = {setting: error(own[r]) for setting, own in trials.items()}
        arm, rate = min((setting for setting in errors if setting[0] != none), key=errors.__getitem__)
        found.append(Tuning(arm, rate, min(grid.rates, key=lambda rate: errors[none, rate])))
    return found


def tuned_errors(records: Sequence[TrialRecord], grid: Grid, count: int) -> np.ndarray:
    """Errors of what the tunings chose, each on its fresh seed.

    Returns:
      float64 (3, count): of the best decay; of no decay at the rate chosen for none; and at the rate of the best decay.
    """
    none = arm_of(grid, NO_DECAY).name
    return np.array(
        [
            [
                error(at(records, arm, learning_rate=rate)[_TUNED_SEEDS + number])
                for arm, rate in ((tuning.arm, tuning.rate), (none, tuning.baseline), (none, tuning.rate))
            ]
            for number, tuning in enumerate(tunings(records, grid, count))
        ]
    ).T


def search_of(records: Sequence[TrialRecord], grid: Grid, number: int) -> Isolation:
    """The bucketed isolation plot of one quasi-random study, a bucket around each decay of the grid."""
    trials = [record for record in records if record.study == f"search-{number}"]
    table = TrialTable(
        trials=tuple(trial.address for trial in trials),
        hyperparameters={name: np.array([t.hyperparameters[name] for t in trials]) for name in _space(grid)},
        objective=np.array([t.results["final_error"] if t.status == "complete" else np.nan for t in trials]),
        infeasible=np.array([t.status != "complete" for t in trials]),
        objective_name="final_error",
        goal="min",
        seeds={},
        curves={},
    )
    axis = _space(grid)["weight_decay"]
    return isolate(table, "weight_decay", Axis(axis.low, axis.high, axis.scale), buckets=len(grid.decays))


def _excess(
    records: Sequence[TrialRecord], selection: int, setting: tuple[str, float], other: tuple[str, float]
) -> np.ndarray:
    """By how much the error of one (arm, rate) exceeds that of another, per fresh seed."""
    return paired_differences(*(fresh_round(records, *pair, selection) for pair in (setting, other)), error)


def _interior(
    records: Sequence[TrialRecord], grid: Grid, choice: Choice, selection: int, control: bool
) -> tuple[Judgement, np.ndarray]:
    """The main claim, and by how much the ends are worse than the interior on average, per fresh seed."""
    levels = [arm.name for arm in levels_of(grid, range(0), control)]
    ends = [(end, rate) for end in (levels[0], levels[-1]) for rate in choice.rates[end]]
    best, *others = (
        every(*(larger(_excess(records, selection, end, (choice.interior, rate)), 0.0, PUBLISHED_GAIN) for end in ends))
        for rate in choice.rates[choice.interior]
    )
    judgement = dataclasses.replace(best, p_against=max(part.p_against for part in (best, *others)))
    excess = [
        _excess(
            records, selection, *((arm, _better(records, arm, choice, selection)) for arm in (end, choice.interior))
        )
        for end in (levels[0], levels[-1])
    ]
    return judgement, np.mean(excess, axis=0)


def _better(records: Sequence[TrialRecord], arm: str, choice: Choice, selection: int) -> float:
    """Which of the chosen rates of an arm is the better on the fresh seeds."""
    return min(
        choice.rates[arm],
        key=lambda rate: np.mean([error(trial) for trial in fresh_round(records, arm, rate, selection).values()]),
    )


def _overstated(records: Sequence[TrialRecord], grid: Grid, count: int, delta: float) -> Judgement:
    """Whether no decay is worse, by more than delta, at the rate of the best decay than at a rate tuned for it."""
    _, tuned, kept = tuned_errors(records, grid, count)
    return larger(kept - tuned, delta)


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    selection = settings.selection
    choice = choose(records, settings.resnet, selection, control)
    interior, excess = _interior(records, settings.resnet, choice, selection, control)
    if control:
        return [(INTERIOR, interior), (CONTROL, same(excess, settings.delta))]
    pick = choose(records, settings.mlp, selection, control).best
    wanted = [arm.name for arm in levels_of(settings.mlp, range(0), control)].index(pick)
    found = [search_of(records, settings.mlp, number).best for number in range(settings.searches)]
    agreeing = sum(bucket >= 0 and abs(bucket - wanted) <= 1 for bucket in found)
    return [
        (INTERIOR, interior),
        (BASELINE, _overstated(records, settings.resnet, settings.tunings, settings.delta)),
        (BUCKETS, share_above(agreeing, len(found), BY_CHANCE, 1.0)),
        (UNNORMALISED, _overstated(records, settings.mlp, settings.tunings, settings.mlp_delta)),
    ]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.isolation_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="weight-decay-isolation",
    title="An isolation plot finds the best weight decay, the learning rate optimised away",
    source="figure 2",
    figure="Error of the best trial against weight decay with every trial faint, and published points; the same at "
    "each fixed rate; bucketed plots of quasi-random studies; errors of the best decay and of baselines without decay, "
    "their rate tuned or not.",
    claims=(INTERIOR, BASELINE, BUCKETS, UNNORMALISED),
    control="Weight decay is replaced by a hyperparameter without effect, whose levels differ by their initialisations "
    "and orders alone: the interior level chosen is the same as the ends, and the main claim is not reproduced.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_retrain,),
)
