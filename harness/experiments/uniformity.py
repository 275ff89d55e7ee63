"""How uniform point sets are: random numbers, scrambled Halton, and the construction that the playbook links.

The playbook links the generator of AlgoPerf (Dahl et al. 2023, arXiv 2306.07179), which varies the generalised Halton
sequence of Bousquet et al. 2017, arXiv 1706.03200. Its bases are not the smallest primes but the largest below 1,000,
and a base b fills its axis evenly only after b points: with fewer than b less `SKIPPED` of them, a coordinate is one
random digit without repetition.
"""

from __future__ import annotations

import numpy as np

SKIPPED = 100
"""Points at the start that the construction leaves out."""

LARGEST = 1000
"""Bases are below it."""


def random_points(dimensions: int, trials: int, seed: int) -> np.ndarray:
    """Independent uniform points, float64 (trials, dimensions)."""
    return np.random.default_rng(seed).random((trials, dimensions))


def scrambled_halton(dimensions: int, trials: int, seed: int) -> np.ndarray:
    """The scrambled Halton points of `harness.search.samplers`, float64 (trials, dimensions)."""
    from scipy.stats import qmc  # takes over a second to import

    return qmc.Halton(dimensions, scramble=True, rng=seed).random(trials)


def linked_halton(dimensions: int, trials: int, seed: int) -> np.ndarray:
    """The construction that the playbook links, float64 (trials, dimensions).

    A coordinate of point i is the number whose digits after the point, in the base of its axis, are the digits of i
    from the lowest on, permuted by one permutation that keeps 0, plus a shift modulo 1. The bases are the largest
    primes but one. The original fixes permutation and shift of a base once for all, and its seed only reorders the
    points; here they are drawn from `seed`, so that there is more than one point set to judge.
    """
    rng = np.random.default_rng(seed)
    points = np.zeros((trials, dimensions))
    for axis, base in enumerate(_primes()[-dimensions - 1 : -1]):
        digits = np.concatenate([[0], rng.permutation(np.arange(1, base))])
        left, weight = np.arange(SKIPPED + 1, SKIPPED + trials + 1), 1 / base
        while left.any():
            points[:, axis] += np.where(left > 0, digits[left % base], 0) * weight
            left, weight = left // base, weight / base
        points[:, axis] = (points[:, axis] + rng.random()) % 1
    return points


def log_discrepancy(points: np.ndarray) -> float:
    """log2 of the centred L2 discrepancy as scipy gives it (Hickernell 1998, Math. Comp. 67:299); low is uniform."""
    from scipy.stats import qmc  # takes over a second to import

    return float(np.log2(qmc.discrepancy(points, method="CD")))


def _primes() -> list[int]:
    """The primes below `LARGEST`, ascending."""
    is_prime = np.ones(LARGEST, bool)
    is_prime[:2] = False
    for number in range(2, int(LARGEST**0.5) + 1):
        if is_prime[number]:
            is_prime[number**2 :: number] = False
    return np.flatnonzero(is_prime).tolist()
