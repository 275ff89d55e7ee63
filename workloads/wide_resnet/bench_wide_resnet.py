"""Time of `CHUNK` training steps of the compiled program, of the standard network and of the stride bug."""

import jax
import numpy as np
import pytest

from harness.training.batches import step_indices
from harness.training.programs import CHUNK, Programs
from workloads.workload import configure, workload_scale

ROUNDS = 5


@pytest.mark.parametrize("group_strides", [(1, 2, 2), (1, 2, 1)], ids=["standard", "stride_bug"])
def test_training_steps(benchmark, scale, group_strides):
    size = workload_scale("wide_resnet", scale)
    workload = configure(size.workload, {"group_strides": group_strides})
    programs = Programs(workload, "heavy_ball")
    examples = jax.device_put(dict(workload.data(0).train))
    indices = step_indices(0, len(examples["label"]), size.batch_size, 0, CHUNK)
    hyperparameters = {name: np.float32(size.hyperparameters[name]) for name in ("momentum", "weight_decay")}
    rates = np.full(CHUNK, size.hyperparameters["learning_rate"] / 10, np.float32)

    def arguments(count):
        fixed = (np.uint32(0), np.uint32(0), hyperparameters, examples, indices, rates)
        return jax.device_put((programs.blank_state(), *fixed, np.int32(0), np.int32(count)))

    train = programs.train.lower(*arguments(CHUNK)).compile()

    def chunk(*arguments):
        return jax.block_until_ready(train(*arguments))

    # the program consumes the state that it is given, so every round gets one of its own
    _, curves, done = chunk(*arguments(CHUNK))
    assert done == CHUNK
    assert np.all(np.isfinite(curves["train_loss"]))
    benchmark.pedantic(chunk, setup=lambda: (arguments(CHUNK), {}), warmup_rounds=1, rounds=ROUNDS)

    cost = train.cost_analysis()
    benchmark.extra_info.update(
        device=jax.devices()[0].device_kind,
        flops=float(cost.get("flops", float("nan"))),  # of one step: XLA counts the body of a loop once
    )
    if benchmark.stats:
        benchmark.extra_info["examples_per_second"] = CHUNK * size.batch_size / benchmark.stats.stats.mean
