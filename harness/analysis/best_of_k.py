"""The best of k trials drawn from N finished ones: its exact distribution, and what a box of figure 3 draws of it.

The chance that the best of k is none of the first i, with the trials sorted best first, is

    S(i) = (1 - i / N)^k                    drawn with replacement (a bootstrap of studies of k trials)
    S(i) = C(N - i, k) / C(N, k)            drawn without (disjoint studies; Tang et al. 2020, arXiv 2011.01005)

Everything follows from S without sampling. The mean without replacement is the unbiased estimator of the expected best
of k fresh trials (the form of pass@k, Chen et al. 2021, arXiv 2107.03374, eq. 1); with replacement it is that of Dodge
et al. 2019, arXiv 1909.03004, eq. 7, which is biased towards worse values where k is near N.

A trial without a finite value is infeasible: it stays among the N and is worse than every other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.records import InputError

WHISKER = 1.5
"""Reach of a whisker beyond its box, in box heights (Tukey 1977); the published whiskers of figure 3 fit it."""

QUARTILES = (0.25, 0.5, 0.75)

_TIE = 1e-12  # a probability this close to a quantile's reaches it, so that rounding never moves a rank
_NOTHING = 1e-30  # S under this adds nothing: the mean is off by less than this share of the values' range
_ROWS, _BLOCK = 128, 1 << 16  # of S held at once: values of k, and numbers, which stay in a core's cache


@dataclass(frozen=True)
class BestOf:
    """The best of k trials, for several k; every array is float64 (K,) in the objective's own units.

    Attributes:
      ks: how many trials are drawn, int64 (K,).
      q1: quartile: the smallest observed value that the best is at most with probability of at least .25.
      median: the same at .5.
      q3: the same at .75.
      low: lower whisker: the smallest attainable value that lies within 1.5 box heights under q1.
      high: upper whisker: the largest within 1.5 box heights over q3.
      mean: expectation over the draws that hold a feasible trial; NaN where no trial is feasible.
      sd: standard deviation over the same draws.
      infeasible: probability that all k drawn trials are infeasible, the draws that `mean` and `sd` leave out.

    Quartiles and whiskers are over all draws: infinite, on the worse side, where they fall on infeasible ones.
    """

    ks: np.ndarray
    q1: np.ndarray
    median: np.ndarray
    q3: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    infeasible: np.ndarray


def best_of(values: np.ndarray, goal: str, ks: Sequence[int], replacement: bool = True) -> BestOf:
    """The best of k trials for every k asked for, exactly.

    Args:
      values: objective of each trial, (N,); not finite where it is infeasible.
      goal: `min` or `max`.
      ks: how many trials are drawn, each at least 1, and at most N without replacement.
      replacement: whether a trial can be drawn again.

    Returns:
      Box statistics, mean and standard deviation. Time and memory: O(N log N + N K) and O(N).

    Raises:
      InputError: no trials, an unknown goal, or k out of range.
    """
    ordered, feasible, ks = _checked(values, goal, ks, replacement)
    n = ordered.size
    ranks, moments, failures = np.ones((3, ks.size), np.int64), np.zeros((ks.size, 2)), np.zeros(ks.size)
    # Sums by parts: E[x] = sum over i of S(i) (x[i+1] - x[i]) has terms of one sign, with x = value - best value.
    beyond = ordered[:feasible] - ordered[:1] if feasible else np.zeros(1)
    scale = abs(beyond[-1]) or 1.0  # so that squares of losses beyond 1e154 stay finite
    beyond = beyond / scale
    powers = np.stack([beyond, beyond**2], axis=1)
    steps = np.diff(powers, axis=0)
    for rows, start, survival in _survival(n, ks, replacement):
        ranks[:, rows] += _counts(survival, goal, QUARTILES)
        here = steps[start : start + survival.shape[1]]
        moments[rows] += survival[:, : len(here)] @ here
        if start < feasible <= start + survival.shape[1]:
            failures[rows] = survival[:, feasible - 1 - start]
    if feasible:
        first, second = ((moments - failures[:, None] * powers[-1]) / (1 - failures)[:, None]).T
        mean, sd = ordered[0] + scale * first, scale * np.sqrt(np.maximum(second - first**2, 0))
    else:
        failures[:], mean, sd = 1.0, *np.full((2, ks.size), np.nan)
    worst = np.full(ks.size, n) if replacement else n - ks + 1
    q1, median, q3 = ordered[ranks - 1]
    low, high = _whiskers(ordered, goal, q1, q3, worst)
    return BestOf(ks, q1, median, q3, low, high, mean, sd, failures)


def quantiles(
    values: np.ndarray, goal: str, ks: Sequence[int], levels: Sequence[float], replacement: bool = True
) -> np.ndarray:
    """Quantiles of the best of k: the smallest observed value that the best is at most with probability >= level.

    Args:
      values: as `best_of`.
      goal: `min` or `max`; of either, a low level is a low value.
      ks: as `best_of`.
      levels: (L,), each in (0, 1).
      replacement: as `best_of`.

    Returns:
      float64 (L, K).

    Raises:
      InputError: as `best_of`, or a level out of range.
    """
    ordered, _, ks = _checked(values, goal, ks, replacement)
    if wrong := [level for level in levels if not 0 < level < 1]:
        raise InputError(f"quantile level {wrong[0]}, expected one between 0 and 1; give a share, not a percentage")
    ranks = np.ones((len(levels), ks.size), np.int64)
    for rows, _, survival in _survival(ordered.size, ks, replacement):
        ranks[:, rows] += _counts(survival, goal, levels)
    return ordered[ranks - 1]


def distribution(values: np.ndarray, goal: str, k: int, replacement: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Every value that the best of k can take, and its probability.

    Args:
      values: as `best_of`.
      goal: `min` or `max`.
      k: how many trials are drawn.
      replacement: as `best_of`.

    Returns:
      Distinct values, ascending, float64 (M,), infeasible ones together as one infinite value; probabilities,
      float64 (M,), that sum to 1.

    Raises:
      InputError: as `best_of`.
    """
    ordered, _, ks = _checked(values, goal, [k], replacement)
    bounds = np.zeros(ordered.size + 1)
    bounds[0] = 1.0
    for _, start, survival in _survival(ordered.size, ks, replacement):
        bounds[start + 1 : start + 1 + survival.shape[1]] = survival[0]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    support, chances = ordered[first], -np.diff(bounds[np.append(first, ordered.size)])
    attainable = chances > 0
    order = slice(None, None, 1 if goal == "min" else -1)
    return support[attainable][order], chances[attainable][order]


