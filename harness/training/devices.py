"""One trial over many devices and hosts: a mesh of one axis, over which batches are split."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from harness.records import InputError

AXIS = "data"
"""The axis of the mesh: each device has an equal part of every batch, and all of everything else."""


def data_mesh(count: int | None = None) -> Mesh | None:
    """So many devices, or all of all hosts, those of a host side by side; None where that is one device.

    Raises:
      InputError: there are fewer.
    """
    devices = jax.devices()[:count]  # ordered by host
    if count is not None and len(devices) < count:
        raise InputError(
            f"a trial over {count} devices: this machine has {len(devices)}; run it where there are more, or on CPU "
            "(JAX_PLATFORMS=cpu), which is then divided"
        )
    if len(devices) == 1:
        return None
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def check_divisible(batch_size: int, mesh: Mesh | None) -> None:
    """Raises InputError where a batch cannot be split evenly over a mesh."""
    count = 1 if mesh is None else mesh.size
    if batch_size % count:
        near = max(count, batch_size // count * count)
        raise InputError(
            f"batch_size {batch_size}: expected a multiple of the {count} devices, such as {near}; "
            f"set it with --set batch_size={near}, or use fewer devices"
        )


def split(mesh: Mesh | None, axis: int) -> NamedSharding | None:
    """The sharding of arrays whose axis of that number is split over the devices; None without a mesh."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of arrays that every device has all of; None without a mesh."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def place(values: np.ndarray, sharding: NamedSharding | None) -> jax.Array:
    """Puts what this host has of an array on its devices, without waiting.

    Args:
      values: all of the array, or of a split one this host's part.
      sharding: from `split` or `everywhere`.
    """
    if sharding is None:
        return jax.device_put(values)
    return jax.make_array_from_process_local_data(sharding, values)
