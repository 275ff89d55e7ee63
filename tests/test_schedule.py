import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.training.schedule import learning_rates
from harness.training.trial import SCHEDULES

LONGEST = 300  # optax's schedules compile anew for every length


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        ("constant", lambda base, steps: lambda counts: np.full(counts.shape, base)),
        ("linear", lambda base, steps: optax.linear_schedule(base, 0.0, steps)),
        ("cosine", optax.cosine_decay_schedule),
        ("square_root", lambda base, steps: lambda counts: base / np.sqrt(1 + 99 * counts / steps)),
    ],
)
def test_agrees_with_optax_after_the_warmup(schedule, reference):
    @given(base=st.floats(1e-6, 100), warmup=st.integers(0, 50), steps=st.integers(1, LONGEST))
    @settings(derandomize=True, deadline=None, max_examples=30)
    def check(base, warmup, steps):
        rates = learning_rates(schedule, base, warmup, steps)
        assert rates.shape == (warmup + steps,)
        assert rates.dtype == np.float32
        expected = np.asarray(reference(base, steps)(np.arange(LONGEST)))[:steps]
        np.testing.assert_allclose(rates[warmup:], expected, rtol=1e-4, atol=1e-6 * base)

    check()


@given(schedule=st.sampled_from(SCHEDULES), warmup=st.integers(1, 100), steps=st.integers(1, 100))
@settings(derandomize=True, deadline=None)
def test_the_ramp_is_linear_from_zero_and_ends_at_the_base(schedule, warmup, steps):
    rates = learning_rates(schedule, 0.3, warmup, steps)
    assert rates[0] == 0
    assert rates[warmup] == np.float32(0.3)
    np.testing.assert_allclose(np.diff(rates[: warmup + 1]), 0.3 / warmup, rtol=1e-3)


def test_the_warmup_is_prepended():
    """The playbook: 10,000 steps with 1,000 of warmup are 11,000 (optax would make them 10,000)."""
    rates = learning_rates("cosine", 0.1, 1000, 10_000)
    assert len(rates) == 11_000
    assert rates[6000] == pytest.approx(0.05)  # half way through the decay, not through the run
    np.testing.assert_array_equal(rates[1000:], learning_rates("cosine", 0.1, 0, 10_000))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_warmup_the_first_rate_is_the_base(schedule):
    assert learning_rates(schedule, 0.1, 0, 7)[0] == np.float32(0.1)


@given(schedule=st.sampled_from(SCHEDULES), constant=st.integers(0, 100), decay=st.integers(0, 100))
@settings(derandomize=True, deadline=None)
def test_a_constant_phase_is_put_before_the_decay(schedule, constant, decay):
    """The playbook: extend the constant phase, and keep the length of the decay."""
    rates = learning_rates(schedule, 0.1, 5, constant + decay, constant)
    np.testing.assert_array_equal(rates[5 : 5 + constant], np.float32(0.1))
    np.testing.assert_array_equal(rates[5 + constant :], learning_rates(schedule, 0.1, 0, decay))


def test_the_square_root_decays_to_a_tenth():
    assert learning_rates("square_root", 1.0, 0, 1000)[-1] == pytest.approx(0.1, rel=1e-2)
