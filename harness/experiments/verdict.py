"""Verdicts: the exact tests behind `reproduced`, `contradicted` and `inconclusive`, and Holm's correction over them.

An experiment turns the outcomes of its trials into one `Judgement` per claim (`larger`, `no_worse`, `same`,
`share_above`, `share_below`, `every`, `out_of_range`) and hands all of them to `judge`, which returns the verdicts.

*One scale.* `p_for` and `p_against` of every form are scaled so that .05 decides a claim that stands alone: twice the
one-sided p of `larger`, `no_worse` and the shares (each side of a 95% interval has 2.5%), the p of two one-sided tests
for `same` (each side of a 90% interval has 5%). `same` is contradicted by the 95% interval, since either side of
+-delta may contradict: by the 90% interval a true claim would be contradicted in up to 10% of experiments where delta
is small beside the standard error.

*What is assumed of differences of means.* Pairs are independent and their differences symmetric about the effect. That
holds, for every distribution, where the arms differ by a shift; then the level is exact, with ties conservative. It
fails where the arms differ in shape. Measured at equal means (20,000 experiments a row, nominal 2.5%): how often the
heavier-tailed arm is falsely found better, and falsely found worse. `tests/test_verdict.py` holds n = 8 to it.

    arms (errors)                                               n = 8: better  worse   n = 12: better  worse
    lognormal, sigma .6, against lognormal, sigma .3                    5.5%    .9%             5.6%    .9%
    lognormal, sigma .5, against normal, sd a tenth of the mean         6.0%    .7%             6.6%    .8%
    lognormal, sigma 1, against lognormal, sigma .1                      15%    .1%              15%    .2%
    diverged at .9 in 20% of trials, against in 10%                      20%    .0%               9%    .6%
    diverged at .9 in 10% of trials, against never                       42%    .0%              29%    .1%
    diverged at .9 in 2% of trials, against never                        66%    .0%              74%    .0%

No test of a mean is right in the last rows: a tail that the sample does not hold cannot be seen. Where arms differ in
how often they diverge, judge the share of diverged trials by `share_above` or `share_below`, and apart from it the
errors of the trials that finished. A difference of two shares against a delta other than 0 is such a case too: paired
outcomes of +1 in 75% and -1 in 25% pass for more than .5 in 10% of experiments at n = 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.analysis.intervals import clopper_pearson
from harness.records import Claim, Verdict

ALPHA = 0.05  # of an experiment, over its claims
ENOUGH_POWER = 0.8
MIN_PAIRS = 8  # differences that a judgement of a mean needs
MAX_SEEDS = 10_000  # where `seeds_needed` gives up

_ALL_SUBSETS = 16  # all 2^n subsets up to this n
_SAMPLED_BITS = 14  # a group of 2^14 subsets beyond it
_SUBSET_SEED = 20_1303  # fixed: the same differences get the same interval on every machine
_ROUNDING = 1e-9  # of the largest difference; limits move out by it, so that rounding never breaks a tie


@dataclass(frozen=True)
class Judgement:
    """The evidence on one claim, before the correction for the other claims of its experiment.

    Attributes:
      form: `larger`, `no_worse`, `same`, `share_above`, `share_below`, `every` or `out_of_range`.
      delta: threshold, in the units of the effect.
      effect: mean of the differences, or the share; of `every`, the effect of the part with the largest `p_for`.
      n: independent units behind the effect.
      p_for: p-value against "the claim is false", scaled so that .05 decides a single claim.
      p_against: p-value against "the claim holds", on the same scale.
      stated: published or stated effect that the power is for; None where there is none.
      data: the differences; of a share (successes, n); of `out_of_range` the interval; of `every` nothing.
      reason: reason given when undecided, whatever the power; None leaves it to the power.
      parts: judgements that `every` joins.
    """

    form: str
    delta: float
    effect: float
    n: int
    p_for: float
    p_against: float
    stated: float | None = None
    data: tuple[float, ...] = ()
    reason: str | None = None
    parts: tuple[Judgement, ...] = ()

    @property
    def level(self) -> float:
        """Level of `interval`: .9 for `same`, .95 otherwise; of `every`, the worst part's."""
        if self.parts:
            return _weakest(self.parts).level
        return 1 - 2 * ALPHA if self.form == "same" else 1 - ALPHA

    @property
    def interval(self) -> tuple[float, float]:
        """Limits at the level by which the claim is reproduced where it stands alone."""
        return self.limits(self.level)

    @property
    def power(self) -> float | None:
        """Chance of `reproduced` under the stated effect where the claim stands alone; None without one."""
        return self.power_at(ALPHA)

    def limits(self, level: float) -> tuple[float, float]:
        """Limits at any level; of `every` the worst part's, of `out_of_range` those it was given, at every level."""
        if self.parts:
            return _weakest(self.parts).limits(level)
        if self.form == "out_of_range":
            return self.data
        if self.form.startswith("share"):
            return clopper_pearson(int(self.data[0]), int(self.data[1]), level)
        return sign_flip_interval(self.data, level)

    def power_at(self, alpha: float) -> float | None:
        """Chance of `p_for <= alpha` under the stated effect, with the observed standard deviation for means.

        Of `every`: the product over the parts whose power is known, exact for independent parts and a lower bound for
        positively associated ones (the usual case on shared seeds).

        Args:
          alpha: level on the scale of `p_for`.

        Returns:
          Chance in [0, 1], or None where no effect is stated.
        """
        if self.parts:
            known = [power for part in self.parts if (power := part.power_at(alpha)) is not None]
            return float(np.prod(known)) if known else None
        if self.stated is None:
            return None
        if self.form.startswith("share"):
            return power_of_share(self.form, self.n, self.stated, self.delta, alpha)
        sd = float(np.std(self.data, ddof=1)) if self.n > 1 else 0.0
        return power_of_mean(self.form, sd, self.n, self.stated, self.delta, alpha)


