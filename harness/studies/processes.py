"""The `processes` executor: one trial per CPU core in spawned single-threaded workers."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import InputError
from harness.studies.worker import ENVIRONMENT, XLA_CPU_FLAGS, work
from harness.training.trial import Trial

if TYPE_CHECKING:
    from harness.training.run import Outcome

TRIES = 3
"""How often a trial that its environment broke (killed worker, out of memory) is started before giving up."""


class EnvironmentFailure(Exception):
    """A trial failed again and again for reasons outside itself; finished trials are stored."""


@dataclasses.dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    request: tuple[str, Trial] | None = None
    groups: set[str] = dataclasses.field(default_factory=set)


def available_cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_trials(
    trials: Iterable[Trial],
    jobs: int,
    on_compiled: Callable[[str, int, str], None],
    on_finished: Callable[[Trial, Outcome], None],
) -> None:
    """Runs trials in worker processes, each compile group's programs compiled by one worker before the others use them.

    Args:
      trials: what to run; results do not depend on the order.
      jobs: number of workers.
      on_compiled: called with compile group, number of compilations and device, once a group.
      on_finished: called with each trial and its outcome, in the order of finishing, in this process.

    Raises:
      InputError: the data are missing or not the expected ones.
      EnvironmentFailure: a trial failed `TRIES` times.
    """
    groups: dict[str, deque[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.compile_group(), deque()).append(trial)
    to_compile = deque(groups)
    ready: dict[str, deque[Trial]] = {}
    tries: dict[str, int] = {}
    workers: list[_Worker] = []
    remaining = sum(map(len, groups.values()))
    folder = Path(tempfile.mkdtemp(prefix="playbook-"))

    def next_request(worker: _Worker) -> tuple[str, Trial] | None:
        if to_compile:
            # A trial that measures curvature compiles that program too.
            group = to_compile.popleft()
            request = "compile", max(groups[group], key=lambda trial: trial.curvature_examples)
        else:
            waiting = [group for group, trials in ready.items() if trials]
            if not waiting:
                return None
            # A worker stays with the groups it has loaded: loading one takes as long as a few trials.
            group = max(waiting, key=lambda group: (group in worker.groups, len(ready[group])))
            request = "run", ready[group].popleft()
        worker.groups.add(group)
        return request

    def give_back(request: tuple[str, Trial], why: str) -> None:
        kind, trial = request
        key = kind + trial.address()
        tries[key] = tries.get(key, 0) + 1
        if tries[key] >= TRIES:
            raise EnvironmentFailure(f"a trial failed {TRIES} times, finished trials are kept: {why}")
        if kind == "compile":
            to_compile.appendleft(trial.compile_group())
        else:
            ready[trial.compile_group()].appendleft(trial)

    def take_in(worker: _Worker) -> None:
        nonlocal remaining
        request, worker.request = worker.request, None
        trial = request[1]
        try:
            answer, content = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            workers.remove(worker)
            worker.process.join()
            return give_back(request, f"a worker ended with exit code {worker.process.exitcode}")
        if answer == "bad_input":
            raise InputError(content)
        if answer == "failed":
            return give_back(request, content)
        if answer == "compiled":
            on_compiled(trial.compile_group(), *content)
            ready[trial.compile_group()] = groups[trial.compile_group()]
        else:
            remaining -= 1
            on_finished(trial, content)
        return None

    try:
        while remaining:
            while len(workers) < min(jobs, remaining):
                workers.append(_start_worker(folder))
            for worker in workers:
                if worker.request is None and (request := next_request(worker)) is not None:
                    worker.request = request
                    with contextlib.suppress(OSError):  # a worker that is gone is found out by `take_in`
                        worker.pipe.send(request)
            busy = {worker.pipe: worker for worker in workers if worker.request is not None}
            for pipe in connection.wait(list(busy)):
                take_in(busy[pipe])
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.pipe.close()
        shutil.rmtree(folder, ignore_errors=True)


def _start_worker(folder: Path) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    os.environ["XLA_FLAGS"] = f"{XLA_CPU_FLAGS} {before.get('XLA_FLAGS', '')}".strip()
    try:
        process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, folder), daemon=True)
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    theirs.close()
    return _Worker(process, ours)
