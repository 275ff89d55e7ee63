"""Adopt or not: whether a candidate, retrained on several seeds, beats a baseline that was retrained as often.

The measure is P(candidate better), the chance that one run of the candidate beats one of the baseline, ties counting
half. By the rule of Bouthillier et al. 2021 (arXiv 2103.03098, section 4.2) a candidate is adopted where the 95%
interval of that chance has its lower limit above .5 (`significant`: not by luck) and its upper limit above .75
(`meaningful`: not too small to matter).

The intervals need no bootstrap, so that they hold from a handful of runs. *Paired* runs, which share their seeds, give
the interval of Clopper and Pearson with a tie as half a win: each limit fails in at most 2.5% of experiments, by
enumeration over all shares of wins and ties for n of 3 to 50. *Unpaired* runs give the wider limit of two: method 5 of
Newcombe 2006 (Stat Med 25:559), which is right in small samples of equal shape, and DeLong's variance on the logit
scale with Satterthwaite's degrees of freedom (DeLong et al. 1988, Biometrics 44:837), which is right for unequal ones.

How often a limit fails, unpaired, nominal 2.5% (4,000 experiments; the worse limit of the worst of normal, threefold
spread, lognormal, bimodal, rounded and two-valued outcomes, at equal and at unequal chances):

    runs of each arm   5: 1.1%    8: 2.1%    20: 2.1%    40: 2.5%    5 against 20: 2.2%

But where 5 runs stand against 20 and the 5 are also three times as spread, at a chance of .74, the lower limit fails in
6%: give both arms the same number of runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.analysis.intervals import LEVEL, clopper_pearson
from harness.records import InputError

SIGNIFICANT = 0.5
"""The lower limit exceeds it: a coin would not do as well."""

MEANINGFUL = 0.75
"""The upper limit exceeds it: beating the baseline in 3 of 4 runs is not ruled out (Bouthillier et al. 2021)."""

ENOUGH_POWER = 0.8
MAX_RUNS = 1000  # where `pairs_needed` gives up


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline.

    Attributes:
      probability: P(candidate better) + P(tie) / 2.
      interval: its (lower, upper) limits.
      level: confidence level of the interval.
      runs: of candidate and of baseline; equal where paired.
      paired: whether runs share seeds in pairs.
      dominance: P(candidate better) - P(candidate worse), in [-1, 1]: the effect size of Cliff 1993.
      improvement: median over pairs (unpaired: over all pairs) of how much the candidate is better, in the objective's
        units; positive is better for either goal; infinite where infeasible runs decide it.
      significant: whether the lower limit exceeds its threshold.
      meaningful: whether the upper limit exceeds its own.
    """

    probability: float
    interval: tuple[float, float]
    level: float
    runs: tuple[int, int]
    paired: bool
    dominance: float
    improvement: float
    significant: bool
    meaningful: bool

    @property
    def adopt(self) -> bool:
        """Whether the candidate is adopted: significant and meaningful."""
        return self.significant and self.meaningful


def compare(
    candidate: np.ndarray,
    baseline: np.ndarray,
    goal: str,
    paired: bool,
    significant: float = SIGNIFICANT,
    meaningful: float = MEANINGFUL,
    level: float = LEVEL,
) -> Comparison:
    """Compares a candidate with a baseline by the two-threshold rule.

    Args:
      candidate: objective of each run, (n,); not finite where it is infeasible, which is worse than any other and ties
        with another infeasible one. Retrain a winner on fresh seeds first: the best of a study is biased.
      baseline: the same, (m,); (n,) and in the same order of seeds where paired.
      goal: `min` or `max`.
      paired: whether run i of both shares its seeds.
      significant: threshold of the lower limit.
      meaningful: threshold of the upper limit.
      level: two-sided confidence level.

    Returns:
      The comparison.

    Raises:
      InputError: an unknown goal, fewer than 2 runs (1 pair), or paired arms of unequal length.
    """
    if goal not in ("min", "max"):
        raise InputError(f"goal {goal!r}, expected 'min' or 'max'; say which way the objective is better")
    worth = [_worth(values, goal, name) for values, name in ((candidate, "candidate"), (baseline, "baseline"))]
    n, m = len(worth[0]), len(worth[1])
    if paired and n != m:
        raise InputError(f"{n} runs against {m}, expected as many of both where paired; drop seeds that one arm lacks")
    if not paired and min(n, m) < 2:
        raise InputError(f"{n} runs against {m}, expected 2 or more of each; retrain with other seeds")
    gain = _gain(worth[0], worth[1]) if paired else _gain(worth[0][:, None], worth[1])
    wins = (gain > 0) + 0.5 * (gain == 0)
    interval = clopper_pearson(float(wins.sum()), n, level) if paired else _unpaired_limits(wins, level)
    probability = float(wins.mean())
    return Comparison(
        probability=probability,
        interval=interval,
        level=level,
        runs=(n, m),
        paired=paired,
        dominance=2 * probability - 1,
        improvement=_median(gain.ravel()),
        significant=interval[0] > significant,
        meaningful=interval[1] > meaningful,
    )


