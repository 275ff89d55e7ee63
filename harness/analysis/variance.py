"""How much results spread: between runs of one setting, between studies, by source of randomness.

Trial variance is that of one setting retrained on other seeds; study variance that of the winner of a whole study that
is searched again; data-sampling variance that of a finite evaluation set. Standard deviations are in the units of the
outcome; leave infeasible trials out first, as they have no value, and report their share apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.analysis.best_of_k import best_of
from harness.analysis.intervals import LEVEL, chi_square, f_quantile, f_tails, sd_limits
from harness.records import InputError

PERMUTATIONS = 9999  # of the robust comparison; its smallest p is one in 10,000


@dataclass(frozen=True)
class Spread:
    """A standard deviation.

    Attributes:
      sd: the estimate; NaN where nothing was run twice.
      interval: its (lower, upper) limits; (0, inf) without degrees of freedom.
      level: confidence level of the interval.
      n: outcomes behind it.
      df: degrees of freedom that the interval is for; fewer than the outcomes give where their tails are heavy.
    """

    sd: float
    interval: tuple[float, float]
    level: float
    n: int
    df: float


def pooled_sd(values: np.ndarray, groups: np.ndarray | None = None, level: float = LEVEL) -> Spread:
    """Standard deviation within groups, pooled: trial variance, or the spread of one group.

    The interval is chi-square with Satterthwaite's degrees of freedom, 2 / (2 / df + g / N), where g >= 0 is the pooled
    excess kurtosis as estimated: the variance of s^2 is sigma^4 (2 / df + g / N). It is never narrower than the exact
    one of normal outcomes. Coverage measured, nominal 95%, 4,000 experiments each (in brackets the plain chi-square's):

        groups x runs         1 x 8       1 x 20      1 x 100     10 x 3      50 x 3
        normal                96% (95%)   95% (95%)   95% (95%)   96% (95%)   95% (94%)
        lognormal, sigma .3   92% (91%)   93% (89%)   92% (86%)   93% (90%)   92% (88%)
        lognormal, sigma .6   81% (78%)   81% (71%)   87% (65%)   84% (75%)   88% (70%)
        10% diverged          39% (39%)   73% (73%)   94% (68%)   87% (72%)   95% (78%)

    No interval is right in the last rows: a tail that the sample does not hold cannot be seen.

    Args:
      values: outcomes, (N,), finite.
      groups: label of each outcome's setting, (N,); None for a single setting. A setting run once adds nothing.
      level: two-sided confidence level.

    Returns:
      The spread; n counts the outcomes of settings run more than once.

    Raises:
      InputError: shapes that differ, no values, or a value that is not finite.
    """
    values, labels = _checked(values, groups)
    counts, means = _group_means(values, labels)
    repeated = counts[labels] > 1
    residuals = (values - means[labels])[repeated]
    n, df = residuals.size, float(np.sum(counts[counts > 1] - 1))
    if not df:
        return Spread(float("nan"), (0.0, float("inf")), level, 0, 0.0)
    sd = float(np.sqrt(residuals @ residuals / df))
    if sd:
        # A residual of a group of m has E[r^4] = a mu_4 + b sigma^4 (both follow from r = (1 - 1/m) x_1 - sum x_i / m).
        m = counts[labels][repeated].astype(float)
        a, b = (m - 1) * (m**2 - 3 * m + 3) / m**3, 3 * (m - 1) * (2 * m - 3) / m**3
        excess = (np.sum((residuals / sd) ** 4) - b.sum()) / a.sum() - 3
        df = 2 / (2 / df + max(0.0, excess) / n)
    return Spread(sd, sd_limits(sd, df, level), level, n, df)


def study_sd(values: np.ndarray, goal: str, k: int, replacement: bool = False, level: float = LEVEL) -> Spread:
    """Study variance from one large study: the spread of the best of k of its trials, in closed form.

    The interval is that of N / k disjoint studies, chi-square with N / k - 1 degrees of freedom: the trials hold no
    more whole studies than that. It is conservative where the winners are about normal or bunch at a bound, as the
    errors of good trials do. Coverage measured, nominal 95%, 4,000 studies each of N = 100 and k = 6 / k = 20, without
    replacement: normal 97% / 99%, lognormal towards the worse (sigma .6) 99% / 99%, uniform 99% / 99%; lognormal
    towards the better 78% / 91%, 30% diverged 55% / 99%. A small study understates the spread: by 4% and 14% for
    normal outcomes; where k is more than a fifth of N by more.

    Args:
      values: objective of each trial, (N,), not finite where infeasible; draws that are infeasible throughout are left
        out, as by `best_of`.
      goal: `min` or `max`.
      k: trials of one study.
      replacement: as `best_of`.
      level: two-sided confidence level.

    Returns:
      The spread.

    Raises:
      InputError: as `best_of`.
    """
    sd = float(best_of(values, goal, [k], replacement).sd[0])
    n = int(np.size(values))
    df = max(0.0, n / k - 1) if np.isfinite(sd) else 0.0
    return Spread(sd, sd_limits(sd, df, level), level, n, df)


def sampling_sd(error: float, examples: int) -> float:
    """Spread of an error rate over evaluation sets drawn afresh: sqrt(p (1 - p) / n).

    Args:
      error: share of examples in error, 0 to 1.
      examples: size of the evaluation set.

    Raises:
      InputError: a share or size out of range.
    """
    if not 0 <= error <= 1:
        raise InputError(f"error rate {error}, expected 0 to 1; give a share, not a percentage or a loss")
    if not examples >= 1:
        raise InputError(f"evaluation set of {examples} examples, expected at least 1; count the examples")
    return float(np.sqrt(error * (1 - error) / examples))


def without_sampling(spread: Spread, error: float, examples: int) -> Spread:
    """What a spread has beyond the sampling of examples: sqrt(sd^2 - p (1 - p) / n), of the limits too, at least 0.

    This is for outcomes that each had evaluation examples of their own, as where the split is varied. Runs evaluated on
    the same examples err together on many of them, share less of the floor, and the result is then a lower bound.

    Args:
      spread: of error rates.
      error: their mean, 0 to 1.
      examples: size of one evaluation set.

    Returns:
      The spread, with the limits' level and degrees of freedom unchanged.

    Raises:
      InputError: as `sampling_sd`.
    """
    floor = sampling_sd(error, examples) ** 2
    sd, low, high = (float(np.sqrt(max(0.0, x * x - floor))) for x in (spread.sd, *spread.interval))
    return Spread(sd, (low, high), spread.level, spread.n, spread.df)


def by_source(outcomes: Mapping[str, np.ndarray], level: float = LEVEL) -> dict[str, Spread]:
    """Spread by source of randomness: each source's seed varied with all others held, in order of spread, widest first.

    Args:
      outcomes: source to the outcomes of its runs, (n,) each.
      level: two-sided confidence level of each interval.

    Returns:
      Source to spread; rank two of them only where `compare_sds` tells them apart.

    Raises:
      InputError: as `pooled_sd`.
    """
    spreads = {source: pooled_sd(values, level=level) for source, values in outcomes.items()}
    return dict(sorted(spreads.items(), key=lambda item: -np.nan_to_num(item[1].sd, nan=-1.0)))


@dataclass(frozen=True)
class SpreadRatio:
    """Two standard deviations compared.

    Attributes:
      ratio: the first over the second.
      interval: its limits, exact for normal outcomes (F distribution).
      level: confidence level of the interval.
      p_normal: two-sided p-value of equal spread, exact for normal outcomes.
      p_robust: the same by permuting distances from the medians; for outcomes of any shape.
    """

    ratio: float
    interval: tuple[float, float]
    level: float
    p_normal: float
    p_robust: float


def compare_sds(first: np.ndarray, second: np.ndarray, level: float = LEVEL, seed: int = 0) -> SpreadRatio:
    """Whether two spreads differ: the F interval, and Brown and Forsythe's test by permutation.

    Errors are skewed: judge by `p_robust`. Share of 2,000 null experiments of 20 runs each found to differ at 5%, by F
    and by permutation: normal 5% and 4%, lognormal (sigma .6) 27% and 5%, exponential 29% and 5%, 10% diverged 41% and
    2%. The statistic is the difference of the mean distances from each sample's median (Brown & Forsythe 1974, JASA
    69:364); the distances are permuted 9,999 times, a fixed seed giving the same p everywhere.

    Args:
      first: outcomes, (n,).
      second: outcomes, (m,).
      level: two-sided confidence level.
      seed: of the permutations.

    Returns:
      The comparison; ratio infinite or NaN where the second does not spread.

    Raises:
      InputError: as `pooled_sd`, or fewer than 2 outcomes of one.
    """
    samples = [_checked(values, None)[0] for values in (first, second)]
    n, m = (sample.size for sample in samples)
    if min(n, m) < 2:
        raise InputError(f"{n} outcomes against {m}, expected 2 or more of each; rerun with other seeds")
    sds = [sample.std(ddof=1) for sample in samples]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(sds[0] / sds[1])
    side = (1 - level) / 2
    limits = tuple(ratio / f_quantile(n - 1, m - 1, p) ** 0.5 for p in (1 - side, side))
    p_normal = min(1.0, 2 * min(f_tails(ratio**2, n - 1, m - 1))) if np.isfinite(ratio) else float(ratio != ratio)
    distances = np.concatenate([np.abs(sample - np.median(sample)) for sample in samples])
    distances -= distances.mean()  # then the mean of the first sample alone tells, as the other's follows
    permuted, observed = np.abs(_drawn(n, m, seed) @ distances), abs(distances[:n].mean())
    reached = np.count_nonzero(permuted >= observed - 1e-9 * np.abs(distances).max())  # a tie counts
    return SpreadRatio(ratio, limits, level, p_normal, float((1 + reached) / (1 + PERMUTATIONS)))


@dataclass(frozen=True)
class Components:
    """Spread between groups against spread within them, such as between winners and between retrainings of one.

    Attributes:
      between: standard deviation of the groups' true means.
      within: standard deviation inside a group.
      ratio: between over within.
      interval: limits of the ratio.
      verdict: `larger` where between exceeds within by the whole interval, `smaller` where it falls short, else
        `undecided`.
    """

    between: Spread
    within: Spread
    ratio: float
    interval: tuple[float, float]
    verdict: str


def between_within(values: np.ndarray, groups: np.ndarray, level: float = LEVEL) -> Components:
    """Variance components of one-way groups (random effects), with an interval on their ratio.

    The interval is Wald's (1940, Ann Math Stat 11:96), exact for normal effects and errors and any numbers of runs: the
    ratios theta at which the F statistic of the group means, weighted by n / (1 + n theta), lies between the quantiles
    of F. The estimate is its median, the theta at which it equals F's mean; 0 at least. Limits of the spread between
    are those of Williams 1962 (Biometrika 49:278), conservative, with the harmonic mean of the groups' sizes.

    Coverage of the ratio's interval measured, nominal 95%, 2,000 experiments of 12 groups of 3: normal 95%; lognormal
    errors within (sigma .6) 94%; both lognormal 88%; 10% of retrainings diverged 95%.

    Args:
      values: outcomes, (N,), finite.
      groups: label of each outcome's group, (N,).
      level: two-sided confidence level.

    Returns:
      The components and the verdict.

    Raises:
      InputError: as `pooled_sd`, fewer than 2 groups, or no group with 2 outcomes.
    """
    values, labels = _checked(values, groups)
    counts, means = _group_means(values, labels)
    within = pooled_sd(values, labels, level)
    df_between, df_within = counts.size - 1, int(values.size - counts.size)
    if df_between < 1 or df_within < 1:
        raise InputError(
            f"{counts.size} groups of {values.size} outcomes, expected 2 or more, one with 2; retrain the winners"
        )
    if within.sd == 0:
        raise InputError("outcomes do not differ inside any group, expected other seeds; leave out copied results")

    def excess(theta: float, target: float) -> float:
        weights = counts / (1 + counts * theta)
        centre = weights @ means / weights.sum()
        return float(weights @ (means - centre) ** 2 / df_between / within.sd**2 - target)

    side = (1 - level) / 2
    quantile = {p: f_quantile(df_between, df_within, p) for p in (1 - side, 0.5, side)}
    low, estimate, high = (float(np.sqrt(_root(excess, quantile[p]))) for p in (1 - side, 0.5, side))
    # Williams: between^2 lies under and over what the F and chi-square quantiles of the same chance allow.
    size = 1 / np.mean(1 / counts)
    mean_square = size * means.var(ddof=1)
    chi = chi_square(df_between, np.array([1 - side / 2, side / 2]))
    f = np.array([f_quantile(df_between, df_within, p) for p in (1 - side / 2, side / 2)])
    squares = df_between * np.maximum(mean_square - f * within.sd**2, 0) / (size * chi)
    limits = (float(np.sqrt(squares[0])), float(np.sqrt(squares[1])))
    between = Spread(estimate * within.sd, limits, level, int(counts.size), float(df_between))
    verdict = "larger" if low > 1 else "smaller" if high < 1 else "undecided"
    return Components(between, within, estimate, (low, high), verdict)


@lru_cache(maxsize=4)
def _drawn(n: int, m: int, seed: int) -> np.ndarray:
    """Weights that average n of n + m values drawn at random: float64 (PERMUTATIONS, n + m)."""
    order = np.argsort(np.random.default_rng(seed).random((PERMUTATIONS, n + m)), axis=1)
    return (order < n) / n


def _root(excess: Callable[[float, float], float], target: float) -> float:
    """The theta >= 0 at which a falling function meets its target; 0 where it starts under it."""
    if excess(0.0, target) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while excess(high, target) > 0:
        low, high = high, 4 * high
    for _ in range(54):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle, target) > 0 else (low, middle)
    return (low + high) / 2


def _checked(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Gives outcomes as float64 (N,) and the groups numbered from 0, int64 (N,)."""
    values = np.asarray(values, float)
    if values.ndim != 1 or not values.size:
        raise InputError(f"outcomes of shape {values.shape}, expected (N,) with N >= 1; give one value per trial")
    if not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)][0]
        raise InputError(f"outcome {wrong}, expected finite values; leave infeasible trials out and count them apart")
    groups = np.zeros(values.size, int) if groups is None else np.asarray(groups)
    if groups.shape != values.shape:
        raise InputError(f"{groups.size} group labels for {values.size} outcomes, expected one per outcome; add them")
    return values, np.unique(groups, return_inverse=True)[1]


def _group_means(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Size and mean of each group: int64 and float64, (groups,)."""
    counts = np.bincount(labels)
    return counts, np.bincount(labels, values) / counts
