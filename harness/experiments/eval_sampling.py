"""A sample of the validation set for periodic evaluations: how large, how long it lasts, what periods tell (L734-757).

    playbook reproduce eval-sampling              about 3 minutes on 2 CPU cores
    playbook reproduce eval-sampling --control    about 1 minute

The playbook says: where the validation set is too large for periodic evaluations, sample it; performance on the sample
has to agree with that on the whole set; the sample has to be small enough to be quick, and large enough to measure
improvements, and to be used again and again without being fitted, which is rarely a concern in practice. And a metric
that is periodic over the steps is the sign of a bug, such as training data that is not shuffled (L734). It has no
figure. The picture to expect: the rank correlation of trials between sample and rest rises with the size of the sample
along the curve that sampling error predicts; trials picked by a sample that was used in every round are as good on
untouched test data as those picked by fresh samples; the validation loss of unshuffled runs goes up and down with
every epoch.

*The stated size.* A trial's error on n examples scatters by at most p (1 - p) / n around the true one, so that it takes
`harness.analysis.evaluation_sample.sample_size` examples for errors that correlate by `PLANNED_CORRELATION` with the
true ones, given a typical error p and the spread between trials, both from pilots. `stated` of a scale is that number,
to whole parts of the validation set. The claim asks for less, a rank correlation of `CORRELATION`, at this size and at
its double, since ranks and a skewed spread are not what the formula is about.

*Reuse.* Every unit is a search of its own in three rounds: 20 quasi-random trials, 10 in half the range of each
hyperparameter around the winner, 10 in a quarter of it. One search picks its winners by one and the same sample
throughout; the other has a fresh sample of the same size for every round, and its last pick is by a sample that no
trial was ever chosen by. The first two rounds are common to both. Both winners are measured on the half of the
validation examples that no sample is from.

What `laptop` is: searches take a thousand trials, so that they train a fully connected network, 1,000 training examples
of 8x8 `mnist5k`, a fifth of their labels random, and 4,000 held-out ones. The order of the data is judged on ResNet 8
of width 8 with 1,000 clean examples, batch 100, a low constant rate and 5 evaluations an epoch; unshuffled means sorted
by label. Overrides of the workload go to the ResNet.

Settings come from pilot seeds, which no verdict uses; see `Settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.analysis.evaluation_sample import rank_correlation, regret
from harness.analysis.training_curves import check_curves
from harness.analysis.trial_table import at
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, no_worse, same, share_above, share_below
from harness.records import Claim, Curve, TrialRecord, Verdict
from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLANNED_CORRELATION = 0.95
"""Between errors on a sample of the stated size and true errors, by its formula."""

CORRELATION = 0.9
"""Rank correlation with the rest of the validation set that a sample has to exceed."""

REGRET = 0.25
"""Of the spread between trials: what the sample's winner may lose on the rest against the rest's own winner."""

MOST, FEW = 0.5, 0.3
"""Shares of searches, and of runs: most unshuffled ones have to be flagged, and few shuffled ones."""

EVALUATIONS_PER_EPOCH = 5

AGAIN = 3
"""Times that the control trains a winner again."""

WIDTHS = (0.5, 0.25)
"""Share of the range of each hyperparameter, on its scale, that the second and the third round search."""

SPACE = Space(
    (
        Hyperparameter("learning_rate", 3e-3, 0.3, "log"),
        Hyperparameter("momentum", 0.0, 0.95, "reverse_log"),
        Hyperparameter("weight_decay", 1e-5, 0.1, "log"),
        Hyperparameter("label_smoothing", 0.0, 0.4),
    )
)
"""All of it trains: in a broader one half of the trials fail, and to rank those before the others takes no sample."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots, on the pilot range of seed 0. Five searches of 20 trials: robust spread (interquartile range over 1.349)
    .036 to .066, .045 on average, median error .174, which gives 657 examples, to whole parts 650. Rank correlation of
    a sample with the rest, mean over 50 random samples and the five searches: .74 with 50 examples, .82 with 100, .88
    with 200, .92 with 400, .94 with 800, .96 with 1,600; regret of its winner .012, .010, .006, .005, .003 and .004.
    The formula is on the safe side: an example's part in a trial's sampling error that other trials do not share has a
    variance of .08, not p (1 - p) = .14. Trial standard deviation of a good setting, 16 seeds: .0049.

    Sorted by label, ResNet, 2 seeds each: a rate of .003 is flagged with a period of 4.97 evaluations in both, .01 in
    both with half of that. It flips with the rate and the number of epochs: over 16 epochs of 20 steps one of two seeds
    is flagged at .0316, and one of two at .1, where training has failed and the error moves without a rhythm. The fully
    connected network the same: 3 of 3 flagged at .003, 2 of 3 at .01, 1 of 3 at .03, none at .1 (40 epochs of 10
    steps).

    Null calibration, 2,000 simulated experiments a row: with the mean Fisher z at its threshold (ranks of normal,
    exponential and lognormal errors with noise) the main claim is met in 2.6 to 2.8%, on plain correlations it would be
    in 5.6 to 6.2%; shares at their thresholds in .4 to 1.2%; 2.5% are allowed.

    Attributes:
      searched: name and scale of the workload of the searches.
      searched_fields: its fields that are set.
      part: examples per evaluation batch of theirs; samples are of whole batches.
      stated: examples of the sample; three samples fit into half of the validation set.
      units: searches.
      first: trials of the first round.
      later: trials of each later one.
      shared: the one setting of the control.
      spread: robust standard deviation of errors between trials of the first round.
      trial_sd: standard deviation of the error of one setting over seeds.
      ordered: name and scale of the workload whose order of data is judged.
      ordered_fields: its fields that are set.
      batch_size: of it.
      examples: its training examples; the batch size times the evaluations per epoch divides them.
      epochs: of it.
      rate: its constant rate.
      runs: seeds of either order.
    """

    searched: tuple[str, str]
    searched_fields: Mapping[str, Any]
    part: int
    stated: int
    units: int
    first: int
    later: int
    shared: Mapping[str, float]
    spread: float
    trial_sd: float
    ordered: tuple[str, str]
    ordered_fields: Mapping[str, Any]
    batch_size: int
    examples: int
    epochs: int
    rate: float
    runs: int


_NOISY = {"training_examples": 1000, "label_noise": 0.2}
_GOOD = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-3, "label_smoothing": 0.3}
_DIGITS = {"dataset": "mnist5k", "side": 8, "training_examples": 1000}

_LAPTOP = Settings(
    searched=("mlp", "laptop"),
    searched_fields={**_NOISY, "validate_on_rest": True},
    part=50,
    stated=650,
    units=24,
    first=20,
    later=10,
    shared=_GOOD,
    spread=0.045,
    trial_sd=0.005,
    ordered=("resnet", "laptop"),
    ordered_fields=_DIGITS,
    batch_size=100,
    examples=1000,
    epochs=40,
    rate=3e-3,
    runs=16,
)

SETTINGS = {
    "smoke": dataclasses.replace(
        _LAPTOP,
        searched=("mlp", "smoke"),
        units=2,
        first=3,
        later=2,
        ordered=("resnet", "smoke"),
        batch_size=200,
        epochs=1,
        runs=2,
    ),
    "laptop": _LAPTOP,
    # The searches stay; only the order of the data is judged on another network. Reasoned, not piloted.
    "accelerator": dataclasses.replace(
        _LAPTOP, ordered=("resnet", "accelerator"), ordered_fields={}, batch_size=250, examples=5000, rate=1e-2
    ),
    "paper": dataclasses.replace(
        _LAPTOP, ordered=("resnet", "paper"), ordered_fields={}, batch_size=1024, examples=1_281_167, rate=0.1
    ),
}

_SIZES = (1, 2)
"""Samples that are judged, in units of the stated size."""

AGREES = Claim(
    "eval.sample-agrees",
    "From the stated size on, a random sample of the validation set ranks trials as the rest of the set does.",
    f"At the stated size and at its double, over searches: lower limit of the mean Fisher z of the rank correlation of "
    f"trials' errors, sample against rest, above that of a correlation of {CORRELATION}; and by an exact 95% interval, "
    f"share of searches above {MOST} in which the sample's winner loses on the rest at most {REGRET} of the spread "
    "between trials against the rest's own winner.",
)
ADAPTIVE = Claim(
    "eval.adaptive-overfitting-small",
    "To pick by one sample again and again costs little on fresh test data.",
    "Upper limit of the paired difference in test error, the winner of a search of three rounds that reuses one sample "
    "minus the winner of a search with a fresh sample for each round, under the trial standard deviation.",
)
PERIODIC = Claim(
    "eval.periodicity-finds-bugs",
    "Training data that is not shuffled shows as a period of one epoch in the validation loss.",
    f"By exact 95% intervals, share of unshuffled runs above {MOST} whose validation loss is periodic and repeats "
    f"itself every epoch, and share of shuffled runs below {FEW} that are called periodic at all, by "
    "`harness.analysis.training_curves`.",
)
CONTROL = Claim(
    "eval.control-same",
    "Where all trials share a setting, the sample's winner is no better than the others once it is trained again.",
    f"90% interval of the paired difference in error outside of the sample, winner trained again {AGAIN} times minus "
    "mean of its search, within plus or minus the trial standard deviation.",
)

_CHANCE = 0.9  # error of guessing one of ten digits
_PER_UNIT = 1000  # replicates that a unit's trials take their seeds from


class _Searches:
    """A maker of the studies of one trial that searches consist of."""

    def __init__(self, scale: str):
        self._settings = SETTINGS[scale]
        self._size = workload_scale(*self._settings.searched)

    def round(self, name: str, unit: int, start: int, points: Sequence[Mapping[str, float]]) -> list[Study]:
        """A round of a unit: every trial with seeds of its own, on the split of the unit.

        Args:
          name: of the round; `name-unit` is that of its studies.
          unit: number of the unit.
          start: trials of the unit that come before, in any round.
          points: of the trials.
        """
        size, settings = self._size, self._settings
        return [
            Study(
                name=f"{name}-{unit}",
                workload=configure(size.workload, settings.searched_fields),
                arms=(Arm("search", seeds_of={"split": [unit]}),),
                points=[point],
                replicates=[unit * _PER_UNIT + start + index],
                hyperparameters=size.hyperparameters,
                batch_size=size.batch_size,
                steps=size.steps,
                evaluation_batch_size=settings.part,
                optimizer=size.optimizer,
                schedule="cosine",
                fields={"evaluation_by_batch": True},
            )
            for index, point in enumerate(points)
        ]


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The first round of every search, and the runs whose order is judged."""
    settings, searches = SETTINGS[scale], _Searches(scale)
    studies = []
    for unit in range(settings.units):
        points = sample(SPACE, "halton", unit, settings.first)
        studies += searches.round("first", unit, 0, [settings.shared] * settings.first if control else points)
    return studies if control else [*studies, _order_study(scale, overrides)]


