"""Checks of training curves: each label on a curve that earns it, and seldom on noise."""

import numpy as np
import pytest

from harness.analysis.training_curves import MIN_POINTS, Thresholds, check_curves
from harness.records import Curve, InputError

TRIALS = 200


def curves(y):
    return [Curve(np.arange(y.shape[1]) * 10.0, row) for row in y]


def simulate(m, shape, noise=0.01, correlation=0.0, trials=TRIALS, seed=0):
    """(trials, m) curves of a shape over t in [0, 1], with autoregressive noise."""
    error = np.random.default_rng(seed).standard_normal((trials, m))
    for i in range(1, m):
        error[:, i] = correlation * error[:, i - 1] + np.sqrt(1 - correlation**2) * error[:, i]
    return shape(np.linspace(0, 1, m)) + noise * error


def share(checks, label):
    return np.mean([getattr(check, label) for check in checks])


SATURATED, IMPROVING = (lambda t: np.exp(-20 * t)), (lambda t: np.exp(-2 * t))
OVERFIT = lambda t: np.exp(-12 * t) + 0.3 * np.clip(t - 0.4, 0, 1)  # noqa: E731
LABELS = ("overfitting", "improving", "saturated", "rising", "periodic")
sizes = pytest.mark.parametrize(("m", "correlation"), [(20, 0.0), (50, 0.0), (200, 0.6), (1000, 0.9)])


@sizes
@pytest.mark.parametrize(
    ("shape", "expected"),
    [(SATURATED, {"saturated"}), (IMPROVING, {"improving"}), (OVERFIT, {"overfitting", "saturated"})],
)
def test_a_curve_gets_its_labels_and_no_other(m, correlation, shape, expected):
    found = check_curves(curves(simulate(m, shape, correlation=correlation)))
    for label in LABELS:
        if label in expected:
            assert share(found, label) >= (0.6 if m == 20 else 0.9), label
        else:
            assert share(found, label) <= 0.02, label


@pytest.mark.parametrize("m", [50, 100, 1000])
def test_independent_noise_alone_is_seldom_labelled(m):
    found = check_curves(curves(simulate(m, np.zeros_like, noise=1.0, trials=2000)))
    for label in LABELS:
        assert share(found, label) <= 0.01, label


def test_overfitting_needs_training_that_still_falls():
    validation = curves(simulate(100, OVERFIT))
    falls, rises = curves(simulate(100, IMPROVING, seed=1)), curves(simulate(100, OVERFIT, seed=1))
    assert share(check_curves(validation, falls), "overfitting") == 1
    assert share(check_curves(validation, rises), "overfitting") == 0


@pytest.mark.parametrize("period", [5, 7, 16])
def test_a_period_is_found_with_its_length(period):
    m = 512
    y = simulate(m, IMPROVING) + 0.02 * (np.arange(m) % period) / period * 2
    found = check_curves(curves(y))
    assert share(found, "periodic") >= 0.95
    fractions = [period / check.period for check in found if check.periodic]  # the wave or one of its harmonics
    assert np.allclose(fractions, np.round(fractions), atol=0.1)


def test_rising_training_loss():
    found = check_curves(curves(simulate(100, IMPROVING)), curves(simulate(100, lambda t: 1 + 0.3 * t)))
    assert share(found, "rising") == 1


def test_late_noise_is_measured_and_held_against_what_matters():
    y = curves(simulate(400, SATURATED, noise=0.02))
    found = check_curves(y)
    assert np.mean([check.late_sd for check in found]) == pytest.approx(0.02, rel=0.05)
    assert share(found, "noisy") == 0
    assert share(check_curves(y, difference=0.01), "noisy") == 1
    assert share(check_curves(y, thresholds=Thresholds(late_noise=0.01)), "noisy") == 1


def test_best_step_and_goal():
    y = simulate(100, OVERFIT, noise=0.0)
    (check,) = check_curves(curves(y)[:1])
    assert check.best_step == 10 * np.argmin(y[0])
    assert check.best_at == pytest.approx(np.argmin(y[0]) / 99)
    assert repr(check_curves(curves(-y)[:1], goal="max")) == repr((check,))
    assert check.fall > check.rise > 0.1


def test_short_missing_and_unfinished_curves():
    y = simulate(60, IMPROVING, trials=1)[0]
    ended = Curve(np.arange(60.0), np.where(np.arange(60) < 40, y, np.nan))
    short = Curve(np.arange(MIN_POINTS - 1.0), y[: MIN_POINTS - 1])
    found = check_curves([None, short, ended, Curve(np.arange(40.0), y[:40])])
    assert found[0] is found[1] is None
    assert repr(found[2]) == repr(found[3])


def test_constant_curves_get_no_label():
    (check,) = check_curves([Curve(np.arange(100.0), np.ones(100))])
    assert not any(getattr(check, label) for label in (*LABELS, "noisy"))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="goal 'up'"):
        check_curves([], goal="up")
    with pytest.raises(InputError, match="1 training curves for 2 trials"):
        check_curves([None, None], [None])
