import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.rate_sensitivity import rate_sensitivity
from harness.records import InputError

RATES = [1e-3, 1e-2, 1e-1, 1.0]
INITIAL = 4.0


def test_published_definition_by_hand():
    """Mean over the rates of min(loss, initial) - best: losses 3, 2, 4 (diverged) and 4 (capped), the best 2."""
    found = rate_sensitivity(RATES, [[3.0], [2.0], [np.nan], [9.0]], INITIAL)
    assert found.value == pytest.approx((3 + 2 + 4 + 4) / 4 - 2)
    assert found.best_rate == 1e-2
    assert found.interval == (-np.inf, np.inf)


def test_rates_weigh_by_the_part_of_the_range_that_they_stand_for():
    """Rates at 1, 10, 1000: from half a decade below to one above the second is 1.5 decades, with ends of 1 and 2."""
    found = rate_sensitivity([1.0, 10.0, 1000.0], [[3.0], [2.0], [1.0]], INITIAL)
    assert found.value == pytest.approx((1 * 3 + 1.5 * 2 + 2 * 1) / 4.5 - 1)


def test_every_seed_is_a_sweep_of_its_own():
    losses = np.array([[3.0, 1.0], [2.0, 2.0], [2.5, 3.0], [3.0, 3.5]])
    found = rate_sensitivity(RATES, losses, np.array([4.0, 3.0]))
    np.testing.assert_allclose(found.by_seed, [2.625 - 2, 2.25 - 1])
    assert found.value == pytest.approx(np.mean(found.by_seed))
    half = 12.706 * np.std(found.by_seed, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(found.interval, [found.value - half, found.value + half], rtol=1e-4)
    assert rate_sensitivity(RATES, losses, INITIAL).best_rate == 1e-3  # 2.0 in the mean, as the second, and first


losses_of = st.lists(
    st.lists(st.floats(0, 20) | st.just(np.nan) | st.just(np.inf), min_size=3, max_size=3), min_size=4, max_size=4
)


@given(losses_of, st.floats(0.1, 5))
def test_between_none_and_the_initial_loss(losses, initial):
    found = rate_sensitivity(RATES, losses, initial)
    assert np.all(found.by_seed >= -1e-12)
    assert np.all(found.by_seed <= initial + 1e-12)
    assert found.interval[0] <= found.value <= found.interval[1]


@given(losses_of, st.permutations(range(3)))
def test_the_order_of_the_seeds_plays_no_part(losses, order):
    one, other = (rate_sensitivity(RATES, rows, INITIAL) for rows in (losses, np.array(losses)[:, order]))
    assert one.value == pytest.approx(other.value)
    np.testing.assert_allclose(one.by_seed[order], other.by_seed)


@pytest.mark.parametrize("seeds", [8, 20])
def test_the_interval_holds_its_level(seeds):
    """The mean is that of many seeds; 2,000 experiments, with diverged runs at the highest rate."""
    random = np.random.default_rng(seeds)

    def losses(count):
        found = np.array([2.4, 2.0, 2.3, 2.6])[:, None] + 0.1 * random.exponential(size=(4, count))
        return np.where(random.random((4, count)) < np.array([0, 0, 0, 0.5])[:, None], np.nan, found)

    true = rate_sensitivity(RATES, losses(200_000), INITIAL).value
    intervals = [rate_sensitivity(RATES, losses(seeds), INITIAL).interval for _ in range(2000)]
    covered = np.mean([low <= true <= high for low, high in intervals])
    assert 0.92 < covered < 0.97


@pytest.mark.parametrize(
    ("rates", "losses", "initial", "told"),
    [
        ([0.1], [[1.0]], 4.0, "rates [0.1]: expected 2 or more, ascending"),
        ([0.1, 0.01], np.ones((2, 3)), 4.0, "rates [0.1, 0.01]: expected"),
        ([0.0, 0.1], np.ones((2, 3)), 4.0, "rates [0.0, 0.1]: expected"),
        ([0.1, 1.0], np.ones((3, 2)), 4.0, "losses of shape (3, 2): expected (2, seeds)"),
        ([0.1, 1.0], np.ones((2, 3)), np.nan, "initial nan: expected a finite loss"),
        ([0.1, 1.0], np.ones((2, 3)), [1.0, 2.0], "initial [1.0, 2.0]: expected a finite loss, or one per seed (3)"),
    ],
)
def test_bad_input_is_named(rates, losses, initial, told):
    with pytest.raises(InputError) as caught:
        rate_sensitivity(rates, losses, initial)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
