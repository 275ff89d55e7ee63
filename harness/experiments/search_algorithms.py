"""Quasi-random search against random search and Bayesian optimisation, and how uniform its points are (L869-902).

    playbook reproduce search-algorithms              about 2 minutes on 2 CPU cores; needs the extra `bo`
    playbook reproduce search-algorithms --control    about 2 minutes

The playbook says: quasi-random search spreads its points more evenly than random search; where many trials run at once
it is hard for Bayesian optimisation to beat it given twice the budget, while in sequence that is possible (footnote 3);
and it links an implementation. The picture to expect: the best of k falls faster for quasi-random search than for
random search; winners of Bayesian search in sequence are the best, in parallel not; the linked construction is no more
uniform than random numbers, scrambled Halton far more.

Thousands of searches would be too many trainings. So one grid of settings is trained, every cell really, and a search
is given the error of the cell that a point lies in (`harness.experiments.tabular_search`). The winner of a search is
judged by its cell's mean error on seeds that no search saw. A unit is a search seed; it stands for several searches of
every algorithm, whose mean estimates the expected best of k. What is inferred is about searches of these tables: the
grid, and two trainings of it, are given. Search seeds come from the seeds of the trials, so they differ from one
experiment seed to the next.

At `laptop` a cell is a fully connected network on 8x8 digits, 256 steps of heavy ball; the space is wide, as in an
early round: rates over 7 decades, 1 - momentum over 3, weight decay over 6; 5% of it is within 4 points of the best.
Bayesian search is Optuna's tree-structured Parzen estimator, told of infeasible cells as constraints.

Settings come from pilot seeds, which no verdict uses; see `_Settings`. What to expect of them: `search.parallel-bo` is
undecided. With 16 trials at once Bayesian search loses; in sequence its mean winner ties with that of twice as many
quasi-random trials, since its typical winner is better and some searches get stuck.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.best_of_k import best_of
from harness.analysis.trial_table import final_error
from harness.experiments.experiment import Experiment
from harness.experiments.tabular_search import bayesian_cells, sampled_cells, winner
from harness.experiments.uniformity import linked_halton, log_discrepancy, random_points, scrambled_halton
from harness.experiments.verdict import ALPHA, Judgement, every, larger, no_worse, same
from harness.records import Claim, TrialRecord, Verdict
from harness.search.bayesian import import_optuna
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (20, 50, 100, 200)
"""Numbers of trials at which point sets are compared."""

DIMENSIONS = 4
"""Of those point sets: rate, momentum, decay and one more."""

HALF = 1.0
"""A point set is more uniform than another where its discrepancy is under half, in log2."""

_FRESH = 10_000  # replicates from here on are seeds that no search used
_TO_SEARCH, _TO_COMPARE = 1, 2  # what seeds are derived for


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots, on the pilot range of seed 0: 1.4% of the cells are within a point of the best error, .088. Winners of
    16 trials on fresh seeds: random .1156 (standard error .0018), quasi-random .1076 (.0007); of 64 quasi-random trials
    .0910 (.0002), of 32 Bayesian ones .0945 (.0008) with 16 at once and .0914 (.0006) in sequence. With budgets of 16
    to 64 Bayesian search in sequence never beat twice as many quasi-random trials, and came nearest at 32 and 40; nor
    did it with clipping as a fourth hyperparameter, 64 steps and budgets of 24 to 192, and there quasi-random search
    of 16 trials gained nothing. Trial standard deviation at the best rate: .0106, see `search_space_boundaries`.

    Attributes:
      workload: name of the workload.
      size: its scale.
      shape: cells of the grid along learning rate, 1 - momentum and weight decay.
      tables: trainings of the grid; searches take them in turn.
      fresh: seeds on which every winner is judged.
      units: search seeds.
      searches: of random and of quasi-random search, of each unit.
      bayesian: Bayesian searches of each unit.
      few: trials of a search that random search is compared by.
      budget: trials of a Bayesian search; quasi-random search has twice as many.
      parallel: trials of a round at high parallelism.
      delta: of the control's errors: the trial standard deviation at the best rate.
      point_sets: of each kind whose uniformity is compared.
      steps: of a trial; those of the workload at its scale if None.
    """

    workload: str
    size: str
    shape: tuple[int, int, int]
    tables: int
    fresh: int
    units: int
    searches: int
    bayesian: int
    few: int = 16
    budget: int = 32
    parallel: int = 16
    delta: float = 0.0106
    point_sets: int = 64
    steps: int | None = None