def _order_study(scale: str, overrides: Mapping[str, str]) -> Study:
    settings = SETTINGS[scale]
    size = workload_scale(*settings.ordered)
    epoch = settings.examples // settings.batch_size
    return Study(
        name="order",
        workload=configure(configure(size.workload, settings.ordered_fields), overrides),
        arms=(Arm("unshuffled", fields={"shuffled": False}), Arm("shuffled")),
        points=[{"learning_rate": settings.rate, "warmup_steps": 0}],
        replicates=range(settings.runs),
        hyperparameters=size.hyperparameters,
        batch_size=settings.batch_size,
        steps=epoch * settings.epochs,
        evaluation_batch_size=size.evaluation_batch_size,
        evaluation_steps=range(0, epoch * settings.epochs, epoch // EVALUATIONS_PER_EPOCH),
        optimizer=size.optimizer,
        schedule="constant",
    )


def _second_round(
    records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]
) -> list[Study]:
    """Around the winner of the first round, common to both searches of a unit: their first sample is the same."""
    if not control:
        return _narrowed_rounds(records, scale, {"second": 0}, ("first",), WIDTHS[0])
    settings, searches = SETTINGS[scale], _Searches(scale)
    points = [settings.shared] * AGAIN  # the setting of every winner
    return [s for unit in range(settings.units) for s in searches.round("again", unit, settings.first, points)]


