"""How large a sample of the validation set has to be, and how far it ranks trials as the rest of the set does."""

from __future__ import annotations

import math

import numpy as np

from harness.analysis.rank_tests import ranks


def planned_correlation(error: float, spread: float, examples: int) -> float:
    """Correlation over trials between errors on a sample and true errors, at least.

    A trial's error on n examples is its true error and a sampling error of variance at most error (1 - error) / n, so
    that the correlation is at least 1 / sqrt(1 + error (1 - error) / (n spread^2)). What makes an example hard for
    every trial moves all of them together, and costs no ranking.

    Args:
      error: typical error of the trials, in (0, 1).
      spread: standard deviation of their true errors, above 0.
      examples: of the sample.

    Returns:
      0 to 1.
    """
    return 1 / math.sqrt(1 + error * (1 - error) / (examples * spread**2))


def sample_size(error: float, spread: float, correlation: float) -> int:
    """Smallest sample whose `planned_correlation` is as high as asked for.

    Args:
      error: as `planned_correlation`.
      spread: as `planned_correlation`.
      correlation: to reach, in (0, 1).

    Returns:
      Number of examples.
    """
    return math.ceil(error * (1 - error) / (spread**2 * (correlation**-2 - 1)))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation, mean ranks for ties (Spearman 1904, Am J Psychol 15:72).

    Args:
      first: (n,), no NaN.
      second: (n,), no NaN.

    Returns:
      -1 to 1; 0 where either is constant, which ranks nothing.
    """
    centred = [r - r.mean() for r in (ranks(np.asarray(first)), ranks(np.asarray(second)))]
    scale = math.sqrt(float(np.sum(centred[0] ** 2) * np.sum(centred[1] ** 2)))
    return float(np.sum(centred[0] * centred[1]) / scale) if scale else 0.0


def regret(sample: np.ndarray, rest: np.ndarray) -> float:
    """Error on the rest of the trial that is best on the sample, less that of the trial that is best on the rest.

    Args:
      sample: errors of the trials on a sample, (n,); of equal ones the first wins.
      rest: their errors on other examples, (n,).

    Returns:
      At least 0, in units of the errors.
    """
    return float(rest[np.argmin(sample)] - np.min(rest))


def fisher_z(correlation: np.ndarray | float) -> np.ndarray:
    """Fisher's z of correlations, which spreads near evenly to both sides, as the sign-flip test wants it.

    Correlations near 1 are skewed to lower values: with the correlations themselves the rule of the main claim would be
    met too often at its threshold. A perfect one counts as .9999.
    """
    return np.arctanh(np.clip(correlation, -0.9999, 0.9999))