_SETTINGS = {
    "smoke": _Settings("mlp", "smoke", (4, 2, 2), 1, 1, 2, 2, 1, few=4, budget=8, parallel=4, point_sets=8),
    "laptop": _Settings("mlp", "laptop", (24, 8, 8), 2, 4, 32, 32, 8, steps=256),
    # A narrow ResNet, side by side: the published one takes two minutes a cell.
    "accelerator": _Settings("resnet", "laptop", (24, 8, 8), 2, 4, 32, 32, 8),
    # The playbook publishes no setting here; a coarse grid of ResNet-50 is what a cluster can train.
    "paper": _Settings("resnet", "paper", (12, 4, 4), 1, 1, 32, 32, 8),
}

RANDOM = Claim(
    "search.beats-random",
    "Quasi-random search finds better trials than random search with as many of them.",
    "Lower limit of the difference in expected error of the winner of 16 trials, random minus scrambled Halton, above "
    "0; a unit is a search seed, winners are judged on fresh seeds.",
)
PARALLEL = Claim(
    "search.parallel-bo",
    "Bayesian optimisation with many trials at once does not beat quasi-random search with twice the budget; in "
    "sequence it can.",
    "Difference in expected error of the winner, quasi-random search of 64 trials minus Bayesian search of 32: upper "
    "limit under 0 with 16 trials at once, lower limit above 0 in sequence. That it can is not contradicted by one "
    "task on which it does not: then the claim is undecided (range).",
)
LINKED = Claim(
    "search.linked-halton",
    "The Halton construction that the playbook links is no more uniform than random numbers at 20 to 200 trials; "
    "scrambled Halton is.",
    f"log2 ratio of the centred discrepancies in {DIMENSIONS} dimensions, random over construction, at each of "
    f"{', '.join(map(str, SIZES))} points: upper limit under {HALF:g} (a half) for the linked one, lower limit above "
    f"{HALF:g} for scrambled Halton.",
)
CONTROL = Claim(
    "search.control-same",
    "Where no hyperparameter matters, quasi-random and random search are the same.",
    "90% interval of the difference in expected error of the winner, random minus scrambled Halton, within plus or "
    "minus the trial standard deviation.",
)


def _grid(shape: Sequence[int]) -> list[dict[str, float]]:
    """The hyperparameters of every cell, in C order."""
    rates, damping, decays = (
        np.geomspace(low, high, size).tolist()
        for (low, high), size in zip(((1e-5, 100.0), (1e-3, 1.0), (1e-6, 1.0)), shape, strict=True)
    )
    return [
        {"learning_rate": rate, "momentum": 1 - one_minus, "weight_decay": decay}
        for rate in rates
        for one_minus in damping
        for decay in decays
    ]


def _study(scale: str, overrides: Mapping[str, str], name: str, points: Sequence, replicates: Sequence[int]) -> Study:
    settings = _SETTINGS[scale]
    size = workload_scale(settings.workload, settings.size)
    return Study(
        name=name,
        workload=configure(size.workload, overrides),
        arms=(Arm(name),),
        points=points,
        replicates=replicates,
        hyperparameters=size.hyperparameters,
        batch_size=size.batch_size,
        steps=settings.steps or size.steps,
        evaluation_batch_size=size.evaluation_batch_size,
        optimizer=size.optimizer,
        schedule=size.schedule,
    )


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = _SETTINGS[scale]
    if control:
        # One setting: a cell is a replicate of it, so that nothing but chance tells them apart.
        return [_study(scale, overrides, "table", [{}], range(settings.tables * int(np.prod(settings.shape))))]
    import_optuna()  # missed before anything is trained
    return [_study(scale, overrides, "table", _grid(settings.shape), range(settings.tables))]


