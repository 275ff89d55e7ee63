"""Exact tests of "it does nothing": where the best trials lie, whether one group ranks above another, Holm."""

from __future__ import annotations

import numpy as np

EXACT_UP_TO = 40
"""Trials up to which the rank-sum test counts every split; beyond, its normal approximation is within .01 of that."""


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values (Holm 1979, Scand J Stat 6:65), float64 (k,), for p-values of any dependence."""
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, steps)
    return adjusted


def hypergeometric_upper(successes: int, n: int, marked: int, drawn: int) -> float:
    """Chance that at least so many of the drawn are marked.

    The upper tail of the hypergeometric distribution, which Fisher's exact test sums.

    Args:
      successes: marked among the drawn.
      n: all trials.
      marked: trials that are marked, such as those at an edge.
      drawn: trials that are drawn without replacement, such as the best.

    Returns:
      Probability in [0, 1], by log-gamma to about 1e-9 of itself at n = 100,000.
    """
    from scipy.special import gammaln

    x = np.arange(max(successes, drawn - (n - marked)), min(marked, drawn) + 1, dtype=np.float64)

    def choose(top: np.ndarray | float, bottom: np.ndarray | float) -> np.ndarray:
        return gammaln(top + 1) - gammaln(np.asarray(bottom) + 1) - gammaln(np.asarray(top - bottom) + 1)

    terms = choose(marked, x) + choose(n - marked, drawn - x) - choose(n, drawn)
    return float(min(1.0, np.exp(terms).sum()))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, the mean rank for ties, float64 (n,); infinities tie with each other."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.append(starts, len(values)))
    result = np.empty(len(values))
    result[order] = np.repeat(starts + (sizes + 1) / 2, sizes)
    return result


def rank_sum_tails(values: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """One-sided p-values of the rank-sum test: chances that a random group of this size ranks as low, and as high.

    Wilcoxon 1945 (Biometrics Bull 1:80). Up to `EXACT_UP_TO` trials by counting every split, ties included; beyond, the
    normal approximation with the variance corrected for ties (Lehmann 1975, Nonparametrics, eq. 1.35) and a continuity
    correction, which is conservative for small groups.

    Args:
      values: float64 (n,), no NaN.
      group: bool (n,).

    Returns:
      (low, high), probabilities in (0, 1]; 1 where either group is empty.
    """
    n, size = len(values), int(group.sum())
    if size in (0, n):
        return 1.0, 1.0
    # Doubled ranks are whole numbers, ties or not.
    doubled = np.round(2 * ranks(values)).astype(np.int64)
    observed = int(doubled[group].sum())
    if n <= EXACT_UP_TO:
        return _exact_tails(doubled, size, observed)
    from scipy.special import ndtr

    mean = size * (n + 1)
    variance = size * (n - size) / (n - 1) * float(((doubled - (n + 1)) ** 2).mean())
    if variance == 0:
        return 1.0, 1.0
    sd = np.sqrt(variance)
    return float(ndtr((observed + 1 - mean) / sd)), float(ndtr(-(observed - 1 - mean) / sd))


def _exact_tails(doubled: np.ndarray, size: int, observed: int) -> tuple[float, float]:
    """Shares of the groups of a size whose doubled rank sum is at most, and at least, the observed one."""
    total = int(doubled.sum())
    counts = np.zeros((size + 1, total + 1))
    counts[0, 0] = 1
    for rank in doubled:
        counts[1:, rank:] += counts[:-1, : total + 1 - rank].copy()
    sums = counts[size] / counts[size].sum()
    return float(min(1.0, sums[: observed + 1].sum())), float(min(1.0, sums[observed:].sum()))
