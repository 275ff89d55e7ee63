"""Workers on the nodes of a Ray cluster: one that runs already, or one on this machine that ends with the driver.

A worker is an actor rather than a task for each pack, since it keeps the programs of the groups it has loaded, and
shows code and data before it takes work. What Ray's `max_retries` is to a task, `harness.studies.processes.TRIES` is
here: the pack of a lost worker or node is given to another.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import RayError

from harness.records import InputError
from harness.studies.fleet import WorkerLost
from harness.studies.identity import data_hashes, source_hash
from harness.studies.machine import Machine
from harness.studies.worker import Server, environment
from harness.training.trial import Trial
from workloads.workload import DataError, Workload

_OBJECTS = 200 << 20
"""Bytes of shared memory for what workers send; Ray's own choice is a third of the machine's memory."""

_PATIENCE = 5.0
"""Seconds for the head of a cluster to answer; Ray itself tries for more than a minute."""

_REMOVALS: list[subprocess.Popen] = []
"""Keeps their input open."""

_MENDS = {
    "source": "install the same version of playbook-bench on every node",
    "jax": "install the same version of jax on every node",
}


class _Actor:
    """In the worker's process: a `Server` that Ray calls, where its code and data are the driver's."""

    def start(self, workloads: Sequence[Workload], wanted: Mapping[str, str]) -> tuple[str, Any]:
        """Compares what decides results, then loads JAX.

        Args:
          workloads: that will be trained, one for each kind of data.
          wanted: what the driver has, see `_what_decides`.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
        node = f"a worker on {ray.util.get_node_ip_address()}"
        try:
            found = _what_decides(workloads)
        except DataError as error:
            return "bad_input", f"{node}: {error}"
        for name, ours in wanted.items():
            if found.get(name) != ours:
                mend = _MENDS.get(name, f"give every node the same data set {name}")
                return "bad_input", f"{node} has {name} {found.get(name)}, this driver has {ours}; {mend}"
        self._folder = Path(tempfile.mkdtemp(prefix="playbook-"))
        self._server = Server(self._folder)
        return "started", self._server.machine

    def answer(self, kind: str, content: Any) -> tuple[str, Any]:
        """See `Server.answer`."""
        return self._server.answer(kind, content)

    def clear(self) -> None:
        """Removes what it keeps on disk."""
        shutil.rmtree(self._folder, ignore_errors=True)


class _RayWorker:
    """See `harness.studies.fleet.Worker`."""

    def __init__(self, actor: Any, *expected: Any):
        self._actor = actor
        self._idle = False
        self.message = actor.start.remote(*expected)

    def send(self, kind: str, content: Any) -> None:
        self._idle = False
        self.message = self._actor.answer.remote(kind, content)

    def receive(self) -> tuple[str, Any]:
        try:
            message = ray.get(self.message)
            self._idle = message[0] != "bad_input"
            return message
        except RayError as error:
            why = " ".join(str(error).split())
        if lacking := re.search(r"No module named '[^']*'", why):
            return "bad_input", f"a node of the cluster has {lacking[0]}; install the same packages on every node"
        raise WorkerLost(f"a worker on the cluster was lost: {why}")

    def kill(self) -> None:
        with contextlib.suppress(Exception):  # a cluster that is gone has taken it along
            if self._idle:
                ray.wait([self._actor.clear.remote()], timeout=_PATIENCE)
            ray.kill(self._actor)


