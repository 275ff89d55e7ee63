"""Time of a chunk of training steps of every workload, in one trial and in lanes.

    pytest workloads/bench_training.py --benchmark-only [--scale laptop] [-k transformer]

What is timed is what a study runs: index stream, compiled steps, curves back on the host. `extra_info` quotes steps
and examples a second, over all lanes.
"""

import jax
import pytest

from harness.studies.policy import policy
from harness.training.programs import Programs
from harness.training.run import run_pack
from harness.training.trial import Trial, derive_seeds
from workloads.workload import configure, workload_names, workload_scale

ROUNDS = 5

VARIANTS = [(name, {}) for name in workload_names()] + [("wide_resnet", {"group_strides": (1, 2, 1)})]


@pytest.mark.parametrize("lanes", [1, 4], ids=["one_trial", "four_lanes"])
@pytest.mark.parametrize(("name", "fields"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "".join(v))
def test_training_steps(benchmark, scale, name, fields, lanes):
    size = workload_scale(name, scale)
    steps = policy(name, jax.default_backend()).chunk
    trials = [
        Trial(
            workload=configure(size.workload, fields),
            batch_size=size.batch_size,
            steps=steps,
            evaluation_steps=(),
            evaluation_batch_size=size.evaluation_batch_size,
            optimizer=size.optimizer,
            schedule=size.schedule,
            hyperparameters={**size.hyperparameters, "warmup_steps": 0},
            seeds=derive_seeds(0, lane, pilot=True),
        )
        for lane in range(lanes)
    ]
    programs = Programs(trials[0], lanes, steps)
    benchmark.pedantic(run_pack, (programs, trials), warmup_rounds=1, rounds=ROUNDS)
    benchmark.extra_info.update(device=jax.devices()[0].device_kind, lanes=lanes)
    if benchmark.stats:
        rate = steps * lanes / benchmark.stats.stats.median
        benchmark.extra_info.update(steps_per_second=rate, examples_per_second=rate * size.batch_size)
