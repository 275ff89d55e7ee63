"""What a worker process does: compile groups and run packs of trials for its driver."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import tempfile
import threading
import traceback
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import InputError
from harness.studies.machine import Machine, this_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.training.programs import Programs
    from harness.training.run import Outcome
    from harness.training.trial import Trial

_ONE_THREAD = {
    # One thread a trial: two single-threaded trials beat one on two threads, and the bits do not depend on the cores.
    "NPROC": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def environment(machine: Machine | None, devices: int) -> dict[str, str]:
    """Variables that a worker on CPU needs before it starts, for its libraries read them when they load.

    Args:
      machine: that it runs on, None where it is to find that out.
      devices: that CPU is divided into.
    """
    if machine is not None and machine.backend != "cpu":
        return {}
    if devices == 1:
        return dict(_ONE_THREAD)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**_ONE_THREAD, "XLA_FLAGS": flags.strip()}


class Server:
    """Answers the requests of a driver, one at a time; it loads JAX."""

    def __init__(self, folder: Path):
        """Finds out what machine this is.

        Args:
          folder: empty or missing, and this process's alone.
        """
        import jax.monitoring

        from harness.studies.compilation_cache import use

        self._folder = folder
        self._compilations = 0
        self._loaded: dict[tuple[str, int, int], Programs] = {}
        jax.monitoring.register_event_listener(self._count)
        use(folder)
        self.machine = this_machine()

    def answer(self, kind: str, content: Any) -> tuple[str, Any]:
        """Answers a request.

        Requests are `("compile", (trial, lanes, chunk, bytes))` and `("run", (trials, lanes, chunk, folder))`, whose
        folder is the pack's for checkpoints, None for none; answers
        `("compiled", (compilations, lanes that fit))`, `("done", list of Outcome)`, `("bad_input", line)` for missing
        or wrong data, and `("failed", traceback)` for anything else.
        """
        from workloads.workload import DataError

        try:
            if kind == "compile":
                return "compiled", self._compile(*content)
            return "done", self._run(*content)
        except (DataError, InputError) as error:
            return "bad_input", str(error)
        except Exception:  # whatever the environment did to this pack is the driver's to judge
            return "failed", traceback.format_exc()

    def _compile(self, trial: Trial, lanes: int, chunk: int, limit: int) -> tuple[int, int]:
        from harness.studies.compilation_cache import link_finished, publish
        from harness.training.memory import fitting_lanes
        from harness.training.run import compile_programs

        self._compilations = 0
        link_finished(self._folder)
        lanes = fitting_lanes(trial, lanes, chunk, limit)
        compile_programs(self._programs(trial, lanes, chunk), trial)
        publish(self._folder)
        return self._compilations, lanes

    def _run(self, trials: Sequence[Trial], lanes: int, chunk: int, folder: Path | None) -> list[Outcome]:
        from harness.studies.pack_checkpoints import PackCheckpoints
        from harness.training.profile import measure
        from harness.training.run import run_pack

        programs = self._programs(trials[0], lanes, chunk)
        if folder is not None and not folder.parent.parent.is_dir():
            folder = None  # a node of a cluster that does not share the driver's disk
        checkpoints = None if folder is None else PackCheckpoints(folder, programs.mesh)
        try:
            outcomes = run_pack(programs, trials, checkpoints=checkpoints)
        finally:
            if checkpoints is not None:
                checkpoints.close()
        if trials[0].profiled:
            with tempfile.TemporaryDirectory(dir=self._folder.parent) as trace:
                shares = measure(programs, trials[0], Path(trace)).shares()
            outcomes = [dataclasses.replace(one, timings={**one.timings, **shares}) for one in outcomes]
        return outcomes

    def _programs(self, trial: Trial, lanes: int, chunk: int) -> Programs:
        from harness.studies.compilation_cache import link_finished
        from harness.training.devices import data_mesh
        from harness.training.programs import Programs

        key = trial.compile_group(), lanes, chunk
        if key not in self._loaded:
            link_finished(self._folder)
            mesh = data_mesh(trial.devices) if trial.devices > 1 else None
            self._loaded[key] = Programs(trial, lanes, chunk, mesh)
        return self._loaded[key]

    def _count(self, event: str, **_: object) -> None:
        self._compilations += event == "/jax/compilation_cache/cache_misses"


def work(pipe: Connection, folder: Path) -> None:
    """Serves the driver at the other end of the pipe until it closes it, or is gone; see `Server`.

    The folder is the driver's, for what its workers keep on disk; it goes with the driver.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    threading.Thread(target=_die_with_parent, args=(folder,), daemon=True).start()
    server = Server(folder / str(os.getpid()))
    pipe.send(("started", server.machine))
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        pipe.send(server.answer(*request))


def _die_with_parent(folder: Path) -> None:
    connection.wait([parent_process().sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
