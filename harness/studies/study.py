"""A study: an ordered set of trials, one for each arm, point of a search space and replicate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from harness.training.trial import Trial, derive_seeds
from workloads.workload import Workload, configure


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side of a comparison: what it changes of the study's workload, trials and seeds.

    Attributes:
      name: as it stands in the trial table.
      workload: workload field to value.
      hyperparameters: hyperparameter to value; the points come after it.
      fields: of `harness.training.trial.Trial` that differ, name to value.
      seeds_of: purpose to the replicates whose seeds it takes, one for each of the study's, instead of those. Without
        it arms are paired; `{"init": range(10_000, 10_008)}` gives 8 replicates other initialisations, and
        `{"order": [0] * 8}` all of them the order of replicate 0.
    """

    name: str
    workload: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hyperparameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds_of: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PlannedTrial:
    """A trial and its place in a study; the fields are those of `harness.records.TrialRecord`."""

    study: str
    arm: str
    replicate: int
    trial: Trial


@dataclasses.dataclass(frozen=True)
class Study:
    """Trials of every arm at every point, for every replicate.

    Attributes:
      name: unique within an experiment.
      workload: what the arms start from.
      arms: in the order of the plan.
      points: hyperparameters of each, such as `harness.search.samplers.sample` draws them.
      replicates: numbers of the repetitions, such as `range(8)`. A number stands for the same seeds in every study of
        an experiment; fresh seeds are those of numbers that no other study has.
      hyperparameters: those that neither arm nor point sets.
      batch_size: examples per step.
      steps: of the schedule, after warmup.
      evaluation_batch_size: examples per evaluation batch.
      evaluation_steps: after how many steps, warmup included, to evaluate; the end comes to them, and those beyond a
        trial's end are left out.
      optimizer: one of `harness.training.trial.OPTIMIZERS`.
      schedule: one of `harness.training.trial.SCHEDULES`.
      curvature_examples: see `harness.training.trial.Trial`.
      curvature_steps: see `harness.training.trial.Trial`; those beyond a trial's end are left out.
      predictions: see `harness.training.trial.Trial`.
      noise_steps: see `harness.training.trial.Trial`; those beyond a trial's end are left out.
      accumulation: see `harness.training.trial.Trial`.
      fields: of `harness.training.trial.Trial` that have no name of their own here, name to value.
      pilot: draw the seeds from the range of the pilots.
    """

    name: str
    workload: Workload
    arms: tuple[Arm, ...]
    points: Sequence[Mapping[str, float]]
    replicates: Sequence[int]
    hyperparameters: Mapping[str, float]
    batch_size: int
    steps: int
    evaluation_batch_size: int
    evaluation_steps: Sequence[int] = ()
    optimizer: str = "heavy_ball"
    schedule: str = "constant"
    curvature_examples: int = 0
    curvature_steps: Sequence[int] = (0,)
    predictions: bool = False
    noise_steps: Sequence[int] = ()
    accumulation: int = 1
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pilot: bool = False

    def plan(self, seed: int) -> list[PlannedTrial]:
        """Lays out the trials, arm by arm so that compile groups stay together.

        Args:
          seed: of the experiment.
        """
        planned = []
        for arm in self.arms:
            workload = configure(self.workload, arm.workload)
            seeds = self._seeds(arm, seed)
            for point in self.points:
                hyperparameters = {**self.hyperparameters, **arm.hyperparameters, **point}
                end = self.steps + int(hyperparameters["warmup_steps"])
                for replicate, own_seeds in zip(self.replicates, seeds, strict=True):
                    trial = Trial(
                        workload=workload,
                        batch_size=self.batch_size,
                        steps=self.steps,
                        evaluation_steps=tuple(sorted({end, *(s for s in self.evaluation_steps if s < end)})),
                        evaluation_batch_size=self.evaluation_batch_size,
                        optimizer=self.optimizer,
                        schedule=self.schedule,
                        hyperparameters=hyperparameters,
                        seeds=own_seeds,
                        curvature_examples=self.curvature_examples,
                        curvature_steps=tuple(s for s in self.curvature_steps if s <= end),
                        predictions=self.predictions,
                        noise_steps=tuple(s for s in self.noise_steps if s <= end),
                        accumulation=self.accumulation,
                    )
                    trial = dataclasses.replace(trial, **{**self.fields, **arm.fields})
                    planned.append(PlannedTrial(self.name, arm.name, replicate, trial))
        return planned

    def _seeds(self, arm: Arm, seed: int) -> list[dict[str, int]]:
        """Seeds of each replicate of an arm, purpose to seed."""
        seeds = [derive_seeds(seed, replicate, self.pilot) for replicate in self.replicates]
        for purpose, others in arm.seeds_of.items():
            for own, other in zip(seeds, others, strict=True):
                own[purpose] = derive_seeds(seed, other, self.pilot)[purpose]
        return seeds
