"""Throughput doubles with the batch until the device is full, and accumulating gradients adds nothing.

    playbook reproduce feasible-batch-sizes              about 2 minutes on 2 CPU cores
    playbook reproduce feasible-batch-sizes --control    about 2 minutes

The playbook says (L124-141): train each power of two for a few steps; as long as the device is not full, throughput
should double with the batch, or nearly, and the time per step stay nearly constant; where it does not, something else
is the bottleneck, such as the input. Accumulating gradients simulates a batch larger than the device holds, and so
has no advantage in throughput. The figure to expect: throughput on the line of doubling at the left and on a plateau at
the right, where accumulation lies too; the time per step flat at the left and on the line of doubling at the right.

It judges this machine beside the claim: a CPU core is full early, an accelerator late. Every trial runs while no other
does, batch sizes by turns, so that what slows the machine down for a while does not hit one of them; the replicates are
the units. Times are medians over the calls of the training program, of about the same length at every batch size.
Nothing else may run on the machine: what does shows as spread.

The gain of a doubling is the log2 ratio of the throughputs, 1 where it doubles. Time per step over that of half the
batch is 2 to the power of 1 minus the gain: the first claim's two halves are one measurement.

A pilot of two trials a size on a core of an AMD EPYC, milliseconds per step at 1, 2, 4, 16, 64 and 128: .50, .46, .60,
1.3, 4.5 and 8.9. The first doubling gains more than 1 (a batch of 1 takes another matrix product), the second .6: a
core is full from about 16 on. For the control's images, in a loop that reads nothing ahead, 1.0, 1.4 and 2.2 at 1, 2
and 4.

Null calibration, 2,000 simulated experiments a row, gains with the skewed noise of timings (a tenth of the calls slowed
by up to a half): with the truth at the edge of one of the three parts and the others certain, 2.5% are reproduced in
each case, which is what is allowed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, no_worse, share_above
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOUBLES = 0.75
"""Gain of a doubling above which throughput is said to double, or nearly: a factor of 1.7."""

FULL = 0.32
"""Gain of a doubling under which the device is called full: a factor of 1.25, as in `playbook batch-size`."""

NO_GAIN = 0.14
"""Gain by accumulation that is called none: a factor of 1.1."""

INPUT_BOUND = 0.1
"""Share of the time that the device waits for examples above which the check says input-bound, see
`harness.training.profile`, which needs JAX."""

MOSTLY = 0.5
"""Share of the control's trials that the check is to call input-bound."""

