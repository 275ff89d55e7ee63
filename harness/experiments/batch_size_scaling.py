"""Larger batches need fewer steps to a target: in proportion up to a critical batch size, then hardly fewer.

    playbook reproduce batch-size-scaling              about 3 minutes on 2 CPU cores
    playbook reproduce batch-size-scaling --control    about 1 minute

The playbook says: when every batch size is tuned apart, doubling it halves the steps to a target (perfect scaling) up
to a critical batch size, beyond which returns diminish; and an example (or epoch) budget, unlike a step budget, sees
perfect scaling alone. The figure to expect: steps on a line of slope -1 at the left, bent into a plateau at the right;
the examples flat at the left and rising at the right, beyond any example budget.

By the protocol of Shallue et al. 2019 (arXiv 1811.03600): at every batch size a quasi-random search of its own over the
effective learning rate (rate / (1 - momentum)) and the momentum; the winner is the setting that reaches the target in
the fewest steps. The search is made anew several times, with points and seeds of its own: these searches are the units
that are judged. The second round retrains every winner on fresh seeds; the median of their steps counts, and those
alone are judged. The rate is constant, so that a run within the example budget is the first part of a run within the
step budget: both budgets are offered, and every setting is tuned for either. What a schedule would add is not asked.

A batch size is void, and left out of the claims, where the winners of more than half of the searches lie at the same
end of the searched space (`EDGE`), or where more than a tenth of the searches' medians are censored (`CENSORED`).

Batches past a tenth of the data are not judged: there the batch differs from the whole data ever less, whatever noise
does. The control is made of nothing else: all its batch sizes are past the plateau's beginning. There the main claim
is judged on its first part, with these in place of the small batch sizes: their mean gain of a doubling would have to
exceed `PERFECT`. The second part, that larger ones gain little, is what the control has to show by `same`. (Before, the
same gain was held to both parts, over one threshold and under a lower one, which no data could have met.)
At seed 0 these gain .05 [-.03, .13].

What `scaling.noise-scale-predicts` is worth: it is ours, not the playbook's, and its eight settings are all small fully
connected networks on the same digits, which differ in depth, width, label noise and image size. At seeds 0 and 1 it is
undecided: the log2 ratio is .50 and .65 in size on average, better than a constant guess by .52 and .13; the linear
network is missed by more than a factor of 2 at both.

Settings come from pilot seeds, which no verdict uses; see `harness.experiments.batch_scaling_settings.Settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.analysis.batch_scaling import first_reach, fit_curve, is_on_edge
from harness.analysis.noise_scale import mean_noise_scale
from harness.experiments.batch_scaling_settings import SETTINGS, Task
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, no_worse, out_of_range, same
from harness.records import Claim, InputError, TrialRecord, Verdict
from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERFECT, LEVELLED = 0.75, 0.5
"""A doubling divides the steps by 2 to the power of its gain. Scaling is called perfect where the mean gain exceeds the
first, three quarters of a halving, and levelled off where it is under the second, half of one."""

HIDDEN = 0.5
"""Log2 of a speedup that is worth having, a factor of 1.4."""

WITHIN = 1.0
"""Log2 ratio, a factor of 2: the noise scale is said to predict the critical batch size to that."""

SAME_GAIN = 0.25
"""Gain of a doubling, either way, that the control calls none."""

EDGE = 0.5
"""Share of searches whose winners lie in the outer tenth of the space at one end, above which its batch size is void.
By chance a tenth of them would; the end at a momentum of 0 is not one that could be widened, and is no edge."""

CENSORED = 0.1
"""Share of searches whose winner's median does not reach the target, above which a batch size is void. Below it these
count with the step budget, which flatters the gain before them and blunts the one behind them by little."""

NOISE_POINTS = 8
"""Places along training at which the gradient noise is measured."""

NOISE_RUNS = 4
"""Trainings of a task on which it is measured; of more searches, one each."""

_LEAST_TIGHT = 1e-2  # smallest 1 - momentum searched
_FRESH = 1_000  # replicates from here on are seeds that no search used


PERFECT_CLAIM = Claim(
    "scaling.perfect-then-diminishing",
    "Steps to a target fall as 1 over the batch size up to a critical batch size, then level off.",
    f"Over independent searches with winners retrained on fresh seeds, the mean gain of a doubling (log2 ratio of "
    f"steps) at the small batch sizes has its lower limit above {PERFECT} of a halving, and at the large ones, at most "
    f"a tenth of the data, its upper limit under {LEVELLED}.",
)
BUDGET_CLAIM = Claim(
    "scaling.epoch-budget-hides",
    "Compared at equal epochs only perfect scaling is seen, while larger batches still bring fewer steps.",
    f"At batch sizes chosen on the pilot the mean gain of a doubling has its lower limit above {PERFECT}; the largest "
    f"of them reaches the target within the example budget, and the largest trained does not (lower limits of the log2 "
    f"ratios of budget and examples above 0), while the log2 ratio of the steps of the former to those of the latter "
    f"has its lower limit above {HIDDEN}.",
)
NOISE_CLAIM = Claim(
    "scaling.noise-scale-predicts",
    "The gradient noise scale predicts the critical batch size (ours, not the playbook's).",
    f"Over tasks, the upper limit of the mean size of the log2 ratio of critical batch size to noise scale is under "
    f"{WITHIN:g}, and the lower limit of how much larger it is for a constant guess, the geometric mean of the other "
    f"tasks' critical batch sizes, above 0.",
)
CONTROL = Claim(
    "scaling.control-same",
    "Past the plateau's beginning larger batches bring nothing: the steps are the same.",
    f"90% interval of the mean gain of a doubling within plus or minus {SAME_GAIN}.",
)


class Table(NamedTuple):
    """Steps to the target of a task, of every search at every batch size.

    Attributes:
      sizes: batch sizes, ascending.
      steps: medians over fresh seeds, float64 (searches, sizes); the budget where censored.
      censored: which are budgets, bool (searches, sizes).
      void: batch sizes that are left out of the claims, bool (sizes,).
    """

    sizes: tuple[int, ...]
    steps: np.ndarray
    censored: np.ndarray
    void: np.ndarray


def _space(task: Task, size: int) -> Space:
    low, high = task.rates(size)
    return Space(
        (
            Hyperparameter("effective_rate", low, high, "log"),
            Hyperparameter("momentum", 0.0, 1 - _LEAST_TIGHT, "reverse_log"),
        )
    )


def _points(task: Task, size: int, search: int) -> list[dict[str, float]]:
    drawn = sample(_space(task, size), "halton", 64 * search + size.bit_length(), task.trials)
    return [
        {"learning_rate": one["effective_rate"] * (1 - one["momentum"]), "momentum": one["momentum"]} for one in drawn
    ]


def evaluation_steps(budget: int) -> tuple[int, ...]:
    """After how many steps to evaluate: evenly on a log scale, 6% apart, since the steps are compared by ratio."""
    return tuple(sorted({round(step) for step in np.geomspace(max(budget / 30, 1), budget, 56).tolist()}))


def _study(
    task: Task,
    name: str,
    size: int,
    points: Sequence[Mapping[str, float]],
    replicates: Sequence[int],
    **changed: object,
) -> Study:
    scale = workload_scale(*task.workload)
    budget = task.budget(size)
    fields = {"steps": budget, "evaluation_steps": evaluation_steps(budget), **changed}
    return Study(
        name=name,
        workload=configure(scale.workload, task.fields),
        arms=(Arm(task.name),),
        points=points,
        replicates=replicates,
        hyperparameters={"weight_decay": 0.0, "warmup_steps": 0},
        batch_size=size,
        evaluation_batch_size=scale.evaluation_batch_size,
        optimizer=task.optimizer,
        **fields,
    )


def tasks_of(scale: str, control: bool, overrides: Mapping[str, str] = MappingProxyType({})) -> list[Task]:
    """The tasks of an experiment, the main one first; overrides of the workload go to it alone."""
    settings = SETTINGS[scale]
    main = dataclasses.replace(settings.main, fields={**settings.main.fields, **overrides})
    if control:
        return [dataclasses.replace(main, sizes=settings.control_sizes)]
    return [main, *settings.others]


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    return [
        _study(task, task.study_of(size, search), size, _points(task, size, search), [search])
        for task in tasks_of(scale, control, overrides)
        for size in task.sizes
        for search in range(task.searches)
    ]


def _retrain(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The second round: winners on fresh seeds, and the gradient noise along training at the largest batch size."""
    found, by_study = [], _by_study(records)
    if scale != "smoke":  # which judges nothing
        _check_main_task(by_study, tasks_of(scale, control, overrides)[0])
    for task in tasks_of(scale, control, overrides):
        for search in range(task.searches):
            # A search's fresh seeds are the same at every batch size, which pairs them.
            fresh = range(_FRESH + search * task.fresh, _FRESH + (search + 1) * task.fresh)
            for size in task.sizes:
                winner = winner_of(task, by_study[task.study_of(size, search)])
                if winner is None:
                    continue
                points = [{name: winner.hyperparameters[name] for name in ("learning_rate", "momentum")}]
                found.append(_study(task, task.study_of(size, search, "fresh"), size, points, fresh))
                if size == task.sizes[-1] and not control:
                    steps = int(reached(task, winner))
                    places = {round((n + 0.5) / NOISE_POINTS * steps) for n in range(NOISE_POINTS)}
                    noise = {"steps": steps, "evaluation_steps": (), "noise_steps": tuple(sorted(places))}
                    seeds = fresh[: max(1, NOISE_RUNS // task.searches)]
                    name = task.study_of(size, search, "noise")
                    found.append(_study(task, name, size, points, seeds, **noise))
    return found


def _check_main_task(by_study: Mapping[str, Sequence[TrialRecord]], task: Task) -> None:
    """Refuses a target that no trial reaches, and spaces that end too early at every batch size.

    Raises:
      InputError: one of the two, such as of a workload that `--set` changed.
    """
    winners = {
        size: [winner_of(task, by_study[task.study_of(size, search)]) for search in range(task.searches)]
        for size in task.sizes
    }
    if not any(winner for of_size in winners.values() for winner in of_size):
        raise InputError(
            f"target {task.target}: no trial of {task.name} reaches this validation error at any batch size, within "
            f"{task.budget(task.sizes[0])} steps at {task.sizes[0]} and {task.budget(task.sizes[-1])} at "
            f"{task.sizes[-1]}; leave out what --set makes harder"
        )
    if all(_on_edge(task, size, of_size) for size, of_size in winners.items()):
        low, high = task.rates(task.sizes[0])
        raise InputError(
            f"the best trials of {task.name} lie on the edge of the searched space at every batch size (effective "
            f"rates {low:.3g} to {high:.3g} at {task.sizes[0]}, momentum 0 to {1 - _LEAST_TIGHT}), so that nothing "
            "can be compared; leave out what --set changes, or widen the space in the experiment's settings"
        )


def _on_edge(task: Task, size: int, winners: Sequence[TrialRecord | None]) -> bool:
    """Whether more than `EDGE` of a batch size's winners lie at one end of its space."""
    edges = [_edges(task, size, winner) for winner in winners if winner is not None]
    return bool(edges) and float(np.sum(edges, 0).max()) > EDGE * task.searches


def _by_study(records: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    studies: dict[str, list[TrialRecord]] = {}
    for record in records:
        studies.setdefault(record.study, []).append(record)
    return studies


def reached(task: Task, record: TrialRecord) -> float:
    """Steps of a trial to the target; infinite where it is infeasible or ends before."""
    if record.status != "complete":
        return float("inf")
    return first_reach(record.curves["evaluation_step"], record.curves["evaluation_error"], task.target)


def winner_of(task: Task, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial of a search that reaches the target in the fewest steps; None where none does."""
    best = min(trials, key=lambda trial: reached(task, trial))
    return best if np.isfinite(reached(task, best)) else None


def table_of(records: Sequence[TrialRecord], task: Task) -> Table:
    """Steps to the target of a task, and the batch sizes that are void."""
    by_study = _by_study(records)
    shape = (task.searches, len(task.sizes))
    steps, censored, void = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape[1], bool)
    for at, size in enumerate(task.sizes):
        winners = []
        for search in range(task.searches):
            fresh = by_study.get(task.study_of(size, search, "fresh"), [])
            median = float(np.median([reached(task, trial) for trial in fresh])) if fresh else np.inf
            censored[search, at] = not np.isfinite(median)
            steps[search, at] = min(median, task.budget(size))
            winners.append(winner_of(task, by_study[task.study_of(size, search)]))
        void[at] = _on_edge(task, size, winners) or censored[:, at].sum() > CENSORED * task.searches
    return Table(task.sizes, steps, censored, void)


def effective_rate(record: TrialRecord) -> float:
    """Learning rate over 1 - momentum."""
    return record.hyperparameters["learning_rate"] / (1 - record.hyperparameters["momentum"])


def _edges(task: Task, size: int, winner: TrialRecord) -> tuple[bool, bool, bool]:
    """Whether a winner lies at the low or high end of the effective rate, or at the high end of the momentum."""
    low, high = task.rates(size)
    rate, tight = effective_rate(winner), 1 - winner.hyperparameters["momentum"]
    outside = is_on_edge([rate], 0, low, high, log=True)
    high_momentum = is_on_edge([tight], 0, _LEAST_TIGHT, 1.0, log=True) and tight < _LEAST_TIGHT**0.5
    return outside and rate**2 < low * high, outside and rate**2 > low * high, high_momentum


def gains(table: Table, sizes: Sequence[int]) -> np.ndarray | None:
    """Gain of a doubling of each search, by least squares over the given batch sizes; None where too many are void.

    Returns:
      Log2 ratio of steps, float64 (searches,); at least two batch sizes, half of the given ones, have to be left.
    """
    columns = [at for at, size in enumerate(table.sizes) if size in sizes and not table.void[at]]
    if len(columns) < max(2, len(sizes) / 2):
        return None
    return -np.polyfit(np.log2([table.sizes[at] for at in columns]), np.log2(table.steps[:, columns]).T, 1)[0]


def fitted_curve(table: Table) -> tuple[float, float] | None:
    """Critical batch size and least steps fitted to the geometric means over searches, see `fit_curve`.

    A batch size counts as censored where half of its searches are; others that are void are left out.

    Returns:
      Both, or None where under 3 batch sizes reach the target.
    """
    censored = table.censored.mean(axis=0) >= 0.5
    kept = ~table.void | censored
    if np.sum(kept & ~censored) < 3:
        return None
    steps = np.exp(np.log(table.steps).mean(axis=0))
    return fit_curve(np.array(table.sizes)[kept], steps[kept], censored[kept])


def critical_batch_size(table: Table) -> float:
    """Critical batch size of `fitted_curve`; NaN where there is none."""
    fitted = fitted_curve(table)
    return float("nan") if fitted is None else fitted[0]


def noise_of(records: Sequence[TrialRecord], task: Task) -> float:
    """Mean noise scale along training to the target at the largest batch size; NaN where it was not measured."""
    measured = [
        record
        for record in records
        if record.arm == task.name and "-noise-" in record.study and record.status == "complete"
    ]
    if not measured:
        return float("nan")
    rows = {name: [record.curves[name] for record in measured] for name in ("gradient_square", "gradient_trace")}
    least = min(len(row) for row in rows["gradient_square"])  # short trainings have fewer places
    return mean_noise_scale(*(np.array([row[:least] for row in rows[name]]) for name in rows))


def _scales(table: Table, small: Sequence[int], large: Sequence[int]) -> Judgement:
    before, after = gains(table, small), gains(table, large)
    if before is None or after is None:
        return out_of_range(float("nan"), PERFECT, len(table.steps))
    return every(larger(before, PERFECT, 1.0), no_worse(after, LEVELLED, 0.0))


def _hides(table: Table, seen: Sequence[int], examples: int) -> Judgement:
    """Judges what an example budget shows, of batch sizes that are fixed beforehand.

    Sizes that the same steps chose would be those where the searches were lucky, which bends their gains: a gain of
    `PERFECT` was then falsely found larger in 3.4% of 2,000 null experiments.
    """
    slopes, logs, sizes = gains(table, seen), np.log2(table.steps), np.log2(table.sizes)
    kept = np.flatnonzero(~table.void)
    if slopes is None or table.sizes[last := kept[-1]] in seen:
        return out_of_range(float("nan"), HIDDEN, len(logs))
    within = [at for at in kept if table.sizes[at] in seen][-1]
    room, excess = np.log2(examples) - logs[:, within] - sizes[within], logs[:, last] + sizes[last] - np.log2(examples)
    return every(
        larger(slopes, PERFECT, 1.0),
        larger(room, 0.0),
        larger(excess, 0.0),
        larger(logs[:, within] - logs[:, last], HIDDEN, 1.0),
    )


def prediction_errors(critical: Sequence[float], noise: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the log2 ratios of critical batch sizes to noise scales, and to a constant guess from the other tasks.

    Args:
      critical: batch sizes, (tasks,).
      noise: scales, (tasks,).

    Returns:
      Two float64 (tasks,).
    """
    logs = np.log2(critical)
    guess = (logs.sum() - logs) / (len(logs) - 1)
    return np.abs(logs - np.log2(noise)), np.abs(logs - guess)


def _predicts(critical: Sequence[float], noise: Sequence[float]) -> Judgement:
    known = np.isfinite(critical) & np.isfinite(noise)
    if known.sum() < 4:
        return out_of_range(float("nan"), WITHIN, int(known.sum()))
    ours, constant = prediction_errors(np.array(critical)[known], np.array(noise)[known])
    return every(no_worse(ours, WITHIN, 0.0), larger(constant - ours, 0.0, 0.41))  # the pilot's gain


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    main, *others = tasks_of(scale, control)
    table = table_of(records, main)
    if control:
        found = gains(table, main.sizes)
        if found is None:
            missing = (out_of_range(float("nan"), delta, main.searches) for delta in (PERFECT, SAME_GAIN))
            return list(zip((PERFECT_CLAIM, CONTROL), missing, strict=True))
        return [(PERFECT_CLAIM, larger(found, PERFECT, 1.0)), (CONTROL, same(found, SAME_GAIN))]
    critical = [critical_batch_size(one) for one in (table, *(table_of(records, task) for task in others))]
    noise = [noise_of(records, task) for task in (main, *others)]
    return [
        (PERFECT_CLAIM, _scales(table, settings.small, settings.large)),
        (BUDGET_CLAIM, _hides(table, settings.seen, settings.examples)),
        (NOISE_CLAIM, _predicts(critical, noise)),
    ]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.batch_scaling_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="batch-size-scaling",
    title="Larger batches need fewer steps to a target, up to a critical batch size",
    source="choosing the batch size",
    figure="Steps to the target against batch size with the fitted curve, the line of perfect scaling, the regimes, "
    "critical batch size and noise scale; examples to the target and the example budget; time to the target; resource "
    "consumption; critical batch size against noise scale over tasks; the winners' rates within their spaces.",
    claims=(PERFECT_CLAIM, BUDGET_CLAIM, NOISE_CLAIM),
    control="Only batches past the beginning of the plateau are compared: steps are the same, and the main claim, "
    "judged on whether these gain as the small ones do, is contradicted.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    flips=("model", "data"),
    follow_ups=(_retrain,),
)
