"""The sampling check: against the truth of simulated searches, with luck and without."""

import itertools

import numpy as np
import pytest

from harness.analysis.sampling import check_sampling
from harness.records import InputError
from tests.study_tables import study


def search(rng, studies, n, dimensions, trial_sd=0.0):
    """Means and values, (studies, n), of searches with a quadratic optimum."""
    means = ((rng.random((studies, n, dimensions)) - 0.6) ** 2).sum(axis=2)
    return means, means + trial_sd * rng.standard_normal(means.shape)


def winners(means, values, n):
    return np.take_along_axis(means, np.argmin(values[:, :n], axis=1)[:, None], axis=1).mean()


def test_last_half_is_that_of_enumeration():
    errors = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0])
    bad = np.array([False, False, False, False, True, True, False])
    scored = np.where(bad, np.inf, errors)
    best = [scored[list(rows)].min() for rows in itertools.combinations(range(7), 4)]
    expected = np.mean([value for value in best if np.isfinite(value)]) - 1.0
    assert check_sampling(study({}, errors, bad)).last_half == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "dimensions", "trial_sd"), [(50, 2, 0.0), (100, 4, 0.0), (50, 2, 0.02), (100, 4, 0.02)])
def test_gain_of_a_doubling(n, dimensions, trial_sd):
    rng = np.random.default_rng(0)
    means, values = search(rng, 3000, 2 * n, dimensions, trial_sd)
    true = winners(means, values, n) - winners(means, values, 2 * n)
    found = [check_sampling(study({}, row[:n]), [n], trial_sd=trial_sd).gains[0] for row in values[:60]]
    assert 0.6 * true < np.mean([gain.gain for gain in found]) < 1.7 * true
    covered = np.mean([gain.interval[0] <= true <= gain.interval[1] for gain in found])
    assert covered >= 0.8


def test_the_best_is_lucky_by_what_is_removed():
    rng = np.random.default_rng(1)
    means, values = search(rng, 100, 100, 2, 0.02)
    found = [check_sampling(study({}, row), trial_sd=0.02) for row in values]
    truth = np.take_along_axis(means, np.argmin(values, axis=1)[:, None], axis=1)[:, 0]
    raw = np.mean([check.best for check in found] - truth)
    corrected = np.mean([check.expected_best for check in found] - truth)
    assert raw < -0.025
    assert abs(corrected) < abs(raw) / 4


def test_trials_of_one_setting_promise_next_to_nothing():
    rng = np.random.default_rng(2)
    found = [check_sampling(study({}, rng.standard_normal(100)), [100], trial_sd=1.0) for _ in range(30)]
    assert np.mean([check.gains[0].gain for check in found]) < 0.1
    assert np.mean([check_sampling(study({}, rng.standard_normal(100)), [100]).gains[0].gain for _ in range(30)]) > 0.15
    assert np.mean([check.near_best for check in found]) > 5


def test_more_trials_bring_more_and_goal_max_mirrors():
    values = search(np.random.default_rng(3), 1, 60, 2)[1][0]
    small, large = check_sampling(study({}, values)).gains
    assert (small.more, large.more) == (30, 60)
    assert 0 < small.gain < large.gain
    mirrored = check_sampling(study({}, -values, goal="max"))
    assert mirrored.gains == (small, large)
    assert mirrored.best == -values.min()
    assert mirrored.expected_best is None


def test_the_same_seed_gives_the_same_interval():
    table = study({}, search(np.random.default_rng(4), 1, 60, 2)[1][0])
    assert check_sampling(table, trial_sd=0.01) == check_sampling(table, trial_sd=0.01)
    assert check_sampling(table).gains[0].interval != check_sampling(table, seed=1).gains[0].interval


@pytest.mark.parametrize("n", [0, 1, 2, 19])
def test_too_few_trials_leave_it_unknown(n):
    check = check_sampling(study({}, np.arange(float(n))), trial_sd=0.1)
    assert check.gains == ()
    assert np.isnan(check.tail)


def test_infeasible_trials_are_trials_that_did_not_win():
    values = search(np.random.default_rng(5), 1, 60, 2)[1][0]
    check = check_sampling(study({}, np.append(values, np.zeros(60)), np.arange(120) >= 60), [60])
    assert (check.trials, check.feasible) == (120, 60)
    assert check.gains[0].gain == pytest.approx(check_sampling(study({}, values), [30]).gains[0].gain)
    assert check_sampling(study({}, np.zeros(30), np.ones(30, bool)), trial_sd=0.1).gains == ()


def test_constant_objectives_bring_nothing():
    assert [gain.gain for gain in check_sampling(study({}, np.ones(50)), trial_sd=0.1).gains] == [0.0, 0.0]


def test_bad_input_is_named():
    table = study({}, np.arange(30.0))
    with pytest.raises(InputError, match="more = 31 trials after 30"):
        check_sampling(table, [31])
    with pytest.raises(InputError, match="trial_sd = -1"):
        check_sampling(table, trial_sd=-1.0)
