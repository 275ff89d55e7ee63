import numpy as np
import pytest

from harness.analysis.lost_progress import LOST_RISE, lost_progress


def falling(rng, steps=2000, noise=0.1):
    """Loss of a stable run: 4.4 to about 2.5 nats, with the noise of a batch of 256 tokens."""
    return 2.5 + 1.9 * np.exp(-np.arange(steps) / 100) + noise * rng.standard_normal(steps)


def test_noise_alone_loses_nothing():
    rng = np.random.default_rng(0)
    assert not any(lost_progress(falling(rng)).lost for _ in range(500))
    rises = [end.final - end.lowest for end in (lost_progress(falling(rng)) for _ in range(100))]
    assert 0.03 < np.mean(rises) < 0.15  # the bias of a minimum, which the threshold has to be far over


@pytest.mark.parametrize("jump_at", [300, 1500])
@pytest.mark.parametrize("size", [0.5, 5.0])
def test_a_jump_that_stays_is_told_with_its_step(jump_at, size):
    loss = falling(np.random.default_rng(1), noise=0.03)
    loss[jump_at:] += size
    end = lost_progress(loss)
    assert end.lost
    assert end.step == pytest.approx(jump_at + 1, abs=11)
    assert end.lowest_step <= end.step


def test_a_jump_that_recovers_or_is_small_is_not_told():
    loss = falling(np.random.default_rng(1), noise=0.03)
    loss[1000:1200] += 2
    assert not lost_progress(loss).lost
    loss = falling(np.random.default_rng(1), noise=0.0)
    loss[1000:] += LOST_RISE - 0.01
    assert not lost_progress(loss).lost
    loss[1000:] += 0.02
    assert lost_progress(loss).lost


def test_a_loss_that_never_falls_loses_nothing():
    loss = 3.3 + 0.1 * np.random.default_rng(2).standard_normal(1000)
    assert not lost_progress(loss).risen


def test_a_loss_that_is_not_finite_is_lost_when_it_ends():
    loss = np.append(falling(np.random.default_rng(3), steps=500), np.nan)
    end = lost_progress(loss)
    assert (end.lost, end.step, end.final) == (True, 501, float("inf"))


def test_a_loss_that_is_not_finite_before_it_fell_has_risen_and_lost_nothing():
    for loss in ([np.inf], [4.0, np.nan], np.append(np.full(500, 4.0), np.nan)):
        end = lost_progress(np.array(loss))
        assert (end.risen, end.lost, end.step) == (True, False, len(loss))


def test_a_loss_that_climbs_from_its_first_value_has_risen_and_lost_nothing():
    rng = np.random.default_rng(4)
    climbing = 2.5 + np.linspace(0, 1, 1000) + 0.03 * rng.standard_normal(1000)
    end = lost_progress(climbing)
    assert (end.risen, end.lost) == (True, False)
    assert end.step == pytest.approx(301, abs=40)


@pytest.mark.parametrize(("fall", "lost"), [(LOST_RISE - 0.02, False), (LOST_RISE + 0.02, True)])
def test_progress_is_lost_where_as_much_was_made(fall, lost):
    loss = np.r_[np.full(100, 3.0), np.full(400, 3.0 - fall), np.full(500, 4.0)]
    loss[0] += 5  # one step is not the first value of a running median
    end = lost_progress(loss)
    assert (end.risen, end.lost) == (True, lost)


def test_short_curves():
    assert not lost_progress(np.array([4.0])).lost
    assert not lost_progress(np.array([4.0, 3.0, 2.0])).lost
