"""Study throughput: the harness against a loop that builds and compiles every trial afresh.

    pytest workloads/bench_study.py --benchmark-only

Both arms train trials of the laptop `wide_resnet`, each at a learning rate of its own. The harness's arm starts its
workers and compiles, from an empty cache; the loop's compiles once a trial, on JAX's default threads, and is given
fewer trials. `extra_info` quotes trials an hour.
"""

import os
import subprocess
import sys

import pytest

HARNESS_TRIALS = 40
LOOP_TRIALS = 2

_HARNESS = """
import sys
from workloads.bench_study import bench_trials
from harness.studies.processes import available_cores, run_trials

if __name__ == "__main__":
    finished = []
    run_trials(bench_trials(int(sys.argv[1])), available_cores(), lambda *_: None, lambda t, o: finished.append(o))
    assert len(finished) == int(sys.argv[1])
"""

_LOOP = """
import sys
import jax
from workloads.bench_study import bench_trials
from harness.training.programs import Programs
from harness.training.run import run_trial

for trial in bench_trials(int(sys.argv[1])):
    assert run_trial(Programs(trial.workload, trial.optimizer), trial).status == "complete"
    jax.clear_caches()
"""


def bench_trials(count: int) -> list:
    """Makes trials of the stride bug, one a learning rate between .01 and .1."""
    from harness.training.trial import Trial, derive_seeds
    from workloads.workload import configure, workload_scale

    size = workload_scale("wide_resnet", "laptop")
    return [
        Trial(
            workload=configure(size.workload, {"group_strides": (1, 2, 1)}),
            batch_size=size.batch_size,
            steps=size.steps,
            evaluation_steps=(size.steps,),
            evaluation_batch_size=size.evaluation_batch_size,
            optimizer="heavy_ball",
            schedule="constant",
            hyperparameters={**size.hyperparameters, "learning_rate": 0.01 * 10 ** (index / count)},
            seeds=derive_seeds(0, index, pilot=True),
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("arm", ["harness", "loop"])
def test_study_throughput(benchmark, tmp_path, arm):
    program, trials = {"harness": (_HARNESS, HARNESS_TRIALS), "loop": (_LOOP, LOOP_TRIALS)}[arm]
    script = tmp_path / "arm.py"
    script.write_text(program)
    rounds = iter(range(100))

    def run():
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / f"cache{next(rounds)}")}
        subprocess.run([sys.executable, str(script), str(trials)], check=True, env=environment)

    benchmark.pedantic(run, rounds=3)
    benchmark.extra_info["trials_per_hour"] = round(trials * 3600 / benchmark.stats.stats.median)
