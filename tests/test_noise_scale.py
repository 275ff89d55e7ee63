"""The gradient noise scale against gradients whose moments are known in closed form."""

import itertools

import numpy as np
import pytest

from harness.analysis.noise_scale import noise_scale
from harness.records import InputError
from harness.training.gradient_noise import DRAWS, gradient_noise


def quadratic(rng, batch):
    """Gradients of h |theta|^2 / 2 with noise of variance .25 in each of 20 directions, h theta = .1: 5 / .2 = 25."""
    while True:
        yield 0.1 + 0.5 * rng.standard_normal((batch, 20)).mean(axis=0)


def regression(rng, batch):
    """Of a noiseless regression on x ~ N(0, I), at a distance of 1: |G|^2 = 1 and tr(Sigma) = 10 + 1."""
    while True:
        inputs = rng.standard_normal((batch, 10))
        yield inputs.T @ inputs[:, 0] / batch


@pytest.mark.parametrize("gradients, truth", [(quadratic, (0.2, 5.0)), (regression, (1.0, 11.0))])
@pytest.mark.parametrize("batch", [4, 64])
def test_moments_are_unbiased_and_the_scale_is_within_its_interval(gradients, truth, batch):
    rng = np.random.default_rng(3)
    found = np.array([gradient_noise(gradients(rng, batch), batch) for _ in range(200)])
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - truth) < 3 * error)
    scale = noise_scale(found[:, :1], found[:, 1:])
    assert scale.interval[0] < truth[1] / truth[0] < scale.interval[1]
    assert scale.interval[1] / scale.interval[0] < 1.2


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """In 500 experiments of 6 seeds and 5 measurements each; nominal 95%."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        squares, traces = (m * rng.chisquare(50, (6, 5)) / 50 for m in (0.2, 5.0))
        low, high = noise_scale(squares, traces).interval
        held += low < 25 < high
    assert 0.92 < held / 500 < 0.98


def test_only_the_draws_of_a_measurement_are_taken():
    endless = itertools.count()
    gradient_noise((np.array([float(n)]) for n in endless), 2)
    assert next(endless) == DRAWS


def test_measurements_are_averaged_before_dividing():
    scale = noise_scale([[1.0, 3.0], [2.0, np.nan]], [[10.0, 50.0], [30.0, 99.0]])
    assert scale.value == 15


def test_a_gradient_below_its_noise_has_no_scale():
    scale = noise_scale([[-0.1], [0.05]], [[1.0], [1.0]])
    assert (scale.value, scale.interval) == (np.inf, (0, np.inf))
    assert noise_scale([[0.5]], [[1.0]]).interval == (0, np.inf)


@pytest.mark.parametrize(
    ("squares", "traces", "message"),
    [
        ([[1.0]], [1.0], r"squares \(1, 1\) and traces \(1,\): expected equal .*"),
        ([[np.nan]], [[1.0]], r"no gradient noise was measured; train with noise_steps, such as \(0, 100\)"),
    ],
)
def test_what_was_not_measured_is_one_line(squares, traces, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        noise_scale(squares, traces)
