import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workloads.cross_entropy import weighted_cross_entropy

# Few distinct values, so that ties are common.
few = st.sampled_from([-1.0, 0.0, 0.5, np.float32(1e30), -np.inf])


@settings(deadline=None)
@given(logits=hnp.arrays(np.float32, (4, 5), elements=few), labels=hnp.arrays(np.int32, 4, elements=st.integers(0, 4)))
def test_an_error_is_a_label_that_argmax_does_not_choose(logits, labels):
    _, metrics = weighted_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(4))
    assert metrics["error"] == np.mean(np.argmax(logits, axis=-1) != labels)


def test_logits_that_are_not_numbers_are_errors():
    for place in range(3):
        logits = jnp.zeros((1, 3)).at[0, place].set(jnp.nan)
        for label in range(3):
            _, metrics = weighted_cross_entropy(logits, jnp.asarray([label]), jnp.ones(1))
            assert metrics["error"] == 1


def test_errors_are_weighted():
    logits = jnp.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    _, metrics = weighted_cross_entropy(logits, jnp.asarray([0, 1, 0]), jnp.asarray([2.0, 1.0, 1.0]))
    assert metrics["error"] == 0.5
