"""How a workload's trials are run on a backend: a static, recorded choice, never a timing at run time.

Measured on a 2-core AMD EPYC machine, see `workloads/bench_peers.py`: convolutions lose under vmap on CPU, since
grouped convolutions and batched products of few channels are slow there; small Transformers gain, since their many
small operations are paid once for several trials.
"""

from __future__ import annotations

from typing import NamedTuple

EXECUTORS = ("processes", "lanes")


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


_CONVOLUTIONS_ON_CPU = Policy("processes", 4, 64)
_TRANSFORMERS_ON_CPU = Policy("lanes", 8, 64)

_ON_CPU = {
    "wide_resnet": _CONVOLUTIONS_ON_CPU,
    "resnet": _CONVOLUTIONS_ON_CPU,
    "transformer": _TRANSFORMERS_ON_CPU,
    "seq2seq_transformer": _TRANSFORMERS_ON_CPU,
}

_ELSEWHERE = Policy("lanes", 256, 64)
"""An accelerator has room for many small trials, and idles with one."""


def policy(workload: str, backend: str) -> Policy:
    """The policy of a workload, by its name, on a backend such as `cpu`, `gpu` or `tpu`."""
    return _ON_CPU.get(workload, _CONVOLUTIONS_ON_CPU) if backend == "cpu" else _ELSEWHERE
