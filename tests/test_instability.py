from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.instability import SPIKE_RISE, classify, has_spike, largest_rise
from harness.records import InputError
from tests.instability_curves import KINDS, held_out, real, simulate, simulated

LABELLED = [*real(), *simulated()]


def fall(steps=400, start=2.3, floor=0.3, noise=0.0, seed=0):
    """A stable curve."""
    time = np.arange(steps) / steps
    return floor + (start - floor) * np.exp(-12 * time) + noise * np.random.default_rng(seed).standard_normal(steps)


def risen(at, height=3.0, until=None, **named):
    """The same with a rise."""
    curve = fall(**named)
    curve[at:until] += height
    return curve


def test_the_labelled_set_is_large_and_its_halves_are_halves():
    assert len(LABELLED) >= 200
    assert len({curve.name for curve in LABELLED}) == len(LABELLED)
    assert 0.4 < np.mean([held_out(curve) for curve in LABELLED]) < 0.6
    assert 0.4 < np.mean([curve.norms is not None for curve in LABELLED]) < 0.6
    for half in (False, True):
        kinds = Counter(curve.kind for curve in LABELLED if held_out(curve) == half)
        assert min(kinds[kind] for kind in KINDS) >= 5


@pytest.mark.parametrize("half", [False, True])
def test_right_on_the_labelled_set(half):
    curves = [curve for curve in LABELLED if held_out(curve) == half]
    wrong = [curve.name for curve in curves if classify(curve.loss).type != KINDS[curve.kind]]
    assert len(wrong) <= 0.05 * len(curves), wrong


def test_stable_curves_are_rarely_called_unstable():
    """Simulated ones that are not of the labelled set."""
    curves = [simulate(index) for index in range(10_000, 10_800)]
    stable = [curve for curve in curves if KINDS[curve.kind] == "stable"]
    assert np.mean([classify(curve.loss).type != "stable" for curve in stable]) < 0.03


@pytest.mark.parametrize(
    ("curve", "kind", "step", "recovered"),
    [
        (fall(), "stable", None, None),
        (fall(noise=0.05), "stable", None, None),
        (risen(1, height=5, until=20), "initialisation", 1, True),
        (risen(9), "initialisation", 9, False),
        (risen(12), "early", 12, False),
        (risen(39, until=60), "early", 39, True),
        (risen(42, until=60), "mid-training", 42, True),
        (risen(300, noise=0.05), "mid-training", 300, False),
        (risen(300, height=0.5, noise=0.02), "mid-training", 300, False),
        (np.array([np.nan]), "initialisation", 1, False),
        (np.array([2.3, np.inf]), "initialisation", 1, False),
        (np.r_[fall()[:200], np.nan], "mid-training", 200, False),
    ],
)
def test_type_and_step(curve, kind, step, recovered):
    found = classify(curve)
    assert (found.type, found.recovered) == (kind, recovered)
    assert found.step == step or abs(found.step - step) <= 3


def test_the_size_of_a_rise():
    assert classify(risen(300, height=3.0)).rise == pytest.approx(3.0, abs=0.1)
    assert classify(np.r_[fall(), np.nan]).rise == np.inf
    assert classify(risen(300, height=0.2, until=340)).rise == pytest.approx(0.2, abs=0.1)


def test_a_single_odd_batch_is_no_instability():
    assert classify(risen(300, height=30.0, until=301)).type == "stable"
    assert classify(risen(300, height=30.0, until=302)).type == "mid-training"


def test_a_rise_within_the_noise_is_none():
    assert classify(risen(300, height=1.0, until=320, noise=0.02)).type == "mid-training"
    assert classify(risen(300, height=1.0, until=320, floor=1.5, noise=0.4)).type == "stable"


def test_slow_and_noisy_training():
    assert not classify(fall()).slow
    assert classify(np.linspace(2.3, 1.5, 400)).slow
    assert classify(np.full(400, 2.3)).slow
    assert not classify(fall(noise=0.05)).noisy
    assert classify(fall(noise=0.4)).noisy


def test_gradient_norms_are_evidence_and_do_not_change_the_type():
    norms = np.ones(400)
    norms[[50, 300]] = np.nan, 250.0
    found = classify(fall(), norms)
    assert (found.type, found.norm_outlier, found.norm_step) == ("stable", 250.0, 301)
    assert classify(fall()).norm_outlier is None
    assert classify(fall(), np.full(400, np.nan)).norm_outlier is None


def test_where_early_ends_is_settable():
    assert classify(risen(100), early_share=0.5).type == "early"
    assert classify(risen(100), initial_steps=150).type == "initialisation"
    assert classify(risen(300, height=0.5, noise=0.02), lasting_rise=0.6).type == "stable"


@given(st.lists(st.floats(0, 50), min_size=1, max_size=300))
def test_a_curve_that_only_falls_is_stable(values):
    assert classify(np.sort(values)[::-1]).type == "stable"


@given(st.lists(st.floats(0, 50), min_size=1, max_size=200), st.integers(0, 199))
def test_a_curve_that_is_not_finite_is_unstable(values, at):
    values[at % len(values)] = np.nan
    found = classify(np.array(values))
    assert found.type != "stable"
    assert 1 <= found.step <= at % len(values) + 1
    assert found.recovered is False


@given(st.integers(1, 60), st.floats(1.6, 100))
def test_every_spike_of_a_curve_without_noise_is_found(at, height):
    curve = risen(at, height, until=at + 2)
    assert classify(curve).type == "stable" or has_spike(curve)
    if at >= 26:  # before, a curve that falls fast is not told from one that is noisy
        assert classify(curve).type != "stable"


def test_spikes_as_experiments_count_them():
    assert largest_rise(np.array([2.0, 5.0, 2.0])) == 0
    assert largest_rise(np.array([2.0, 5.0, 4.0])) == 2.0
    assert largest_rise(np.array([2.0])) == 0
    assert largest_rise(np.array([2.0, np.nan, 1.0])) == np.inf
    assert has_spike(np.array([1.0, 1.0 + SPIKE_RISE, 1.0 + SPIKE_RISE]))
    assert not has_spike(np.array([1.0, 1.0 + SPIKE_RISE, 0.99 + SPIKE_RISE]))


@pytest.mark.parametrize(
    ("loss", "norms", "told"),
    [
        (np.zeros(0), None, "loss of shape (0,): expected one value per step"),
        (np.zeros((2, 3)), None, "loss of shape (2, 3): expected"),
        (np.zeros(3), np.zeros(2), "gradient_norms of shape (2,): expected (3,), as the loss"),
    ],
)
def test_bad_input_is_named(loss, norms, told):
    with pytest.raises(InputError) as caught:
        classify(loss, norms)
    assert str(caught.value).startswith(told)