def larger(differences: Sequence[float], delta: float, stated: float | None = None) -> Judgement:
    """Claim: the mean difference exceeds delta; reproduced where the lower 95% limit does.

    Args:
      differences: (n,) paired differences, one per seed; an infeasible trial counts with chance error.
      delta: threshold, in the units of the differences.
      stated: effect that the power is for.

    Returns:
      The judgement; with fewer than 8 differences it never decides, and its reason is `power`.

    Raises:
      ValueError: no differences, differences or delta not finite.
    """
    above, below = _mean_tails(differences, delta)
    return _of_means("larger", differences, delta, stated, 2 * above, 2 * below)


def no_worse(differences: Sequence[float], delta: float, stated: float | None = None) -> Judgement:
    """Claim: the candidate's error exceeds the reference's by less than delta; reproduced where the upper limit does.

    Args:
      differences: (n,) the candidate's error minus the reference's, one per seed.
      delta: margin, in the units of the errors.
      stated: effect that the power is for, usually 0.

    Returns:
      The judgement, by the 95% interval; with fewer than 8 differences it never decides.

    Raises:
      ValueError: as `larger`.
    """
    above, below = _mean_tails(differences, delta)
    return _of_means("no_worse", differences, delta, stated, 2 * below, 2 * above)


def same(differences: Sequence[float], delta: float, stated: float | None = 0.0) -> Judgement:
    """Claim: the mean difference lies inside +-delta (two one-sided tests, Schuirmann 1987, J Pharmacokinet 15:657).

    Args:
      differences: (n,) paired differences, one per seed.
      delta: margin > 0, in the units of the differences.
      stated: true difference that the power is for.

    Returns:
      The judgement: reproduced where the 90% interval lies inside +-delta, contradicted where the 95% interval lies
      wholly outside; with fewer than 8 differences it never decides.

    Raises:
      ValueError: delta not positive, or as `larger`.
    """
    if not delta > 0:
        raise ValueError(f"delta is {delta}, expected > 0 for `same`; state the difference that does not matter")
    above_low, below_low = _mean_tails(differences, -delta)
    above_high, below_high = _mean_tails(differences, delta)
    p_for, p_against = max(above_low, below_high), 2 * min(below_low, above_high)
    return _of_means("same", differences, delta, stated, p_for, p_against)


def share_above(successes: int, n: int, delta: float, stated: float | None = None) -> Judgement:
    """Claim: a share exceeds delta; reproduced where the lower 95% Clopper-Pearson limit does.

    Args:
      successes: units that show the outcome, 0 to n.
      n: independent units, at least 1.
      delta: share in [0, 1].
      stated: share that the power is for.

    Returns:
      The judgement, exact at every n.

    Raises:
      ValueError: counts or shares out of range.
    """
    above, below = _share_tails(successes, n, delta)
    return _of_share("share_above", successes, n, delta, stated, 2 * above, 2 * below)


