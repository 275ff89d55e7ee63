"""How many trials fit into the memory of a device side by side, read off compiled programs."""

from __future__ import annotations

import jax
import numpy as np

from harness.training.feeds import example_of, piece_batches
from harness.training.programs import Programs
from harness.training.trial import OF_THE_RATE, Trial
from workloads.workload import Stream


def training_bytes(programs: Programs, trial: Trial) -> int:
    """Bytes that the compiled training program of a pack needs, data and state included.

    Args:
      programs: of the trial's compile group.
      trial: any of the group.

    Raises:
      DataError: the data are missing or not the expected ones.
    """
    lanes, chunk = programs.lanes, programs.chunk
    data = trial.workload.data(trial.seeds["split"])

    def shape(dtype: type, *axes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((lanes, *axes), dtype)

    if isinstance(data.train, Stream):
        example = example_of(data.train)
        chunk = piece_batches(example, lanes, trial.batch_size, chunk)
        examples = {name: shape(v.dtype, chunk, trial.batch_size, *v.shape) for name, v in example.items()}
        indices, held_out = None, 0
    else:
        examples = {name: shape(values.dtype, *values.shape) for name, values in data.train.items()}
        indices = shape(np.int32, chunk, trial.batch_size)
        held_out = sum(values.nbytes for values in data.validation.values()) * lanes
    traced = [name for name in trial.hyperparameters if name not in OF_THE_RATE]
    count = jax.ShapeDtypeStruct((), np.int32)
    compiled = programs.train.lower(
        programs.blank_state(),
        shape(np.uint32),
        shape(np.uint32),
        {name: shape(np.float32) for name in traced},
        examples,
        indices,
        shape(np.float32, chunk),
        count,
        count,
    ).compile()
    used = compiled.memory_analysis()
    train = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    return train - used.alias_size_in_bytes + held_out


def fitting_lanes(trial: Trial, lanes: int, chunk: int, limit: int) -> int:
    """The largest number of lanes found whose training program fits, at least 1.

    Args:
      trial: any of the compile group.
      lanes: the most that are wanted.
      chunk: steps of a call.
      limit: bytes that may be used.
    """
    while lanes > 1:
        needed = training_bytes(Programs(trial, lanes, chunk), trial)
        if needed <= limit:
            break
        lanes = max(1, min(lanes - 1, int(lanes * limit / needed)))
    return lanes