def pairs_needed(
    probability: float,
    power: float = ENOUGH_POWER,
    significant: float = SIGNIFICANT,
    meaningful: float = MEANINGFUL,
    level: float = LEVEL,
) -> int:
    """Smallest number of paired runs by which a candidate is adopted with a chance, exactly and without ties.

    Args:
      probability: stated P(candidate better), above `significant`.
      power: chance of adoption to reach.
      significant: as `compare`.
      meaningful: as `compare`.
      level: as `compare`.

    Returns:
      Number of pairs; a larger one can fall short again by little, as wins are whole.

    Raises:
      InputError: the probability is not above `significant`, or 1,000 pairs do not suffice: under `meaningful`
        there may be no number that does, as more pairs then show the candidate not to be meaningfully better.
    """
    from scipy.special import betainc, betaincinv

    _check_chance(probability, significant)
    for n in range(1, MAX_RUNS + 1):
        wins = np.arange(n + 1)
        lower = np.where(wins > 0, betaincinv(np.maximum(wins, 1), n - wins + 1, (1 - level) / 2), 0.0)
        adopting = np.flatnonzero((lower > significant) & (1 - lower[::-1] > meaningful))
        if adopting.size and betainc(adopting[0], n - adopting[0] + 1, probability) >= power:
            return n
    raise InputError(
        f"probability {probability} is adopted with power {power} at no number of pairs up to {MAX_RUNS}, "
        f"expected a larger one; lower the thresholds or the power"
    )


def runs_needed(
    probability: float, power: float = ENOUGH_POWER, significant: float = SIGNIFICANT, level: float = LEVEL
) -> int:
    """Unpaired runs of each arm by which a candidate is found significant (Noether 1987, JASA 82:645, eq. 7).

    At level .9 and power .95 a probability of .75 needs the 29 runs of Bouthillier et al. 2021. The formula takes arms
    of about equal shape and an interval that is not conservative: at a stated .75 its 21 runs reach a power of 80%.

    Args:
      probability: stated P(candidate better), above `significant`.
      power: chance of a lower limit above `significant` to reach.
      significant: as `compare`.
      level: two-sided confidence level; one side of it errs.

    Returns:
      Number of runs of each arm.

    Raises:
      InputError: the probability is not above `significant`.
    """
    from scipy.special import ndtri

    _check_chance(probability, significant)
    reach = ndtri((1 + level) / 2) + ndtri(power)
    return max(2, int(np.ceil(reach**2 / (6 * (probability - significant) ** 2))))


def _worth(values: np.ndarray, goal: str, name: str) -> np.ndarray:
    """Values of which higher is better, -inf where infeasible."""
    values = np.asarray(values, float)
    if values.ndim != 1 or not values.size:
        raise InputError(f"{name} has runs of shape {values.shape}, expected (n,) with n >= 1; give one value per run")
    return np.where(np.isfinite(values), values if goal == "max" else -values, -np.inf)


def _gain(candidate: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """How much the candidate is better, 0 where both are infeasible."""
    with np.errstate(invalid="ignore"):
        return np.where(candidate == baseline, 0.0, candidate - baseline)


def _median(gain: np.ndarray) -> float:
    """Median of values that may be infinite; 0 between an infinite gain and an infinite loss."""
    ordered = np.sort(gain)
    low, high = ordered[(gain.size - 1) // 2], ordered[gain.size // 2]
    return float(low) if low == high else 0.0 if np.isinf(low) and np.isinf(high) else float((low + high) / 2)


def _unpaired_limits(wins: np.ndarray, level: float) -> tuple[float, float]:
    """The wider of Newcombe's and DeLong's limits, from wins of shape (n, m) with ties a half."""
    pairs = (_newcombe(wins, level), _delong(wins, level))
    return min(low for low, _ in pairs), max(high for _, high in pairs)


def _newcombe(wins: np.ndarray, level: float) -> tuple[float, float]:
    """Newcombe 2006, method 5: the chances whose standard error, at themselves, reaches the estimate.

    The variance is that of Hanley and McNeil 1982 (Radiology 143:29) with both numbers of runs set to their mean.
    """
    from scipy.special import ndtri

    n, m = wins.shape
    estimate, z2, others = float(wins.mean()), float(ndtri((1 + level) / 2)) ** 2, (n + m) / 2 - 1

    def outside(chance: float) -> bool:
        spread = 1 + others * ((1 - chance) / (2 - chance) + chance / (1 + chance))
        return (estimate - chance) ** 2 > z2 * chance * (1 - chance) * spread / (n * m)

    limits = []
    for end in (0.0, 1.0):
        out, within = end, estimate
        for _ in range(54):  # bisection to the last bit
            middle = (out + within) / 2
            out, within = (middle, within) if outside(middle) else (out, middle)
        limits.append((out + within) / 2)
    return limits[0], limits[1]


def _delong(wins: np.ndarray, level: float) -> tuple[float, float]:
    """DeLong's variance on the logit scale; at a chance of 0 or 1 as if half of one pair went the other way."""
    from scipy.special import expit, logit, stdtrit

    n, m = wins.shape
    of_n, of_m = wins.mean(axis=1).var(ddof=1) / n, wins.mean(axis=0).var(ddof=1) / m
    variance = of_n + of_m
    df = variance**2 / (of_n**2 / (n - 1) + of_m**2 / (m - 1)) if variance > 0 else min(n, m) - 1
    estimate = np.clip(wins.mean(), 0.5 / wins.size, 1 - 0.5 / wins.size)
    bernoulli = estimate * (1 - estimate)
    reach = stdtrit(df, (1 + level) / 2) * np.sqrt(max(variance, bernoulli / wins.size)) / bernoulli
    return float(expit(logit(estimate) - reach)), float(expit(logit(estimate) + reach))


def _check_chance(probability: float, significant: float) -> None:
    """Refuses a stated chance by which no candidate is better."""
    if not significant < probability <= 1:
        raise InputError(
            f"probability {probability}, expected one above {significant} and at most 1; state by how much it is better"
        )