def share_below(successes: int, n: int, delta: float, stated: float | None = None) -> Judgement:
    """Claim: a share is under delta; reproduced where the upper 95% limit is. Arguments as `share_above`."""
    above, below = _share_tails(successes, n, delta)
    return _of_share("share_below", successes, n, delta, stated, 2 * below, 2 * above)


def every(*parts: Judgement) -> Judgement:
    """A compound claim, which holds when each part does (intersection-union; Berger 1982, Technometrics 24:295).

    Reproduced when each part is, at the same level: `p_for` is the largest. Contradicted when a part is, by Bonferroni
    over the m parts: `p_against` is m times the smallest. Effect, interval, level and n are the worst part's: the one
    with the largest `p_for`, and where the claim is contradicted the one with the smallest `p_against`.

    Args:
      *parts: judgements of any form, at least one.

    Returns:
      The judgement; its reason is the first that a part carries.

    Raises:
      ValueError: no parts.
    """
    if not parts:
        raise ValueError("a compound claim has no parts; give at least one judgement")
    worst = _weakest(parts)
    return Judgement(
        form="every",
        delta=worst.delta,
        effect=worst.effect,
        n=worst.n,
        p_for=worst.p_for,
        p_against=min(1.0, len(parts) * min(part.p_against for part in parts)),
        reason=next((part.reason for part in parts if part.reason), None),
        parts=parts,
    )


def out_of_range(effect: float, delta: float, n: int, interval: tuple[float, float] = (-np.inf, np.inf)) -> Judgement:
    """A claim that the sweep cannot decide, since it does not reach where the effect would be.

    Args:
      effect: what was seen, such as the largest stable ratio swept.
      delta: threshold of the claim.
      n: independent units behind the effect.
      interval: what is known of the effect whatever the level, such as (largest swept, inf).

    Returns:
      A judgement that never decides, with reason `range`; it still counts among the claims of Holm's correction.
    """
    return Judgement("out_of_range", delta, effect, n, 1.0, 1.0, data=interval, reason="range")


def judge(pairs: Iterable[tuple[Claim, Judgement]]) -> list[Verdict]:
    """Judges the claims of one experiment together, by Holm's step-down at .05 (Holm 1979, Scand J Stat 6:65).

    The p-value of a claim is the smaller of `p_for` and `p_against`; which of them it is gives the direction. The r-th
    smallest of m (from 0) is held against .05 / (m - r), and the first that fails ends the decisions. Intervals are
    reported at the level applied: that of the claim's own step where decided, of the failing step where not (`same`:
    1 - 2 alpha where reproduced, 1 - alpha otherwise; `every`: with alpha / m unless reproduced). So the interval shows
    the verdict: on the claim's side of delta, on the other side, or neither. Only with fewer than 8 differences is
    nothing decided, whatever the interval.

    Args:
      pairs: every claim of the experiment with its judgement.

    Returns:
      One verdict per pair, in the order given. An undecided claim has the judgement's own reason if it carries one,
      else `power` where the power for the stated effect at the level applied is known and under .8, else `interval`.
    """
    pairs = list(pairs)
    p_values = [min(judgement.p_for, judgement.p_against) for _, judgement in pairs]
    verdicts: dict[int, Verdict] = {}
    stopped = None
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        alpha = stopped or ALPHA / (len(pairs) - rank)
        if p_values[index] > alpha:
            stopped = alpha
        verdicts[index] = _verdict(*pairs[index], alpha, decided=stopped is None)
    return [verdicts[index] for index in range(len(pairs))]


def sign_flip_interval(differences: Sequence[float], level: float) -> tuple[float, float]:
    """Inverts the sign-flip test of the mean: limits are order statistics of the subset means.

    The means of the 2^n - 1 non-empty subsets of n independent differences, symmetric about theta, cut the line into
    2^n intervals that hold theta with equal probability (Hartigan 1969, JASA 64:1303). The k-th smallest is the lower
    limit of one-sided level k / 2^n; k is rounded down. Beyond 16 differences a group of 2^14 subsets stands for all,
    drawn with a fixed seed; the level stays exact, since it is a group (Hartigan's balanced sets; Hoeffding 1952).

    Args:
      differences: (n,) finite differences.
      level: two-sided confidence level in (0, 1).

    Returns:
      (lower, upper), infinite where n is too small for the level.

    Raises:
      ValueError: no differences, or not finite.
    """
    means = np.sort(_subset_means(differences))
    slack = _slack(differences)
    k = int((1 - level) / 2 * (len(means) + 1))
    if k == 0:
        return -np.inf, np.inf
    return float(means[k - 1] - slack), float(means[-k] + slack)


