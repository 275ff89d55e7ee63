"""How many runs and trials a stated effect needs, from a pilot study, so that the promised chance holds.

*Runs.* Two settings whose means differ by the effect are told apart where the 95% interval of the difference of their
means excludes 0 on the right side: Welch's t of as many runs of each with seeds of their own, or Student's t of paired
differences where both share their seeds. With a known standard deviation the chance is that of a noncentral t,

    P(T > t(df, .975)),  T ~ t(df, effect / (sd sqrt(2 / n))),  df = 2 n - 2
    paired, with the sd of the differences:  T ~ t(df, effect / (sd / sqrt(n))),  df = n - 1.

A pilot knows the standard deviation only roughly, and planned as if its s were the true one, the promise is broken. So
the chance is averaged over what it may be after the pilot, sd^2 = df s^2 / chi-square(df) (the posterior of the prior
1 / sd^2; Stein 1945, Ann Math Stat 16:243 has the same idea), with the degrees of freedom of outcomes whose excess
kurtosis is at least `EXCESS` (2 / (2 / df + kurtosis / N), as in `harness.analysis.variance.pooled_sd`). `assured` runs
are those for an upper limit of the standard deviation instead: then not the average over pilots, but each of
`ASSURANCE` of the pilots keeps the promise, for normal outcomes.

Measured on 400 pilots a cell, at an effect of one standard deviation and a promise of .8, without pairs: the chance on
average over pilots of 5, 10 and 20 runs, and the share of pilots in which `assured` runs have it (less .01).

    outcomes                     as if known         needed              assured
    normal                       .68  .74  .77       .85  .84  .83       88%  88%  88%
    lognormal, sigma .3          .67  .72  .78       .83  .81  .83       84%  81%  85%
    lognormal, sigma .6          .62  .70  .75       .77  .77  .79       74%  74%  76%
    exponential                  .65  .69  .75       .79  .77  .80       77%  70%  73%
    two levels, 1 in 2 worse     .76  .78  .81       .91  .89  .86       94%  98%  99%
    two levels, 1 in 3.3 worse   .71  .77  .80       .84  .87  .85       83%  95%  95%
    two levels, 1 in 5 worse     .66  .73  .76       .77  .83  .82       70%  87%  93%
    1 in 10 diverged, far off    .74  .78  .75       .74  .84  .86       45%  67%  85%

In pairs (pilots of as many pairs) `needed` has .77 to .86, at an effect of half a standard deviation .73 to .87;
without pairs .73 to .86 there, but for two levels (.77 to .93) and diverged runs (.61 after a pilot of 5); of a
promised .9 it has .85 to .97, diverged runs aside. So the promise holds within 5 points, 7 at most, in pairs and for
outcomes of one level; where half of the runs end at another level, which few runs cannot tell, up to 13 points more
are had than promised; and no plan can take in a tail that the pilot has not met, as in the last row.

Of a pilot of many settings the spread of the best is taken (`compared`). Picking 16 x 3 or 30 x 2 alike or nearly alike
settings by their best runs overstates the variance of normal outcomes 1.4- to 1.65-fold, of skewed ones 1- to 1.3-fold,
and understates it by a tenth at most (a quarter for diverged runs); by their means it would be .2 to .8 of the true one
for skewed outcomes, and 0 to .3 for diverged ones.

*Trials.* Where the best of a search is the question, the optimum is not known, and the best of the pilot stands for it.
If c of n trials lie within the effect of it, the share of such points in the space is Beta(c + 1/2, n + 1/2 - c) (of
the best alone, where c is 1, Beta(1, n), exactly), and the chance that a search of k trials draws one is

    1 - Gamma(b + k) Gamma(a + b) / (Gamma(a + b + k) Gamma(b))

of a Beta(a, b). Promised .8, simulated random searches (quadratic in 1, 2 and 4 hyperparameters, with normal, skewed
and bimodal outcomes, and normal noise alone; effects of 2, 10 and 30% of the range from the best to the median; 1,500
pilots a row) reached .80 to .87 after pilots of 10 trials, .79 to .85 after 20 and .78 to .84 after 50 and 100.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.analysis.axes import scores
from harness.analysis.intervals import LEVEL, chi_square, sd_limits
from harness.analysis.settings import setting_codes
from harness.analysis.variance import pooled_sd
from harness.records import InputError, TrialTable

POWER = 0.8
"""Chance to find the effect where none is asked for."""

EXCESS = 1.25
"""Least excess kurtosis that outcomes are taken to have, which a small pilot cannot show: about that of a lognormal of
sigma .27. After pilots of 5, with .5 the promise is broken by 8 points where outcomes are more skewed, and with 2
normal outcomes get 8 points more than promised."""

ENOUGH_DF = 10
"""Degrees of freedom from which on no further settings of a pilot are taken: with about as many the promise holds
within 5 points, see above, and worse settings spread otherwise."""

ASSURANCE = 0.8
"""Share of pilots in which `assured` runs keep the promise."""

MIN_RUNS = 3
"""Runs of each setting: of two, one odd seed makes half."""

MAX_RUNS = 100_000
MAX_TRIALS = 1_000_000
"""Where the search for a number gives up."""

MIN_TRIALS = 10
"""Trials of a pilot below which nothing is said of the best of more, see above."""

_QUADRATURE = (np.arange(200) + 0.5) / 200
_ROUNDING = 1e-9  # of a chance out of log-gammas, and of a spread relative to the values
_FAR = 30.0  # standard errors beyond which the chance is 0 or 1, and the series of nctdtr loses its digits


@dataclass(frozen=True)
class Noise:
    """What a pilot tells of the noise between runs.

    Attributes:
      sd: of a run, or where `paired` of the difference of two runs that share their seeds.
      df: degrees of freedom, fewer than the runs give by the kurtosis of outcomes.
      interval: 95% limits of sd by these.
      runs: outcomes behind it.
      settings: that they are of.
      paired: see `sd`.
    """

    sd: float
    df: float
    interval: tuple[float, float]
    runs: int
    settings: int
    paired: bool


def compared(table: TrialTable) -> np.ndarray:
    """The settings that were run more than once, of those that one compares: the best ones.

    They are taken in the order of their best runs until they have `ENOUGH_DF` degrees of freedom: runs at rates that
    are far too high spread far more than those of any winner. By the best run, not by the mean, since a setting must
    not be left out for the bad outcomes whose frequency is the question.

    Args:
      table: of a pilot.

    Returns:
      Their numbers by `harness.analysis.settings.setting_codes`, best first, int64.
    """
    score, codes, _ = _feasible(table)
    return _until_enough(_best_first(score, codes), lambda chosen: _free(codes, chosen))


def noise(table: TrialTable) -> Noise | None:
    """Pools the spread of runs of the settings that are `compared`; None where none was run more than once."""
    score, codes, _ = _feasible(table)
    chosen = compared(table)
    if not len(chosen):
        return None
    kept = np.isin(codes, chosen)
    spread = pooled_sd(score[kept], codes[kept])
    df = min(spread.df, 2 / (2 / _free(codes, chosen) + EXCESS / spread.n))
    sd = _seen(spread.sd, score)
    return Noise(sd, df, sd_limits(sd, df), spread.n, len(chosen), False)


def paired_noise(table: TrialTable) -> Noise | None:
    """Pools the spread of differences of runs that share their seeds; None where the pilot has none.

    Settings that were run with the same seeds make a block, whose residuals, with the means of its settings and of its
    seeds taken out, have (settings - 1) (seeds - 1) degrees of freedom; a difference has twice their variance. Settings
    are taken as in `compared`.
    """
    score, codes, seeds = _feasible(table)
    if seeds is None:
        return None
    rows: dict[int, dict[int, float]] = {}
    for value, code, seed in zip(score.tolist(), codes.tolist(), seeds.tolist(), strict=True):
        rows.setdefault(code, {})[seed] = value

    def blocks(chosen: np.ndarray) -> list[np.ndarray]:
        alike: dict[frozenset, list[list[float]]] = {}
        for row in (rows[code] for code in chosen.tolist()):
            alike.setdefault(frozenset(row), []).append([row[seed] for seed in sorted(row)])
        return [np.array(found) for found in alike.values() if len(found) > 1 and len(found[0]) > 1]

    def free(chosen: np.ndarray) -> int:
        return sum((len(block) - 1) * (block.shape[1] - 1) for block in blocks(chosen))

    chosen = _until_enough(_best_first(score, codes), free)
    found, plain = blocks(chosen), free(chosen)
    if not found:
        return None
    rest = np.concatenate([(b - b.mean(0) - b.mean(1, keepdims=True) + b.mean()).ravel() for b in found])
    scale = float(np.abs(rest).max()) or 1.0
    square = float(np.sum((rest / scale) ** 2))
    sd = _seen(scale * float(np.sqrt(2 * square / plain)), score)
    kurtosis = float(np.sum((rest / scale) ** 4)) * rest.size / square**2 - 3 if square else 0.0
    df = 2 / (2 / plain + max(EXCESS, kurtosis) / rest.size)
    return Noise(sd, df, sd_limits(sd, df), rest.size, sum(map(len, found)), True)


def _best_first(score: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Settings that were run more than once, in the order of their best runs."""
    order = np.argsort(score, kind="stable")
    first = np.unique(codes[order], return_index=True)
    repeated = np.bincount(codes)[first[0]] > 1 if len(codes) else np.zeros(0, bool)
    return first[0][repeated][np.argsort(first[1][repeated])]