def bootstrap_best_of(
    values: np.ndarray,
    goal: str,
    ks: Sequence[int],
    replacement: bool = True,
    replicates: int = 10_000,
    seed: int = 0,
) -> BestOf:
    """The same by drawing studies at random: what `best_of` has exactly, for checking it.

    One draw of the largest k serves every k through its first k trials, so the rows of k are not independent.

    Args:
      values: as `best_of`.
      goal: `min` or `max`.
      ks: as `best_of`.
      replacement: as `best_of`.
      replicates: studies drawn.
      seed: of the draws; the same seed gives the same studies.

    Returns:
      Box statistics of the drawn studies, by the same rules; whiskers reach to values that were drawn.

    Raises:
      InputError: as `best_of`.
    """
    ordered, feasible, ks = _checked(values, goal, ks, replacement)
    rng, most = np.random.default_rng(seed), int(ks.max())
    shape = (replicates, most if replacement else ordered.size)
    drawn = rng.integers(ordered.size, size=shape) if replacement else np.argsort(rng.random(shape), axis=1)[:, :most]
    ranks = np.sort(np.minimum.accumulate(drawn, axis=1)[:, ks - 1], axis=0)  # (replicates, K), best first
    columns = []
    for column in ranks.T:
        best = ordered[column]  # sorted best first, as `ordered` is
        ascending = best if goal == "min" else best[::-1]
        q1, median, q3 = (ascending[int(np.ceil(level * replicates)) - 1 :][:1] for level in QUARTILES)
        low, high = _whiskers(best, goal, q1, q3, np.array([replicates]))
        finite = ordered[column[column < feasible]]
        mean, sd = (finite.mean(), finite.std()) if finite.size else (np.nan, np.nan)
        columns.append([q1[0], median[0], q3[0], low[0], high[0], mean, sd, 1 - finite.size / replicates])
    return BestOf(ks, *np.array(columns).T)


