"""Exactness of the tests against enumeration, and Holm's correction."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis import rank_tests
from harness.analysis.rank_tests import holm, hypergeometric_upper, rank_sum_tails, ranks


@settings(deadline=None)
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_hypergeometric_tail_is_the_share_of_all_draws(case):
    n, marked, drawn = case
    counts = [sum(i < marked for i in draw) for draw in itertools.combinations(range(n), drawn)]
    for successes in range(drawn + 1):
        share = np.mean([count >= successes for count in counts])
        assert hypergeometric_upper(successes, n, marked, drawn) == pytest.approx(share, abs=1e-12)


def test_hypergeometric_tail_of_large_studies_keeps_its_digits():
    n, marked, drawn = 100_000, 20_000, 20
    exact = sum(math.comb(marked, x) * math.comb(n - marked, drawn - x) for x in range(15, 21)) / math.comb(n, drawn)
    assert hypergeometric_upper(15, n, marked, drawn) == pytest.approx(exact, rel=1e-8)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=8), st.data())
def test_rank_sum_p_is_the_share_of_all_groups_with_ties(values, data):
    values = np.array(values, float)
    values[values == 4] = np.inf
    size = data.draw(st.integers(1, len(values) - 1))
    group = np.arange(len(values)) < size
    sums = [ranks(values)[list(rows)].sum() for rows in itertools.combinations(range(len(values)), size)]
    own = ranks(values)[group].sum()
    shares = np.mean(np.array(sums) <= own), np.mean(np.array(sums) >= own)
    assert rank_sum_tails(values, group) == pytest.approx(shares, abs=1e-12)


@pytest.mark.parametrize("rounded", [False, True])
def test_normal_approximation_agrees_with_counting(monkeypatch, rounded):
    rng = np.random.default_rng(0)
    for _ in range(30):
        values, group = rng.standard_normal(40) * 2, np.arange(40) < 12
        values = np.round(values) if rounded else values
        exact = rank_sum_tails(values, group)
        with monkeypatch.context() as patch:
            patch.setattr(rank_tests, "EXACT_UP_TO", 0)
            assert rank_sum_tails(values, group) == pytest.approx(exact, abs=0.01)


def test_rank_sum_of_an_empty_group_or_of_equal_values_says_nothing():
    assert rank_sum_tails(np.arange(5.0), np.zeros(5, bool)) == (1, 1)
    assert rank_sum_tails(np.zeros(60), np.arange(60) < 20) == (1, 1)


def test_holm_steps_down():
    assert holm(np.array([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([])).size == 0
