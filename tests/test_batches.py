from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.training.batches import padded_batches, step_indices

SIZES = {"seed": st.integers(0, 2**32 - 1), "examples": st.integers(1, 50), "batch": st.integers(1, 70)}


@given(**SIZES, cuts=st.sets(st.integers(1, 19)))
@settings(derandomize=True, deadline=None)
def test_the_stream_is_the_same_however_it_is_cut(seed, examples, batch, cuts):
    whole = step_indices(seed, examples, batch, 0, 20)
    edges = [0, *sorted(cuts), 20]
    pieces = [step_indices(seed, examples, batch, a, b) for a, b in pairwise(edges)]
    assert whole.shape == (20, batch)
    assert whole.dtype == np.int32
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@given(**SIZES)
@settings(derandomize=True, deadline=None)
def test_every_epoch_is_a_permutation(seed, examples, batch):
    stream = step_indices(seed, examples, batch, 0, 20).ravel()
    epochs = stream[: len(stream) // examples * examples].reshape(-1, examples)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(examples), (len(epochs), 1)))


def test_epochs_and_seeds_differ():
    first, second = step_indices(0, 100, 100, 0, 2)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, step_indices(1, 100, 100, 0, 1)[0])
    assert not np.array_equal(second, step_indices(1, 100, 100, 0, 1)[0])


def test_the_batch_size_only_cuts_the_stream():
    np.testing.assert_array_equal(step_indices(5, 30, 4, 0, 15).ravel(), step_indices(5, 30, 10, 0, 6).ravel())


@given(examples=st.integers(1, 200), batch=st.integers(1, 70))
@settings(derandomize=True, deadline=None)
def test_padded_batches_hold_every_example_once(examples, batch):
    indices, weights = padded_batches(examples, batch)
    assert indices.shape == weights.shape == (-(-examples // batch), batch)
    assert (indices.dtype, weights.dtype) == (np.int32, np.float32)
    assert set(np.unique(weights)) <= {0.0, 1.0}
    np.testing.assert_array_equal(indices[weights == 1], np.arange(examples))
    assert np.all((indices >= 0) & (indices < examples))
    assert np.all(weights.sum(axis=1) > 0)
