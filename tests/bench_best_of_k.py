"""Exact best of k against its bootstrap, and a million trials.

    pytest tests/bench_best_of_k.py --benchmark-only

`test_against_the_bootstrap` times every k of a study of 100 trials; `extra_info` has the seconds of 10,000 replicates
and how many times faster the exact distribution is. The bootstrap compared with is the quicker kind, which draws once
for all k.
"""

import time

import numpy as np
import pytest

from harness.analysis.best_of_k import best_of, bootstrap_best_of

replacements = pytest.mark.parametrize("replacement", [True, False])


@replacements
def test_against_the_bootstrap(benchmark, replacement):
    values, ks = np.random.default_rng(0).lognormal(size=100), range(1, 101)
    seconds = []

    def bootstrap():
        start = time.perf_counter()
        bootstrap_best_of(values, "min", ks, replacement, replicates=10_000)
        seconds.append(time.perf_counter() - start)

    benchmark.pedantic(best_of, (values, "min", ks, replacement), warmup_rounds=1, rounds=20, iterations=10)
    for _ in range(5):
        bootstrap()
    median = float(np.median(seconds))
    benchmark.extra_info.update(bootstrap_seconds=median, times_faster=median / benchmark.stats.stats.median)


@replacements
def test_a_million_trials(benchmark, replacement):
    values = np.random.default_rng(0).lognormal(size=1_000_000)
    benchmark.pedantic(best_of, (values, "min", range(1, 101), replacement), warmup_rounds=1, rounds=3)
