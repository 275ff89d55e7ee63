"""Verdicts: calibration of every rule on null experiments, exactness of the intervals, Holm's correction, power."""

import itertools
import math
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.experiments import verdict as v
from harness.records import Claim

CLAIM = Claim("test.claim", "What is claimed.", "Which effect, which interval, which threshold.")
RUNS = 2000  # null experiments per form and family
SHIFT = 0.02  # effect at the boundary; a multiple of both roundings, so that ties fall on delta


def rounded(step):
    return lambda rng, shape: np.round(rng.normal(0.1, 0.02, shape) / step) * step


def bimodal(rng, shape, share=0.3):
    return np.where(rng.random(shape) < share, 0.9, rng.normal(0.08, 0.01, shape))


# Errors of one arm.
FAMILIES = {
    "normal": lambda rng, shape: rng.normal(0.1, 0.02, shape),
    "lognormal": lambda rng, shape: 0.1 * rng.lognormal(0, 0.5, shape),
    "bimodal": bimodal,
    "ties_005": rounded(0.005),
    "ties_02": rounded(0.02),
}

# An outcome of one error: its threshold, and the exact share of errors above it.
Z1, Z05 = 0.15865525393145707, 0.3085375387259869
OUTCOMES = {
    "normal": (0.12, Z1),
    "lognormal": (0.1 * math.exp(0.5), Z1),
    "bimodal": (0.5, 0.3),
    "ties_005": (0.1 + 0.0175, 1 - 0.5 * (1 + math.erf(0.0175 / 0.02 / math.sqrt(2)))),
    "ties_02": (0.1 + 0.01, Z05),
}

families = pytest.mark.parametrize("family", FAMILIES)


def null_differences(family, runs, n, seed):
    """(runs, n) paired differences with mean 0: both arms have the family's errors."""
    rng = np.random.default_rng(seed)
    return FAMILIES[family](rng, (runs, n)) - FAMILIES[family](rng, (runs, n))


@lru_cache
def spread(family):
    """Standard deviation of the differences."""
    return float(np.std(null_differences(family, 1000, 10, seed=99)))


def rates(judgements):
    """Shares of `reproduced` and `contradicted`, each judgement alone in its experiment."""
    verdicts = [v.judge([(CLAIM, judgement)])[0].verdict for judgement in judgements]
    return verdicts.count("reproduced") / len(verdicts), verdicts.count("contradicted") / len(verdicts)


def within(rate, level, runs=RUNS):
    return rate <= level + 3 * math.sqrt(level * (1 - level) / runs)


def outcome_counts(family, runs, n, seed):
    return (FAMILIES[family](np.random.default_rng(seed), (runs, n)) > OUTCOMES[family][0]).sum(axis=1)


# --- calibration: nulls at the boundary ---


@families
@pytest.mark.parametrize(("form", "n"), [(v.larger, 8), (v.no_worse, 10)])
def test_one_sided_forms_keep_their_level(form, n, family):
    differences = null_differences(family, RUNS, n, seed=n) + SHIFT
    reproduced, contradicted = rates([form(row, SHIFT) for row in differences])
    assert within(reproduced, 0.025)
    assert within(contradicted, 0.025)


