"""Where the time of a training run goes: to input, to compute or to the host, read from a trace of a few steps.

Over whole periods of the loop of `harness.training.run`, from one handing of steps to the device to another:

  compute  the share in which the device is at work: the union of the intervals of its operations
  input    the share in which the device has no steps to work on while the host prepares examples, or copies them to it
  host     the rest: handing over steps, waiting for curves, and the gaps between the operations of the steps at hand

Those gaps are never input's, for the examples of the steps at hand are there.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from harness.records import InputError
from harness.training.feeds import feed_of
from harness.training.programs import Programs
from harness.training.run import TRACED_DISPATCH, TRACED_INPUT, run_pack
from harness.training.trial import Trial

PIECES, STEPS = 3, 32
"""The least pieces of the feed, and the least steps, that a profile is over: a pipeline that has batches ready must run
out of them before it shows how fast it is."""

THRESHOLD = 0.1
"""The share of input, or of the host, above which it is called the limit: with less, the best mend gains at most a
ninth, and shares of short profiles differ by a few hundredths."""

_DEVICE = re.compile(r"/device:(?:GPU|TPU):(\d+)")
_COPIES = ("MemcpyH2D", "MemcpyD2H")
"""What a GPU's copies from and to the host are called; the latter belong to waiting for curves."""


class Profile(NamedTuple):
    """How the time of a few training steps was spent.

    Attributes:
      seconds: that the steps took, under the profiler, which slows them a little.
      steps: how many they were.
      input: share of the time, see above; the three sum to 1.
      compute: likewise.
      host: likewise.
      input_bound: whether `input` exceeds `THRESHOLD`.
      advice: what limits the speed and how to mend it, one line.
    """

    seconds: float
    steps: int
    input: float
    compute: float
    host: float
    input_bound: bool
    advice: str

    def shares(self) -> dict[str, float]:
        """The three shares as they stand beside the timings of a trial."""
        return {"input_share": self.input, "compute_share": self.compute, "host_share": self.host}


def measure(programs: Programs, trial: Trial, folder: Path, workers: int = 0) -> Profile:
    """Trains a few steps of a trial under the profiler, at rate 0, so that none diverges.

    Compiles the training program where it is not yet, and evaluates nothing. The first piece of the feed warms up and
    the last ends a period: neither counts.

    Args:
      programs: of the trial's compile group.
      trial: whose steps are to be profiled.
      folder: where the trace is kept, for XProf (`*.xplane.pb`) and Perfetto (`*.trace.json.gz`).
      workers: processes that read and decode where the data are streams; 0 for threads.

    Returns:
      The profile, as `read` gives it.

    Raises:
      DataError: the data are missing or not the expected ones.
      InputError: the folder cannot be written, or the loss is not finite before any step.
    """
    trial = dataclasses.replace(
        trial,
        evaluation_steps=(),
        hyperparameters={**trial.hyperparameters, "learning_rate": 0.0, "warmup_steps": 0},
        curvature_examples=0,
        noise_steps=(),
        predictions=False,
        profiled=False,
    )
    chunk = feed_of([trial] * programs.lanes, programs.chunk, programs.mesh, workers).chunk
    trial = dataclasses.replace(trial, steps=(max(PIECES, math.ceil(STEPS / chunk)) + 2) * chunk)
    run_pack(programs, [trial], steps_limit=0, workers=workers)  # compiles
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # a record of every Python call would slow down the host alone
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with jax.profiler.trace(folder, profiler_options=options):
            (outcome,) = run_pack(programs, [trial], workers=workers)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); make room or choose another --out") from None
    if outcome.reason is not None:
        raise InputError(f"nothing to profile: {outcome.reason}, though at rate 0; mend the workload or its data")
    return read(folder)


def read(folder: Path) -> Profile:
    """Reads the newest trace in a folder that `measure` has written to.

    Raises:
      InputError: there is none, or it does not hold what a profile needs.
    """
    files = sorted(folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime_ns)
    if not files:
        raise InputError(f"{folder} holds no trace (*.xplane.pb); make one with: playbook train WORKLOAD --profile")
    found = _events(jax.profiler.ProfileData.from_file(str(files[-1])))
    lacking = "operations of a device" if not len(found.operations) else None
    if len(found.dispatches) < 3:
        lacking = f"at least 3 times {TRACED_DISPATCH!r}, but {len(found.dispatches)}"
    if lacking:
        raise InputError(f"{files[-1]} does not hold {lacking}; repeat: playbook train WORKLOAD --profile")
    dispatches = sorted(found.dispatches)[1:]  # the first piece warms up
    starts = [start for start, _ in dispatches]
    steps = sum(steps for _, steps in dispatches[:-1])
    input_share, compute = shares(starts, found.inputs, found.operations, found.copies)
    host = max(0.0, 1 - input_share - compute)  # rounding may leave less than nothing
    input_bound = input_share > THRESHOLD
    seconds = (starts[-1] - starts[0]) / 1e9
    return Profile(seconds, steps, input_share, compute, host, input_bound, _advice(input_share, compute, host))


