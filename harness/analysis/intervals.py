"""Intervals of shares."""


def clopper_pearson(successes: int, n: int, level: float) -> tuple[float, float]:
    """Exact limits of a share (Clopper & Pearson 1934, Biometrika 26:404).

    Args:
      successes: units that show the outcome, 0 to n.
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