def _free(codes: np.ndarray, chosen: np.ndarray) -> int:
    return int(np.isin(codes, chosen).sum()) - len(chosen)


def _until_enough(order: np.ndarray, free: Callable[[np.ndarray], int]) -> np.ndarray:
    """The first of some settings that have `ENOUGH_DF` degrees of freedom together; all where they never have."""
    count = _smallest(lambda count: free(order[:count]) >= ENOUGH_DF, 1, max(1, len(order)))
    return order if count is None else order[:count]


def _seen(sd: float, values: np.ndarray) -> float:
    """A spread of rounding alone, as of equal values, is 0."""
    return sd if sd > _ROUNDING * float(np.abs(values).max(initial=0.0)) else 0.0


def _feasible(table: TrialTable) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Outcomes (lower is better), settings, and numbers of the seeds if the table has any, of the feasible trials.

    Of rows that agree in all three one is kept: they are copies, and no evidence that runs agree.
    """
    score = scores(table)
    feasible = np.isfinite(score)
    values, codes = score[feasible], setting_codes(table)[feasible]
    if not table.seeds or not len(values):
        return values, codes, None
    keys = zip(*(column[feasible].tolist() for column in table.seeds.values()), strict=True)
    known: dict = {}
    seeds = np.array([known.setdefault(str(key), len(known)) for key in keys], np.int64)
    kept = np.sort(np.unique(np.stack([codes, seeds, values]), axis=1, return_index=True)[1])
    return values[kept], codes[kept], seeds[kept]


def chance(runs: int, ratio: np.ndarray, paired: bool, level: float = LEVEL) -> np.ndarray:
    """Chance that the interval of the difference excludes 0 on the right side, with a known standard deviation.

    Args:
      runs: of each setting, at least 2.
      ratio: effect over `Noise.sd`, of any shape.
      paired: whether the two share their seeds.
      level: two-sided confidence level of the interval.

    Returns:
      float64 of ratio's shape.
    """
    from scipy.special import nctdtr, stdtrit

    df, root = (runs - 1, np.sqrt(runs)) if paired else (2 * runs - 2, np.sqrt(runs / 2))
    return 1 - nctdtr(df, np.clip(np.asarray(ratio) * root, -_FAR, _FAR), stdtrit(df, (1 + level) / 2))


def expected_chance(runs: int, effect: float, pilot: Noise, level: float = LEVEL) -> float:
    """The chance averaged over what the standard deviation may be after the pilot; arguments as `chance`."""
    sds = pilot.sd * np.sqrt(pilot.df / chi_square(pilot.df, _QUADRATURE))
    return float(np.mean(chance(runs, effect / sds, pilot.paired, level)))


@dataclass(frozen=True)
class Runs:
    """Runs of each of two settings.

    Attributes:
      needed: so that the chance is the promised one on average over pilots.
      chance: that they have.
      assured: so that at least `ASSURANCE` of the pilots keep the promise; None beyond `MAX_RUNS`.
      as_if_known: if the pilot's standard deviation were the true one.
    """

    needed: int
    chance: float
    assured: int | None
    as_if_known: int


def runs_needed(effect: float, pilot: Noise, power: float = POWER, level: float = LEVEL) -> Runs:
    """Runs by which a difference of means of an effect is found.

    Args:
      effect: difference of the means, above 0, in the units of the objective.
      pilot: from `noise` or `paired_noise`.
      power: chance to find it.
      level: as `chance`.

    Raises:
      InputError: an effect or a power out of range, a pilot without spread, or `MAX_RUNS` do not suffice.
    """
    check_effect(effect, power)
    if not pilot.sd > 0:
        raise InputError(
            "runs of one setting gave the same objective each time, expected some spread; leave out rows that were "
            "copied, or run with other seeds"
        )
    needed = _smallest(lambda runs: expected_chance(runs, effect, pilot, level) >= power, MIN_RUNS, MAX_RUNS)
    if needed is None:
        raise InputError(
            f"--effect {effect:g}: not found by {MAX_RUNS:,} runs with power {power:g}, where runs spread by "
            f"{pilot.sd:.3g}; expected a larger effect, or a pilot of more runs"
        )

    def plain(sd: float) -> int | None:
        return _smallest(lambda runs: chance(runs, effect / sd, pilot.paired, level) >= power, MIN_RUNS, MAX_RUNS)

    upper = pilot.sd * float(np.sqrt(pilot.df / chi_square(pilot.df, np.array([1 - ASSURANCE]))[0]))
    known = plain(pilot.sd)
    assert known is not None  # it is at most what is needed
    return Runs(needed, expected_chance(needed, effect, pilot, level), plain(upper), known)


@dataclass(frozen=True)
class Trials:
    """Trials of a search that comes within an effect of the best that the pilot found.

    Attributes:
      needed: so that it does with the promised chance; None beyond `MAX_TRIALS`.
      near: trials of the pilot within the effect of its best, the best included.
      pilot: trials of the pilot.
    """

    needed: int | None
    near: int
    pilot: int


def trials_needed(score: np.ndarray, effect: float, power: float = POWER) -> Trials:
    """Trials of a fresh search like the pilot's by which its best is at most an effect worse than the pilot's best.

    Args:
      score: objective of each of the pilot's settings, lower is better, (n,); infinite where it is infeasible.
      effect: as `runs_needed`.
      power: chance that the search comes so near.

    Raises:
      InputError: an effect or a power out of range, no feasible setting, or fewer than `MIN_TRIALS` settings.
    """
    check_effect(effect, power)
    n = len(score)
    if n < MIN_TRIALS or not np.isfinite(score).any():
        raise InputError(f"{n} settings, expected at least {MIN_TRIALS} with a feasible one; run more trials first")
    near = int(np.count_nonzero(score <= np.min(score) + effect))
    needed = _smallest(lambda k: chance_to_draw(k, near, n) >= power - _ROUNDING, 1, MAX_TRIALS)
    return Trials(needed, near, n)


def chance_to_draw(trials: int, near: int, pilot: int) -> float:
    """Chance that a search draws a point as good as the `near` best of a pilot's trials, see above."""
    from scipy.special import gammaln

    a = near + (0.5 if near > 1 else 0.0)
    b = pilot + 1 - a
    return float(-np.expm1(gammaln(b + trials) + gammaln(a + b) - gammaln(a + b + trials) - gammaln(b)))


def check_effect(effect: float, power: float) -> None:
    """Refuses an effect that is not above 0, and a power outside of [.5, .99]."""
    if not 0 < effect < float("inf"):
        raise InputError(f"--effect {effect:g}: expected a difference above 0, in the units of the objective")
    if not 0.5 <= power <= 0.99:
        raise InputError(f"--power {power:g}: expected a chance from .5 to .99, such as .8")


def _smallest(holds: Callable[[int], bool], least: int, most: int) -> int | None:
    """The smallest number from which on a rising condition holds; None beyond `most`."""
    if holds(least):
        return least
    below, number = least, 2 * least
    while not holds(number):
        if number >= most:
            return None
        below, number = number, min(2 * number, most)
    while number - below > 1:
        middle = (below + number) // 2
        below, number = (below, middle) if holds(middle) else (middle, number)
    return number
