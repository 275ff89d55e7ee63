"""Trials per hour on Ray, over two nodes of one core each, against two worker processes.

    pytest tests/bench_ray.py --benchmark-only -s

A study of 80 trials of `wide_resnet` at scale laptop, of 130 steps each: about a minute on two idle cores. Executors
take turns, and every run starts its workers anew, from compiled programs. The last lines are the medians.
"""

import dataclasses
import time

import numpy as np
import pytest

from harness.studies.processes import run_trials
from harness.train import plan
from harness.training.trial import derive_seeds

ray = pytest.importorskip("ray")

ROUNDS = 3
TRIALS = 80
SETTINGS = {"steps": "130"}


@pytest.fixture(scope="module")
def trials():
    one = plan("wide_resnet", "laptop", 0, SETTINGS)
    return [dataclasses.replace(one, seeds=derive_seeds(0, replicate)) for replicate in range(TRIALS)]


@pytest.fixture(scope="module")
def address(trials):
    """Of a cluster of two nodes of one core, when everything is compiled."""
    from ray.cluster_utils import Cluster

    run_trials(trials[:2], 2, lambda _: None, lambda *_: None, lambda *_: None, "processes")
    begin = time.monotonic()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    print(f"\n{time.monotonic() - begin:.1f} s to start the cluster")
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def rates():
    """Trials per hour of every run, by executor: in all, and from the first outcome on."""
    found = {}
    yield found
    for executor, pairs in found.items():
        whole, warm = np.median(pairs, axis=0)
        ratio, warm_ratio = np.median(pairs, axis=0) / np.median(found["processes"], axis=0)
        print(
            f"\n{executor}: {whole:.0f} trials per hour, {ratio:.3f} of processes; "
            f"{warm:.0f} once the first was done, {warm_ratio:.3f}"
        )


@pytest.mark.parametrize("executor", ["processes", "ray"] * ROUNDS)
def test_trials_per_hour(benchmark, executor, trials, address, rates):
    finished = []

    def run():
        run_trials(
            trials,
            2,
            lambda machine: None,
            lambda *group: None,
            lambda trial, outcome: finished.append(time.monotonic()),
            executor=executor,
            ray_address=address if executor == "ray" else None,
        )

    begin = time.monotonic()
    benchmark.pedantic(run, rounds=1, iterations=1)
    end = time.monotonic()
    whole, warm = 3600 * len(finished) / (end - begin), 3600 * (len(finished) - 1) / (finished[-1] - finished[0])
    rates.setdefault(executor, []).append((whole, warm))
    benchmark.extra_info.update(
        trials_per_hour=whole, trials_per_hour_from_the_first=warm, seconds_to_the_first=finished[0] - begin
    )
    print(f"\n{executor}: {whole:.0f} trials per hour, {finished[0] - begin:.1f} s to the first of {len(finished)}")
