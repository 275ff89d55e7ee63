"""Figure 1: the best trials of a search that ends too early crowd at its boundary; those of a wide one do not.

    playbook reproduce search-space-boundaries              about 1 minute on 2 CPU cores
    playbook reproduce search-space-boundaries --control    half a minute

The playbook says: a search space is suspicious where its best points lie near a boundary, and better ones may be found
by widening it that way; but where every trial beyond a rate is infeasible and the best lie at that edge, the model may
be unstable. The figure to expect: in the bad space the error falls up to the highest rate, whose trials are the best;
in the good one the best lie in the middle and infeasible trials at the right; with a wall, the best lie beside it.

The check that is judged is `harness.analysis.boundaries.check_boundaries`, the one that users get from
`playbook diagnose`. A unit is a search: its points, and the training seeds of all its trials, are its own. The points
of search s are the same at every experiment seed, the training is not. The bad space is the good one cut at a tenth of
the best rate, as the published panels look: good is best at 2.0e-3, bad ends at 1.9e-4.

What differs at `laptop`: a fully connected network on 8x8 digits instead of a ResNet on ImageNet, since 30 searches of
a space take a thousand trials; 128 steps of heavy ball at momentum .9. Beside the learning rate a weight decay is
searched, which hardly matters in so few steps. The wall is the same network under plain gradient descent with large
batches for 64 steps: without normalisation the error falls until the rate at which training breaks.

Settings come from pilot seeds, which no verdict uses; see `_Settings` and `_WALL`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.analysis.axes import Axis
from harness.analysis.boundaries import Side, check_boundaries
from harness.analysis.instability import has_spike
from harness.analysis.trial_table import final_error
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, same, share_above, share_below
from harness.records import Claim, TrialRecord, TrialTable, Verdict
from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BROKEN_ERROR = 0.5
"""A trial whose training loss spiked and whose error ends this high diverged: it is infeasible though its loss is
finite. The playbook's infeasible trials diverge, have really bad losses, or do not run at all (L410)."""

FLAGGED = 0.8
"""Share of searches of the bad space that has to be flagged: the check may miss one search in five."""

FALSELY_FLAGGED = 0.2
"""Share of searches of the good space that may be flagged, on any side, for width or stability."""

MOSTLY = 0.5
"""Share of searches before a wall in which the check has to see the wall."""

