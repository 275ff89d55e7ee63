"""Trains one workload once: checkpoints, curves and the best checkpoint selected in retrospect."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.provenance import provenance
from harness.records import InputError, did_you_mean
from harness.studies.fingerprint import fingerprint
from harness.studies.identity import identity
from harness.studies.store import Store, locked_folder, move_aside
from harness.studies.study import PlannedTrial
from harness.training.batches import check_batch_size
from harness.training.trial import COMMON, OPTIMIZERS, OPTIONAL, Trial, canonical_json, derive_seeds
from workloads.workload import ConfigurationError, DataError, Scale, Score, Stream, configure, workload_scale

if TYPE_CHECKING:
    from harness.training.checkpoints import Checkpoints
    from harness.training.profile import Profile
    from harness.training.programs import Programs
    from harness.training.run import Outcome

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
    hosts: str | None = None,
    workers: int | None = None,
) -> dict[str, Any] | None:
    """Runs what is missing of a trial, on all devices, and writes its result folder.

    Args:
      trial: what to run.
      folder: of this run.
      best: how many of the best checkpoints to keep, beside the last.
      fresh: move older results of the folder aside.
      command: that repeats this run, for the provenance.
      on_evaluation: called with the steps done, validation error and loss.
      on_notice: called with a line for the user.
      hosts: which of several hosts this is, see `harness.training.hosts.join`; they share the folder, and the first
        writes into it. None where there is but this one.
      workers: processes that read and decode where the data are streams, 0 for threads; None for as many as there
        are cores to spare.

    Returns:
      What `result.json` holds, and `folder`; None on a host that is not the first.

    Raises:
      InputError: bad input, see the message.
    """
    if best < 1:
        raise InputError(f"--best {best}: expected at least 1")
    place = PlannedTrial("train", trial.workload.name, 0, trial)
    wanted = identity([place])
    run = _Run(trial, folder / "checkpoints", best, _workers(workers))
    if hosts is None:
        run.check(folder)
        return _lead(run, place, wanted, folder, fresh, command, on_evaluation, on_notice, lambda going_on: None)
    from harness.training.hosts import agree, announcing, is_first, join, told_to_go_on

    join(hosts)
    agree({name: _digest(wanted[name]) for name in ("trials", "data", "source", "jax")})
    run.check(folder)
    if is_first():
        with announcing() as announce:
            return _lead(run, place, wanted, folder, fresh, command, on_evaluation, on_notice, announce)
    if told_to_go_on():
        run()
    return None


def profile(trial: Trial, folder: Path, hosts: str | None = None, workers: int | None = None) -> Profile | None:
    """Profiles a few steps of a trial, on all devices, and keeps the trace in `folder`; nothing is trained.

    Args:
      trial: whose steps.
      folder: of the run.
      hosts: see `train`.
      workers: see `train`.

    Returns:
      The profile, which `folder` / `profile.json` holds too; None on a host that is not the first.

    Raises:
      InputError: bad input, see the message.
    """
    from harness.training.hosts import is_first, join

    if hosts is not None:
        join(hosts)
    found = _Run(trial, folder / "checkpoints", 1, _workers(workers)).profile(folder / "profile")
    if not is_first():
        return None
    (folder / "profile.json").write_text(json.dumps(found._asdict(), indent=1) + "\n", "utf-8")
    return found


def _workers(wanted: int | None) -> int:
    if wanted is None:
        return spare_cores()
    if wanted < 0:
        raise InputError(f"--workers {wanted}: expected at least 0")
    return wanted


def spare_cores() -> int:
    """Worker processes for streams: the cores that one process and its threads leave idle."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores - 1 if cores > 4 else 0  # few cores are busy with threads alone, and processes take seconds to start


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _lead(
    run: _Run,
    place: PlannedTrial,
    wanted: Mapping[str, Any],
    folder: Path,
    fresh: bool,
    command: str,
    on_evaluation: Callable[[int, float, float], None],
    on_notice: Callable[[str], None],
    announce: Callable[[bool], None],
) -> dict[str, Any]:
    """Does what the only or the first host does; `announce` tells the others whether there is anything to run."""
    trial = place.trial
    with locked_folder(folder):
        if fresh and (aside := move_aside(folder)) is not None:
            on_notice(f"older results moved to {aside}")
        store = Store(folder, wanted)
        try:
            if trial.address() not in store.finished():
                _run_stored(run, store, on_evaluation, on_notice, announce)
            (record,) = store.records([place])
            device, seconds = store.fact("device"), float(store.fact("seconds") or 0)
            score = json.loads(store.fact("score") or "{}")
        finally:
            store.close()
        result = {
            "workload": trial.workload.name,
            "status": record.status,
            "reason": record.reason,
            # JSON has no NaN.
            "results": {name: value if math.isfinite(value) else None for name, value in record.results.items()},
            **({"scores": score} if score else {}),
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


def _run_stored(
    run: _Run,
    store: Store,
    on_evaluation: Callable[[int, float, float], None],
    on_notice: Callable[[str], None],
    announce: Callable[[bool], None],
) -> None:
    """Runs the trial and stores what it gave."""
    device = run.device()
    before = store.fact("device")
    if before not in (None, device):
        raise InputError(
            f"checkpoints here come from {before}, this machine is {device}, and bits may differ; "
            "--fresh moves them aside, or choose another --out"
        )
    store.record_fact("device", device)
    announce(True)
    spent, begin = float(store.fact("seconds") or 0), time.monotonic()

    def evaluated(step, metrics) -> None:
        store.record_fact("seconds", repr(spent + time.monotonic() - begin))
        on_evaluation(step, *map(float, metrics[:, 0]))

    outcome, score = run(evaluated, on_notice)
    if score is not None:
        outcome.results[f"best_{score.name}"] = score.value
        store.record_fact("score", json.dumps({score.name: score.how}))
    store.record_fact("seconds", repr(spent + time.monotonic() - begin))
    store.add(
        run.trial.address(),
        run.trial.specification(),
        outcome.status,
        outcome.reason,
        outcome.results,
        outcome.curves,
        outcome.timings,
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """What every host does: compile, go on from the last checkpoint, train.

    Attributes:
      trial: to run.
      checkpoints: their folder.
      best: how many of the best checkpoints to keep.
      workers: processes that decode streams.
    """

    trial: Trial
    checkpoints: Path
    best: int
    workers: int

    def check(self, folder: Path) -> None:
        """Refuses what the data or the devices do not allow, before there is a folder for it; see `train`."""
        if (folder / "study.sqlite").exists():  # it was checked, and may be finished
            return
        from harness.training.devices import check_divisible, data_mesh

        try:
            train = self.trial.workload.data(self.trial.seeds["split"]).train
        except DataError as error:
            raise InputError(str(error)) from None
        examples = len(train.records) if isinstance(train, Stream) else len(next(iter(train.values())))
        check_batch_size(self.trial.batch_size, examples)
        check_divisible(self.trial.batch_size, data_mesh())

    def device(self) -> str:
        """The kind of device, and the number of devices and hosts where there are several."""
        import jax

        from harness.studies.machine import this_machine

        count, hosts = jax.device_count(), jax.process_count()
        several = f", {count} devices" + (f" on {hosts} hosts" if hosts > 1 else "")
        return this_machine().device + (several if count > 1 else "")

    def __call__(
        self,
        on_evaluation: Callable[[int, Any], None] = lambda step, metrics: None,
        on_notice: Callable[[str], None] = lambda line: None,
    ) -> tuple[Outcome, Score | None]:
        """Runs, and scores the best checkpoint; the arguments are those of `run_pack` and `train`."""
        from harness.training.checkpoints import Checkpoints
        from harness.training.run import run_trial

        try:
            programs = self._programs()
            checkpoints = Checkpoints(self.checkpoints, self.trial.workload.objective, self.best, programs.mesh)
            try:
                if steps := checkpoints.steps():
                    on_notice(f"going on from the checkpoint at step {steps[-1]} of {self.trial.total_steps}")
                outcome = run_trial(
                    programs, self.trial, checkpoints, on_evaluation=on_evaluation, workers=self.workers
                )
                return outcome, self._score(programs, checkpoints, outcome)
            finally:
                checkpoints.close()
        except DataError as error:
            raise InputError(str(error)) from None

    def _score(self, programs: Programs, checkpoints: Checkpoints, outcome: Outcome) -> Score | None:
        """What the workload itself measures of the best checkpoint, if anything."""
        import jax
        import numpy as np

        kept, best = checkpoints.steps(), outcome.results["best_step"]
        if not hasattr(self.trial.workload, "score") or outcome.status != "complete" or not kept:
            return None
        # The untrained state, if that was the best, is not kept.
        state = checkpoints.restore(programs.blank_state(), int(best) if best in kept else kept[-1]).state
        # Every host has all of it, and scores on its own.
        lane = jax.tree.map(lambda leaf: np.asarray(leaf)[0], (state.evaluated, state.model_state))
        return self.trial.workload.score(*lane)

    def profile(self, folder: Path) -> Profile:
        """Profiles a few steps, see `harness.training.profile.measure`."""
        import jax

        from harness.training.profile import measure

        try:
            programs = self._programs()
            return measure(programs, self.trial, folder / f"host{jax.process_index()}", self.workers)
        except DataError as error:
            raise InputError(str(error)) from None

    def _programs(self) -> Programs:
        """The programs over all devices, compiled."""
        import jax

        from harness.studies.compilation_cache import publish, temporary_cache
        from harness.studies.policy import policy
        from harness.training.devices import check_divisible, data_mesh
        from harness.training.programs import Programs
        from harness.training.run import compile_programs

        mesh = data_mesh()
        check_divisible(self.trial.batch_size, mesh)
        chunk = policy(self.trial.workload.name, jax.default_backend()).chunk
        programs = Programs(self.trial, chunk=chunk, mesh=mesh)
        with temporary_cache() as private:
            compile_programs(programs, self.trial)
            publish(private)
        return programs


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
