"""The exact test of a difference of paired shares: its level at every split, its likelihood, what it decides."""

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from harness.analysis.paired_shares import difference_below, statistic


def tables(n):
    return [(gained, lost) for gained in range(n + 1) for lost in range(n + 1 - gained)]


@pytest.mark.parametrize(("n", "delta"), [(8, 0.5), (20, 0.5), (12, 0.2)])
def test_its_level_holds_at_every_split(n, delta):
    """By summing over all tables; the splits are not those of the grid."""
    p = np.array([difference_below(*table, n, delta) for table in tables(n)])
    counts = [(gained, lost, n - gained - lost) for gained, lost in tables(n)]
    for lost in np.linspace(0, (1 - delta) / 2, 37):
        for difference in (delta, delta + 0.1):
            if (others := 1 - 2 * lost - difference) < -1e-9:
                continue
            chances = multinomial.pmf(counts, n, [lost + difference, lost, max(0.0, others)])
            for level in (0.05, 0.025, 0.005):
                assert chances[p <= level].sum() <= level + 1e-9


def test_it_uses_most_of_its_level():
    n = 20
    p = np.array([difference_below(*table, n, 0.5) for table in tables(n)])
    counts = [(gained, lost, n - gained - lost) for gained, lost in tables(n)]
    for lost in (0.0, 0.1, 0.25):
        chances = multinomial.pmf(counts, n, [lost + 0.5, lost, 0.5 - 2 * lost])
        assert chances[p <= 0.025].sum() > 0.01


def test_more_gained_or_fewer_lost_pairs_speak_more_for_the_difference():
    n = 12
    for gained, lost in tables(n - 1):
        here = statistic(gained, lost, n, 0.5)
        assert statistic(gained + 1, lost, n, 0.5) > here > statistic(gained, lost + 1, n, 0.5)


def test_the_share_of_lost_pairs_is_the_likeliest():
    n, delta = 20, 0.5
    grid = np.linspace(1e-6, (1 - delta) / 2 - 1e-6, 20_001)
    for gained, lost in ((9, 3), (12, 1), (4, 6), (15, 5)):
        logs = gained * np.log(grid + delta) + lost * np.log(grid)
        logs += (n - gained - lost) * np.log(1 - delta - 2 * grid)
        share = grid[np.argmax(logs)]
        expected = (gained - lost - n * delta) / np.sqrt(n * (2 * share + delta - delta**2))
        assert statistic(gained, lost, n, delta) == pytest.approx(expected, abs=1e-3)


def test_where_no_pair_is_lost_it_is_about_the_binomial_test():
    for gained in range(21):
        assert difference_below(gained, 0, 20, 0.5) >= binom.cdf(gained, 20, 0.5) - 1e-9
    assert difference_below(5, 0, 20, 0.5) == pytest.approx(binom.cdf(5, 20, 0.5), abs=1e-3)
    assert difference_below(20, 0, 20, 0.5) == 1


def test_equal_shares_are_told_from_a_difference_of_a_half():
    assert difference_below(5, 5, 20, 0.5) < 0.025 < difference_below(12, 2, 20, 0.5)