_DECAY = Hyperparameter("weight_decay", 1e-6, 1e-2, "log")
_FRESH = 10_000  # replicates from here on are seeds that no search used


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots: 30 searches of the pilot range of seed 0. Of rates from 1e-4 to 100, .03 to .1 were best, and from .56
    on training broke. The check called the bad space open in 30 of 30 (21 with 20 trials if momentum is searched too),
    flagged the good one in 0 of 30 (2 to 3 with 20 or 24 trials) and the centred one in 0. Before the wall it said
    wall in 29 and open in 0 of 30. Winners retrained: .085 apart, standard deviation .011 over searches; centred minus
    wide -.001, .007. Trial standard deviation at the best rate, 60 seeds: .0106.

    Attributes:
      workload: name of the workload of all spaces but the wall's.
      size: its scale.
      rate: best learning rate, about which the spaces are laid.
      searches: of each space.
      trials: of each search.
      wall_trials: of each search before the wall.
      retrained: fresh seeds of each search's winner.
      delta: of the winners' errors: the trial standard deviation at the best rate.
      steps: of a trial; those of the workload at its scale if None.
    """

    workload: str
    size: str
    rate: float
    searches: int
    trials: int
    wall_trials: int
    retrained: int
    delta: float
    steps: int | None = None


_SETTINGS = {
    "smoke": _Settings("mlp", "smoke", 0.05, 2, 12, 12, 1, 0.01),
    "laptop": _Settings("mlp", "laptop", 0.05, 30, 32, 40, 4, 0.0106, steps=128),
    # A narrow ResNet at the scale's default rate, side by side: 30 searches of the published one would take days.
    "accelerator": _Settings("resnet", "laptop", 0.2, 30, 32, 40, 4, 0.01),
    # One search a space, as published: it draws the figure and is too few to decide.
    "paper": _Settings("resnet", "paper", 4.1319, 1, 32, 40, 1, 0.002),
}


class _Wall(NamedTuple):
    """The setting with a wall, of every scale: normalised networks such as ResNet hardly ever diverge.

    On pilots the error fell to .08 to .16 at a rate of .89, and no trial trained from 2.1 on. In batches of 64 it is
    best from .2 to .6 and the check saw the wall in 9 of 30 searches only. The space has five decades below the wall,
    so that its outermost fifth is one of them.
    """

    low: float = 1e-5
    high: float = 100.0
    batch_size: int = 512
    steps: int = 64


_WALL = _Wall()

BAD = Claim(
    "boundary.bad-flagged",
    "A space that ends below the good learning rates is flagged: widen it upwards.",
    f"Share of searches in which the check calls the high side of the learning rate open, lower 95% limit above "
    f"{FLAGGED}.",
)
GOOD = Claim(
    "boundary.good-passes",
    "A space that holds the good learning rates in its middle is not flagged.",
    f"Share of searches in which the check calls any side of any hyperparameter open or a wall, upper 95% limit under "
    f"{FALSELY_FLAGGED}.",
)
WIDENING = Claim(
    "boundary.widening-helps",
    "Widening the flagged space finds better trials at an equal number of them.",
    "Lower limit of the paired difference in error of the searches' winners, bad space minus good, retrained on fresh "
    "seeds, above the trial standard deviation.",
)
WALL = Claim(
    "boundary.wall-is-not-edge",
    "Where every trial beyond the best rates is infeasible, the check says stability, not width.",
    f"Share of searches in which the check calls the high side of the learning rate a wall, lower 95% limit above "
    f"{MOSTLY}, and share in which it calls it open, upper limit under {FALSELY_FLAGGED}.",
)
CONTROL = Claim(
    "boundary.control-same",
    "Widening a narrow space that is centred on the best rate brings nothing.",
    "90% interval of the paired difference in error of the retrained winners, centred space minus wide, within plus or "
    "minus the trial standard deviation.",
)

PUBLISHED_GAIN = 0.285 - 0.2268
"""Best error of the published bad panel minus that of the good one."""


def _spaces(settings: _Settings, control: bool) -> dict[str, Space]:
    """Name to space; widening leads from the first to `good`."""
    rate = settings.rate
    ends = {"centred": (rate / 10**0.5, rate * 10**0.5)} if control else {"bad": (rate / 500, rate / 10)}
    ends["good"] = (rate / 500, rate * 200)
    if not control:
        ends["wall"] = (_WALL.low, _WALL.high)
    return {
        name: Space((Hyperparameter("learning_rate", low, high, "log"), _DECAY)) for name, (low, high) in ends.items()
    }


def _study(scale: str, overrides: Mapping[str, str], space: str) -> partial[Study]:
    """What the studies of a space share; they lack name, arms, points and replicates."""
    settings = _SETTINGS[scale]
    if space == "wall":
        size = workload_scale("mlp", "smoke" if scale == "smoke" else "laptop")
        return partial(
            Study,
            workload=size.workload,
            hyperparameters={"weight_decay": 0.0, "warmup_steps": 0},
            batch_size=16 if scale == "smoke" else _WALL.batch_size,
            steps=size.steps if scale == "smoke" else _WALL.steps,
            evaluation_batch_size=size.evaluation_batch_size,
            optimizer="sgd",
        )
    size = workload_scale(settings.workload, settings.size)
    return partial(
        Study,
        workload=configure(size.workload, overrides),
        hyperparameters=size.hyperparameters,
        batch_size=size.batch_size,
        steps=settings.steps or size.steps,
        evaluation_batch_size=size.evaluation_batch_size,
        optimizer=size.optimizer,
        schedule=size.schedule,
    )


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = _SETTINGS[scale]
    return [
        _study(scale, overrides, name)(
            name=f"{name}-{search}",
            arms=(Arm(name),),
            points=sample(space, "halton", search, settings.wall_trials if name == "wall" else settings.trials),
            replicates=(search,),
        )
        for name, space in _spaces(settings, control).items()
        for search in range(settings.searches)
    ]


def _retrain(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The winner of every search of the two spaces that are compared, on seeds that no search used."""
    settings = _SETTINGS[scale]
    studies = []
    for name in ("centred" if control else "bad", "good"):
        for search, trials in _searches(records, name).items():
            winner = min(trials, key=_error(scale))
            first = _FRESH + search * settings.retrained
            studies.append(
                _study(scale, overrides, name)(
                    name=f"{name}-winner-{search}",
                    arms=(Arm(f"{name}-winner"),),
                    points=[{axis: winner.hyperparameters[axis] for axis in ("learning_rate", "weight_decay")}],
                    replicates=range(first, first + settings.retrained),
                )
            )
    return studies


def _error(scale: str) -> Callable[[TrialRecord], float]:
    """Gives the function from a trial to its error; an infeasible one has chance error."""
    settings = _SETTINGS[scale]
    return partial(final_error, classes=workload_scale(settings.workload, settings.size).workload.classes)


def _searches(records: Sequence[TrialRecord], space: str) -> dict[int, list[TrialRecord]]:
    """Number of each search of a space to its trials, in the order of the plan."""
    found: dict[int, list[TrialRecord]] = {}
    for record in records:
        if record.arm == space:
            found.setdefault(record.replicate, []).append(record)
    return found


def is_infeasible(record: TrialRecord) -> bool:
    """Whether a trial diverged: its loss is not finite, or spiked and left an error of `BROKEN_ERROR` or more."""
    if record.status != "complete":
        return True
    return record.results["final_error"] >= BROKEN_ERROR and has_spike(record.curves["train_loss"])