def _third_round(
    records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]
) -> list[Study]:
    """Around the winner so far by the sample used before, and by a fresh one."""
    return (
        [] if control else _narrowed_rounds(records, scale, {"reused": 0, "fresh": 1}, ("first", "second"), WIDTHS[1])
    )


def _narrowed_rounds(
    records: Sequence[TrialRecord], scale: str, picks: Mapping[str, int], rounds: Sequence[str], width: float
) -> list[Study]:
    """A round of each name, around the winner of the rounds before by the sample of its number."""
    settings, searches = SETTINGS[scale], _Searches(scale)
    studies = []
    for unit in range(settings.units):
        before = trials_of(records, unit, rounds)
        for order, (name, number) in enumerate(picks.items()):
            best = before[int(np.argmin(sample_errors(before, settings, number)))]
            space = narrowed({axis: best.hyperparameters[axis] for axis in SPACE}, width)
            start = settings.first + settings.later * (len(rounds) - 1 + order)
            points = sample(space, "halton", _PER_UNIT * len(rounds) + unit, settings.later)
            studies += searches.round(name, unit, start, points)
    return studies


def narrowed(point: Mapping[str, float], width: float) -> Space:
    """The part of `SPACE` around a point that has a share of each range, on its scale, cut off at the ends."""
    axes = []
    for axis in SPACE.hyperparameters:
        middle = axis.to_unit(min(max(point[axis.name], axis.low), axis.high))
        low, high = max(middle - width / 2, 0.0), min(middle + width / 2, 1.0)
        axes.append(Hyperparameter(axis.name, axis.from_unit(low), axis.from_unit(high), axis.scale))
    return Space(tuple(axes))