def shares(
    starts: Iterable[float], inputs: np.ndarray, operations: np.ndarray, copies: np.ndarray
) -> tuple[float, float]:
    """Divides the time between the first and the last handing of steps to the device.

    Args:
      starts: when steps were handed over, ascending, at least two; all times in one unit.
      inputs: when the host prepared examples; these three as in `union`.
      operations: when the device worked.
      copies: when examples were copied to the device.

    Returns:
      The shares of input and of compute, as the head of this file defines them.
    """
    starts = list(starts)
    window = np.array([[starts[0], starts[-1]]], float)
    busy = intersection(union(operations), window)
    # In each period the device has steps to work on until its last operation.
    at_hand = []
    for period in itertools.pairwise(starts):
        if len(own := intersection(busy, np.array([period], float))):
            at_hand.append((period[0], own[-1, 1]))
    without_steps = gaps(union(np.array(at_hand).reshape(-1, 2)), *window[0])
    waiting = intersection(union(inputs), without_steps)
    copying = intersection(union(copies), gaps(busy, *window[0]))
    return length(union(np.concatenate([waiting, copying]))) / length(window), length(busy) / length(window)


def union(intervals: np.ndarray) -> np.ndarray:
    """Merges intervals, (n, 2) of starts and ends, into disjoint ones in ascending order, (m, 2)."""
    if not len(intervals):
        return np.zeros((0, 2))
    starts, ends = intervals[np.argsort(intervals[:, 0])].T
    reached = np.maximum.accumulate(ends)
    first = np.append(True, starts[1:] > reached[:-1])
    return np.stack([starts[first], reached[np.append(first[1:], True)]], 1)


def intersection(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What two sets of intervals share, both and the result as `union` gives them."""
    common, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        start, end = max(one[i, 0], other[j, 0]), min(one[i, 1], other[j, 1])
        if start < end:
            common.append((start, end))
        if one[i, 1] < other[j, 1]:
            i += 1
        else:
            j += 1
    return np.array(common, float).reshape(-1, 2)


def gaps(intervals: np.ndarray, start: float, end: float) -> np.ndarray:
    """What lies between start and end and in none of the intervals, which lie between them; all as `union` gives it."""
    edges = np.concatenate([[start], np.ravel(intervals), [end]]).reshape(-1, 2)
    return edges[edges[:, 0] < edges[:, 1]]


def length(intervals: np.ndarray) -> float:
    """The total length of disjoint intervals."""
    return float(np.sum(intervals[:, 1] - intervals[:, 0]))


class _Events(NamedTuple):
    """What a trace holds, in nanoseconds: of handings over start and steps, else float64 (n, 2), start and end."""

    dispatches: list[tuple[float, int]]
    inputs: np.ndarray
    operations: np.ndarray
    copies: np.ndarray


def _events(trace: jax.profiler.ProfileData) -> _Events:
    """Picks out the host's annotations and the operations of its first device; on CPU, of all its threads."""
    dispatches, inputs, on_host, on_device = [], [], [], {}
    for plane in trace.planes:
        if device := _DEVICE.fullmatch(plane.name):
            on_device[int(device[1])] = _device_events(plane)
        if plane.name != "/host:CPU":
            continue
        for event in (event for line in plane.lines for event in line.events):
            if event.name == TRACED_DISPATCH:
                dispatches.append((event.start_ns, int(dict(event.stats)["steps"])))
            elif event.name == TRACED_INPUT:
                inputs.append((event.start_ns, event.end_ns))
            elif any(name == "hlo_op" for name, _ in event.stats):
                on_host.append((event.start_ns, event.end_ns))
    at_work = [events for _, events in sorted(on_device.items()) if events]
    # A device beside an idle accelerator is the CPU, and copies nothing.
    events = at_work[0] if at_work else [("", *interval) for interval in on_host]
    operations = [interval for name, *interval in events if name not in _COPIES]
    copies = [interval for name, *interval in events if name == "MemcpyH2D"]
    return _Events(dispatches, *(np.array(found, float).reshape(-1, 2) for found in (inputs, operations, copies)))


def _device_events(plane: jax.profiler.ProfilePlane) -> list[tuple[str, float, float]]:
    """Name, start and end of what an accelerator did.

    Those of a GPU's streams, or of a TPU's operations; other lines group these, and so hide gaps.
    """
    lines = list(plane.lines)
    chosen = [line for line in lines if line.name.startswith("Stream #")]
    chosen = chosen or [line for line in lines if line.name == "XLA Ops"]
    return [(event.name, event.start_ns, event.end_ns) for line in chosen for event in line.events]


def _advice(input_share: float, compute: float, host: float) -> str:
    """What the playbook advises: "Optimizing the input pipeline"."""
    if input_share > THRESHOLD:
        return (
            f"input-bound: the device waits for examples {input_share:.0%} of the time; decode in more processes "
            "(--workers), keep the data on this machine, drop fields that are not used early, and do work that is the "
            "same in every epoch once, beforehand"
        )
    if host > THRESHOLD:
        return (
            f"not input-bound, but the device idles {host:.0%} of the time between its operations and calls: give it "
            "more to do in each (larger batches, more lanes), return to the host less often (a larger chunk), and keep "
            "other work off this machine"
        )
    return (
        f"not input-bound: the device computes {compute:.0%} of the time, so that only a cheaper step or a faster "
        "device helps"
    )
