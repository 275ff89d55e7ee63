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

*Until the device is full.* The first claim is about every batch size: up to the one from which the device is full each
doubling is to gain, from there on none. That size differs between machines and models. So every third replicate is set
aside to find it (`full_from`), and the others are judged. Where the smallest is full already, the first doubling is
judged all the same; where none but the largest can be, the sweep does not reach as far as the claim.

This rule is not the first one. That judged small batch sizes fixed beforehand, at `laptop` the doubling from 1 to 2
alone, which gains more than 1 because a batch of 1 takes another matrix product, and left out all from 2 to 64, where
the device fills up. By it the claim was reproduced at seed 0.

A pilot of two trials a size on a core of an AMD EPYC, milliseconds per step at 1, 2, 4, 16, 64 and 128: .50, .46, .60,
1.3, 4.5 and 8.9. The first doubling gains more than 1, the second .6: a core is full from about 16 on. For the
control's images, in a loop that reads nothing ahead, 1.0, 1.4 and 2.2 at 1, 2 and 4, gains of .5 and .35: too little
wherever it is full.

What was found at seed 0, in two runs of it: the device is full from 16, and on the way there a doubling gains .67 [.65,
.69] on average, which contradicts: 1.1 and 1.2 from 1 to 2, .7 and .6 from 2 to 4, .45 from 4 to 16, then .04 and .02.
At seed 1 it gains .72 [.68, .76] and at seed 2 .71 [.66, .76], which are undecided; the control, at seed 0, gains .33
and says input-bound at every size. A core has nothing idle that a second example would fill: a step costs some .35 ms
whatever the batch, and from the second on each example another .06 to .07 ms. The time is the sum of the two, so it is
flat up to 2 alone and the gain fades. It would be the larger of the two, flat and then rising, where a device does a
whole batch at once until that fills it; that is the claim's picture, and an accelerator's.

The control's claim on the input counts profiled trials: `checks` of each batch size, at `laptop` one, so that its n of
7 are seven batch sizes and no replicates.

Null calibration, 2,000 simulated experiments a row at `laptop`, with the skewed noise of timings (a tenth of the calls
slowed by up to a half), 2.5% being allowed. The ramp gains .75 evenly: 2.4% reproduced, 1.6% contradicted; .75 on
average, fading from 1.1 to .55: 2.4% reproduced. A device that gains .32 behind its ramp: 1.2%; one that is full from
the start: none; accumulation that gains .14: 2.5%. Doublings up to 16 and nothing then: all reproduced. What is judged
is the ramp that was found: where doublings gain 1, 1, .33, .33 and then nothing, .33 being as good as full, a device is
found full from 4 in 23% and the claim reproduced, from 16 in 77% and contradicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, no_worse, out_of_range, share_above
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOUBLES = 0.75
"""Gain of a doubling above which throughput is said to double, or nearly: a factor of 1.7."""

FULL = 0.32
"""Gain of a doubling under which the device is called full: a factor of 1.25, that of `playbook batch-size`."""

NO_GAIN = 0.14
"""Gain by accumulation that is called none: a factor of 1.1."""

INPUT_BOUND = 0.1
"""Share of the time that the device waits for examples above which the check says input-bound, see
`harness.training.profile`, which needs JAX."""

MOSTLY = 0.5
"""Share of the control's trials that the check is to call input-bound."""

_CHECKED = 1_000  # replicates from here on are profiled
_APART = slice(None, None, 3)  # replicates that find where the device is full; between the others, as machines drift


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    Attributes:
      workload: name and scale.
      sizes: batch sizes, ascending powers of two.
      part: one of the sizes, at which the device should be full, of a part of the accumulated batch.
      parts: that the accumulated batch is split into.
      examples: of a call of the training program, about, at most `most_steps` steps.
      most_steps: of a call.
      calls: of a trial; the first and the last do not count.
      replicates: of every batch size.
      checks: trials of every batch size whose time is divided into input, compute and host.
      slow_input: fields of the control's workload, whose examples take longer to decode than to train on.
    """

    workload: tuple[str, str]
    sizes: tuple[int, ...]
    part: int
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
        16,
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
        64,
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
        512,
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
        128,
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
    f"The device is full from the smallest batch size on from which no larger one gains {FULL} a doubling (log2 ratio "
    f"of examples per second, medians of every third replicate). Over the other replicates, the mean gain of a "
    f"doubling from the smallest batch size to that one (at least the first doubling) has its lower limit above "
    f"{DOUBLES}, and from that one to the largest its upper limit under {FULL}; out of range where the largest alone "
    f"may be full.",
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
    f"Share of the profiled trials, as many of each batch size, that are called input-bound (the device waits for "
    f"examples more than {INPUT_BOUND:g} of the time), lower limit above {MOSTLY}; n counts trials of all batch sizes, "
    f"not replicates.",
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
        whole = settings.parts * settings.part
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


def full_from(speed: Mapping[int, np.ndarray]) -> int | None:
    """The batch size from which on the device is full, found on every third replicate.

    Args:
      speed: examples per second of all replicates, by ascending batch size.

    Returns:
      The smallest from which no larger one gains `FULL` a doubling, by medians; None where that holds for none but the
      largest, beyond which nothing is known.
    """
    middle = {size: np.median(each[_APART]) for size, each in speed.items()}
    sizes = list(middle)
    for at, size in enumerate(sizes[:-1]):
        if all(gains(middle, (size, other)) < FULL for other in sizes[at + 1 :]):
            return size
    return None


def _saturates(speed: Mapping[int, np.ndarray]) -> Judgement:
    sizes, full = list(speed), full_from(speed)
    judged = {size: np.delete(each, _APART) for size, each in speed.items()}
    if full is None:
        last = gains(judged, sizes[-2:])
        return every(
            larger(gains(judged, sizes), DOUBLES, stated=1.0), out_of_range(float(np.mean(last)), FULL, len(last))
        )
    ramp = [size for size in sizes if size <= max(full, sizes[1])]
    plateau = [size for size in sizes if size >= full]
    return every(larger(gains(judged, ramp), DOUBLES, stated=1.0), no_worse(gains(judged, plateau), FULL, stated=0.0))


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings, speed = SETTINGS[scale], throughput(records)
    saturates = _saturates(speed)
    if control:
        shares = [share for of_size in input_shares(records).values() for share in of_size]
        bound = sum(share > INPUT_BOUND for share in shares)
        return [(SATURATES, saturates), (INPUT, share_above(bound, len(shares), MOSTLY, stated=1.0))]
    gained = np.log2(throughput(records, "accumulated")[settings.parts * settings.part] / speed[settings.part])
    return [(SATURATES, saturates), (ACCUMULATION, no_worse(gained, NO_GAIN, stated=0.0))]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.feasible_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="feasible-batch-sizes",
    title="Throughput doubles with the batch until the device is full; accumulation adds nothing",
    source="determining the feasible batch sizes and estimating training throughput",
    figure="Examples per second against batch size, every replicate a dot, with the line of perfect doubling from the "
    "smallest, the accumulated batch and the size from which the device is full; time per step against batch size with "
    "the same line; share of the time that the device waits for examples.",
    claims=(SATURATES, ACCUMULATION),
    control="Examples take longer to decode than to train on, and nothing is read ahead: throughput does not double "
    "with the batch, so that the main claim is not reproduced, and the check says input-bound.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
    flips=("model",),
)
