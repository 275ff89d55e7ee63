"""Measures the batch sizes of a workload and writes `result.json` and the page; see `harness.procedures.batch_size`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.diagnose import json_ready
from harness.procedures.batch_size import decide, read_sizes, read_steps
from harness.procedures.step_time import StepTime, step_time
from harness.provenance import provenance
from harness.records import InputError
from harness.studies.identity import identity
from harness.studies.study import PlannedTrial
from harness.train import plan
from workloads.workload import DataError, Stream


def batch_size(
    workload: str,
    scale: str,
    settings: Mapping[str, str],
    sizes: str | None,
    memory_limit: int | None,
    steps: Path | None,
    out: Path,
    command: str,
    on_measured: Callable[[StepTime], None] = lambda one: None,
) -> dict[str, Any]:
    """Measures batch sizes until one no longer fits, and writes `OUT/batch-size/<workload>/<scale>/`.

    Args:
      workload: its name, or `module:NAME`.
      scale: one of the workload's.
      settings: fields of the workload, of its scale, or hyperparameters, to values as text.
      sizes: see `harness.procedures.batch_size.read_sizes`.
      memory_limit: bytes that may be used; None for those of the accelerator, or half of the machine's on CPU.
      steps: CSV of the steps to a target at each batch size, or None.
      out: the folder of all results.
      command: that repeats this run, for the provenance.
      on_measured: called with each batch size.

    Returns:
      What `result.json` holds, and `folder`.

    Raises:
      InputError: bad input, see the message.
    """
    if memory_limit is not None and memory_limit < 1:
        raise InputError(f"--memory-limit {memory_limit}: expected at least 1 byte")
    at_hand = None if steps is None else read_steps(steps)
    trial = plan(workload, scale, 0, settings)
    try:
        train = trial.workload.data(trial.seeds["split"]).train
        examples = len(train.records if isinstance(train, Stream) else next(iter(train.values())))
        measured: list[StepTime] = []
        for size in read_sizes(sizes, examples):
            found = step_time(dataclasses.replace(trial, batch_size=size), memory_limit)
            measured.append(found)
            on_measured(found)
            if not found.fits:
                break
    except DataError as error:
        raise InputError(str(error)) from None
    decision = decide(measured, at_hand)
    place = PlannedTrial("batch-size", trial.workload.name, 0, trial)
    result = json_ready(
        {
            "procedure": "batch-size",
            "workload": workload,
            "scale": scale,
            "set": settings,
            "decision": decision.values,
            "findings": [dataclasses.asdict(finding) for finding in decision.findings],
            "provenance": provenance(command, measured[0].device, identity([place])),
        }
    )
    folder = out / "batch-size" / trial.workload.name / scale
    from harness.report.batch_size import batch_size_page

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(batch_size_page(result), "utf-8")
        (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); make room and repeat the command") from None
    return {**result, "folder": str(folder)}
