"""Steps to a target: the fit against curves and trainings that are known in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.batch_scaling import Scaling, first_reach, fit_curve, fit_scaling, is_on_edge, steps_to_target
from harness.records import InputError

SIZES = [2**power for power in range(2, 12)]


@given(
    critical=st.floats(8, 2000),
    least=st.floats(1, 1000),
)
def test_the_exact_curve_is_found_again(critical, least):
    steps = [least * (1 + critical / size) for size in SIZES]
    found = fit_curve(SIZES, steps, [False] * len(SIZES))
    assert found == pytest.approx((critical, least), rel=5e-3)


def test_a_censored_size_above_its_budget_changes_nothing_and_one_below_bends_the_curve():
    steps = [10 * (1 + 200 / size) for size in SIZES]
    exact = fit_curve(SIZES, steps, [False] * len(SIZES))
    censored = [True] + [False] * (len(SIZES) - 1)
    assert fit_curve(SIZES, [steps[0] / 3, *steps[1:]], censored) == pytest.approx(exact, rel=5e-3)
    assert fit_curve(SIZES, [steps[0] * 9, *steps[1:]], censored)[0] > 1.1 * exact[0]
    without = fit_curve(SIZES[1:], steps[1:], censored[1:])
    assert without == pytest.approx(exact, rel=5e-3)


def test_regimes_are_where_a_doubling_brings_what_they_say():
    scaling = Scaling(320.0, (0, 0), 0.95, 12.0)
    perfect, maximal = scaling.regimes
    assert (perfect, maximal) == pytest.approx((40, 1440))
    assert scaling.steps(perfect) / scaling.steps(2 * perfect) == pytest.approx(1.8)
    assert scaling.steps(maximal) / scaling.steps(2 * maximal) == pytest.approx(1.1)
    assert scaling.steps(320.0) == 24


def test_first_reach_is_the_first_evaluation_at_the_target():
    steps = np.array([0, 10, 20, 30])
    assert first_reach(steps, np.array([0.9, 0.3, 0.1, 0.3]), 0.3) == 10
    assert first_reach(steps, np.array([np.nan, np.nan, 0.1, 0.3]), 0.2) == 20
    assert first_reach(steps, np.array([0.9, 0.3, 0.1, 0.3]), 0.05) == np.inf


def test_the_best_setting_reaches_the_target_with_every_seed():
    reached = np.array([[10, np.inf], [40, 90], [5, 5], [np.inf, np.inf]])
    infeasible = np.zeros_like(reached, bool)
    infeasible[2, 1] = True  # after it had reached the target
    found = steps_to_target(reached, infeasible, 100)
    assert (found.best, found.censored, found.infeasible) == (1, False, 1)
    assert found.steps == pytest.approx(60)
    none = steps_to_target(reached[[0, 2, 3]], infeasible[[0, 2, 3]], 100)
    assert (none.best, none.steps, none.censored) == (None, 100, True)


def test_a_target_that_is_not_reached_is_one_line():
    reached = {size: np.full((3, 2), np.inf if size > 8 else 5.0) for size in SIZES}
    infeasible = {size: np.zeros((3, 2), bool) for size in SIZES}
    with pytest.raises(
        InputError, match=r"^2 of 10 batch sizes reach the target: expected at least 3; choose .*steps$"
    ):
        fit_scaling(reached, infeasible, dict.fromkeys(SIZES, 100), 0)


@pytest.mark.parametrize("value, on_edge", [(1.05e-3, True), (1e-2, False), (0.09, True)])
def test_a_best_setting_in_the_outer_tenth_is_on_the_edge(value, on_edge):
    assert is_on_edge([5e-3, value], 1, 1e-3, 1e-1, log=True) == on_edge


def contraction(batch: float, rate: np.ndarray, dimensions: int) -> np.ndarray:
    """By how much a step of SGD shrinks the mean squared distance from the solution of a noiseless linear regression.

    With inputs x ~ N(0, I): E|e'|^2 = |e|^2 (1 - 2 rate + rate^2 (1 + (dimensions + 1) / batch)).
    """
    return 1 - 2 * rate + rate**2 * (1 + (dimensions + 1) / batch)


def sgd_on_regression(batch: int, rate: float, dimensions: int, target: float, budget: int, seed: int) -> float:
    """Steps that SGD takes from a squared distance of 1 to the target."""
    rng = np.random.default_rng([seed, batch])
    error = np.full(dimensions, dimensions**-0.5)
    for step in range(1, budget + 1):
        inputs = rng.standard_normal((batch, dimensions))
        error = error - rate * inputs.T @ (inputs @ error) / batch
        if error @ error <= target:
            return step
        if error @ error > 1e6:
            break
    return np.inf


def quadratic_steps(batch: int, rates: np.ndarray, dimensions: int, target: float, budget: int) -> np.ndarray:
    """Steps until E|theta|^2 is at most the target, for |theta|^2 / 2 with gradient noise of variance 1 / batch.

    From E|theta|^2 = 1: E|theta_t|^2 = a^t + rate^2 dimensions / batch (1 - a^t) / (1 - a), a = (1 - rate)^2.
    """
    shrink = (1 - rates) ** 2
    powers = shrink ** np.arange(1, budget + 1)[:, None]
    expected = powers + rates**2 * dimensions / batch * (1 - powers) / (1 - shrink)
    reached = expected <= target
    return np.where(reached.any(axis=0), np.argmax(reached, axis=0) + 1.0, np.inf)


def sgd_on_quadratic(
    batch: int, rate: float, dimensions: int, target: float, budget: int, seed: int, runs: int = 64
) -> float:
    """Steps that SGD takes until the mean of |theta|^2 over runs is at most the target."""
    rng = np.random.default_rng([seed, batch, round(1e6 * rate)])
    theta = np.full((runs, dimensions), dimensions**-0.5)
    for step in range(1, budget + 1):
        theta = theta - rate * (theta + rng.standard_normal(theta.shape) / batch**0.5)
        if np.mean(np.sum(theta**2, axis=1)) <= target:
            return step
    return np.inf


def test_the_critical_batch_size_of_a_quadratic_is_within_its_interval():
    """Whose noise scale rises as it trains: from 20 at the start to 400 at the target."""
    dimensions, target, budget = 20, 0.05, 600
    rates = np.geomspace(0.02, 0.3, 10)
    sizes = [8, 16, 32, 64, 128, 256, 512, 1024]
    exact = [min(quadratic_steps(size, rates, dimensions, target, budget)) for size in sizes]
    truth = fit_curve(sizes, exact, [False] * len(sizes))[0]
    assert 20 < truth < 400
    reached = {
        size: np.array([[sgd_on_quadratic(size, r, dimensions, target, budget, s) for s in range(2)] for r in rates])
        for size in sizes
    }
    found = fit_scaling(reached, {size: np.zeros((10, 2), bool) for size in sizes}, dict.fromkeys(sizes, budget), 0)
    assert found.interval[0] <= truth <= found.interval[1]
    assert found.critical == pytest.approx(truth, rel=0.2)


def test_the_critical_batch_size_of_a_linear_regression_is_within_its_interval():
    """Rates of at most .1: steps are log(target) / log(1 - .2 + ...), the closed form whose fit is the truth."""
    dimensions, target, budget = 15, 0.01, 2000
    rates = np.geomspace(0.005, 0.1, 12)
    sizes = [1, 2, 4, 8, 16, 32, 64, 128]
    exact = [min(np.log(target) / np.log(contraction(size, rates, dimensions))) for size in sizes]
    truth = fit_curve(sizes, exact, [False] * len(sizes))[0]
    reached = {
        size: np.array([[sgd_on_regression(size, r, dimensions, target, budget, s) for s in range(3)] for r in rates])
        for size in sizes
    }
    found = fit_scaling(reached, {size: np.zeros((12, 3), bool) for size in sizes}, dict.fromkeys(sizes, budget), 0)
    assert found.interval[0] <= truth <= found.interval[1]
    assert found.interval[1] < 3 * found.interval[0]
    assert found.critical == pytest.approx(truth, rel=0.3)
