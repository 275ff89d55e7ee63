"""A study: an ordered set of trials from a search space, a sampler and a seed, with arms and replicates as axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness.search.samplers import sample
from harness.search.space import Space
from harness.training.trial import Trial, derive_seeds
from workloads.workload import Workload, configure


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side of a comparison: what it changes of the study's workload, trials and seeds.

    Attributes:
      name: as it stands in the trial table.
      workload: workload field to value.
      hyperparameters: hyperparameter to value; the space comes after it.
      init_shift: added to the replicate for the init seed alone, to compare initialisations; 0 pairs the arms.
    """

    name: str
    workload: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hyperparameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    init_shift: int = 0


@dataclasses.dataclass(frozen=True)
class PlannedTrial:
    """A trial and its place in a study; the fields are those of `harness.records.TrialRecord`."""

    study: str
    arm: str
    replicate: int
    trial: Trial


@dataclasses.dataclass(frozen=True)
class Study:
    """Trials of every arm at every point of the space, for every replicate.

    Attributes:
      name: unique within an experiment.
      workload: what the arms start from.
      arms: in the order of the plan.
      space: the search space.
      sampler: how points are drawn from it.
      sampler_seed: of the sampler.
      points: how many points.
      replicates: how many repetitions of each.
      hyperparameters: those that neither arm nor space sets.
      batch_size: examples per step.
      steps: of the schedule, after warmup.
      evaluation_batch_size: examples per evaluation batch.
      optimizer: one of `harness.training.trial.OPTIMIZERS`.
      schedule: one of `harness.training.trial.SCHEDULES`.
      curvature_examples: see `harness.training.trial.Trial`.
      pilot: draw the seeds from the range of the pilots.
    """

    name: str
    workload: Workload
    arms: tuple[Arm, ...]
    space: Space
    points: int
    replicates: int
    hyperparameters: Mapping[str, float]
    batch_size: int
    steps: int
    evaluation_batch_size: int
    sampler: str = "grid"
    sampler_seed: int = 0
    optimizer: str = "heavy_ball"
    schedule: str = "constant"
    curvature_examples: int = 0
    pilot: bool = False

    def plan(self, seed: int) -> list[PlannedTrial]:
        """Lays out the trials, arm by arm so that compile groups stay together, evaluated at their end.

        Args:
          seed: of the experiment.
        """
        points = sample(self.space, self.sampler, self.sampler_seed, self.points)
        planned = []
        for arm in self.arms:
            workload = configure(self.workload, arm.workload)
            for point in points:
                hyperparameters = {**self.hyperparameters, **arm.hyperparameters, **point}
                end = self.steps + int(hyperparameters["warmup_steps"])
                for replicate in range(self.replicates):
                    seeds = derive_seeds(seed, replicate, self.pilot)
                    if arm.init_shift:
                        seeds["init"] = derive_seeds(seed, replicate + arm.init_shift, self.pilot)["init"]
                    trial = Trial(
                        workload=workload,
                        batch_size=self.batch_size,
                        steps=self.steps,
                        evaluation_steps=(end,),
                        evaluation_batch_size=self.evaluation_batch_size,
                        optimizer=self.optimizer,
                        schedule=self.schedule,
                        hyperparameters=hyperparameters,
                        seeds=seeds,
                        curvature_examples=self.curvature_examples,
                    )
                    planned.append(PlannedTrial(self.name, arm.name, replicate, trial))
        return planned
