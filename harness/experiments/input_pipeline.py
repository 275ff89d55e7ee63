"""Preparing examples while the device computes shortens a step, and a barrier in the loop undoes it.

    playbook reproduce input-pipeline              about 2 minutes on 2 CPU cores
    playbook reproduce input-pipeline --control    about 3 minutes

The playbook says (L685-700): common causes of an input-bound pipeline are data far away, expensive preprocessing, and
unintended synchronization barriers that interfere with prefetching, such as reading the metrics of a step; prefetch.
Four loops train on JPEGs that are decoded, cropped and resized on the way:

    reads ahead   waits   loop
    yes           no      threads decode the next batches; the host hands over a step, takes the next batch meanwhile,
                          and only then reads the metrics of the step: the harness's own
    yes           yes     as before, but the host reads the metrics of a step before it takes the next batch
    no            no      the host decodes the next batch itself, while the device computes: handing over a step returns
                          at once, and is all the prefetching there is
    no            yes     and waits for the metrics first: nothing is prepared while the device computes

All four give the same bits; they differ in time alone. So does every trial run while no other does, the four by turns,
and nothing else may run on the machine. It needs two cores: on one there is nobody to prepare examples while the
training step computes, and the device is that core. The unit is the replicate; effects are log2 ratios of the time per
step, a median over calls of one step.

The third claim is ours: where threads read ahead, the barrier interferes with handing over batches alone.

The figure to expect: the four loops' time per step, longest at the right; where the time goes; and the ratios.

A pilot of four trials a loop, milliseconds per step in the order of the table: 17.8, 17.9, 19.5 and 26.9. A barrier
hurts the loop whose only prefetching is that a step returns at once, and hardly the one whose threads read ahead.

Null calibration, 2,000 simulated experiments with every ratio at its edge and the skewed noise of timings: .9, .8 and
.9% of the claims are reproduced (at most 2.5% are allowed), and 2.2% of the control's (5%).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, larger, no_worse, same
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MATTERS = 0.14
"""Log2 ratio of the time per step that matters: a tenth of it. It is also the margin of what does not."""

AHEAD, AHEAD_WAITS, OVERLAPPED, NOTHING = "reads ahead", "reads ahead, waits", "overlaps", "waits"
"""The loops, in the order of the table above."""

ARMS = tuple(
    Arm(name, fields={"read_ahead": ahead, "waits": waits})
    for name, ahead, waits in (
        (AHEAD, True, False),
        (AHEAD_WAITS, True, True),
        (OVERLAPPED, False, False),
        (NOTHING, False, True),
    )
)

_CHECKED = 1_000  # replicates from here on are profiled


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    Attributes:
      workload: name and scale.
      fields: of the workload that are set.
      batch_size: examples per step.
      steps: of a trial, each a call of its own.
      replicates: of every loop.
      checks: trials of every loop whose time is divided into input, compute and host.
      slow_step: fields, batch size and steps of the control, and its replicates: its trials take longer.
    """

    workload: tuple[str, str]
    fields: Mapping[str, Any]
    batch_size: int
    steps: int
    replicates: int
    checks: int
    slow_step: tuple[Mapping[str, Any], int, int, int]


def _jpeg(**fields: Any) -> Mapping[str, Any]:
    return MappingProxyType({"dataset": "photo_patches_jpeg", **fields})


SETTINGS = {
    "smoke": Settings(("resnet", "smoke"), _jpeg(side=8), 8, 4, 2, 1, (_jpeg(side=16), 4, 4, 2)),
    "laptop": Settings(
        ("resnet", "laptop"), _jpeg(side=16), 64, 24, 32, 1, (_jpeg(side=32, width=16, depth=20), 16, 10, 16)
    ),
    "accelerator": Settings(
        ("resnet", "accelerator"), _jpeg(side=32, depth=18), 256, 40, 16, 1, (_jpeg(), 256, 20, 16)
    ),
    "paper": Settings(
        ("resnet", "paper"), MappingProxyType({}), 256, 60, 16, 1, (MappingProxyType({"depth": 200}), 32, 30, 16)
    ),
}