def trials_of(records: Sequence[TrialRecord], unit: int, rounds: Sequence[str]) -> list[TrialRecord]:
    """The trials of a unit's rounds, in the order in which they were planned."""
    names = {f"{name}-{unit}" for name in rounds}
    return sorted((record for record in records if record.study in names), key=lambda record: record.replicate)


def part_errors(trials: Sequence[TrialRecord]) -> np.ndarray:
    """Errors of the last evaluation by part of the validation set, chance where infeasible, (trials, parts)."""
    found = [trial.curves["evaluation_error_by_batch"] if trial.status == "complete" else None for trial in trials]
    parts = max((len(errors) for errors in found if errors is not None), default=1)
    return np.array([np.full(parts, _CHANCE) if errors is None else errors for errors in found])


def sample_errors(trials: Sequence[TrialRecord], settings: Settings, number: int) -> np.ndarray:
    """Errors on one of the disjoint samples of the stated size, (trials,)."""
    size = settings.stated // settings.part
    return part_errors(trials)[:, number * size : (number + 1) * size].mean(axis=1)


def test_errors(trials: Sequence[TrialRecord]) -> np.ndarray:
    """Errors on the second half of the validation set, which no sample is from, (trials,)."""
    errors = part_errors(trials)
    return errors[:, errors.shape[1] // 2 :].mean(axis=1)


def agreement(records: Sequence[TrialRecord], scale: str, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """How a sample of the first parts ranks the trials of the first round against the rest of the validation set.

    Args:
      records: of the first round.
      scale: one of `SETTINGS`.
      examples: of the sample.

    Returns:
      Rank correlation and regret, in units of the spread between trials, of each unit, float64 (units,).
    """
    settings = SETTINGS[scale]
    size = examples // settings.part
    found = []
    for unit in range(settings.units):
        errors = part_errors(trials_of(records, unit, ("first",)))
        sampled, rest = errors[:, :size].mean(axis=1), errors[:, size:].mean(axis=1)
        found.append((rank_correlation(sampled, rest), regret(sampled, rest) / settings.spread))
    correlations, regrets = np.array(found).T
    return correlations, regrets


def fisher_z(correlation: np.ndarray | float) -> np.ndarray:
    """Fisher's z of correlations, which spreads near evenly to both sides, as the sign-flip test wants it.

    Correlations near 1 are skewed to lower values: with the correlations themselves the rule of the main claim would be
    met too often at its threshold. A perfect one counts as .9999.
    """
    return np.arctanh(np.clip(correlation, -0.9999, 0.9999))


def winners(records: Sequence[TrialRecord], scale: str) -> dict[str, np.ndarray]:
    """Test error of both searches' last picks, and what each showed on the sample that it was picked by, (units,)."""
    settings = SETTINGS[scale]
    found: dict[str, list[float]] = {name: [] for name in ("reused", "fresh", "reused sample", "fresh sample")}
    for unit in range(settings.units):
        for name, number in (("reused", 0), ("fresh", 2)):
            trials = trials_of(records, unit, ("first", "second", name))
            shown = sample_errors(trials, settings, number)
            best = int(np.argmin(shown))
            found[name].append(test_errors(trials)[best])
            found[f"{name} sample"].append(shown[best])
    return {name: np.array(values) for name, values in found.items()}


def flagged(trial: TrialRecord) -> tuple[bool, bool]:
    """Whether the validation loss is called periodic, and whether it then repeats itself every epoch.

    A curve that repeats itself every epoch is made of waves of an epoch and of whole parts of it, the tallest of which
    is found; a tenth allows for the resolution of the periodogram.
    """
    steps, losses = (trial.curves[f"evaluation_{name}"][1:] for name in ("step", "loss"))
    checks = check_curves([Curve(steps, losses)])[0]
    if checks is None or not checks.periodic:
        return False, False
    waves = EVALUATIONS_PER_EPOCH / checks.period
    return True, round(waves) >= 1 and abs(waves - round(waves)) <= 0.1


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    parts = []
    for times in _SIZES:
        correlations, regrets = agreement(records, scale, times * settings.stated)
        parts.append(larger(fisher_z(correlations), float(fisher_z(CORRELATION)), float(fisher_z(PLANNED_CORRELATION))))
        parts.append(share_above(int(np.sum(regrets <= REGRET)), len(regrets), MOST, 1.0))
    agrees = every(*parts)
    if control:
        return [(AGREES, agrees), (CONTROL, same(_retrained(records, scale), settings.trial_sd))]
    picked = winners(records, scale)
    orders = {arm: [flagged(trial) for trial in at(records, arm).values()] for arm in ("unshuffled", "shuffled")}
    periodic = every(
        share_above(sum(epoch for _, epoch in orders["unshuffled"]), settings.runs, MOST, 1.0),
        share_below(sum(any_period for any_period, _ in orders["shuffled"]), settings.runs, FEW, 0.0),
    )
    return [
        (AGREES, agrees),
        (ADAPTIVE, no_worse(picked["reused"] - picked["fresh"], settings.trial_sd, 0.0)),
        (PERIODIC, periodic),
    ]


def _retrained(records: Sequence[TrialRecord], scale: str) -> np.ndarray:
    """Error outside of the sample of winners that were trained again less the mean of their search, (units,)."""
    settings = SETTINGS[scale]
    size = settings.stated // settings.part
    found = []
    for unit in range(settings.units):
        again, search = (part_errors(trials_of(records, unit, (name,)))[:, size:] for name in ("again", "first"))
        found.append(again.mean() - search.mean())
    return np.array(found)


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.eval_sampling_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="eval-sampling",
    title="A sample of the validation set: how large, how often it can be used, and what a period in the curve tells",
    source="choosing a sample for periodic evaluation",
    figure="Rank correlation of trials' errors between a sample and the rest of the validation set, and regret of the "
    "sample's winner, against the size of the sample; test error of winners picked by a reused and by fresh samples, "
    "beside what the samples showed; validation loss of runs on unshuffled and on shuffled data.",
    claims=(AGREES, ADAPTIVE, PERIODIC),
    control="All trials of a search share one setting, so that there is nothing to rank: the main claim is "
    "contradicted or undecided, and the sample's winner is no better than the others once it is trained again.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    follow_ups=(_second_round, _third_round),
)
