"""Exact confidence intervals that several analyses share: of a share, of a standard deviation, of a ratio of two."""

import numpy as np

LEVEL = 0.95
"""Confidence level where none is asked for."""


def clopper_pearson(successes: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact limits of a share (Clopper & Pearson 1934, Biometrika 26:404).

    Args:
      successes: units that show the outcome, 0 to n; a unit that half shows it counts one half.
      n: units, at least 1.
      level: two-sided confidence level in (0, 1).

    Returns:
      (lower, upper) in [0, 1].
    """
    from scipy.special import betaincinv

    side = (1 - level) / 2
    lower = betaincinv(successes, n - successes + 1, side) if successes else 0.0
    upper = 1 - betaincinv(n - successes, successes + 1, side) if successes < n else 1.0
    return float(lower), float(upper)


def sd_limits(sd: float, df: float, level: float = LEVEL) -> tuple[float, float]:
    """Limits of a standard deviation, exact for normal values: df s^2 / sigma^2 is chi-square.

    Args:
      sd: square root of the unbiased variance.
      df: its degrees of freedom.
      level: two-sided confidence level in (0, 1).

    Returns:
      (lower, upper) in the units of sd; (0, inf) without degrees of freedom.
    """
    if not df > 0:
        return 0.0, float("inf")
    low, high = chi_square(df, np.array([(1 - level) / 2, (1 + level) / 2]))
    return float(sd * np.sqrt(df / high)), float(sd * np.sqrt(df / low))


def chi_square(df: float, p: np.ndarray) -> np.ndarray:
    """Quantiles of the chi-square distribution at probabilities p, of p's shape."""
    from scipy.special import gammaincinv

    return 2 * gammaincinv(df / 2, p)


def f_quantile(df_above: float, df_below: float, p: float) -> float:
    """Quantile of Snedecor's F at probability p; infinite or 0 where it is beyond floats."""
    from scipy.special import fdtri

    return float(fdtri(df_above, df_below, p))


def f_tails(f: float, df_above: float, df_below: float) -> tuple[float, float]:
    """Chances that Snedecor's F is at most, and at least, the given value."""
    from scipy.special import fdtr, fdtrc

    return float(fdtr(df_above, df_below, f)), float(fdtrc(df_above, df_below, f))
