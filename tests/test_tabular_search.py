import numpy as np
import pytest

from harness.experiments.tabular_search import bayesian_cells, sampled_cells, winner

SHAPE = (6, 5)


@pytest.mark.parametrize("sampler", ["halton", "random"])
def test_cells_have_equal_chances(sampler):
    cells = sampled_cells(SHAPE, sampler, 0, 3000)
    assert cells.shape == (3000,) and set(cells.tolist()) == set(range(30))
    assert np.bincount(cells).max() < 150  # 100 are expected


def test_longer_searches_begin_as_shorter_ones():
    np.testing.assert_array_equal(sampled_cells(SHAPE, "halton", 3, 8), sampled_cells(SHAPE, "halton", 3, 20)[:8])


def test_bayesian_search_looks_near_what_was_good_and_away_from_what_was_infeasible():
    pytest.importorskip("optuna")
    shape = (20, 20)
    row, column = np.divmod(np.arange(400), 20)
    errors = (row - 4.0) ** 2 + (column - 4.0) ** 2
    cells = np.concatenate([bayesian_cells(shape, errors, row >= 10, seed, 40, 1)[20:] for seed in range(4)])
    assert np.mean(row[cells] >= 10) < 0.25  # half of the cells
    assert np.median(errors[cells]) < 0.5 * np.median(errors)


def test_a_round_does_not_know_its_own_results():
    pytest.importorskip("optuna")
    errors, nothing = np.arange(30.0), np.zeros(30, bool)
    one_round = [bayesian_cells(SHAPE, values, nothing, 5, 20, 20) for values in (errors, -errors)]
    np.testing.assert_array_equal(*one_round)
    in_sequence = [bayesian_cells(SHAPE, values, nothing, 5, 20, 1) for values in (errors, -errors)]
    assert (in_sequence[0] != in_sequence[1]).any()


def test_the_winner_is_the_first_of_the_best():
    errors = np.array([0.3, 0.1, 0.1, 0.2])
    assert winner(np.array([3, 2, 1, 0]), errors) == 2
    assert winner(np.array([0, 3]), errors) == 3
