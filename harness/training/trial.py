"""What one trial is: plain data that says everything a training run depends on, and its address."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from harness.records import InputError, did_you_mean
from workloads.workload import Workload

PURPOSES = ("init", "order", "augment", "dropout", "split")
"""What the randomness of a trial is for; each has a seed of its own."""

_ADAM = ("beta1", "beta2", "epsilon")

OPTIMIZERS = {
    "sgd": (),
    "heavy_ball": ("momentum",),
    "nesterov": ("momentum",),
    "rmsprop": ("momentum", "rho", "epsilon"),
    "adam": _ADAM,
    "nadam": _ADAM,
    "adamw": _ADAM,
}
"""Update rule to the hyperparameters that it takes, beside those of `COMMON`; see `harness.training.optimizer`."""

COMMON = ("learning_rate", "weight_decay", "warmup_steps")
"""Hyperparameters of every trial; the decay is L2 in the objective, decoupled for `adamw`."""

OPTIONAL = ("clip_threshold", "label_smoothing", "averaging_decay", "bad_batch_step", "constant_steps")
"""Hyperparameters that switch their feature on: clipping by global norm, label smoothing, Polyak averaging; a bad batch
at that step (from 1, warmup included), whose losses are summed instead of averaged, so that its gradient is too large
by `batch_size`; and so many steps at the base rate between warmup and decay."""

OF_THE_RATE = ("learning_rate", "warmup_steps", "constant_steps")
"""Hyperparameters that only set the rate of each step, which the programs take instead of them."""

SCHEDULES = ("constant", "linear", "cosine", "square_root")

MOST_STEPS = 2**31 - 1
"""Of a trial: what a step counter of int32 holds."""

_PILOT = 1 << 20  # pilots draw from replicates of their own


def derive_seeds(experiment_seed: int, replicate: int, pilot: bool = False) -> dict[str, int]:
    """Derives the seeds of a replicate, one per purpose, by one `numpy.random.SeedSequence` formula.

    Args:
      experiment_seed: of the whole experiment, at least 0.
      replicate: which repetition; arms of one replicate share its seeds, which pairs them.
      pilot: draw from the range of the pilots, which no verdict uses.

    Returns:
      Purpose to seed, below 2^32.
    """
    row = replicate + (_PILOT if pilot else 0)
    return {
        purpose: int(np.random.SeedSequence(experiment_seed, spawn_key=(row, index)).generate_state(1)[0])
        for index, purpose in enumerate(PURPOSES)
    }


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run.

    Attributes:
      workload: the configured workload.
      batch_size: examples per step.
      steps: steps of the schedule; the warmup is prepended to them.
      evaluation_steps: after how many steps, warmup included, to evaluate; 0 is before training.
      evaluation_batch_size: examples per evaluation batch.
      optimizer: one of `OPTIMIZERS`.
      schedule: one of `SCHEDULES`.
      hyperparameters: those of `COMMON` and of the optimizer, and any of `OPTIONAL`.
      seeds: purpose to seed, see `derive_seeds`.
      curvature_examples: examples of the batch on which the sharpness is measured; 0 for not at all.
      curvature_steps: after how many steps, warmup included, to measure it, ascending; 0 is before training.
      predictions: record the predicted label of every validation example at the last evaluation.
      noise_steps: after how many steps, warmup included, to measure the gradient noise on batches of `batch_size`,
        ascending; see `harness.training.gradient_noise`.
      accumulation: parts that a batch is split into, one after the other; their gradients are averaged.
      shuffled: whether every epoch has an order of its own; otherwise all have that of storage, by label where an
        example has one, as data sets are often stored.
      evaluation_by_batch: record the error and the loss of every evaluation batch too, each a part of the validation
        examples of its own.
      devices: that it is trained over, each with an equal part of every batch.
      alone: run it while no other trial runs, for its timings.
      profiled: find out afterwards where its time goes, see `harness.training.profile`.
      steps_per_call: most steps between two returns to the host; 0 for what the policy says.
      read_ahead: whether the examples of a stream are read and decoded before they are asked for.
      waits: whether the host waits for the curves of each call before it prepares the examples of the next.
    """

    workload: Workload
    batch_size: int
    steps: int
    evaluation_steps: tuple[int, ...]
    evaluation_batch_size: int
    optimizer: str
    schedule: str
    hyperparameters: Mapping[str, float]
    seeds: Mapping[str, int]
    curvature_examples: int = 0
    curvature_steps: tuple[int, ...] = (0,)
    predictions: bool = False
    noise_steps: tuple[int, ...] = ()
    accumulation: int = 1
    shuffled: bool = True
    evaluation_by_batch: bool = False
    devices: int = 1
    alone: bool = False
    profiled: bool = False
    steps_per_call: int = 0
    read_ahead: bool = True
    waits: bool = False

    def __post_init__(self) -> None:
        """Checks what a user can set, so that a bad trial is refused before anything runs."""
        for name, value, known in (("optimizer", self.optimizer, OPTIMIZERS), ("schedule", self.schedule, SCHEDULES)):
            if value not in known:
                raise InputError(f"unknown {name} {value!r}{did_you_mean(value, known)}; known: {', '.join(known)}")
        needed = (*COMMON, *OPTIMIZERS[self.optimizer])
        for name in needed:
            if name not in self.hyperparameters:
                raise InputError(f"hyperparameter {name!r} is missing; {self.optimizer} takes {', '.join(needed)}")
        for name, value in self.hyperparameters.items():
            if name not in (*needed, *OPTIONAL):
                known = ", ".join((*needed, *OPTIONAL))
                near = did_you_mean(name, (*needed, *OPTIONAL))
                raise InputError(f"unknown hyperparameter {name!r} of {self.optimizer}{near}; known: {known}")
            if not math.isfinite(value):
                raise InputError(f"{name} {value!r}: expected a finite number")
        if self.batch_size < 1 or self.steps < 1:
            raise InputError(f"batch_size {self.batch_size}, steps {self.steps}: expected at least 1")
        if self.steps > MOST_STEPS:
            raise InputError(f"steps {self.steps}: expected at most {MOST_STEPS}")
        if not 0 <= self.hyperparameters["warmup_steps"] <= MOST_STEPS - self.steps:
            raise InputError(
                f"warmup_steps {self.hyperparameters['warmup_steps']!r}: expected at least 0, and at most {MOST_STEPS} "
                "steps together with those after it"
            )
        if not 0 <= (constant := self.hyperparameters.get("constant_steps", 0)) <= self.steps:
            raise InputError(f"constant_steps {constant!r}: expected 0 to {self.steps}, the steps after warmup")
        if self.devices < 1 or self.batch_size % self.devices:
            raise InputError(f"devices {self.devices!r}: expected a divisor of batch_size {self.batch_size}, such as 1")
        if self.accumulation < 1 or self.batch_size % self.accumulation:
            raise InputError(
                f"accumulation {self.accumulation!r}: expected a divisor of batch_size {self.batch_size}, such as 1"
            )
        if list(self.noise_steps) != _ascending(self.noise_steps):
            raise InputError(f"noise_steps {self.noise_steps!r}: expected ascending steps from 0 on, such as (0, 100)")
        if not self.curvature_steps or list(self.curvature_steps) != _ascending(self.curvature_steps):
            raise InputError(
                f"curvature_steps {self.curvature_steps!r}: expected ascending steps from 0 on, such as (0, 100); "
                "where nothing is to be measured, curvature_examples is 0"
            )

    @property
    def total_steps(self) -> int:
        """Steps of the schedule and of the warmup before it."""
        return self.steps + int(self.hyperparameters["warmup_steps"])

    def compile_group(self) -> str:
        """What fixes the compiled training and evaluation programs: trials that agree in it share one compilation."""
        features = [name for name in OPTIONAL if name in self.hyperparameters and name not in OF_THE_RATE]
        shape = (self.batch_size, self.evaluation_batch_size, self.optimizer, features, self.accumulation)
        more = (self.evaluation_by_batch, self.devices, self.steps_per_call)
        return canonical_json([describe_workload(self.workload), *shape, *more])

    def specification(self) -> dict[str, Any]:
        """The trial as JSON-ready data."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields = {f: value for f, value in fields.items() if f not in LATER or value != LATER[f]}
        return json.loads(canonical_json({**fields, "workload": describe_workload(self.workload)}))

    def address(self) -> str:
        """sha256 of the specification: equal trials of different studies are one."""
        return hashlib.sha256(canonical_json(self.specification()).encode()).hexdigest()


LATER = {
    "shuffled": True,
    "evaluation_by_batch": False,
    "devices": 1,
    "alone": False,
    "profiled": False,
    "steps_per_call": 0,
    "read_ahead": True,
    "waits": False,
}
"""Fields that came when trials had been recorded, with their defaults, at which a specification leaves them out: so the
addresses of those trials hold."""


def _ascending(steps: Iterable[int]) -> list[int]:
    return sorted({step for step in steps if step >= 0})


def describe_workload(workload: Workload) -> dict[str, Any]:
    """A workload's name and configuration as JSON-ready data."""
    return {"name": workload.name, **dataclasses.asdict(workload)}


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal data give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=dict)
