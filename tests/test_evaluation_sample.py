import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.evaluation_sample import planned_correlation, rank_correlation, regret, sample_size


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=30), st.integers(0, 1000))
def test_rank_correlation_is_pearsons_of_mean_ranks(values, seed):
    first = np.array(values, float)
    second = np.random.default_rng(seed).permutation(first)
    mean_ranks = [np.array([np.mean(np.flatnonzero(np.sort(x) == v)) for v in x]) for x in (first, second)]
    expected = 0.0 if len(set(values)) == 1 else np.corrcoef(*mean_ranks)[0, 1]
    assert rank_correlation(first, second) == pytest.approx(expected, abs=1e-12)


def test_rank_correlation_of_monotone_values():
    x = np.arange(9.0)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1)


def test_regret_by_hand():
    assert regret(np.array([0.2, 0.1, 0.1]), np.array([0.15, 0.3, 0.2])) == pytest.approx(0.15)
    assert regret(np.array([0.1, 0.2]), np.array([0.1, 0.4])) == 0.0


@pytest.mark.parametrize(("error", "spread", "correlation"), [(0.1, 0.05, 0.9), (0.3, 0.08, 0.95), (0.174, 0.045, 0.8)])
def test_errors_on_a_sample_of_that_size_correlate_so(error, spread, correlation):
    # Every trial on examples of its own: the variance that the formula allows for.
    size = sample_size(error, spread, correlation)
    generator = np.random.default_rng(0)
    truth = np.clip(error + spread * generator.normal(size=40_000), 0.001, 0.999)
    sampled = generator.binomial(size, truth) / size
    assert np.corrcoef(truth, sampled)[0, 1] == pytest.approx(correlation, abs=0.02)
    assert planned_correlation(error, spread, size - 1) < correlation <= planned_correlation(error, spread, size)