def _checked(values: np.ndarray, goal: str, ks: Sequence[int], replacement: bool) -> tuple[np.ndarray, int, np.ndarray]:
    """Gives the values best first, how many of them are feasible, and ks as int64."""
    values = np.asarray(values, float)
    if values.ndim != 1 or not values.size:
        raise InputError(f"trial values of shape {values.shape}, expected (N,) with N >= 1; give one value per trial")
    if goal not in ("min", "max"):
        raise InputError(f"goal {goal!r}, expected 'min' or 'max'; say which way the objective is better")
    counts = np.atleast_1d(np.asarray(ks))
    if not counts.size or counts.ndim != 1 or (counts != np.floor(counts)).any() or (counts < 1).any():
        raise InputError(f"best of k = {ks!r}, expected whole numbers of at least 1; count the trials drawn")
    counts = counts.astype(np.int64)
    if not replacement and counts.max() > values.size:
        raise InputError(
            f"best of {counts.max()} of {values.size} trials without replacement, expected k of at most "
            f"{values.size}; lower k, or draw with replacement"
        )
    sign = 1.0 if goal == "min" else -1.0
    worth = np.where(np.isfinite(values), sign * values, np.inf)
    worth.sort()
    return sign * worth, int(np.isfinite(values).sum()), counts


def _survival(n: int, ks: np.ndarray, replacement: bool) -> Iterator[tuple[slice, int, np.ndarray]]:
    """Yields S in blocks: (rows of ks, start, float64 (rows, m)) with S(start + 1) to S(start + m), until it vanishes.

    Without replacement, C(N - i, k) / C(N, k) is the product over j < i of 1 - k / (N - j), which stays accurate where
    a difference of log-gammas loses nine digits at N = 1,000,000. The next block overwrites the one before.
    """
    drawn = np.arange(1, n)
    base = np.log1p(-drawn / n) if replacement else -1.0 / (n + 1 - drawn)
    for top in range(0, ks.size, _ROWS):
        some = ks[top : top + _ROWS].astype(float)
        width = min(n - 1, _BLOCK // some.size)
        buffer = np.empty((some.size, width))
        so_far = np.ones(some.size)
        for start in range(0, n - 1, max(width, 1)):
            here = base[start : start + width]
            survival = np.multiply(some[:, None], here, out=buffer[:, : here.size])
            if replacement:
                np.exp(survival, out=survival)
            else:
                survival += 1
                np.maximum(survival, 0, out=survival)  # zero from i = n - k + 1 on
                survival[:, 0] *= so_far
                np.cumprod(survival, axis=1, out=survival)
                so_far = survival[:, -1].copy()
            yield slice(top, top + some.size), start, survival
            if survival[:, -1].max() < _NOTHING:
                break


def _counts(survival: np.ndarray, goal: str, levels: Sequence[float]) -> np.ndarray:
    """How many ranks of a block lie before each quantile's, best first: int64 (levels, rows).

    P(best <= i-th value) is 1 - S(i) where the best is lowest, and S(i - 1) where it is highest.
    """
    counts = np.zeros((len(levels), len(survival)), np.int64)
    for level, count in zip(levels, counts, strict=True):
        least = 1 - level + _TIE if goal == "min" else level - _TIE
        count[survival[:, -1] > least] = survival.shape[1]
        (within,) = np.nonzero((survival[:, 0] > least) & (survival[:, -1] <= least))  # S falls along a row
        if within.size:
            count[within] = np.count_nonzero(survival[within] > least, axis=1)
    return counts


def _whiskers(
    ordered: np.ndarray, goal: str, q1: np.ndarray, q3: np.ndarray, worst: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The outermost values inside the fences, out of the `worst` first ones, best first."""
    with np.errstate(invalid="ignore"):
        reach = WHISKER * np.where(q1 == q3, 0.0, q3 - q1)
    if goal == "min":
        low = np.searchsorted(ordered, q1 - reach, "left")
        high = np.minimum(np.searchsorted(ordered, q3 + reach, "right"), worst) - 1
        return ordered[low], ordered[high]
    ascending, out_of_reach = ordered[::-1], ordered.size - worst
    low = np.maximum(np.searchsorted(ascending, q1 - reach, "left"), out_of_reach)
    return ascending[low], ascending[np.searchsorted(ascending, q3 + reach, "right") - 1]
