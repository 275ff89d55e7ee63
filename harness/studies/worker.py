"""What a worker process does: compile groups and run trials for its driver, and die with it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import traceback
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path

ENVIRONMENT = {
    # One thread a trial: two single-threaded trials beat one on two threads, and the bits do not depend on the cores.
    "NPROC": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
"""Set before a worker starts, for its libraries read it when they load."""

XLA_CPU_FLAGS = "--xla_backend_optimization_level=1"
"""Halves compilation on CPU (12.5 s to 5.8 s for WRN-10-2 training) at the same speed of the compiled step."""


def work(pipe: Connection, folder: Path) -> None:
    """Serves the driver at the other end of the pipe until it closes it.

    The folder is the driver's, for what its workers keep on disk; it goes with the driver.

    Requests are `("compile", trial)` and `("run", trial)`; answers `("compiled", (compilations, device))`,
    `("done", Outcome)`, `("bad_input", line)` for missing or wrong data, and `("failed", traceback)` for anything else.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    threading.Thread(target=_die_with_parent, args=(folder,), daemon=True).start()

    import jax
    import jax.monitoring

    from harness.training.compilation_cache import link_finished, publish, use
    from harness.training.programs import Programs
    from harness.training.run import compile_programs, run_trial
    from workloads.workload import DataError

    compilations = 0

    def count(event: str, **_: object) -> None:
        nonlocal compilations
        compilations += event == "/jax/compilation_cache/cache_misses"

    jax.monitoring.register_event_listener(count)
    programs: dict[str, Programs] = {}
    private = folder / str(os.getpid())
    use(private)
    while True:
        try:
            request, trial = pipe.recv()
        except EOFError:
            return
        try:
            group = trial.compile_group()
            if group not in programs:
                link_finished(private)
                programs[group] = Programs(trial.workload, trial.optimizer)
            if request == "compile":
                compilations = 0
                compile_programs(programs[group], trial)
                publish(private)
                answer = ("compiled", (compilations, _device()))
            else:
                answer = ("done", run_trial(programs[group], trial))
        except DataError as error:
            answer = ("bad_input", str(error))
        except Exception:  # whatever the environment did to this trial is the driver's to judge
            answer = ("failed", traceback.format_exc())
        pipe.send(answer)


def _device() -> str:
    import jax

    from harness.training.compilation_cache import processor_name

    device = jax.devices()[0]
    return processor_name() if device.platform == "cpu" else device.device_kind


def _die_with_parent(folder: Path) -> None:
    connection.wait([parent_process().sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
