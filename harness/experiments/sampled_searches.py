"""The searches of `eval-sampling`: settings, rounds, and errors of their trials on parts of the validation set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.records import TrialRecord
from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

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

    Seventeen searches of three rounds (20, 10 and 10 trials), on the pilot ranges of seeds 0 to 2: rank correlation
    with the sample of 650 .93 (.05), regret at most a quarter of the spread in 14; winners of the reused sample less
    those of fresh samples -.0002 in test error with a standard deviation of .0085, so that 36 searches reach a power of
    .84 against no difference at the first step of Holm's correction. What a sample shows of its winner is too good by
    about .01, reused (.009) or fresh (.014): that is the luck of any winner, not of reuse.

    Sorted by label, ResNet, 2 seeds each: at a rate of .003 both are flagged, with a period of 4.97 evaluations, at .01
    both with half of that. It flips with the rate and the number of epochs: over 16 epochs of 20 steps none of two is
    flagged at .0316, and one of two at .1, where training has failed. The fully connected network over 40 epochs the
    same: 3 of 3 are flagged at .003 and at .01, none with the period of an epoch at .03 and .1, where its loss moves
    without a rhythm.

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
      error: median error of the trials of the first round.
      spread: robust standard deviation of their errors.
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
    error: float
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
    units=36,
    first=20,
    later=8,
    shared=_GOOD,
    error=0.174,
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

_CHANCE = 0.9  # error of guessing one of ten digits
_PER_UNIT = 1000  # replicates that a unit's trials take their seeds from


class Searches:
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


def narrowed_rounds(
    records: Sequence[TrialRecord], scale: str, picks: Mapping[str, int], rounds: Sequence[str], width: float
) -> list[Study]:
    """A round of each name, around the winner of the rounds before by the sample of its number."""
    settings, searches = SETTINGS[scale], Searches(scale)
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