def power_of_mean(form: str, sd: float, n: int, effect: float, delta: float, alpha: float = ALPHA) -> float:
    """Chance that a claim on a mean is reproduced, by the noncentral t distribution of normal differences.

    The level is what n differences can attain, k / 2^n, not the nominal one. `same` uses 1 - miss - miss over its two
    tests, a lower bound that is sharp where the power is useful.

    Args:
      form: `larger`, `no_worse` or `same`.
      sd: standard deviation of the paired differences.
      n: differences.
      effect: true mean difference.
      delta: threshold or margin.
      alpha: level on the scale of `Judgement.p_for`; .05 / m for the strictest step of Holm over m claims.

    Returns:
      Chance in [0, 1]; 0 where n is under 8 or cannot attain the level.
    """
    from scipy.special import nctdtr, stdtrit

    intervals = 2.0 ** _bits(n)
    attained = np.floor((alpha if form == "same" else alpha / 2) * intervals) / intervals
    if n < MIN_PAIRS or attained == 0:
        return 0.0
    room = _room(form, effect, delta)
    if sd == 0:
        return float(min(room) > 0)
    # Beyond 30 standard errors the answer is 0 or 1, and the series of nctdtr loses its digits.
    shifts = [np.clip(gap / sd * np.sqrt(n), -30, 30) for gap in room]
    misses = [nctdtr(n - 1, shift, stdtrit(n - 1, 1 - attained)) for shift in shifts]
    return float(np.clip(1 - sum(misses), 0, 1))


def power_of_share(form: str, n: int, share: float, delta: float, alpha: float = ALPHA) -> float:
    """Exact chance that a claim on a share is reproduced.

    Args:
      form: `share_above` or `share_below`.
      n: independent units.
      share: true share.
      delta: threshold.
      alpha: level on the scale of `Judgement.p_for`.

    Returns:
      Chance in [0, 1].
    """
    if form == "share_below":  # successes under delta are failures over 1 - delta
        share, delta = 1 - share, 1 - delta
    for successes in range(n + 1):
        if 2 * _share_tails(successes, n, delta)[0] <= alpha:
            return _share_tails(successes, n, share)[0]
    return 0.0


def seeds_needed(
    sd: float, effect: float, delta: float, power: float = ENOUGH_POWER, form: str = "larger", claims: int = 1
) -> int:
    """Smallest number of paired seeds, at least 8, that reaches a power.

    Args:
      sd: standard deviation of the paired differences, from the pilot.
      effect: stated effect.
      delta: threshold or margin.
      power: chance of `reproduced` to reach.
      form: `larger`, `no_worse` or `same`.
      claims: claims of the experiment; the power is for the strictest step of Holm's correction.

    Returns:
      Number of seeds.

    Raises:
      ValueError: the stated effect does not satisfy the claim, or 10,000 seeds do not suffice.
    """
    if not min(_room(form, effect, delta)) > 0:
        raise ValueError(f"effect {effect} does not satisfy `{form}` at delta {delta}; state an effect that does")
    for n in range(MIN_PAIRS, MAX_SEEDS + 1):
        if power_of_mean(form, sd, n, effect, delta, ALPHA / claims) >= power:
            return n
    raise ValueError(f"more than {MAX_SEEDS} seeds for effect {effect} at delta {delta}, sd {sd}; widen the gap")


def _verdict(claim: Claim, judgement: Judgement, alpha: float, decided: bool) -> Verdict:
    """The verdict at the level that Holm's correction applies to the claim."""
    if decided:
        verdict, reason = "reproduced" if judgement.p_for < judgement.p_against else "contradicted", None
    else:
        power = judgement.power_at(alpha)
        short = power is not None and power < ENOUGH_POWER
        verdict, reason = "inconclusive", judgement.reason or ("power" if short else "interval")
    part = judgement
    while part.parts:  # the part that shows the verdict, with its share of alpha unless each part has to hold
        if verdict != "reproduced":
            alpha /= len(part.parts)
        part = min(part.parts, key=lambda p: p.p_against) if verdict == "contradicted" else _weakest(part.parts)
    level = 1 - (2 * alpha if part.form == "same" and verdict == "reproduced" else alpha)
    return Verdict(claim, verdict, reason, part.effect, part.limits(level), level, part.n)