def _retrain(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """Every cell that won a search, on seeds that no search saw."""
    settings = _SETTINGS[scale]
    cells = _winning_cells(records, scale, control)
    if control:
        fresh = [_FRESH + cell * settings.fresh + seed for cell in cells for seed in range(settings.fresh)]
        return [_study(scale, overrides, "winner", [{}], fresh)]
    grid = _grid(settings.shape)
    return [_study(scale, overrides, "winner", [grid[c] for c in cells], range(_FRESH, _FRESH + settings.fresh))]


def _error(record: TrialRecord, scale: str) -> float:
    settings = _SETTINGS[scale]
    return final_error(record, workload_scale(settings.workload, settings.size).workload.classes)


def _winners(records: Sequence[TrialRecord], scale: str, control: bool) -> dict[str, np.ndarray]:
    """Name of an algorithm to the cells that won its searches, int64 (units, searches of a unit)."""
    settings = _SETTINGS[scale]
    table = [record for record in records if record.arm == "table"]
    errors = np.array([_error(record, scale) for record in table]).reshape(-1, settings.tables)
    infeasible = np.array([record.status != "complete" for record in table]).reshape(-1, settings.tables)
    seed = table[0].seeds["order"]
    return _searched(settings, control, errors.T.tobytes(), infeasible.T.tobytes(), seed)


@lru_cache(maxsize=4)  # the follow-up, the judge and the drawing all ask
def _searched(settings: _Settings, control: bool, errors: bytes, infeasible: bytes, seed: int) -> dict[str, np.ndarray]:
    shape, tables = settings.shape, np.frombuffer(errors).reshape(settings.tables, -1)
    bad = np.frombuffer(infeasible, bool).reshape(settings.tables, -1)
    few, budget = settings.few, settings.budget

    def won(index: int, count: int, cells) -> np.ndarray:
        """Winners of an algorithm, numbered `index`; `cells` maps a table and a seed to the cells of a search."""
        found = np.zeros((settings.units, count), int)
        for unit, search in np.ndindex(found.shape):
            table = search % settings.tables
            found[unit, search] = winner(cells(table, derived(_TO_SEARCH, index, unit, search)), tables[table])
        return found

    def derived(*key: int) -> int:
        return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])

    def sampled(sampler: str, trials: int):
        return lambda table, own_seed: sampled_cells(shape, sampler, own_seed, trials)

    def bayesian(parallel: int):
        return lambda table, own_seed: bayesian_cells(shape, tables[table], bad[table], own_seed, budget, parallel)

    found = {
        "random": won(0, settings.searches, sampled("random", few)),
        "halton": won(1, settings.searches, sampled("halton", few)),
    }
    if not control:
        found["halton_twice"] = won(2, settings.searches, sampled("halton", 2 * budget))
        found["bayesian_parallel"] = won(3, settings.bayesian, bayesian(settings.parallel))
        found["bayesian_sequence"] = won(4, settings.bayesian, bayesian(1))
    return found


def _winning_cells(records: Sequence[TrialRecord], scale: str, control: bool) -> list[int]:
    return np.unique(np.concatenate([cells.ravel() for cells in _winners(records, scale, control).values()])).tolist()


def _expected(records: Sequence[TrialRecord], scale: str, control: bool) -> dict[str, np.ndarray]:
    """Name of an algorithm to the error of its winners on fresh seeds, a mean for each unit, float64 (units,)."""
    fresh = [_error(record, scale) for record in records if record.arm == "winner"]
    afresh = np.full(int(np.prod(_SETTINGS[scale].shape)), np.nan)
    afresh[_winning_cells(records, scale, control)] = np.reshape(fresh, (-1, _SETTINGS[scale].fresh)).mean(axis=1)
    return {name: afresh[cells].mean(axis=1) for name, cells in _winners(records, scale, control).items()}


def _uniformity(scale: str, seed: int) -> dict[str, np.ndarray]:
    """Kind of point set to log2 of its discrepancy, float64 (len(SIZES), point sets)."""
    kinds = {"random numbers": random_points, "linked": linked_halton, "scrambled Halton": scrambled_halton}
    found = {}
    for kind, points in kinds.items():
        seeds = np.random.SeedSequence(seed, spawn_key=(_TO_COMPARE, len(found))).generate_state(
            _SETTINGS[scale].point_sets
        )
        found[kind] = np.array([[log_discrepancy(points(DIMENSIONS, size, int(s))) for s in seeds] for size in SIZES])
    return found


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    expected = _expected(records, scale, control)
    beaten = expected["random"] - expected["halton"]
    if control:
        return [(RANDOM, larger(beaten, 0.0)), (CONTROL, same(beaten, _SETTINGS[scale].delta, 0.0))]
    parallel, sequence = (expected["halton_twice"] - expected[f"bayesian_{how}"] for how in ("parallel", "sequence"))
    uniformity = _uniformity(scale, records[0].seeds["order"])
    linked, scrambled = (uniformity["random numbers"] - uniformity[kind] for kind in ("linked", "scrambled Halton"))
    return [
        (RANDOM, larger(beaten, 0.0)),
        (PARALLEL, every(no_worse(parallel, 0.0), _possible(larger(sequence, 0.0)))),
        (
            LINKED,
            every(*(no_worse(gain, HALF, 0.0) for gain in linked), *(larger(gain, HALF) for gain in scrambled)),
        ),
    ]


