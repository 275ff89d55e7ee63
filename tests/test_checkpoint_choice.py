import numpy as np
import pytest

from harness.analysis.checkpoint_choice import choice_gain


def test_by_hand():
    # Halves: batches 0 and 2, and batch 1. The first is best at checkpoint 1, the other at checkpoint 0.
    by_batch = np.array([[0.3, 0.1, 0.3], [0.0, 0.2, 0.2], [0.4, 0.5, 0.4]])
    assert choice_gain(by_batch) == pytest.approx(((0.4 - 0.3) + (0.5 - 0.2)) / 2)


def test_of_equal_checkpoints_the_first_is_chosen():
    assert choice_gain(np.array([[0.2, 0.5], [0.2, 0.1], [0.3, 0.3]])) == pytest.approx(((0.3 - 0.2) + (0.3 - 0.5)) / 2)


def test_nothing_is_gained_where_the_last_is_best_on_both_halves():
    assert choice_gain(np.array([[0.9, 0.8], [0.5, 0.4], [0.2, 0.1]])) == 0.0


def test_on_equally_good_checkpoints_the_gain_is_0_on_average_and_on_one_set_it_would_not_be():
    generator = np.random.default_rng(0)
    curves = generator.binomial(500, 0.1, (2000, 40, 2)) / 500
    gains = np.array([choice_gain(curve) for curve in curves])
    assert abs(gains.mean()) < 4 * gains.std() / np.sqrt(len(gains))
    whole = curves.mean(axis=2)
    assert np.mean(whole[:, -1] - whole.min(axis=1)) > 10 * gains.std() / np.sqrt(len(gains))


@pytest.mark.parametrize("bad", [np.zeros((3, 1)), np.zeros(4), np.zeros((0, 2)), np.array([[0.1, np.nan]])])
def test_what_cannot_be_halved_is_refused(bad):
    with pytest.raises(ValueError, match=r"expected|finite"):
        choice_gain(bad)