def _checked(trials: Sequence[TrialRecord], space: Space) -> dict[tuple[str, str], Side]:
    """(Hyperparameter, side) to what the check says of it, from the trials of one search."""
    table = TrialTable(
        trials=tuple(record.address for record in trials),
        hyperparameters={name: np.array([record.hyperparameters[name] for record in trials]) for name in space},
        objective=np.array([r.results["final_error"] if r.status == "complete" else np.nan for r in trials]),
        infeasible=np.array([is_infeasible(record) for record in trials]),
        objective_name="final_error",
        goal="min",
        seeds={},
        curves={},
    )
    axes = {name: Axis(axis.low, axis.high, axis.scale) for name, axis in space.items()}
    return {(side.hyperparameter, side.side): side for side in check_boundaries(table, axes)}


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = _SETTINGS[scale]
    spaces = _spaces(settings, control)
    checked = {
        name: [_checked(trials, space) for trials in _searches(records, name).values()]
        for name, space in spaces.items()
    }
    narrow = next(iter(spaces))
    verdicts = {
        name: [search["learning_rate", "high"].verdict for search in searches] for name, searches in checked.items()
    }
    flagged = (BAD, share_above(verdicts[narrow].count("open"), len(verdicts[narrow]), FLAGGED, 1.0))
    gains = _gains(records, scale, narrow)
    if control:
        return [flagged, (CONTROL, same(gains, settings.delta, 0.0))]
    passing = sum(any(side.verdict in ("open", "wall") for side in search.values()) for search in checked["good"])
    wall = verdicts["wall"]
    return [
        flagged,
        (GOOD, share_below(passing, len(checked["good"]), FALSELY_FLAGGED, 0.0)),
        (WIDENING, larger(gains, settings.delta, PUBLISHED_GAIN)),
        (
            WALL,
            every(
                share_above(wall.count("wall"), len(wall), MOSTLY, 1.0),
                share_below(wall.count("open"), len(wall), FALSELY_FLAGGED, 0.0),
            ),
        ),
    ]


def _gains(records: Sequence[TrialRecord], scale: str, narrow: str) -> np.ndarray:
    """Error of the retrained winner of the narrow space minus that of the good one, a search each, float64 (n,)."""
    means = [_winners(records, scale, name) for name in (narrow, "good")]
    return np.array([means[0][search] - means[1][search] for search in sorted(means[0].keys() & means[1].keys())])


def _winners(records: Sequence[TrialRecord], scale: str, space: str) -> dict[int, float]:
    """Number of each search to the mean error of its winner over the fresh seeds."""
    error, retrained = _error(scale), _SETTINGS[scale].retrained
    errors: dict[int, list[float]] = {}
    for record in records:
        if record.arm == f"{space}-winner":
            errors.setdefault((record.replicate - _FRESH) // retrained, []).append(error(record))
    return {search: float(np.mean(values)) for search, values in errors.items()}


_TITLES = {"bad": "bad boundaries", "good": "good boundaries", "wall": "a wall", "centred": "narrow and centred"}


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.figures.axis_plot import draw_axis_plot
    from harness.figures.dots import draw_dots
    from harness.figures.published import published
    from harness.figures.style import panels, shared_legend

    settings = _SETTINGS[scale]
    control = any(record.arm == "centred" for record in records)
    spaces = _spaces(settings, control)
    narrow = next(iter(spaces))
    title = f"search-space-boundaries at scale {scale}" + (", control" if control else "")
    figure, axes = panels(len(spaces) + 1, title)
    for panel, (name, space) in zip(axes, spaces.items(), strict=False):
        trials = _searches(records, name)[0]
        side = _checked(trials, space)["learning_rate", "high"]
        rows = [row for row in published("fig1_search_space") if row["panel"] == name]
        draw_axis_plot(
            panel,
            [record.hyperparameters["learning_rate"] for record in trials],
            [_error(scale)(record) for record in trials],
            [is_infeasible(record) for record in trials],
            best=side.best,
            published=_points(rows) if rows else None,
            edge=side.edge,
            xlabel="learning rate",
            ylabel="validation error (share of examples)",
            title=f"{_TITLES[name]}; the check says of the high side: {side.verdict}\n"
            f"(first of {settings.searches} searches, {len(trials)} trials)",
        )
    winners = {_TITLES[name]: list(_winners(records, scale, name).values()) for name in (narrow, "good")}
    draw_dots(
        axes[-1],
        winners,
        "validation error (share of examples)",
        "winners, retrained on fresh seeds\n(one dot a search, bar: median)",
    )
    shared_legend(figure, axes[:-1])
    return figure


def _points(rows: Sequence[Mapping[str, str]]) -> tuple[list[float], list[float]]:
    return [float(row["learning_rate"]) for row in rows], [float(row["validation_error"]) for row in rows]


EXPERIMENT = Experiment(
    name="search-space-boundaries",
    title="The best trials crowd at the boundary of a search space that ends too early",
    source="figure 1",
    figure="Validation error of each trial of one search against its learning rate, in a space that ends below the "
    "good rates, in one that holds them, and before a wall beyond which training breaks; the best trials starred, "
    "infeasible ones crossed above the rest, published points in grey. Last, the errors of the winners of all searches "
    "of the first two spaces, retrained.",
    claims=(BAD, GOOD, WIDENING, WALL),
    control="A narrow space centred on the best rate: its high side is not flagged, so the main claim is contradicted, "
    "and widening it brings nothing: the winners' errors are the same.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_retrain,),
)