def _possible(judgement: Judgement) -> Judgement:
    """What is claimed to be possible: never contradicted, and undecided for its range unless reproduced."""
    return dataclasses.replace(judgement, p_against=1.0, reason=None if judgement.p_for <= ALPHA else "range")


_LABELS = {
    "random": "random",
    "halton": "quasi-random",
    "halton_twice": "quasi-random",
    "bayesian_parallel": "Bayesian,\nparallel",
    "bayesian_sequence": "Bayesian,\nin sequence",
}


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.figures.dots import draw_dots
    from harness.figures.lines import draw_lines
    from harness.figures.style import panels

    settings = _SETTINGS[scale]
    # In the control every trial of the table has the one setting.
    control = len({record.hyperparameters["learning_rate"] for record in records}) == 1
    trials = {"random": settings.few, "halton": settings.few, "halton_twice": 2 * settings.budget}
    expected = [
        (f"{_LABELS[name]}\n{trials.get(name, settings.budget)} trials", errors.tolist())
        for name, errors in _expected(records, scale, control).items()
    ]
    title = f"search-algorithms at scale {scale}" + (", control: one setting for all trials" if control else "")
    figure, axes = panels(2 if control else 4, title)
    draw_lines(
        axes[0],
        _best_so_far(records, scale),
        "trials",
        "expected best error so far (share of examples)",
        "best of the first k trials, on the searched seeds\n(random: exact; quasi-random: mean of the search seeds)",
    )
    error = "expected error of the winner (share of examples)"
    draw_dots(axes[1], dict(expected[:2]), error, "winners on fresh seeds\n(one dot a search seed, bar: median)")
    if control:
        return figure
    draw_dots(
        axes[2],
        dict(expected[2:]),
        error,
        f"Bayesian search, {settings.parallel} trials at once or in sequence,\nand twice as many quasi-random trials",
    )
    uniformity = _uniformity(scale, records[0].seeds["order"])
    draw_lines(
        axes[3],
        {kind: (SIZES, np.exp2(found.mean(axis=1))) for kind, found in uniformity.items()},
        "trials",
        "centred L2 discrepancy (low is uniform)",
        f"uniformity of points in {DIMENSIONS} dimensions\n(geometric means of {settings.point_sets} point sets)",
    )
    return figure


def _best_so_far(records: Sequence[TrialRecord], scale: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label to (k, expected error of the best of k) in the first table."""
    settings = _SETTINGS[scale]
    table = [record for record in records if record.arm == "table"][:: settings.tables]
    errors = np.array([_error(record, scale) for record in table])
    ks = np.arange(1, 2 * settings.budget + 1)
    searches = [errors[sampled_cells(settings.shape, "halton", seed, len(ks))] for seed in range(settings.units)]
    return {
        "random": (ks, best_of(errors, "min", ks).mean),
        "quasi-random": (ks, np.minimum.accumulate(searches, axis=1).mean(axis=0)),
    }


EXPERIMENT = Experiment(
    name="search-algorithms",
    title="Quasi-random search against random search and Bayesian optimisation",
    source="why quasi-random search, and where an implementation is",
    figure="Expected best error of the first k trials by random and quasi-random search; errors on fresh seeds of the "
    "winners of random and quasi-random search, and of Bayesian search against twice as many quasi-random trials; "
    "discrepancy of random numbers, of the linked Halton construction and of scrambled Halton.",
    claims=(RANDOM, PARALLEL, LINKED),
    control="One setting for all cells, so that only chance tells trials apart: quasi-random search finds nothing "
    "better than random search, and the winners' errors are the same.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_retrain,),
)
