import numpy as np
import pytest

from harness.experiments.uniformity import linked_halton, log_discrepancy, random_points, scrambled_halton


@pytest.mark.parametrize("points", [random_points, linked_halton, scrambled_halton])
def test_points_fill_the_unit_cube_and_the_seed_decides_them(points):
    found = points(3, 500, 7)
    assert found.shape == (500, 3) and (found >= 0).all() and (found < 1).all()
    np.testing.assert_allclose(found.mean(axis=0), 0.5, atol=0.06)
    np.testing.assert_array_equal(found, points(3, 500, 7))
    assert (found != points(3, 500, 8)).any()


def test_the_linked_construction_repeats_no_digit_of_its_large_bases():
    # Bases 983 and 991: within that many points every coordinate lies in a cell of its own, up to the shift.
    points = linked_halton(2, 880, 0)
    for axis, base in enumerate((983, 991)):
        left = np.sort(points[:, axis])
        assert np.diff(left).min() > 0.99 / base - 1 / base**2


def test_the_linked_construction_is_even_after_a_whole_period():
    # Points 101 to 1091: each last digit of base 991 stands once.
    points = linked_halton(1, 991, 3)[:, 0]
    gaps = np.diff(np.sort(points))
    assert gaps.max() < 2.1 / 991


def test_discrepancy_orders_what_is_known():
    grid = (np.arange(64) + 0.5) / 64
    even = np.stack([grid, (np.arange(64) * 19 % 64 + 0.5) / 64], axis=1)
    crowded = even / 2
    assert log_discrepancy(even) < log_discrepancy(random_points(2, 64, 0)) < log_discrepancy(crowded)
