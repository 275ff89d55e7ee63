"""Trains one workload once: checkpoints, curves and the best checkpoint selected in retrospect."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.provenance import provenance
from harness.records import InputError, did_you_mean
from harness.studies.fingerprint import fingerprint
from harness.studies.identity import identity
from harness.studies.store import Store, locked_folder, move_aside
from harness.studies.study import PlannedTrial
from harness.training.trial import COMMON, OPTIMIZERS, OPTIONAL, Trial, derive_seeds
from workloads.workload import ConfigurationError, DataError, Scale, configure, workload_scale

EVALUATIONS = 10
"""How often a run is evaluated, and a checkpoint saved."""

_OF_THE_RUN = ("batch_size", "steps", "evaluation_batch_size", "optimizer", "schedule")


def plan(workload: str, scale: str, seed: int, settings: Mapping[str, str], predictions: bool = False) -> Trial:
    """Makes the trial of a workload's defaults.

    Args:
      workload: its name, or `module:NAME`.
      scale: one of the workload's.
      seed: at least 0.
      settings: fields of the workload, of its scale, or hyperparameters, to values as text.
      predictions: record the label predicted for every validation example.

    Raises:
      InputError: bad input, see the message.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: expected at least 0")
    try:
        size = workload_scale(workload, scale)
        fields = [field.name for field in dataclasses.fields(size.workload)]
        size = _with_run_settings(size, {k: v for k, v in settings.items() if k in _OF_THE_RUN})
        hyperparameters = dict(size.hyperparameters)
        known = (*COMMON, *OPTIMIZERS.get(size.optimizer, ()), *OPTIONAL)
        for name, text in settings.items():
            if name in known:
                hyperparameters[name] = _number(name, text, float)
            elif name not in (*fields, *_OF_THE_RUN):
                every = (*fields, *_OF_THE_RUN, *known)
                raise InputError(f"unknown setting {name!r}{did_you_mean(name, every)}; known: {', '.join(every)}")
        configured = configure(size.workload, {k: v for k, v in settings.items() if k in fields})
        configured.data_hashes()
    except (ConfigurationError, DataError) as error:
        raise InputError(str(error)) from None
    # Another optimizer's hyperparameters are not this one's.
    kept = {name: value for name, value in hyperparameters.items() if name in known}
    total = size.steps + int(kept["warmup_steps"])
    return Trial(
        workload=configured,
        batch_size=size.batch_size,
        steps=size.steps,
        evaluation_steps=tuple(sorted({round(total * i / EVALUATIONS) for i in range(EVALUATIONS + 1)})),
        evaluation_batch_size=size.evaluation_batch_size,
        optimizer=size.optimizer,
        schedule=size.schedule,
        hyperparameters=kept,
        seeds=derive_seeds(seed, 0),
        predictions=predictions,
    )


def train(
    trial: Trial,
    folder: Path,
    best: int,
    fresh: bool,
    command: str,
    on_evaluation: Callable[[int, float, float], None] = lambda step, error, loss: None,
    on_notice: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs what is missing of a trial and writes its result folder.

    Args:
      trial: what to run.
      folder: of this run.
      best: how many of the best checkpoints to keep, beside the last.
      fresh: move older results of the folder aside.
      command: that repeats this run, for the provenance.
      on_evaluation: called with the steps done, validation error and loss.
      on_notice: called with a line for the user.

    Returns:
      What `result.json` holds, and `folder`.

    Raises:
      InputError: bad input, see the message.
    """
    if best < 1:
        raise InputError(f"--best {best}: expected at least 1")
    place = PlannedTrial("train", trial.workload.name, 0, trial)
    wanted = identity([place])
    with locked_folder(folder):
        if fresh and (aside := move_aside(folder)) is not None:
            on_notice(f"older results moved to {aside}")
        store = Store(folder, wanted)
        try:
            if trial.address() not in store.finished():
                _run(trial, store, folder / "checkpoints", best, on_evaluation, on_notice)
            (record,) = store.records([place])
            device, seconds = store.fact("device"), float(store.fact("seconds") or 0)
        finally:
            store.close()
        result = {
            "workload": trial.workload.name,
            "status": record.status,
            "reason": record.reason,
            # JSON has no NaN.
            "results": {name: value if math.isfinite(value) else None for name, value in record.results.items()},
            "fingerprint": fingerprint([record]),
            "seconds": round(seconds, 1),
            "trial": trial.specification(),
            "provenance": provenance(command, device, wanted),
        }
        try:
            _write(folder, record, result)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be written ({error.strerror}); make room and repeat the command"
            ) from None
    return {**result, "folder": str(folder)}


def _run(
    trial: Trial,
    store: Store,
    checkpoints_folder: Path,
    best: int,
    on_evaluation: Callable[[int, float, float], None],
    on_notice: Callable[[str], None],
) -> None:
    from harness.studies.machine import this_machine
    from harness.studies.policy import policy
    from harness.training.checkpoints import Checkpoints
    from harness.training.compilation_cache import publish, temporary_cache
    from harness.training.programs import Programs
    from harness.training.run import compile_programs, run_trial

    machine = this_machine()
    before = store.fact("device")
    if before not in (None, machine.device):
        raise InputError(
            f"checkpoints here come from {before}, this machine is {machine.device}, and bits may differ; "
            "--fresh moves them aside, or choose another --out"
        )
    store.record_fact("device", machine.device)
    spent, begin = float(store.fact("seconds") or 0), time.monotonic()
    programs = Programs(trial, chunk=policy(trial.workload.name, machine.backend).chunk)
    with temporary_cache() as private:
        compile_programs(programs, trial)
        publish(private)
    checkpoints = Checkpoints(checkpoints_folder, trial.workload.objective, best)
    try:
        if steps := checkpoints.steps():
            on_notice(f"going on from the checkpoint at step {steps[-1]} of {trial.total_steps}")

        def evaluated(step, metrics) -> None:
            store.record_fact("seconds", repr(spent + time.monotonic() - begin))
            on_evaluation(step, *map(float, metrics[:, 0]))

        outcome = run_trial(programs, trial, checkpoints, on_evaluation=evaluated)
    finally:
        checkpoints.close()
    store.record_fact("seconds", repr(spent + time.monotonic() - begin))
    store.add(
        trial.address(),
        trial.specification(),
        outcome.status,
        outcome.reason,
        outcome.results,
        outcome.curves,
        outcome.timings,
    )


def _write(folder: Path, record: Any, result: Mapping[str, Any]) -> None:
    from harness.figures.style import save
    from harness.figures.training_curves import draw_training_curves
    from harness.report.trial_table import write_parquet

    write_parquet([record], folder / "trials.parquet")
    title = f"{result['workload']}, {record.hyperparameters['optimizer']}, {len(record.curves['train_loss'])} steps"
    save(lambda: draw_training_curves(record, title), folder)
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def _with_run_settings(size: Scale, settings: Mapping[str, str]) -> Scale:
    kinds = {"optimizer": str, "schedule": str}
    values = {name: _number(name, text, kinds.get(name, int)) for name, text in settings.items()}
    return dataclasses.replace(size, **values)


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{name}={text!r}: expected {kind.__name__}") from None