class RayFleet:
    """See `harness.studies.fleet.Fleet`; its workers end with this process.

    A worker takes an accelerator for each device of a trial, else one CPU, and all of a node's where nothing else may
    run beside it.
    """

    def __init__(self, trials: Sequence[Trial], workers: int, jobs: int, address: str | None):
        """Connects to the cluster, where this process has not before.

        Args:
          trials: that it is for, all alone or none, and over equally many devices.
          workers: most workers at a time.
          jobs: CPUs of a cluster on this machine.
          address: of a cluster that runs, `HOST:PORT` or `auto`; None for one on this machine.

        Raises:
          InputError: there is none.
        """
        self._workers = workers
        self._alone, self._devices = trials[0].alone, trials[0].devices
        workloads = dict.fromkeys(trial.workload for trial in trials)
        kinds = {tuple(workload.data_hashes().items()): workload for workload in workloads}
        self._expected = list(kinds.values()), _what_decides(kinds.values())
        if not ray.is_initialized():
            _connect(jobs, address)

    def room(self, machine: Machine) -> int:
        everywhere = ray.cluster_resources()
        if machine.backend == "cpu":
            room = everywhere.get("CPU", 0)
        else:
            room = everywhere.get(machine.backend.upper(), 0) // self._devices
        return max(1, min(self._workers, int(room)))

    def memory(self, machine: Machine) -> int:
        # An accelerator's memory is not shared.
        return machine.memory // (max(1, self._largest_node("CPU")) if machine.backend == "cpu" else 1)

    def start(self, machine: Machine | None) -> _RayWorker:
        # What the driver's JAX is told, workers of another machine are told too.
        variables = {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_"))}
        options = {
            "runtime_env": {"env_vars": variables | environment(machine, self._devices)},
            **self._share(machine),
        }
        return _RayWorker(ray.remote(_Actor).options(**options).remote(), *self._expected)

    def wait(self, workers: Sequence[_RayWorker]) -> list[_RayWorker]:
        by_message = {worker.message: worker for worker in workers}
        with _handler_heeded():
            ready, _ = ray.wait(list(by_message))
        return [by_message[message] for message in ready]

    def close(self) -> None:
        """Leaves the cluster on, for a study's next round."""

    def _share(self, machine: Machine | None) -> dict[str, Any]:
        """What a worker takes of its node."""
        cpus = self._largest_node("CPU") if self._alone else 1
        if os.environ.get("JAX_PLATFORMS") == "cpu" or (machine is not None and machine.backend == "cpu"):
            return {"num_cpus": cpus}
        if self._largest_node("GPU"):
            return {"num_gpus": self._devices, "num_cpus": cpus if self._alone else 0}
        if self._largest_node("TPU"):
            return {"resources": {"TPU": self._devices}, "num_cpus": cpus if self._alone else 0}
        return {"num_cpus": cpus}

    def _largest_node(self, resource: str) -> int:
        return int(max((node["Resources"].get(resource, 0) for node in ray.nodes() if node["Alive"]), default=0))


def _what_decides(workloads: Iterable[Workload]) -> dict[str, str]:
    """What of this machine decides results, by name, as in `harness.studies.identity`."""
    return {"source": source_hash(), "jax": importlib.metadata.version("jax"), **data_hashes(workloads)}


def _connect(jobs: int, address: str | None) -> None:
    """Joins the cluster at an address, or starts one on this machine; either is left when this process ends.

    Raises:
      InputError: there is none.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    # What nodes report, such as a death, it prints on standard output all the same.
    ray._private.worker._worker_logs_enabled = False
    if address is not None:
        _check_reachable(address)
        try:
            with _handler_heeded(), _as_before():
                ray.init(address, **quiet)
        except Exception as error:  # Ray has no class of its own for these
            raise InputError(f"--ray-address {address!r}: {str(error).strip().splitlines()[0]}") from None
        return
    # Not below TMPDIR, whose path may be too long for Ray's sockets.
    folder = tempfile.mkdtemp(prefix="playbook-ray-", dir="/tmp")
    # The input of this command ends with this process, however that ends, and so does Ray.
    removal = ["sh", "-c", 'cat; sleep 3; rm -rf "$0"', folder]
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    _REMOVALS.append(subprocess.Popen(removal, stdin=subprocess.PIPE, start_new_session=True, **nowhere))
    with _handler_heeded(), _as_before():
        os.environ["TMPDIR"] = folder  # of its workers
        ray.init(
            "local",
            num_cpus=jobs,
            include_dashboard=False,
            object_store_memory=_OBJECTS,
            _temp_dir=folder,
            **quiet,
        )


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Puts the environment and the handler of SIGTERM back, both of which Ray sets; it reports no usage."""
    environment_before = dict(os.environ)
    handler = signal.getsignal(signal.SIGTERM)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment_before)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _handler_heeded() -> Iterator[None]:
    """Calls the handler of SIGTERM again where Ray has taken the signal, or what the handler raised, for its own."""
    try:
        yield
    except SystemExit:
        signal.raise_signal(signal.SIGTERM)
        raise


def _check_reachable(address: str) -> None:
    """Asks for the greeting of HTTP/2, which the head of a cluster speaks (RFC 9113, section 3.4).

    Raises:
      InputError: nothing answers, or something else.
    """
    expected = "expected HOST:PORT of the head of a Ray cluster that this machine is a node of, or auto"
    # What `ray start` left, or the environment says, may be of a cluster that is gone.
    try:
        found = canonicalize_bootstrap_address(address) if address == "auto" else address
    except ConnectionError:  # where Ray has never run; elsewhere it finds None
        found = None
    if found is None:
        raise InputError(f"--ray-address 'auto': no Ray cluster runs on this machine; {expected}")
    host, _, port = found.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--ray-address {address!r}: {expected}")
    try:
        with socket.create_connection((host, int(port)), _PATIENCE) as connection:
            connection.settimeout(_PATIENCE)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            greeting = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray-address {address!r}: nothing answers there ({error}); {expected}") from None
    if greeting[3:4] != b"\4":  # a frame of settings
        raise InputError(f"--ray-address {address!r}: what answers there is no Ray cluster; {expected}")
