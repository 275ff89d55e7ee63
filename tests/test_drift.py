"""The statistics of drift, and a year of nights resampled from the recorded trials that ship."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import ndtr

from harness.analysis import drift
from harness.analysis.rank_tests import rank_sum_tails, ranks
from harness.check import outcome_tables
from harness.experiments.experiment import experiments
from harness.recorded import recorded_trials

METRICS_OF_SUITE = 44
"""Two of each of the 22 experiments with enough recorded units: what Holm's first step divides by, whether or not a
metric can be resampled."""

THRESHOLD = drift.ALPHA / METRICS_OF_SUITE
values = st.sampled_from([0.0, 0.1, 0.2, 0.9, np.inf])


class TestUnits:
    def test_a_shared_seed_joins_through_others(self):
        seeds = [{"init": 1, "split": 5}, {"init": 2, "split": 6}, {"init": 2, "split": 5}, {"init": 6, "split": 9}]
        assert drift.independent_units(seeds).tolist() == [0, 0, 0, 1]  # the same number for another purpose is none

    @given(st.lists(st.fixed_dictionaries({"a": st.integers(0, 5), "b": st.integers(0, 5)}), max_size=20))
    def test_no_two_units_share_a_seed(self, seeds):
        units = drift.independent_units(seeds)
        for purpose in ("a", "b"):
            for seed in range(6):
                assert len({unit for unit, of in zip(units.tolist(), seeds, strict=True) if of[purpose] == seed}) <= 1

    def test_the_table(self):
        table = drift.outcome_table(np.array([0, 0, 0, 1]), ["x", "y", "x", "x"], np.array([1, np.nan, 3, 4.0]))
        np.testing.assert_array_equal(table, [[1, np.inf, 3], [4, np.nan, np.nan]])
        assert len(set(drift.kinds(table).tolist())) == 2


class TestScores:
    @given(hnp.arrays(float, (9, 1), elements=values))
    def test_one_column_is_its_ranks(self, table):
        np.testing.assert_allclose(drift.unit_scores(table), (ranks(table[:, 0]) - 0.5) / 9 - 0.5, atol=1e-12)

    @given(hnp.arrays(float, (8, 3), elements=values), st.integers(0, 7))
    def test_a_missing_trial_is_left_out(self, table, unit):
        table[unit, 1:] = np.nan
        others = np.arange(8) != unit
        first, rest = drift.unit_scores(table[:, :1]), drift.unit_scores(table[others, 1:])
        expected = first.copy()
        expected[others] = (first[others] + 2 * rest) / 3
        np.testing.assert_allclose(drift.unit_scores(table), expected, atol=1e-12)

    @given(hnp.arrays(float, (10, 4), elements=st.floats(-50, 50)))
    def test_rising_functions_change_nothing(self, table):
        np.testing.assert_array_equal(drift.unit_scores(table), drift.unit_scores(2 * table))


class TestPermutations:
    @settings(max_examples=10, deadline=None)
    @given(st.integers(0, 1000))
    def test_one_column_is_the_rank_sum_test(self, seed):
        table = np.random.default_rng(seed).integers(0, 9, (20, 1)).astype(float)
        table[:8] += 4
        fresh = np.arange(20) < 8
        p = drift.permutation_p(drift.unit_scores(table), fresh, np.zeros(20, int))
        low, high = rank_sum_tails(table[:, 0], fresh)
        exact = min(1, 2 * min(low, high))
        assert p == pytest.approx(exact, rel=0.3, abs=0.02 if exact > 0.02 else 2e-4)

    @pytest.mark.parametrize(
        "draw",
        [
            lambda random, shape: random.standard_normal(shape),
            lambda random, shape: np.where(random.random(shape) < 0.15, np.inf, random.standard_normal(shape)),
            lambda random, shape: random.integers(0, 3, shape).astype(float),
            lambda random, shape: np.exp(2 * random.standard_normal(shape)),
        ],
        ids=["normal", "diverging", "tied", "skewed"],
    )
    @pytest.mark.parametrize("fresh_units", [8, 16])
    def test_the_level(self, draw, fresh_units, monkeypatch):
        """2,000 comparisons with nothing to find; units of two kinds, whose trials have a part in common."""
        monkeypatch.setattr(drift, "PERMUTATIONS", 2_000)
        random = np.random.default_rng(0)
        units = 12 + fresh_units
        tables = draw(random, (2_000, units, 3))
        tables[:, ::2, 2] = np.nan
        fresh = np.arange(units) >= 12
        kind = drift.kinds(tables[0])
        scores = drift.unit_scores(tables)
        z = drift.shift_statistic(scores, np.broadcast_to(fresh, scores.shape), kind)
        found = np.array(
            [
                drift.permutation_p(one, fresh, kind) if abs(size) > drift.SCREEN else 1.0
                for one, size in zip(scores, z, strict=True)
            ]
        )
        for level in (0.04, 0.01):
            assert (found <= level).mean() <= level + 3 * np.sqrt(level / 2_000)
        assert (found <= 0.04).mean() >= 0.02

    def test_kinds_of_two_are_pairs(self):
        random = np.random.default_rng(0)
        level = 10.0 * np.arange(20)[:, None]  # between pairs a hundred times what is within
        table = np.full((40, 20), np.nan)
        table[np.arange(20), np.arange(20)] = (level + 0.1 * random.standard_normal((20, 1)))[:, 0]
        table[20 + np.arange(20), np.arange(20)] = (level + 1 + 0.1 * random.standard_normal((20, 1)))[:, 0]
        found = drift.compare(table, np.arange(40) >= 20)
        assert found.p < 1e-4 and found.interval[0] > 0.8 and found.interval[1] < 1.2

    def test_too_few_units(self):
        assert drift.compare(np.ones((15, 1)), np.arange(15) >= 8) is None

    def test_all_that_diverges(self):
        """On one side, and on both, where there is nothing to compare."""
        table = np.full((24, 2), np.inf)
        assert drift.compare(table, np.arange(24) >= 12)[:3] == (1, 0, (0, 0))
        table[:12] = np.random.default_rng(0).standard_normal((12, 2))
        found = drift.compare(table, np.arange(24) >= 12)
        assert found.p < 1e-4 and found.interval[0] > 0 and np.isfinite(found.interval[1])

    def test_what_never_varies(self):
        assert drift.compare(np.ones((20, 2)), np.arange(20) >= 10).p == 1


@functools.cache
def populations():
    """Outcomes of units by kind, of every recorded experiment that has enough alike to be resampled."""
    found = []
    for name in experiments():
        recorded = recorded_trials(name, "laptop", None)
        if not recorded:
            continue
        tables, _ = outcome_tables(recorded, {})
        kind = drift.kinds(next(iter(tables.values())))
        alike = (np.bincount(kind) >= 3)[kind]
        if alike.sum() < drift.MIN_UNITS or len(set(kind[alike])) > 6:
            continue
        for metric, table in tables.items():
            kept = table[alike]
            columns = np.flatnonzero(~np.isnan(kept).all(axis=0))
            columns = columns[:: max(1, len(columns) // 16)]  # for speed
            kept, of = kept[:, columns], kind[alike]
            some = ~np.isnan(kept).all(axis=1)
            found.append((name, metric, kept[some], of[some], len(recorded)))
    return found


def resampled(random, kind, nights, share=1):
    """Units drawn with replacement within their kinds, int (nights, units)."""
    return np.concatenate(
        [
            random.choice(np.flatnonzero(kind == one), (nights, max(1, (kind == one).sum() // share)))
            for one in np.unique(kind)
        ],
        axis=1,
    )


def alarms(random, table, kind, share, nights, shift=0.0):
    """Which nights raise an alarm; one recorded sample for all of them, and each pooled with those before it."""
    recorded = resampled(random, kind, 1)[0]
    fresh = resampled(random, kind, nights + drift.NIGHTS - 1, share)
    pooled = np.stack([fresh[night : night + drift.NIGHTS].ravel() for night in range(nights)])
    # Every night has the same kinds in the same order.
    kinds = np.concatenate([kind[recorded], kind[pooled[0]]])
    tables = np.concatenate(
        [np.broadcast_to(table[recorded], (nights, *table[recorded].shape)), table[pooled] + shift], 1
    )
    is_fresh = np.arange(len(kinds)) >= len(recorded)
    scores = drift.unit_scores(tables)
    z = drift.shift_statistic(scores, np.broadcast_to(is_fresh, scores.shape), kinds)
    # The normal approximation is within this factor of the permutations, which take longer.
    suspects = np.flatnonzero(2 * ndtr(-np.abs(z)) < 4 * THRESHOLD)
    found = np.zeros(nights, bool)
    found[suspects] = [drift.permutation_p(scores[night], is_fresh, kinds) <= THRESHOLD for night in suspects]
    return found


class TestYear:
    @pytest.fixture(autouse=True)
    def fewer_permutations(self, monkeypatch):
        monkeypatch.setattr(drift, "PERMUTATIONS", 20_000)  # floor 5e-5, threshold 1.9e-4

    def test_what_is_resampled(self):
        assert len({name for name, *_ in populations()}) >= 12

    def test_a_handful_of_false_alarms(self):
        """The recorded sample is drawn anew, too: real baselines have its error, all year long."""
        random = np.random.default_rng(0)
        alarm = np.zeros(365, bool)
        for _, _, table, kind, share in populations():
            alarm |= alarms(random, table, kind, share, 365)
        episodes = int(alarm[0]) + int((alarm[1:] & ~alarm[:-1]).sum())
        assert episodes <= 5

    def test_a_regression_of_one_standard_deviation_within_three_nights(self):
        """Of every trial of one experiment; the third night has only regressed ones in its pool."""
        random = np.random.default_rng(0)
        caught = {}
        for name, _, table, kind, share in populations():
            finite = np.where(np.isfinite(table), table, np.nan)
            one_sd = np.nanstd(finite, axis=0, ddof=1)
            for repeat in range(4):
                found = alarms(random, table, kind, share, 1, one_sd).any()
                caught[name, repeat] = caught.get((name, repeat), False) or found
        assert np.mean(list(caught.values())) >= 0.9
