"""Batch norm over virtual batches of one size trains alike, whatever part of a batch a device has.

    playbook reproduce ghost-batch-norm              about @TIME@ minutes on 2 CPU cores
    playbook reproduce ghost-batch-norm --control    about @CTIME@ minutes

@DOC@
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.analysis.trial_table import at, final_error, paired_differences
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, no_worse, same
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHOLE = 0
"""Virtual batch size that stands for the whole batch."""


class Run(NamedTuple):
    """How long to train, and at which constant rate; steps are those of the workload if None."""

    learning_rate: float
    steps: int | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    @PILOTS@

    Attributes:
      batch_size: of all devices together.
      virtual: examples that share statistics.
      devices: how many, ascending, 1 first; each number divides the batch.
      short: of the device counts and of the averages: rounding has not grown to the spread of trials yet, and what the
        virtual batch does is largest.
      full: of 64 examples against the whole batch: the rate that suits the latter.
      delta: difference of errors that does not matter.
      loss_delta: difference of validation losses that does not matter, nats.
      replicates: paired seeds of the device counts.
      averages_replicates: paired seeds of the averages.
      full_replicates: paired seeds of 64 examples against the whole batch.
      control_replicates: paired seeds of the control.
      drawn: virtual batch sizes that are only drawn, on one device.
      drawn_replicates: seeds of these.
    """

    batch_size: int
    virtual: int
    devices: tuple[int, ...]
    short: Run
    full: Run
    delta: float
    loss_delta: float
    replicates: int
    averages_replicates: int
    full_replicates: int
    control_replicates: int
    drawn: tuple[int, ...]
    drawn_replicates: int

    @property
    def local(self) -> int:
        """Examples of each of the most devices: what a norm that is not synchronised has there."""
        return self.batch_size // self.devices[-1]


SETTINGS = {
    "smoke": Settings(
        batch_size=16,
        virtual=8,
        devices=(1, 4),
        short=Run(0.03, None),
        full=Run(0.1, None),
        delta=0.005,
        loss_delta=0.004,
        replicates=2,
        averages_replicates=2,
        full_replicates=2,
        control_replicates=2,
        drawn=(),
        drawn_replicates=1,
    ),
    "laptop": Settings(
        batch_size=256,
        virtual=64,
        devices=(1, 2, 4, 8, 32),
        short=Run(0.03, 40),
        full=Run(0.1, 60),
        delta=0.005,
        loss_delta=0.004,
        replicates=8,
        averages_replicates=12,
        full_replicates=36,
        control_replicates=20,
        drawn=(16, 32),
        drawn_replicates=4,
    ),
    "accelerator": Settings(
        batch_size=256,
        virtual=64,
        devices=(1, 2, 4, 8),
        short=Run(0.01, 100),
        full=Run(0.1, 2500),
        delta=0.005,
        loss_delta=0.004,
        replicates=8,
        averages_replicates=8,
        full_replicates=10,
        control_replicates=8,
        drawn=(8, 16),
        drawn_replicates=2,
    ),
    "paper": Settings(
        batch_size=256,
        virtual=64,
        devices=(1, 2, 4, 8),
        short=Run(0.01, 200),
        full=Run(0.1, 35_156),  # 200 epochs
        delta=0.005,
        loss_delta=0.004,
        replicates=8,
        averages_replicates=8,
        full_replicates=8,
        control_replicates=8,
        drawn=(8, 16),
        drawn_replicates=2,
    ),
}

_CHANCE = "an infeasible trial counts with chance error"

DECOUPLES = Claim(
    "ghost.decouples",
    "With the virtual batch fixed, the error is the same for every device batch.",
    "At each number of devices above one, the 90% interval of the paired difference in final validation error from one "
    f"device within plus or minus .005; {_CHANCE}.",
)
BETTER = Claim(
    "ghost.64-better",
    "Batch norm by statistics over 64 examples does no worse than by those over the whole batch.",
    "On one device, upper 95% limit of the paired difference in final validation error, virtual batches of 64 minus "
    f"the whole batch, under .005; {_CHANCE}.",
)
SYNCED = Claim(
    "ghost.ema-synced",
    "Running averages merged over devices by the law of total variance evaluate like those of one device.",
    "With statistics of their own for each of the most devices, against one device with virtual batches of that size: "
    "the 90% interval of the paired difference in final validation error within plus or minus .005, and in final "
    f"validation loss within plus or minus .004 nats; {_CHANCE} and the loss of equal chances.",
)
CONTROL = Claim(
    "ghost.control-differs",
    "Where the virtual batch follows the device batch, the most devices have a higher error than one.",
    f"Lower 95% limit of the paired difference in final validation error above .005; {_CHANCE}.",
)


