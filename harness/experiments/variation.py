"""An experiment at another model size, length, data size or batch size, for its flip maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.experiments.experiment import Experiment
from harness.records import InputError
from harness.studies.study import Study
from workloads.workload import ConfigurationError, Stream

FACTORS = (0.5, 2.0)
"""What an axis is multiplied by: halved and doubled, the least that shows a trend and not only a border."""

_COUNTED_IN_STEPS = ("warmup_steps", "constant_steps", "bad_batch_step")
"""Hyperparameters that go with the number of steps."""


class CannotVaryError(InputError):
    """There is no such experiment: the workload lacks the field, the data end, or no trial reaches what is asked."""


class Variation(NamedTuple):
    """One cell of a flip map beside the chosen setting.

    Attributes:
      axis: `model` (the field `width`), `steps` (with evaluations, warmup and what else is counted in steps), `data`
        (the field `training_examples`) or `batch` (examples per step).
      factor: that it is multiplied by.
    """

    axis: str
    factor: float

    @property
    def name(self) -> str:
        """Such as `steps-x0.5`."""
        return f"{self.axis}-x{self.factor:g}"


def varied(experiment: Experiment, variation: Variation) -> Experiment:
    """The experiment with that variation of every study of every round; rules and all else stay; it has no
    flip maps of its own.

    Its rounds may take rates and the like from the records of those before, but no number of steps, which would be
    multiplied twice.

    Raises:
      CannotVaryError: by its studies or its judgement, where there is no such experiment.
    """
    return dataclasses.replace(
        experiment,
        studies=_varied_studies(experiment.studies, variation),
        follow_ups=tuple(_varied_studies(follow_up, variation) for follow_up in experiment.follow_ups),
        judge=_or_cannot(experiment.judge),
        flips=(),
    )


def _varied_studies(studies: Callable[..., list[Study]], variation: Variation) -> Callable[..., list[Study]]:
    def of_variation(*arguments: Any) -> list[Study]:
        return [_AXES[variation.axis](study, variation.factor) for study in studies(*arguments)]

    return _or_cannot(of_variation)


def _or_cannot(asked: Callable[..., Any]) -> Callable[..., Any]:
    """What is asked of a varied experiment, told apart from what goes wrong while it runs."""

    def wrapped(*arguments: Any) -> Any:
        try:
            return asked(*arguments)
        except (InputError, ConfigurationError) as error:
            raise CannotVaryError(str(error)) from None

    return wrapped


def _scaled(number: float, factor: float) -> int:
    """A whole number of steps or examples; 0 stays 0, and what is there stays at least 1."""
    return max(1, round(number * factor)) if number else 0


def _model(study: Study, factor: float) -> Study:
    if not hasattr(study.workload, "width"):
        raise InputError(f"{study.workload.name} has no field 'width'")
    widths = [width for arm in study.arms if (width := arm.workload.get("width"))]
    if any(_scaled(width, factor) == width for width in (study.workload.width, *widths)):
        raise InputError(f"{study.workload.name} is as narrow as it can be")
    arms = [
        dataclasses.replace(arm, workload={**arm.workload, "width": _scaled(arm.workload["width"], factor)})
        if "width" in arm.workload
        else arm
        for arm in study.arms
    ]
    workload = dataclasses.replace(study.workload, width=_scaled(study.workload.width, factor))
    return dataclasses.replace(study, workload=workload, arms=tuple(arms))


def _steps(study: Study, factor: float) -> Study:
    def along(steps: Sequence[int]) -> tuple[int, ...]:
        return tuple(sorted({_scaled(step, factor) for step in steps}))

    def lengths(hyperparameters: Mapping[str, float]) -> dict[str, float]:
        counted = {
            name: _scaled(hyperparameters[name], factor) for name in _COUNTED_IN_STEPS if name in hyperparameters
        }
        return {**hyperparameters, **counted}

    arms = [dataclasses.replace(arm, hyperparameters=lengths(arm.hyperparameters)) for arm in study.arms]
    return dataclasses.replace(
        study,
        steps=_scaled(study.steps, factor),
        evaluation_steps=along(study.evaluation_steps),
        curvature_steps=along(study.curvature_steps),
        noise_steps=along(study.noise_steps),
        hyperparameters=lengths(study.hyperparameters),
        points=[lengths(point) for point in study.points],
        arms=tuple(arms),
    )


def _data(study: Study, factor: float) -> Study:
    workload = study.workload
    if not hasattr(workload, "training_examples"):
        raise InputError(f"{workload.name} has no field 'training_examples'")
    whole = dataclasses.replace(workload, training_examples=0).data(0).train
    most = 0 if isinstance(whole, Stream) else len(next(iter(whole.values())))
    wanted = _scaled(workload.training_examples or most, factor)
    if not 0 < wanted <= most:
        raise InputError(f"{wanted} training examples: {workload.name} has {most} here")
    return dataclasses.replace(study, workload=dataclasses.replace(workload, training_examples=wanted))


def _batch(study: Study, factor: float) -> Study:
    size = _scaled(study.batch_size, factor)
    return dataclasses.replace(study, batch_size=size + -size % study.accumulation)


_AXES: Mapping[str, Callable[[Study, float], Study]] = {
    "model": _model,
    "steps": _steps,
    "data": _data,
    "batch": _batch,
}

AXES = tuple(_AXES)


def grid(axes: Sequence[str]) -> list[Variation]:
    """The cells of a flip map beside the chosen setting: one axis at a time, each factor."""
    return [Variation(axis, factor) for axis in axes for factor in FACTORS]
