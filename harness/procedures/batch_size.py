"""`playbook batch-size`: which batch sizes fit, what doubling them brings, and which one to train with.

By the playbook's "Determining the feasible batch sizes and estimating training throughput": throughput should double
with the batch until the device is full, and the time per step stay what it was; where it does not, something else holds
training up, and it is worth finding out before a size is chosen. With the steps to a target at each batch size at hand
(`harness.analysis.batch_scaling`), time is steps times time per step.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.analysis.findings import Finding, number
from harness.procedures.procedure import Decision
from harness.procedures.step_time import StepTime
from harness.records import InputError
from harness.training.profile import THRESHOLD

SMALLEST = 8
"""Smallest batch size that is tried unless sizes are given."""

PAYS = 1.25
"""Gain in throughput below which larger batches are said not to pay: a doubling that gains less takes a step at least
1.6 times as long for it."""


def read_sizes(text: str | None, examples: int) -> list[int]:
    """Reads the batch sizes to try, ascending.

    Args:
      text: `64,128,256`, or None for the powers of two from `SMALLEST` that the training set has examples for.
      examples: of the training set.

    Raises:
      InputError: no number, below 1, or larger than the training set.
    """
    if text is None:
        sizes = [2**power for power in range(SMALLEST.bit_length() - 1, examples.bit_length())]
        return sizes or [2 ** (examples.bit_length() - 1)]
    try:
        sizes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise InputError(f"--sizes {text!r}: expected whole numbers from 1 on with commas between, such as 64,128,256")
    if sizes[-1] > examples:
        raise InputError(f"--sizes {text!r}: expected at most {examples}, the size of the training set")
    return sizes


def read_steps(path: Path) -> dict[int, float]:
    """Reads the steps to the target at each batch size from a CSV with the columns `batch_size` and `steps`.

    Raises:
      InputError: it cannot be read, a column is missing, or a value is no number above 0.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = {int(row["batch_size"]): float(row["steps"]) for row in rows}
    except OSError as error:
        raise InputError(f"--steps {path}: cannot be read ({error.strerror})") from None
    except (KeyError, ValueError, TypeError, csv.Error, UnicodeDecodeError):
        found = {}
    if not found or min(found) < 1 or not all(0 < steps < math.inf for steps in found.values()):
        raise InputError(f"--steps {path}: expected a CSV with columns batch_size and steps, numbers above 0 in them")
    return found


