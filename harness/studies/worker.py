"""What a worker process does: compile groups and run packs of trials for its driver, and die with it."""

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

from harness.records import InputError

ENVIRONMENT = {
    # One thread a trial: two single-threaded trials beat one on two threads, and the bits do not depend on the cores.
    "NPROC": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
"""Set before a worker on CPU starts, for its libraries read it when they load."""


def work(pipe: Connection, folder: Path) -> None:
    """Serves the driver at the other end of the pipe until it closes it.

    The folder is the driver's, for what its workers keep on disk; it goes with the driver.

    The first message is `("started", Machine)`. Requests are `("compile", (trial, lanes, chunk, bytes))` and `("run",
    (trials, lanes, chunk))`; answers `("compiled", (compilations, lanes that fit))`, `("done", list of Outcome)`,
    `("bad_input", line)` for missing or wrong data, and `("failed", traceback)` for anything else.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    threading.Thread(target=_die_with_parent, args=(folder,), daemon=True).start()

    import jax.monitoring

    from harness.studies.machine import this_machine
    from harness.training.compilation_cache import link_finished, publish, use
    from harness.training.devices import data_mesh
    from harness.training.memory import fitting_lanes
    from harness.training.profile import measure
    from harness.training.programs import Programs
    from harness.training.run import compile_programs, run_pack
    from workloads.workload import DataError

    compilations = 0

    def count(event: str, **_: object) -> None:
        nonlocal compilations
        compilations += event == "/jax/compilation_cache/cache_misses"

    jax.monitoring.register_event_listener(count)
    loaded: dict[tuple[str, int, int], Programs] = {}

    def programs_of(trial, lanes: int, chunk: int) -> Programs:
        key = trial.compile_group(), lanes, chunk
        if key not in loaded:
            link_finished(private)
            mesh = data_mesh(trial.devices) if trial.devices > 1 else None
            loaded[key] = Programs(trial, lanes, chunk, mesh)
        return loaded[key]

    def run(trials, lanes: int, chunk: int):
        programs = programs_of(trials[0], lanes, chunk)
        outcomes = run_pack(programs, trials)
        if trials[0].profiled:
            with tempfile.TemporaryDirectory(dir=folder) as trace:
                shares = measure(programs, trials[0], Path(trace)).shares()
            outcomes = [dataclasses.replace(one, timings={**one.timings, **shares}) for one in outcomes]
        return outcomes

    private = folder / str(os.getpid())
    use(private)
    pipe.send(("started", this_machine()))
    while True:
        try:
            request, content = pipe.recv()
        except EOFError:
            return
        try:
            if request == "compile":
                trial, lanes, chunk, limit = content
                compilations = 0
                link_finished(private)
                lanes = fitting_lanes(trial, lanes, chunk, limit)
                compile_programs(programs_of(trial, lanes, chunk), trial)
                publish(private)
                answer = ("compiled", (compilations, lanes))
            else:
                trials, lanes, chunk = content
                answer = ("done", run(trials, lanes, chunk))
        except (DataError, InputError) as error:
            answer = ("bad_input", str(error))
        except Exception:  # whatever the environment did to this pack is the driver's to judge
            answer = ("failed", traceback.format_exc())
        pipe.send(answer)


def _die_with_parent(folder: Path) -> None:
    connection.wait([parent_process().sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