PREFETCH = Claim(
    "input.prefetch-helps",
    "Preparing examples while the device computes shortens a training step.",
    f"Lower limit of the mean log2 ratio of the time per step, nothing prepared ahead over threads that read ahead, "
    f"above {MATTERS}.",
)
SYNC = Claim(
    "input.sync-hurts",
    "Waiting for the metrics of every step undoes the prefetching of a loop that prepares a batch while the device "
    "computes.",
    f"Lower limit of the mean log2 ratio of the time per step, with over without the wait, both without reading ahead, "
    f"above {MATTERS}.",
)
THREADS = Claim(
    "input.threads-bear-sync",
    "Where threads read ahead, waiting for the metrics of every step costs little (ours, not the playbook's).",
    f"Upper limit of the mean log2 ratio of the time per step, with over without the wait, both with reading ahead, "
    f"under {MATTERS}.",
)
CONTROL = Claim(
    "input.control-same",
    "Where the device's step is far slower than the input, prefetching changes nothing.",
    f"90% interval of the mean log2 ratio of the time per step, nothing prepared ahead over threads that read ahead, "
    f"within plus or minus {MATTERS}.",
)


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = SETTINGS[scale]
    base = workload_scale(*settings.workload)
    usual = settings.fields, settings.batch_size, settings.steps, settings.replicates
    fields, size, steps, replicates = settings.slow_step if control else usual
    timed = Study(
        name="timed",
        workload=configure(configure(base.workload, fields), overrides),
        arms=ARMS,
        points=[{}],
        replicates=range(replicates),
        # A small rate, so that none diverges: what is timed is the same at every rate.
        hyperparameters={**base.hyperparameters, "learning_rate": 1e-3, "warmup_steps": 0},
        batch_size=size,
        steps=steps,
        evaluation_batch_size=base.evaluation_batch_size,
        optimizer=base.optimizer,
        fields={"alone": True, "steps_per_call": 1},
    )
    checked = range(_CHECKED, _CHECKED + settings.checks)
    profiled = {**timed.fields, "profiled": True}
    return [timed, dataclasses.replace(timed, name="profiled", replicates=checked, fields=profiled)]


def milliseconds(records: Sequence[TrialRecord]) -> dict[str, np.ndarray]:
    """Time per step of every loop in milliseconds, one value a replicate in their order."""
    timed = sorted((r for r in records if r.study == "timed"), key=lambda record: record.replicate)
    return {
        arm.name: np.array([1e3 * record.timings["seconds_per_step"] for record in timed if record.arm == arm.name])
        for arm in ARMS
    }


def ratios(times: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the claims compare: log2 ratios of the time per step, one a replicate."""
    return {
        "prefetch": np.log2(times[NOTHING] / times[AHEAD]),
        "sync": np.log2(times[NOTHING] / times[OVERLAPPED]),
        "sync with threads": np.log2(times[AHEAD_WAITS] / times[AHEAD]),
    }


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    del scale
    found = ratios(milliseconds(records))
    helps = larger(found["prefetch"], MATTERS)
    if control:
        return [(PREFETCH, helps), (CONTROL, same(found["prefetch"], MATTERS))]
    return [
        (PREFETCH, helps),
        (SYNC, larger(found["sync"], MATTERS)),
        (THREADS, no_worse(found["sync with threads"], MATTERS, stated=0.0)),
    ]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.input_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="input-pipeline",
    title="Prefetching shortens a step, and a synchronization barrier undoes it",
    source="optimizing the input pipeline",
    figure="Time per step of four loops, every replicate a dot; where their time goes: the device waits for examples, "
    "computes, or idles otherwise; log2 ratios of the time per step with the margin that matters.",
    claims=(PREFETCH, SYNC, THREADS),
    control="The device's step is made far slower than the input: the time per step is the same whether examples are "
    "prepared ahead or not, and the main claim is contradicted.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    flips=("model", "batch"),
)