def gains(measured: Sequence[StepTime]) -> dict[int, float]:
    """Throughput of each batch size over that of half of it, by the medians, where both were run."""
    speed = {one.batch_size: one.examples_per_second for one in measured if one.seconds}
    return {size: speed[size] / speed[size // 2] for size in speed if not size % 2 and size // 2 in speed}


def decide(measured: Sequence[StepTime], steps: Mapping[int, float] | None) -> Decision:
    """Says what fits, where doubling stops to pay, and what to train with.

    Args:
      measured: in ascending order of batch sizes.
      steps: batch size to steps to the target; None without a scaling study.

    Raises:
      InputError: no batch size fits, or none that was run has steps to the target.
    """
    fitting = [one for one in measured if one.seconds]
    if not fitting:
        first = measured[0]
        raise InputError(
            f"batch_size {first.batch_size}, the smallest: {first.reason}; raise --memory-limit, choose smaller "
            "--sizes, or a smaller model"
        )
    gained = gains(measured)
    stop = _stop(fitting)
    input_bound = [one.batch_size for one in fitting if one.input_share > THRESHOLD]
    values: dict[str, Any] = {
        "sizes": [_row(one, gained) for one in measured],
        "largest_fitting": fitting[-1].batch_size,
        "doubling_stops_to_pay": stop,
        "input_bound": input_bound,
        "target": None if steps is None else _to_target(fitting, steps),
    }
    return Decision.of(True, values, _findings(measured, fitting, gained, stop, input_bound, values["target"]))


def _stop(fitting: Sequence[StepTime]) -> int | None:
    """The smallest batch size whose throughput no larger one betters by `PAYS`; None where that is the largest run.

    Not the first doubling that gains less: one slow measurement would decide it.
    """
    for at, one in enumerate(fitting[:-1]):
        if max(other.examples_per_second for other in fitting[at + 1 :]) < PAYS * one.examples_per_second:
            return one.batch_size
    return None


def _row(one: StepTime, gained: Mapping[int, float]) -> dict[str, Any]:
    return {
        **one._asdict(),
        "seconds_per_step": one.seconds_per_step,
        "examples_per_second": one.examples_per_second,
        "gain": gained.get(one.batch_size),
    }


def _to_target(fitting: Sequence[StepTime], steps: Mapping[int, float]) -> dict[str, Any]:
    """Time and cost to the target of each batch size with both measurements, and the sizes of the least of either.

    Time is on this device. Cost is in device-seconds, the batch spread over as many devices as it takes for each to
    have its cheapest part of it: that of the most examples per second.
    """
    cheapest = min(one.seconds_per_step / one.batch_size for one in fitting)
    rows = [
        {
            "batch_size": one.batch_size,
            "steps": steps[one.batch_size],
            "seconds": steps[one.batch_size] * one.seconds_per_step,
            "device_seconds": steps[one.batch_size] * one.batch_size * cheapest,
        }
        for one in fitting
        if one.batch_size in steps
    ]
    if not rows:
        known, run = (", ".join(map(str, sorted(sizes))) for sizes in (steps, [one.batch_size for one in fitting]))
        raise InputError(f"--steps has batch sizes {known}: expected some of those measured, {run}; see --sizes")
    return {
        "sizes": rows,
        "least_time": min(rows, key=lambda row: row["seconds"])["batch_size"],
        "least_cost": min(rows, key=lambda row: row["device_seconds"])["batch_size"],
    }


def _findings(
    measured: Sequence[StepTime],
    fitting: Sequence[StepTime],
    gained: Mapping[int, float],
    stop: int | None,
    input_bound: Sequence[int],
    target: Mapping[str, Any] | None,
) -> list[Finding]:
    largest = fitting[-1]
    refused = [one for one in measured if not one.fits]
    found = []
    if refused:
        evidence = f"batch size {largest.batch_size} fits, {refused[0].batch_size} does not: {refused[0].reason}"
        found.append(Finding("memory", "note", evidence, ""))
    else:
        evidence = f"every batch size up to {largest.batch_size} fits"
        found.append(Finding("memory", "note", evidence, ""))
    told = ", ".join(f"{gain:.2f} ({size // 2} to {size})" for size, gain in sorted(gained.items()))
    if stop is not None:
        evidence = f"no batch size above {stop} has {PAYS:g} times its throughput; doublings gain {told or 'unknown'}"
        advice = "" if input_bound else "a larger batch takes longer steps and brings next to no throughput"
        found.append(Finding("throughput", "note", evidence, advice))
    elif told:
        evidence = f"throughput grows up to the largest batch size; doublings gain {told}, 2 being perfect"
        found.append(Finding("throughput", "good", evidence, "the device is not full yet: larger batches are worth it"))
    if input_bound:
        evidence = f"the device waits for examples at batch sizes {', '.join(map(str, input_bound))}"
        advice = "mend the input pipeline first (playbook train --profile says how); then measure again"
        found.append(Finding("input pipeline", "warning", evidence, advice))
    else:
        found.append(Finding("input pipeline", "good", "the device never waits for examples", ""))
    if target is None:
        size = largest.batch_size if stop is None else stop
        evidence = f"{number(_speed(fitting, size))} examples a second at batch size {size}"
        advice = f"train with {size}, and tune its rate and regularisation anew; do not tune the size for its error"
        found.append(Finding("batch size", "note", evidence, advice))
        return found
    rows = {row["batch_size"]: row for row in target["sizes"]}
    for name, column, unit in (
        ("least time", "seconds", "seconds on this device"),
        ("least cost", "device_seconds", "device-seconds over devices at their best throughput"),
    ):
        size = target[name.replace(" ", "_")]
        evidence = f"{number(rows[size][column])} {unit} to the target, {number(rows[size]['steps'])} steps"
        found.append(Finding(name, "note", evidence, f"train with {size}"))
    return found


def _speed(fitting: Sequence[StepTime], size: int) -> float:
    return next(one.examples_per_second for one in fitting if one.batch_size == size)