def _weakest(parts: Sequence[Judgement]) -> Judgement:
    """The part that is furthest from being reproduced."""
    return max(parts, key=lambda part: (part.p_for, -part.p_against))


def _of_means(
    form: str, differences: Sequence[float], delta: float, stated: float | None, p_for: float, p_against: float
) -> Judgement:
    """A judgement of a mean, which too few differences keep from deciding."""
    data = tuple(float(d) for d in differences)
    few = len(data) < MIN_PAIRS
    if few:
        p_for = p_against = 1.0
    return Judgement(
        form,
        float(delta),
        float(np.mean(data)),
        len(data),
        min(1.0, p_for),
        min(1.0, p_against),
        stated=stated,
        data=data,
        reason="power" if few else None,
    )


def _of_share(
    form: str, successes: int, n: int, delta: float, stated: float | None, p_for: float, p_against: float
) -> Judgement:
    """A judgement of a share."""
    if stated is not None and not 0 <= stated <= 1:
        raise ValueError(f"stated share is {stated}, expected 0 to 1; give a share, not a percentage")
    return Judgement(
        form,
        float(delta),
        successes / n,
        int(n),
        min(1.0, p_for),
        min(1.0, p_against),
        stated=stated,
        data=(int(successes), int(n)),
    )


def _mean_tails(differences: Sequence[float], delta: float) -> tuple[float, float]:
    """One-sided p-values of the sign-flip test against "mean <= delta" and against "mean >= delta".

    Flipping the signs of a subset of (difference - delta) leaves the mean at least as large just where the subset's
    mean is at most delta; the empty subset counts too. A tie counts against either decision.
    """
    if not np.isfinite(delta):
        raise ValueError(f"delta is {delta}, expected a finite number; state the threshold of the claim")
    means = _subset_means(differences)
    slack = _slack(differences)
    at_most, at_least = np.count_nonzero(means - slack <= delta), np.count_nonzero(means + slack >= delta)
    return float((1 + at_most) / (len(means) + 1)), float((1 + at_least) / (len(means) + 1))


def _share_tails(successes: int, n: int, share: float) -> tuple[float, float]:
    """One-sided binomial p-values: the chances of at least, and of at most, that many successes."""
    from scipy.special import betainc

    if not 0 <= successes <= n or n < 1 or successes != int(successes) or n != int(n):
        raise ValueError(f"{successes} successes of {n}, expected whole numbers from 0 to n, n >= 1; count the units")
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, expected 0 to 1; give a share, not a percentage")
    at_least = betainc(successes, n - successes + 1, share) if successes else 1.0
    at_most = betainc(n - successes, successes + 1, 1 - share) if successes < n else 1.0
    return float(at_least), float(at_most)


def _room(form: str, effect: float, delta: float) -> tuple[float, ...]:
    """How far the effect lies on the claim's side of each of its thresholds."""
    return {"larger": (effect - delta,), "no_worse": (delta - effect,), "same": (delta - effect, delta + effect)}[form]


def _slack(differences: Sequence[float]) -> float:
    """How far the limits move out, so that a tie in exact arithmetic is never a decision."""
    return _ROUNDING * float(np.max(np.abs(differences)))


def _bits(n: int) -> int:
    """Base-2 logarithm of the number of subsets used, the empty one included."""
    return n if n <= _ALL_SUBSETS else _SAMPLED_BITS


def _subset_means(differences: Sequence[float]) -> np.ndarray:
    """(2^bits - 1,) means of the non-empty subsets used, unsorted."""
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"differences have shape {values.shape}, expected (n,) with n >= 1; give one per seed")
    if not np.isfinite(values).all():
        raise ValueError("differences are not all finite; give an infeasible trial chance error before subtracting")
    return _subset_weights(values.size) @ values


@lru_cache(maxsize=4)
def _subset_weights(n: int) -> np.ndarray:
    """(2^bits - 1, n) weights; row g averages the differences whose code shares an odd number of bits with g.

    Any codes give a group under symmetric difference. The single bits among them make the subsets distinct, and
    distinct codes keep two differences from always going together.
    """
    bits = _bits(n)
    codes = 1 << np.arange(bits)
    if n > bits:
        others = np.setdiff1d(np.arange(1, 1 << bits), codes)
        drawn = np.random.default_rng(_SUBSET_SEED).choice(others, n - bits, replace=False)
        codes = np.concatenate([codes, drawn])
    members = np.bitwise_count(np.arange(1, 1 << bits)[:, None] & codes) % 2
    return members / members.sum(axis=1, keepdims=True)