def arm_name(virtual: int, devices: int) -> str:
    """Name of the arm of a virtual batch size, or `WHOLE`, on so many devices."""
    return f"virtual_{virtual or 'whole'}_devices_{devices}"


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = SETTINGS[scale]
    size = workload_scale("wide_resnet", scale)
    workload = configure(size.workload, overrides)

    def study(name: str, run: Run, arms: Sequence[tuple[int, int]], replicates: int) -> Study:
        return Study(
            name=name,
            workload=workload,
            arms=tuple(
                Arm(arm_name(virtual, devices), {"virtual_batch_size": virtual}, fields={"devices": devices})
                for virtual, devices in arms
            ),
            points=[{"learning_rate": run.learning_rate}],
            replicates=range(replicates),
            hyperparameters=size.hyperparameters,
            batch_size=settings.batch_size,
            steps=run.steps or size.steps,
            evaluation_batch_size=size.evaluation_batch_size,
            optimizer=size.optimizer,
            schedule="constant",
        )

    short, most = settings.short, settings.devices[-1]
    if control:
        arms = [(settings.batch_size // devices, devices) for devices in settings.devices]
        return [study("control", short, arms, settings.control_replicates)]
    drawn = [(virtual, 1) for virtual in (*settings.drawn, WHOLE)]
    return [
        study("devices", short, [(settings.virtual, devices) for devices in settings.devices], settings.replicates),
        study("averages", short, [(settings.local, devices) for devices in (1, most)], settings.averages_replicates),
        study("whole-batch", settings.full, [(settings.virtual, 1), (WHOLE, 1)], settings.full_replicates),
        study("drawn", short, drawn, settings.drawn_replicates),
    ]


def found_at(
    records: Sequence[TrialRecord], settings: Settings, virtual: int, devices: int = 1, full: bool = False
) -> dict[int, TrialRecord]:
    """Replicate to trial of an arm, of the short run or of the full one."""
    rate = (settings.full if full else settings.short).learning_rate
    return at(records, arm_name(virtual, devices), learning_rate=rate)


def final_loss(record: TrialRecord, classes: int) -> float:
    """Validation loss of the last evaluation, nats, at most that of equal chances; an infeasible trial has that."""
    chance = float(np.log(classes))
    return min(record.results["final_loss"], chance) if record.status == "complete" else chance


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    classes = workload_scale("wide_resnet", scale).workload.classes
    error, loss = partial(final_error, classes=classes), partial(final_loss, classes=classes)
    several, most = settings.devices[1:], settings.devices[-1]

    def of(virtual: int, devices: int = 1, full: bool = False) -> dict[int, TrialRecord]:
        return found_at(records, settings, virtual, devices, full)

    def virtual(devices: int) -> int:
        return settings.batch_size // devices if control else settings.virtual

    apart = {n: paired_differences(of(virtual(n), n), of(virtual(1)), error) for n in several}
    decouples = every(*(same(differences, settings.delta) for differences in apart.values()))
    if control:
        return [(DECOUPLES, decouples), (CONTROL, larger(apart[most], settings.delta))]
    better = paired_differences(of(settings.virtual, full=True), of(WHOLE, full=True), error)
    merged, one = of(settings.local, most), of(settings.local)
    return [
        (DECOUPLES, decouples),
        (BETTER, no_worse(better, settings.delta, 0.0)),
        (
            SYNCED,
            every(
                same(paired_differences(merged, one, error), settings.delta),
                same(paired_differences(merged, one, loss), settings.loss_delta),
            ),
        ),
    ]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.ghost_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="ghost-batch-norm",
    title="Virtual batches of one size make batch norm independent of the device batch",
    source="batch normalization implementation details (L785-793)",
    figure="Validation error against the examples per device, with the virtual batch fixed and with one that follows "
    "the device batch; paired differences in error that are judged, with the range that does not matter; validation "
    "loss by running averages merged over devices against that of one device; the difference in training loss between "
    "several devices and one against the step, which rounding starts and training amplifies.",
    claims=(DECOUPLES, BETTER, SYNCED),
    control="The virtual batch follows the device batch, as in a norm that is not synchronised: the errors are not the "
    "same, and the main claim is contradicted or undecided.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
)
