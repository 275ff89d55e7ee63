"""What kind of machine trials run on."""

from __future__ import annotations

import os
from typing import NamedTuple


class Machine(NamedTuple):
    """Where trials run.

    Attributes:
      backend: `cpu`, `gpu` or `tpu`.
      device: kind of the device, or the CPU's model.
      memory: bytes that programs may use, of all workers together.
    """

    backend: str
    device: str
    memory: int


def this_machine() -> Machine:
    """Asks JAX, which takes hold of the device."""
    import jax

    from harness.studies.compilation_cache import processor_name

    device = jax.devices()[0]
    if device.platform == "cpu":
        return Machine("cpu", processor_name(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    memory = (device.memory_stats() or {}).get("bytes_limit", 8 << 30)
    return Machine(device.platform, device.device_kind, int(0.9 * memory))
