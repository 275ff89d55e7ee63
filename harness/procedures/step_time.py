"""Time per training step, throughput and peak memory of one batch size, measured in a process of its own."""

from __future__ import annotations

import dataclasses
import gc
import math
import multiprocessing
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.records import InputError
from harness.training.trial import Trial

if TYPE_CHECKING:
    from harness.training.programs import Programs

ROUNDS = 3
"""Profiles of a batch size, each of at least 32 steps; their medians are quoted, their extremes are the spread."""

CHUNK = 8
"""Steps of a call: few, so that a large batch does not take minutes."""


class StepTime(NamedTuple):
    """What a batch size takes.

    Attributes:
      batch_size: examples per step.
      fits: whether its training ran within the memory.
      reason: why it does not fit; None where it does.
      predicted_bytes: of the compiled training program with its data, before it ran; None where compiling failed.
      measured_bytes: by which memory grew at most in training; None where it was not run or cannot be told.
      seconds: time per step of each round, ascending; empty where it was not run.
      input_share: share of the time that the device waits for examples, median of the rounds; NaN where it was not run.
      device: kind of the device, or the CPU's model; None where its process ended before it said so.
    """

    batch_size: int
    fits: bool
    reason: str | None
    predicted_bytes: int | None
    measured_bytes: int | None
    seconds: tuple[float, ...]
    input_share: float
    device: str | None

    @property
    def seconds_per_step(self) -> float:
        """Median of the rounds, NaN where it was not run."""
        return sorted(self.seconds)[len(self.seconds) // 2] if self.seconds else math.nan

    @property
    def examples_per_second(self) -> float:
        """Throughput at the median time per step."""
        return self.batch_size / self.seconds_per_step


def step_time(trial: Trial, limit: int | None, workers: int = 0) -> StepTime:
    """Measures a batch size in a process of its own, so that running out of memory ends nothing else.

    Args:
      trial: of that batch size.
      limit: bytes that may be used; None for those of an accelerator, or half of the machine's on CPU.
      workers: processes that read and decode where the data are streams; 0 for threads.

    Raises:
      DataError: the data are missing or not the expected ones.
      InputError: the batch is larger than the training set.
      RuntimeError: training failed for another reason than its memory.
    """
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, trial, limit, workers))
    process.start()
    theirs.close()
    predicted = None
    try:
        while True:
            kind, content = ours.recv()
            if kind == "predicted":
                predicted = content
            elif kind == "bad_input":
                raise content
            elif kind == "failed":
                raise RuntimeError(f"batch size {trial.batch_size} could not be measured:\n{content}")
            else:
                return content
    except EOFError:  # killed for its memory, before it could say so
        process.join()
        reason = f"its process ended with exit code {process.exitcode}"
        return StepTime(trial.batch_size, False, reason, predicted, None, (), math.nan, None)
    finally:
        process.kill()
        process.join()
        ours.close()


def _serve(pipe: Connection, trial: Trial, limit: int | None, workers: int) -> None:
    from harness.studies.compilation_cache import temporary_cache
    from harness.studies.machine import this_machine
    from harness.training.memory import training_bytes
    from harness.training.profile import measure
    from harness.training.programs import Programs
    from workloads.workload import DataError

    machine = this_machine()
    limit = machine.memory if limit is None else limit
    unmeasured = (None, (), math.nan, machine.device)
    predicted = None
    try:
        with temporary_cache(), tempfile.TemporaryDirectory(prefix="playbook-") as folder:
            programs = Programs(trial, chunk=CHUNK)
            predicted = training_bytes(programs, trial)
            pipe.send(("predicted", predicted))
            if predicted > limit:
                reason = f"needs {predicted:,} bytes, {limit:,} may be used"
                found = StepTime(trial.batch_size, False, reason, predicted, *unmeasured)
            else:
                grown = _growth(programs, trial, machine.backend, workers)
                profiles = [measure(programs, trial, Path(folder) / str(n), workers) for n in range(ROUNDS)]
                seconds = tuple(sorted(profile.seconds / profile.steps for profile in profiles))
                share = sorted(profile.input for profile in profiles)[ROUNDS // 2]
                found = StepTime(trial.batch_size, True, None, predicted, grown, seconds, share, machine.device)
    except (DataError, InputError) as error:
        pipe.send(("bad_input", error))
        return
    except Exception as error:
        if not _is_out_of_memory(error):  # a defect says nothing about the memory
            pipe.send(("failed", traceback.format_exc()))
            return
        found = StepTime(trial.batch_size, False, "out of memory", predicted, *unmeasured)
    pipe.send(("found", found))


def _growth(programs: Programs, trial: Trial, backend: str, workers: int) -> int | None:
    """Bytes by which a few steps make memory grow, with the data that lie there already; not those of compiling."""
    import jax

    from harness.training.run import run_pack

    few = dataclasses.replace(trial, steps=CHUNK, evaluation_steps=(), curvature_examples=0, predictions=False)
    still = {**trial.hyperparameters, "learning_rate": 0.0, "warmup_steps": 0}
    few = dataclasses.replace(few, hyperparameters=still)
    run_pack(programs, [few], steps_limit=0, workers=workers)  # compiles
    gc.collect()
    before = _memory(backend, reset=True)
    held = sum(array.nbytes for array in jax.live_arrays())
    run_pack(programs, [few], workers=workers)
    after = _memory(backend, reset=False)
    return None if before is None else after - before + held


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _memory(backend: str, reset: bool) -> int | None:
    """Bytes in use now (reset) or at most since then: of the device, or resident ones on CPU; None if not told."""
    import jax

    if backend != "cpu":
        statistics = jax.devices()[0].memory_stats() or {}
        return statistics.get("bytes_in_use" if reset else "peak_bytes_in_use")
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return None
    wanted = "VmRSS:" if reset else "VmHWM:"
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(wanted))