@families
def test_same_keeps_its_level(family):
    margin = spread(family)
    differences = null_differences(family, RUNS, 9, seed=21)
    edges = [margin, -margin] * (RUNS // 2)
    reproduced, contradicted = rates(
        [v.same(row + edge, margin, stated=None) for row, edge in zip(differences, edges, strict=True)]
    )
    assert within(reproduced, 0.05)
    assert within(contradicted, 0.025)


@families
def test_same_is_not_contradicted_by_chance_where_delta_is_tiny(family):
    margin = spread(family) / 1000
    _, contradicted = rates([v.same(row, margin, stated=None) for row in null_differences(family, RUNS, 8, seed=22)])
    assert within(contradicted, 0.05)


@families
def test_shares_keep_their_level(family):
    share = OUTCOMES[family][1]
    for n in (8, 30):
        counts = outcome_counts(family, RUNS, n, seed=n).tolist()
        for form in (v.share_above, v.share_below):
            reproduced, contradicted = rates([form(count, n, share) for count in counts])
            assert within(reproduced, 0.025)
            assert within(contradicted, 0.025)


def test_shares_keep_their_level_exactly():
    for n, share in itertools.product((1, 8, 13, 30), (0.05, 0.2, 0.5, 0.8, 0.95)):
        chances = [math.comb(n, s) * share**s * (1 - share) ** (n - s) for s in range(n + 1)]
        for form in (v.share_above, v.share_below):
            judged = [form(s, n, share) for s in range(n + 1)]
            assert sum(c for c, j in zip(chances, judged, strict=True) if j.p_for <= 0.05) <= 0.025
            assert sum(c for c, j in zip(chances, judged, strict=True) if j.p_against <= 0.05) <= 0.025


@families
def test_compound_keeps_its_level(family):
    first, second = null_differences(family, RUNS, 8, seed=31), null_differences(family, RUNS, 9, seed=32)
    far = 10 * spread(family)
    one_false = [v.every(v.larger(a, 0), v.no_worse(b - far, 0)) for a, b in zip(first, second, strict=True)]
    assert within(rates(one_false)[0], 0.025)
    reproduced, contradicted = rates(
        [v.every(v.larger(a, 0), v.no_worse(b, 0), v.larger(a - b[:8], 0)) for a, b in zip(first, second, strict=True)]
    )
    assert within(reproduced, 0.025)
    assert within(contradicted, 0.025)


def null_experiment(family, rows, count):
    """Five claims of different forms, each at its boundary; two of them share their seeds."""
    margin, share = spread(family), OUTCOMES[family][1]
    return [
        (CLAIM, v.larger(rows[0] + SHIFT, SHIFT)),
        (CLAIM, v.no_worse(rows[1], 0)),
        (CLAIM, v.same(rows[2] + margin, margin, stated=None)),
        (CLAIM, v.share_above(count, 12, share)),
        (CLAIM, v.every(v.larger(rows[0] + rows[3], 0), v.no_worse(rows[4], 0))),
    ]


@families
def test_holm_keeps_the_level_of_the_family(family):
    differences = np.stack([null_differences(family, RUNS, 8, seed=41 + i) for i in range(5)], axis=1)
    counts = outcome_counts(family, RUNS, 12, seed=47).tolist()
    wrong = 0
    for rows, count in zip(differences, counts, strict=True):
        wrong += any(out.verdict != "inconclusive" for out in v.judge(null_experiment(family, rows, count)))
    assert within(wrong / RUNS, 0.05)


@families
def test_holm_keeps_the_level_beside_true_claims(family):
    far = 10 * spread(family)
    differences = np.stack([null_differences(family, RUNS, 9, seed=51 + i) for i in range(2)], axis=1)
    wrong = 0
    for first, second in differences:
        true = [(CLAIM, v.larger(first + far, 0)), (CLAIM, v.no_worse(second - far, 0)), (CLAIM, v.same(first, far))]
        out = v.judge([*true, (CLAIM, v.larger(first, 0)), (CLAIM, v.no_worse(second, 0))])
        wrong += any(item.verdict != "inconclusive" for item in out[3:])
    assert within(wrong / RUNS, 0.05)


@pytest.mark.parametrize("family", ["bimodal", "ties_02"])
def test_the_group_of_subsets_keeps_the_level(family):
    tails = np.array([v.larger(row, 0).p_for for row in null_differences(family, RUNS, 20, seed=61)])
    assert within(np.mean(tails <= 0.05), 0.025)
    assert within(np.mean(tails >= 1.95), 0.025)


# Heavier-tailed arm minus the other, equal means; rates of "better" and "worse" as the module's docstring states them.
UNEQUAL = {
    "lognormal .6 and .3": (
        lambda g, s: 0.1 * g.lognormal(-0.18, 0.6, s) - 0.1 * g.lognormal(-0.045, 0.3, s),
        0.055,
        0.009,
    ),
    "lognormal and normal": (lambda g, s: 0.1 * g.lognormal(-0.125, 0.5, s) - g.normal(0.1, 0.01, s), 0.060, 0.007),
    "lognormal 1 and .1": (lambda g, s: 0.1 * g.lognormal(-0.5, 1, s) - 0.1 * g.lognormal(-0.005, 0.1, s), 0.15, 0.001),
    "diverged 20% and 10%": (lambda g, s: bimodal(g, s, 0.2) - bimodal(g, s, 0.1) - 0.082, 0.20, 0),
    "diverged 10% and 0%": (lambda g, s: bimodal(g, s, 0.1) - g.normal(0.162, 0.01, s), 0.42, 0),
    "diverged 2% and 0%": (lambda g, s: bimodal(g, s, 0.02) - g.normal(0.0964, 0.01, s), 0.66, 0),
    "a difference of shares": (lambda g, s: 0.5 - np.where(g.random(s) < 0.75, 1.0, -1.0), 0.10, 0.004),
}


@pytest.mark.parametrize("arms", UNEQUAL)
def test_arms_of_unequal_shape_exceed_the_level_as_documented(arms):
    draw, better, worse = UNEQUAL[arms]
    found = rates([v.larger(-row, 0) for row in draw(np.random.default_rng(71), (RUNS, 8))])
    for rate, stated in zip(found, (better, worse), strict=True):
        assert abs(rate - stated) <= 0.006 + 3 * math.sqrt(stated * (1 - stated) / RUNS)


# --- intervals ---


def brute_force_p(differences, delta):
    """Sign-flip p-value against "mean <= delta"; exact, since data are multiples of a quarter."""
    errors = np.array(differences) - delta
    flips = np.array(list(itertools.product((1, -1), repeat=len(errors))))
    return float(np.mean(flips @ errors >= errors.sum()))


@pytest.mark.parametrize("seed", range(4))
def test_interval_inverts_the_sign_flip_test(seed):
    rng = np.random.default_rng(seed)
    data = (rng.integers(-6, 7, 7) / (4 if seed % 2 else 1)).tolist()
    for level in (0.6, 0.9, 0.95):
        lower, upper = v.sign_flip_interval(data, level)
        for delta in np.arange(-6, 6.01, 0.25).tolist():
            assert (delta < lower) == (brute_force_p(data, delta) <= (1 - level) / 2)
            assert (delta > upper) == (brute_force_p([-d for d in data], -delta) <= (1 - level) / 2)


def test_p_value_is_that_of_the_sign_flip_test():
    data = [3, 3, -1, 0, 2, 2, 5, 1]
    for delta in (0, 0.5, 1, 2):
        assert v.larger(data, delta).p_for == min(1, 2 * brute_force_p(data, delta))


def test_rounding_does_not_break_ties():
    tied = np.array([0.35, 0.34, 0.33, 0.32, 0.31, 0.36, 0.37, 0.38]) - np.array(
        [0.33, 0.32, 0.31, 0.30, 0.29, 0.34, 0.35, 0.36]
    )
    assert len(set(tied.tolist())) > 1  # .02 up to the last bits
    for delta in (0.02, float(tied.min()), float(tied.max())):
        judgement = v.larger(tied, delta)
        assert judgement.p_for == judgement.p_against == 1
        assert v.judge([(CLAIM, judgement)])[0].verdict == "inconclusive"


def test_interval_is_infinite_where_n_cannot_attain_the_level():
    assert v.sign_flip_interval([1, 2, 3], 0.95) == (-np.inf, np.inf)
    assert v.sign_flip_interval([1, 2, 3], 0.75) == pytest.approx((1, 3))


def test_sampled_subsets_are_a_group():
    members = v._subset_weights(20) > 0
    assert members.shape == (2**14 - 1, 20)
    assert (members.sum(axis=0) == 2**13).all()  # balanced: each difference is in half of the subsets
    sets = {row.tobytes() for row in members}
    assert len(sets) == len(members) and members.any(axis=1).all()
    rng = np.random.default_rng(3)
    for a, b in rng.integers(0, len(members), (200, 2)):
        assert a == b or (members[a] ^ members[b]).tobytes() in sets


def test_sampled_subsets_agree_with_the_t_interval_on_many_normal_differences():
    data = np.random.default_rng(8).normal(1, 1, 40)
    half = 2.0227 * data.std(ddof=1) / math.sqrt(40)  # t quantile, 39 degrees of freedom
    assert v.sign_flip_interval(data, 0.95) == pytest.approx((data.mean() - half, data.mean() + half), abs=0.03)


@pytest.mark.parametrize(
    ("successes", "n", "limits"),
    [
        (0, 8, (0, 0.3694)),
        (8, 8, (0.6306, 1)),
        (27, 30, (0.7347, 0.9789)),
        (5, 10, (0.1871, 0.8129)),
        (1, 1, (0.025, 1)),
    ],
)
def test_clopper_pearson_known_values(successes, n, limits):
    assert v.clopper_pearson(successes, n, 0.95) == pytest.approx(limits, abs=5e-5)


@pytest.mark.parametrize("n", [5, 8, 30])
def test_clopper_pearson_covers(n):
    for level in (0.9, 0.95):
        limits = [v.clopper_pearson(s, n, level) for s in range(n + 1)]
        for share in np.linspace(0.01, 0.99, 50).tolist():
            chances = [math.comb(n, s) * share**s * (1 - share) ** (n - s) for s in range(n + 1)]
            assert sum(c for c, (low, up) in zip(chances, limits, strict=True) if low <= share <= up) >= level


# --- verdicts ---


def with_p(p_for, p_against=1.0, **fields):
    return v.Judgement("share_above", 0.5, 0.5, 8, p_for, p_against, data=(4, 8), **fields)


def test_holm_by_hand():
    # Sorted: .005 <= .05/4, .01 <= .05/3, .03 > .05/2: stop.
    out = v.judge([(CLAIM, with_p(p)) for p in (0.01, 0.04, 0.03)] + [(CLAIM, with_p(1.0, 0.005))])
    assert [item.verdict for item in out] == ["reproduced", "inconclusive", "inconclusive", "contradicted"]
    assert [item.level for item in out] == pytest.approx([1 - 0.05 / 3, 0.975, 0.975, 0.9875])
    assert [item.reason for item in out] == [None, "interval", "interval", None]


def test_a_single_claim_has_the_levels_of_its_form():
    data = [1, 2, 3, 2, 1, 2, 3, 2]
    assert v.judge([(CLAIM, v.larger(data, 0))])[0].level == 0.95
    alone = v.judge([(CLAIM, v.same(data, 4))])[0]
    assert (alone.verdict, alone.level, alone.n, alone.effect) == ("reproduced", 0.9, 8, 2)
    assert alone.interval == v.same(data, 4).interval == v.sign_flip_interval(data, 0.9)
    assert v.judge([(CLAIM, v.same(data, 0.1))])[0].verdict == "contradicted"
    assert v.judge([]) == []


def test_reasons():
    noisy = np.random.default_rng(4).normal(0.2, 1, 8)
    few = v.larger([5.0] * 7, 0)
    cases = {
        "interval": [v.larger(noisy, 0), v.larger(noisy, 0, stated=5.0), with_p(1.0)],
        "power": [v.larger(noisy, 0, stated=0.2), few, v.every(few, v.larger(noisy, 0)), v.same(noisy, 0.5)],
        "range": [v.out_of_range(8.0, 10.0, 8), v.every(v.larger(noisy, 0, stated=0.2), v.out_of_range(8.0, 10.0, 8))],
    }
    for reason, judgements in cases.items():
        for judgement in judgements:
            out = v.judge([(CLAIM, judgement)])[0]
            assert (out.verdict, out.reason) == ("inconclusive", reason)
    bound = v.judge([(CLAIM, v.out_of_range(8.0, 10.0, 8, interval=(8.0, np.inf)))])[0]
    assert (bound.effect, bound.interval, bound.n) == (8.0, (8.0, np.inf), 8)


def test_power_counts_at_the_level_applied():
    # Enough power alone, too little beside nine other claims.
    data = np.random.default_rng(9).normal(0, 1, 10)
    judgement = v.larger(data, 0, stated=1.1 * float(np.std(data, ddof=1)))
    assert judgement.power > 0.8
    assert v.judge([(CLAIM, judgement)])[0].reason == "interval"
    assert v.judge([(CLAIM, judgement)] + [(CLAIM, with_p(1.0))] * 9)[0].reason == "power"


def test_compound_reports_its_worst_part():
    strong, weak = v.larger([4, 5, 6, 5, 4, 5, 6, 5], 0), v.no_worse([-2, -1, -3, 1, -2, -1, -2, -3, -2], 0)
    against = v.larger([-3] * 12, 0)
    assert (v.every(strong, weak).effect, v.every(strong, weak).n) == (weak.effect, 9)
    assert v.judge([(CLAIM, v.every(strong, weak))])[0].verdict == "reproduced"
    out = v.judge([(CLAIM, v.every(strong, against, weak))])[0]
    assert (out.verdict, out.effect, out.n) == ("contradicted", -3, 12)
    assert out.level == pytest.approx(1 - 0.05 / 3)
    assert v.every(strong, against).p_against == 2 * against.p_against
    assert v.every(v.share_above(8, 8, 0.1, 0.5), v.share_above(8, 8, 0.2, 0.6)).power == pytest.approx(
        v.power_of_share("share_above", 8, 0.5, 0.1) * v.power_of_share("share_above", 8, 0.6, 0.2)
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda: v.larger([], 0),
        lambda: v.larger([[1.0, 2.0]], 0),
        lambda: v.larger([1.0, np.nan], 0),
        lambda: v.no_worse([1.0, np.inf], 0),
        lambda: v.larger([1.0, 2.0], np.nan),
        lambda: v.same([1.0, 2.0], 0),
        lambda: v.share_above(9, 8, 0.5),
        lambda: v.share_below(1, 0, 0.5),
        lambda: v.share_above(1.5, 8, 0.5),
        lambda: v.share_above(1, 8, 50),
        lambda: v.share_above(1, 8, 0.5, stated=90),
        lambda: v.every(),
        lambda: v.seeds_needed(1, 0, 0),
        lambda: v.seeds_needed(1, 0.001, 0),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(ValueError, match=r"; (give|state|count|widen)|expected|at least one"):
        call()


def test_infeasible_trials_are_named_with_the_mend():
    with pytest.raises(ValueError, match="give an infeasible trial chance error"):
        v.same([1.0, 2.0, np.nan], 1)


# --- power ---


@pytest.mark.parametrize(
    ("form", "n", "effect", "delta", "alpha"),
    [
        ("larger", 8, 1.2, 0, 0.05),
        ("larger", 10, 0.8, 0.1, 0.05),
        ("larger", 11, 1.2, 0, 0.01),
        ("no_worse", 9, 0, 1.0, 0.05),
        ("same", 12, 0, 1.0, 0.05),
        ("same", 10, 0.2, 1.4, 0.01),
        ("larger", 8, 3.0, 0, 0.005),
    ],
)
def test_power_of_means_against_simulation(form, n, effect, delta, alpha):
    draws = np.random.default_rng(81).normal(effect, 1, (RUNS, n))
    found = np.mean([getattr(v, form)(row, delta).p_for <= alpha for row in draws])
    assert v.power_of_mean(form, 1.0, n, effect, delta, alpha) == pytest.approx(found, abs=0.04)


@pytest.mark.parametrize("form", ["share_above", "share_below"])
def test_power_of_shares_by_enumeration(form):
    for n, share, delta in itertools.product((8, 30), (0.1, 0.5, 0.9), (0.2, 0.5, 0.8)):
        found = sum(
            math.comb(n, s) * share**s * (1 - share) ** (n - s)
            for s in range(n + 1)
            if getattr(v, form)(s, n, delta).p_for <= 0.05
        )
        assert getattr(v, form)(n, n, delta, stated=share).power == pytest.approx(found)


def test_power_limits():
    assert v.power_of_mean("larger", 0.0, 8, 1.0, 0.0) == 1
    assert v.power_of_mean("larger", 0.0, 8, 0.0, 0.0) == 0
    assert v.power_of_mean("larger", 1e-9, 8, 1.0, 0.0) == pytest.approx(1)
    assert v.power_of_mean("larger", 1.0, 7, 9.0, 0.0) == 0  # too few
    assert v.power_of_mean("larger", 1.0, 8, 9.0, 0.0, alpha=0.05 / 7) == 0  # 2 / 2^8 exceeds it
    assert v.larger([1.0, 2.0] * 4, 0).power is None
    assert v.larger([1.0], 0, stated=1.0).power == 0


def test_seeds_needed():
    for form, effect, delta in [("larger", 1.0, 0.0), ("no_worse", 0.0, 0.7), ("same", 0.0, 1.0)]:
        n = v.seeds_needed(1.0, effect, delta, form=form)
        assert v.power_of_mean(form, 1.0, n, effect, delta) >= 0.8 > v.power_of_mean(form, 1.0, n - 1, effect, delta)
    assert v.seeds_needed(1.0, 5.0, 0.0) == 8
    assert v.seeds_needed(1.0, 50.0, 0.0, claims=7) == 9  # 8 seeds cannot attain .05 / 7
    assert v.seeds_needed(1.0, 1.0, 0.0, power=0.9) > v.seeds_needed(1.0, 1.0, 0.0)


# --- properties ---

differences = st.lists(st.integers(-12, 12), min_size=8, max_size=11).map(lambda values: [d / 4 for d in values])
deltas = st.integers(-12, 12).map(lambda d: d / 4)
margins = st.integers(1, 16).map(lambda d: d / 4)
counts = st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
single = st.one_of(
    st.builds(v.larger, differences, deltas),
    st.builds(v.no_worse, differences, deltas),
    st.builds(v.same, differences, margins),
    st.builds(lambda c, d: v.share_above(*c, d / 20), counts, st.integers(0, 20)),
    st.builds(lambda c, d: v.share_below(*c, d / 20), counts, st.integers(0, 20)),
    # Parts of one form and threshold, so that the reported interval can be read without knowing which part it is.
    st.builds(lambda *parts: v.every(*(v.larger(part, 1.0) for part in parts)), differences, differences, differences),
)
quick = settings(max_examples=150, deadline=None, derandomize=True)


def shown(form, delta, interval):
    """What an interval shows."""
    lower, upper = interval
    if form == "same":
        inside, outside = -delta < lower and upper < delta, upper < -delta or lower > delta
        return "reproduced" if inside else "contradicted" if outside else "inconclusive"
    above, below = (
        ("contradicted", "reproduced") if form in ("no_worse", "share_below") else ("reproduced", "contradicted")
    )
    return above if lower > delta else below if upper < delta else "inconclusive"


@quick
@given(st.lists(single, min_size=1, max_size=5))
def test_the_reported_interval_shows_the_verdict(judgements):
    for judgement, out in zip(judgements, v.judge([(CLAIM, j) for j in judgements]), strict=True):
        assert out.verdict == shown(judgement.form, judgement.delta, out.interval)
        assert 0.9 <= out.level < 1
        assert out.interval[0] <= out.effect + 1e-6 and out.effect - 1e-6 <= out.interval[1]
        assert (out.reason is None) == (out.verdict != "inconclusive")


@quick
@given(differences, deltas, st.integers(-40, 40))
def test_shifting_differences_and_delta_changes_nothing(data, delta, shift):
    for form in (v.larger, v.no_worse):
        before, after = form(data, delta), form([d + shift for d in data], delta + shift)
        assert (before.p_for, before.p_against) == (after.p_for, after.p_against)
        assert v.judge([(CLAIM, before)])[0].verdict == v.judge([(CLAIM, after)])[0].verdict


@quick
@given(differences)
def test_negating_swaps_the_directions(data):
    plain, negated = v.larger(data, 0), v.larger([-d for d in data], 0)
    swap = {"reproduced": "contradicted", "contradicted": "reproduced", "inconclusive": "inconclusive"}
    assert v.judge([(CLAIM, negated)])[0].verdict == swap[v.judge([(CLAIM, plain)])[0].verdict]
    assert (plain.p_for, plain.p_against) == (negated.p_against, negated.p_for)
    mirrored = v.no_worse([-d for d in data], 0)
    assert (plain.p_for, plain.p_against) == (mirrored.p_for, mirrored.p_against)


@quick
@given(single, st.floats(0.5, 0.999), st.floats(0.5, 0.999))
def test_intervals_widen_with_the_level(judgement, one, other):
    narrow, wide = judgement.limits(min(one, other)), judgement.limits(max(one, other))
    assert wide[0] <= narrow[0] and narrow[1] <= wide[1]


@quick
@given(st.lists(single, min_size=1, max_size=3), single)
def test_another_claim_never_turns_inconclusive_into_a_decision(judgements, other):
    pairs = [(CLAIM, j) for j in judgements]
    for before, after in zip(v.judge(pairs), v.judge([*pairs, (CLAIM, other)]), strict=False):
        assert after.verdict in (before.verdict, "inconclusive")


def test_importing_verdicts_leaves_scipy_alone():
    code = "import sys, harness.experiments.verdict; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
