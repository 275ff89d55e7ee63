"""What one trial is: plain data that says everything a training run depends on, and its address."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.records import InputError
from workloads.workload import Workload

PURPOSES = ("init", "order", "augment", "dropout", "split")
"""What the randomness of a trial is for; each has a seed of its own."""

OPTIMIZERS = ("heavy_ball", "nesterov")
SCHEDULES = ("constant", "linear", "cosine")

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
      hyperparameters: `learning_rate`, `momentum`, `weight_decay`, `warmup_steps`.
      seeds: purpose to seed, see `derive_seeds`.
      curvature_examples: examples of the batch on which the sharpness at initialisation is measured; 0 for not at all.
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

    def __post_init__(self) -> None:
        """Checks what a user can set, so that a bad trial is refused before anything runs."""
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer {self.optimizer!r}: expected one of {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule {self.schedule!r}: expected one of {', '.join(SCHEDULES)}")
        if self.batch_size < 1 or self.steps < 1:
            raise InputError(f"batch_size {self.batch_size}, steps {self.steps}: expected at least 1")

    @property
    def total_steps(self) -> int:
        """Steps of the schedule and of the warmup before it."""
        return self.steps + int(self.hyperparameters["warmup_steps"])

    def compile_group(self) -> str:
        """What fixes the compiled training and evaluation programs: trials that agree in it share one compilation."""
        shape = (self.batch_size, self.evaluation_batch_size, self.optimizer)
        return canonical_json([describe_workload(self.workload), *shape])

    def specification(self) -> dict[str, Any]:
        """The trial as JSON-ready data."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.loads(canonical_json({**fields, "workload": describe_workload(self.workload)}))

    def address(self) -> str:
        """sha256 of the specification: equal trials of different studies are one."""
        return hashlib.sha256(canonical_json(self.specification()).encode()).hexdigest()


def describe_workload(workload: Workload) -> dict[str, Any]:
    """A workload's name and configuration as JSON-ready data."""
    return {"name": workload.name, **dataclasses.asdict(workload)}


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal data give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=dict)
