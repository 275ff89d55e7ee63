"""Workers on this machine: one spawned process per CPU core, or one for an accelerator."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from harness.studies.fleet import WorkerLost
from harness.studies.machine import Machine
from harness.studies.worker import environment, work


class _Process:
    """See `harness.studies.fleet.Worker`."""

    def __init__(self, process: BaseProcess, pipe: Connection):
        self.pipe = pipe
        self._process = process

    def send(self, kind: str, content: Any) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send((kind, content))

    def receive(self) -> tuple[str, Any]:
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise WorkerLost(f"a worker ended with exit code {self._process.exitcode}") from None

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


class LocalFleet:
    """See `harness.studies.fleet.Fleet`; its workers die with this process."""

    def __init__(self, jobs: int, devices: int):
        """Starts nothing yet.

        Args:
          jobs: number of workers on CPU; an accelerator has one.
          devices: that a trial is trained over; CPU is divided into so many.
        """
        self._jobs = jobs
        self._devices = devices
        self._folder = Path(tempfile.mkdtemp(prefix="playbook-"))

    def room(self, machine: Machine) -> int:
        return self._jobs if machine.backend == "cpu" else 1

    def memory(self, machine: Machine) -> int:
        return machine.memory // self.room(machine)

    def start(self, machine: Machine | None) -> _Process:
        ours, theirs = multiprocessing.Pipe()
        before = dict(os.environ)
        os.environ.update(environment(machine, self._devices))
        try:
            process = multiprocessing.get_context("spawn").Process(
                target=work, args=(theirs, self._folder), daemon=True
            )
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()
        return _Process(process, ours)

    def wait(self, workers: Sequence[_Process]) -> list[_Process]:
        ready = connection.wait([worker.pipe for worker in workers])
        return [worker for worker in workers if worker.pipe in ready]

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
