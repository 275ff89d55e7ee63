"""Several hosts that train one trial together: how they join and agree, and how the first, which writes, leads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from harness.records import InputError

_SPECIFICATION = re.compile(r"(\d+)/(\d+)@(.+:\d+)")
_DIGITS = 64
"""Of the texts that hosts compare: hexadecimal sha256."""


def join(specification: str) -> None:
    """Joins the other hosts; call it before anything else touches JAX's devices.

    Args:
      specification: `I/N@ADDRESS:PORT`, host I of N from 0, with the address of host 0; or `auto`, where Slurm, Open
        MPI, Kubernetes or a Cloud TPU says so.

    Raises:
      InputError: it is neither, or the others cannot be reached.
    """
    found = _SPECIFICATION.fullmatch(specification)
    if found and int(found[1]) < int(found[2]):
        arguments = {
            "coordinator_address": found[3],
            "num_processes": int(found[2]),
            "process_id": int(found[1]),
            "cluster_detection_method": "deactivate",
        }
    elif specification == "auto":
        arguments = {}
    else:
        raise InputError(
            f"--hosts {specification!r}: expected HOST/HOSTS@ADDRESS:PORT with HOST below HOSTS, such as "
            "0/2@10.0.0.1:8476, or auto under Slurm, Open MPI, Kubernetes or on a Cloud TPU"
        )
    try:
        jax.distributed.initialize(**arguments)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"--hosts {specification}: {' '.join(str(error).split())}") from None


def is_first() -> bool:
    """Whether this host logs and writes; where there is but one, it does."""
    return jax.process_index() == 0


def agree(parts: Mapping[str, str]) -> None:
    """Compares what every host is about to run.

    Args:
      parts: name to sha256, in hexadecimal; the same names on every host.

    Raises:
      InputError: on every host, where any two differ; it names part and hosts.
    """
    mine = np.array([list(digest.encode()) for digest in parts.values()], np.uint8).reshape(len(parts), _DIGITS)
    all_of_them = multihost_utils.process_allgather(mine)
    for number, name in enumerate(parts):
        digests = [bytes(of[number]).decode() for of in all_of_them]
        other = next((host for host, digest in enumerate(digests) if digest != digests[0]), None)
        if other is not None:
            raise InputError(
                f"hosts disagree on {name}: host 0 has sha256 {digests[0][:12]}, host {other} has "
                f"{digests[other][:12]}; give all hosts the same {name} and start them again"
            )


@contextmanager
def announcing() -> Iterator[Callable[[bool], None]]:
    """Lets the first host tell the others whether to go on, by the function that it yields.

    Where the block ends without a word, however it ends, they are told not to, so that none waits for ever.
    """
    told = False

    def announce(going_on: bool) -> None:
        nonlocal told
        told = True
        multihost_utils.broadcast_one_to_all(np.int32(going_on))

    try:
        yield announce
    finally:
        if not told:
            announce(False)


def told_to_go_on() -> bool:
    """What the first host announces; waits for it."""
    return bool(multihost_utils.broadcast_one_to_all(np.int32(0)))
