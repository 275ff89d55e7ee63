"""Where workers run: what the pool of `harness.studies.processes` asks of this machine, or of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from harness.studies.machine import Machine


class WorkerLost(Exception):
    """A worker is gone, with whatever it was doing; the message says how it ended."""


class Worker(Protocol):
    """A process that answers one request at a time, see `harness.studies.worker.Server`.

    Its first message comes unasked: `("started", Machine)`, or `("bad_input", line)` where it cannot be used.
    """

    def send(self, kind: str, content: Any) -> None:
        """Sends a request; that the worker is gone is left to `receive`."""

    def receive(self) -> tuple[str, Any]:
        """The message that `Fleet.wait` found.

        Raises:
          WorkerLost: the worker is gone.
        """

    def kill(self) -> None:
        """Ends the worker, whatever it is doing."""


class Fleet(Protocol):
    """Starts workers, all of one kind: for trials over so many devices, alone or not."""

    def room(self, machine: Machine) -> int:
        """How many workers of such a machine may run at a time, at least 1; on a cluster it changes as nodes do."""

    def memory(self, machine: Machine) -> int:
        """Bytes that one of them may use."""

    def start(self, machine: Machine | None) -> Worker:
        """Starts a worker.

        Args:
          machine: that the first worker has found, None for the first.

        Raises:
          InputError: nothing can be started here.
        """

    def wait(self, workers: Sequence[Worker]) -> list[Worker]:
        """Waits until some of the workers have a message or are gone; gives those."""

    def close(self) -> None:
        """Removes what is left when every worker was killed."""