_CHECKED = 1_000  # replicates from here on are profiled


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    Attributes:
      workload: name and scale.
      sizes: batch sizes, ascending powers of two.
      small: its sizes at which throughput is to double.
      large: its sizes at which the device is to be full.
      parts: that the accumulated batch is split into, each of the smallest of `large`.
      examples: of a call of the training program, about, at most `most_steps` steps.
      most_steps: of a call.
      calls: of a trial; the first and the last do not count.
      replicates: of every batch size.
      checks: trials of every batch size whose time is divided into input, compute and host.
      slow_input: fields of the control's workload, whose examples take longer to decode than to train on.
    """

    workload: tuple[str, str]
    sizes: tuple[int, ...]
    small: tuple[int, ...]
    large: tuple[int, ...]
    parts: int
    examples: int
    most_steps: int
    calls: int
    replicates: int
    checks: int
    slow_input: tuple[str, str, Mapping[str, Any]]


def _powers(low: int, high: int) -> tuple[int, ...]:
    return tuple(2**n for n in range(low.bit_length() - 1, high.bit_length()))


_JPEG = MappingProxyType({"dataset": "photo_patches_jpeg", "side": 8, "width": 1})

SETTINGS = {
    "smoke": Settings(
        ("wide_resnet", "smoke"),
        (1, 2, 16, 32),
        (1, 2),
        (16, 32),
        2,
        32,
        8,
        3,
        1,
        1,
        ("resnet", "smoke", _JPEG),
    ),
    "laptop": Settings(
        ("wide_resnet", "laptop"),
        (1, 2, 4, 16, 64, 128, 256),
        (1, 2),
        (64, 128, 256),
        4,
        1024,
        64,
        6,
        24,
        1,
        ("resnet", "laptop", _JPEG),
    ),
    "accelerator": Settings(
        ("resnet", "accelerator"),
        _powers(1, 1024),
        _powers(1, 8),
        (512, 1024),
        2,
        2048,
        32,
        6,
        12,
        2,
        ("resnet", "accelerator", MappingProxyType({**_JPEG, "side": 32, "stem": "small", "depth": 8})),
    ),
    "paper": Settings(
        ("resnet", "paper"),
        _powers(1, 256),
        _powers(1, 4),
        (128, 256),
        2,
        1024,
        32,
        6,
        12,
        2,
        ("resnet", "paper", MappingProxyType({"depth": 18, "width": 4})),
    ),
}

SATURATES = Claim(
    "throughput.saturates",
    "Throughput doubles with the batch until the device is full, the time per step being flat until then.",
    f"Over replicates, the mean gain of a doubling (log2 ratio of examples per second) at the small batch sizes has "
    f"its lower limit above {DOUBLES}, and at the large ones its upper limit under {FULL}.",
)
ACCUMULATION = Claim(
    "throughput.accumulation-no-gain",
    "Accumulating gradients has no advantage in throughput over the batch size of its parts.",
    f"Upper limit of the mean log2 ratio of examples per second, accumulated over plain at the size of a part, under "
    f"{NO_GAIN}.",
)
INPUT = Claim(
    "throughput.control-input-bound",
    "The check of the input pipeline finds the bottleneck.",
    f"Share of the profiled trials that are called input-bound (the device waits for examples more than "
    f"{INPUT_BOUND:g} of the time), lower limit above {MOSTLY}.",
)


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings = SETTINGS[scale]
    name, own_scale, fields = settings.slow_input if control else (*settings.workload, {})
    base = workload_scale(name, own_scale)
    workload = configure(configure(base.workload, fields), overrides)
    # A small rate, so that no batch size diverges: what is timed is the same at every rate.
    hyperparameters = {**base.hyperparameters, "learning_rate": 1e-3, "warmup_steps": 0}
    # Without reading ahead nothing of the input is hidden behind the steps.
    feeding = {"read_ahead": False, "waits": True} if control else {}
    examples = settings.examples // 4 if control else settings.examples  # which take about four times as long

    def study(kind: str, size: int, replicates: Sequence[int], **named: Any) -> Study:
        per_call = max(1, min(settings.most_steps, examples // size))
        return Study(
            name=f"{kind}-{size}",
            workload=workload,
            arms=(Arm(kind),),
            points=[{}],
            replicates=replicates,
            hyperparameters=hyperparameters,
            batch_size=size,
            steps=settings.calls * per_call,
            evaluation_batch_size=base.evaluation_batch_size,
            optimizer=base.optimizer,
            fields={"alone": True, "steps_per_call": per_call, **feeding, **named.pop("fields", {})},
            **named,
        )

    timed, checked = range(settings.replicates), range(_CHECKED, _CHECKED + settings.checks)
    studies = [study("plain", size, timed) for size in settings.sizes]
    if not control:
        whole = settings.parts * settings.large[0]
        studies.append(study("accumulated", whole, timed, accumulation=settings.parts))
    return studies + [study("profiled", size, checked, fields={"profiled": True}) for size in settings.sizes]


def throughput(records: Sequence[TrialRecord], arm: str = "plain") -> dict[int, np.ndarray]:
    """Examples per second of each batch size, one value a replicate in their order."""
    found: dict[int, list[tuple[int, float]]] = {}
    for record in records:
        if record.arm == arm:
            size = record.hyperparameters["batch_size"]
            found.setdefault(size, []).append((record.replicate, size / record.timings["seconds_per_step"]))
    return {size: np.array([speed for _, speed in sorted(pairs)]) for size, pairs in sorted(found.items())}


def input_shares(records: Sequence[TrialRecord]) -> dict[int, list[float]]:
    """Share of the time that the device waits for examples, of the profiled trials of each batch size."""
    found: dict[int, list[float]] = {}
    for record in records:
        if record.arm == "profiled":
            found.setdefault(record.hyperparameters["batch_size"], []).append(record.timings["input_share"])
    return dict(sorted(found.items()))


def gains(speed: Mapping[int, np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Mean gain of a doubling between the first and the last of the sizes, of each replicate."""
    return np.log2(speed[sizes[-1]] / speed[sizes[0]]) / np.log2(sizes[-1] / sizes[0])


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    speed = throughput(records)
    doubles = larger(gains(speed, settings.small), DOUBLES, stated=1.0)
    saturates = every(doubles, no_worse(gains(speed, settings.large), FULL, stated=0.0))
    if control:
        shares = [share for of_size in input_shares(records).values() for share in of_size]
        bound = sum(share > INPUT_BOUND for share in shares)
        return [(SATURATES, saturates), (INPUT, share_above(bound, len(shares), MOSTLY, stated=1.0))]
    part = settings.large[0]
    gained = np.log2(throughput(records, "accumulated")[settings.parts * part] / speed[part])
    return [(SATURATES, saturates), (ACCUMULATION, no_worse(gained, NO_GAIN, stated=0.0))]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.feasible_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="feasible-batch-sizes",
    title="Throughput doubles with the batch until the device is full; accumulation adds nothing",
    source="determining the feasible batch sizes and estimating training throughput",
    figure="Examples per second against batch size, every replicate a dot, with the line of perfect doubling from the "
    "smallest and the accumulated batch; time per step against batch size with the same line; share of the time that "
    "the device waits for examples.",
    claims=(SATURATES, ACCUMULATION),
    control="Examples take longer to decode than to train on, and nothing is read ahead: throughput does not double "
    "with the batch, so that the main claim is not reproduced, and the check says input-bound.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    flips=("model",),
)
