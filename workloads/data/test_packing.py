import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from workloads.data.packing import next_fit, pack, shifted

BEGIN, END = 1, 2

CAPACITIES = st.integers(1, 12)
SIDE = st.lists(st.integers(1, 20), max_size=40)
PAIRS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=40)


def cut(lengths, capacity):
    return np.minimum(lengths, capacity)


def assert_next_fit(sides, capacity):
    documents = len(sides[0])
    packs = next_fit(sides, capacity)
    assert packs.dtype == np.int64
    assert [i for first, stop in packs for i in range(first, stop)] == list(
        range(documents)
    )  # every one once, in order
    for first, stop in packs:
        assert first < stop
        assert all(cut(side[first:stop], capacity).sum() <= capacity for side in sides)
    for first, stop in packs[:-1]:  # the next document did not fit
        assert any(cut(side[first : stop + 1], capacity).sum() > capacity for side in sides)


@given(SIDE, CAPACITIES)
@example([], 3)
def test_documents_keep_their_order_and_fit(lengths, capacity):
    assert_next_fit([np.array(lengths, np.int64)], capacity)


@given(PAIRS, CAPACITIES)
def test_both_sides_of_pairs_fit(lengths, capacity):
    assert_next_fit([*np.array(lengths, np.int64).reshape(-1, 2).T], capacity)


def test_packs_by_hand():
    np.testing.assert_array_equal(next_fit([np.array([2, 3, 9, 1, 4, 5])], 5), [[0, 2], [2, 3], [3, 5], [5, 6]])
    np.testing.assert_array_equal(next_fit([np.array([2, 2, 2]), np.array([1, 5, 1])], 5), [[0, 1], [1, 2], [2, 3]])


@given(SIDE, CAPACITIES)
def test_an_example_holds_its_documents_side_by_side(lengths, capacity):
    lengths = np.array(lengths, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(3, 3 + offsets[-1], dtype=np.uint16)
    for first, stop in next_fit([lengths], capacity):
        of_pack = ids[offsets[first] : offsets[stop]]
        labels, segments, positions = pack(of_pack, lengths[first:stop], capacity)
        inputs = shifted(labels, segments, positions, BEGIN)
        for field in (labels, segments, positions, inputs):
            assert field.shape == (capacity,) and field.dtype == np.int32
        for segment, document in enumerate(range(first, stop), 1):
            expected = ids[offsets[document] : offsets[document + 1]][:capacity]
            there = segments == segment
            np.testing.assert_array_equal(labels[there], expected)
            np.testing.assert_array_equal(inputs[there], [BEGIN, *expected[:-1]])
            np.testing.assert_array_equal(positions[there], np.arange(len(expected)))
        padding = segments == 0
        assert np.all(np.diff(padding.astype(int)) >= 0)  # it comes last
        for field in (labels, positions, inputs):
            assert not np.any(field[padding])


def test_an_example_by_hand():
    labels, segments, positions = pack(np.array([7, 8, END, 9, END]), np.array([3, 2]), 7)
    assert labels.tolist() == [7, 8, END, 9, END, 0, 0]
    assert segments.tolist() == [1, 1, 1, 2, 2, 0, 0]
    assert positions.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert shifted(labels, segments, positions, BEGIN).tolist() == [BEGIN, 7, 8, BEGIN, 9, 0, 0]
