"""How a workload's trials are run on a backend: a static, recorded choice, never a timing at run time.

Milliseconds of processor time per training step and trial, on one thread of a 2-core AMD EPYC machine (AVX-512),
medians of 5 chunks of steps:

  lanes                                                            1      2      4      8
  transformer, 6 layers of width 64, batch 8, length 64           17.4   17.5   17.6   18.6
  wide_resnet at laptop, convolutions as matrix products           7.6           7.9    8.4
  mlp, batch 64                                                    .069                 .058

Batched products are no faster than single ones here, so every workload runs in processes on CPU; `--executor lanes`
asks for lanes all the same. The mlp takes .059, .074, .073 and .082 at 16, 32, 64 and 128 lanes, and what 8 lanes save
is less than what a core loses that is idle at a study's end: 200 trials of 1,000 steps took 21 seconds of processor
time in processes and 19 in 8 lanes, with two workers' start and compilation.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

from harness.records import InputError, did_you_mean

EXECUTORS = ("processes", "lanes", "ray")
"""What may be asked for; `ray` runs over machines what the policy chooses."""


class Policy(NamedTuple):
    """What is chosen.

    Attributes:
      executor: `processes`, one trial at a time in each worker process, or `lanes`, many side by side in one program.
      lanes: the most trials side by side; memory may allow fewer.
      chunk: steps between two returns to the host.
    """

    executor: str
    lanes: int
    chunk: int


_ONE_AT_A_TIME = Policy("processes", 8, 64)
"""Its lanes hold where they are asked for: more make packs that keep some cores idle at a study's end."""

_TABLE = {
    ("mlp", "cpu"): _ONE_AT_A_TIME,
    ("resnet", "cpu"): _ONE_AT_A_TIME,
    ("seq2seq_transformer", "cpu"): _ONE_AT_A_TIME,
    ("transformer", "cpu"): _ONE_AT_A_TIME,
    ("wide_resnet", "cpu"): _ONE_AT_A_TIME,
}

_ELSEWHERE = Policy("lanes", 256, 64)
"""An accelerator has room for many small trials, and idles with one."""


def policy(workload: str, backend: str) -> Policy:
    """The policy of a workload, by its name, on a backend such as `cpu`, `gpu` or `tpu`."""
    return _TABLE.get((workload, backend), _ONE_AT_A_TIME if backend == "cpu" else _ELSEWHERE)


def check_executor(executor: str | None, ray_address: str | None) -> None:
    """Refuses an executor that cannot be had.

    Args:
      executor: one of `EXECUTORS`, or None for the policy's.
      ray_address: of a cluster for the executor `ray`, or None.

    Raises:
      InputError: it is unknown, not installed, or not the one that takes an address.
    """
    if executor is not None and executor not in EXECUTORS:
        known = ", ".join(EXECUTORS)
        raise InputError(f"unknown executor {executor!r}{did_you_mean(executor, EXECUTORS)}; known: {known}")
    if executor != "ray" and ray_address is not None:
        raise InputError(f"--ray-address {ray_address!r}: only the executor ray takes it; add --executor ray")
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        raise InputError("the executor ray needs Ray; install it with: pip install 'playbook-bench[ray]'")
