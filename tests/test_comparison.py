"""Adopt or not: coverage of both intervals, false adoptions, ties, infeasible runs, runs needed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, ndtri

from harness.analysis.comparison import compare, pairs_needed, runs_needed
from harness.analysis.intervals import clopper_pearson
from harness.records import InputError

RUNS = 2000  # simulated experiments
quick = settings(max_examples=100, deadline=None, derandomize=True)
arms = st.lists(st.one_of(st.none(), st.integers(-4, 4)), min_size=2, max_size=9).map(
    lambda values: np.array([np.nan if v is None else v for v in values], float)
)


def within(rate, level, runs=RUNS):
    return rate <= level + 3 * math.sqrt(level * (1 - level) / runs)


# --- paired ---


@pytest.mark.parametrize("n", [3, 6, 8, 20])
def test_paired_limits_hold_by_enumeration_with_ties(n):
    wins, ties = (grid.ravel() for grid in np.meshgrid(range(n + 1), range(n + 1)))
    wins, ties = wins[wins + ties <= n], ties[wins + ties <= n]
    losses = n - wins - ties
    limits = np.array([clopper_pearson(w + t / 2, n) for w, t in zip(wins, ties, strict=True)])
    ways = gammaln(n + 1) - gammaln(wins + 1) - gammaln(ties + 1) - gammaln(losses + 1)
    worst = 0
    for chance in np.arange(0.04, 0.99, 0.04):
        for tie in np.linspace(0, 2 * min(chance, 1 - chance), 7):
            shares = np.maximum([chance - tie / 2, tie, 1 - chance - tie / 2], 0)
            chances = np.exp(ways) * shares[0] ** wins * shares[1] ** ties * shares[2] ** losses
            low, high = chances[limits[:, 0] > chance + 1e-12].sum(), chances[limits[:, 1] < chance - 1e-12].sum()
            worst = max(worst, low, high)
    assert 0.01 < worst <= 0.025


def test_six_pairs_can_adopt_and_five_cannot():
    assert not compare(np.ones(5), np.zeros(5), "max", paired=True).adopt
    assert compare(np.ones(6), np.zeros(6), "max", paired=True).adopt


# --- unpaired ---

FAMILIES = {
    "normal": (lambda g, s: g.normal(0, 1, s), lambda g, s: g.normal(0, 1, s), 0.5),
    "threefold spread": (lambda g, s: g.normal(0, 3, s), lambda g, s: g.normal(0, 1, s), 0.5),
    "lognormal": (lambda g, s: -g.lognormal(0, 0.2, s), lambda g, s: -g.lognormal(0, 0.8, s), 0.5),
    "bimodal": (
        lambda g, s: np.where(g.random(s) < 0.3, -0.9, g.normal(0, 0.01, s)),
        lambda g, s: np.where(g.random(s) < 0.3, -0.9, g.normal(0, 0.01, s)),
        0.5,
    ),
    "two values": (lambda g, s: 1.0 * (g.random(s) < 0.8), lambda g, s: 1.0 * (g.random(s) < 0.3), 0.75),
    "rounded": (lambda g, s: np.round(g.normal(0, 1, s)), lambda g, s: np.round(g.normal(0, 1, s)), 0.5),
    "shifted": (lambda g, s: g.normal(math.sqrt(2) * ndtri(0.76), 1, s), lambda g, s: g.normal(0, 1, s), 0.76),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_unpaired_limits_hold(family):
    candidate, baseline, chance = FAMILIES[family]
    for n, m in ((8, 8), (20, 20), (5, 20)):
        rng = np.random.default_rng(n + 100 * m)
        pairs = zip(candidate(rng, (RUNS, n)), baseline(rng, (RUNS, m)), strict=True)
        found = [compare(one, other, "max", paired=False) for one, other in pairs]
        limits = np.array([comparison.interval for comparison in found])
        assert within(np.mean(limits[:, 0] > chance), 0.025)
        assert within(np.mean(limits[:, 1] < chance), 0.025)
        if chance == 0.5:
            assert within(np.mean([comparison.adopt for comparison in found]), 0.025)


def test_few_runs_of_a_wide_arm_exceed_the_level_as_documented():
    rng = np.random.default_rng(5)
    shift = math.sqrt(10) * ndtri(0.74)
    pairs = zip(rng.normal(shift, 3, (RUNS, 5)), rng.normal(0, 1, (RUNS, 20)), strict=True)
    rate = np.mean([compare(one, other, "max", paired=False).interval[0] > 0.74 for one, other in pairs])
    assert 0.04 < rate < 0.085


def test_separated_arms_of_five_cannot_adopt_and_of_six_can():
    assert not compare(np.ones(5), np.zeros(5), "max", paired=False).adopt
    assert compare(np.ones(6), np.zeros(6), "max", paired=False).adopt


# --- both ---


@quick
@given(arms, arms, st.sampled_from(["min", "max"]), st.booleans())
def test_swapping_the_arms_mirrors_everything(one, other, goal, paired):
    if paired:
        one, other = one[: len(other)], other[: len(one)]
    there, back = compare(one, other, goal, paired), compare(other, one, goal, paired)
    assert there.probability == pytest.approx(1 - back.probability)
    assert there.interval == pytest.approx((1 - back.interval[1], 1 - back.interval[0]), abs=1e-9)
    assert there.improvement == -back.improvement
    assert there.dominance == pytest.approx(-back.dominance)
    assert 0 <= there.interval[0] <= there.probability <= there.interval[1] <= 1
    assert not (there.significant and back.significant)


@quick
@given(arms, arms)
def test_the_probability_counts_pairs_with_ties_a_half_and_infeasible_last(one, other):
    filled = [[-math.inf if math.isnan(v) else v for v in arm] for arm in (one, other)]
    wins = [(a > b) + 0.5 * (a == b) for a in filled[0] for b in filled[1]]
    assert compare(one, other, "max", paired=False).probability == pytest.approx(np.mean(wins))


def test_the_two_thresholds_are_apart():
    # Better for certain, yet hardly: 120 of 200 pairs.
    outcome = np.r_[np.ones(120), -np.ones(80)]
    small = compare(outcome, np.zeros(200), "max", paired=True)
    assert small.significant and not small.meaningful and not small.adopt
    unsure = compare(np.r_[np.ones(4), -np.ones(2)], np.zeros(6), "max", paired=True)
    assert unsure.meaningful and not unsure.significant and not unsure.adopt
    assert compare(outcome, np.zeros(200), "max", paired=True, meaningful=0.6).adopt


def test_improvement_is_in_units_of_the_objective_and_infinite_where_runs_diverge():
    assert compare([0.1, 0.2, 0.3], [0.2, 0.3, 0.5], "min", paired=True).improvement == pytest.approx(0.1)
    assert compare([0.1, 0.1], [np.nan, np.inf], "min", paired=False).improvement == math.inf
    assert compare([np.nan, 0.1], [0.1, np.nan], "min", paired=True).improvement == 0
    assert compare([np.nan, np.nan], [np.nan, np.nan], "min", paired=False).probability == 0.5


# --- runs needed ---


def test_pairs_needed_reach_the_power_exactly():
    for chance in (0.7, 0.75, 0.9):
        n = pairs_needed(chance)
        for pairs, enough in ((n, True), (n - 1, False)):
            adopted = [
                compare(np.r_[np.ones(w), -np.ones(pairs - w)], np.zeros(pairs), "max", paired=True).adopt
                for w in range(pairs + 1)
            ]
            power = sum(
                math.comb(pairs, w) * chance**w * (1 - chance) ** (pairs - w) for w in range(pairs + 1) if adopted[w]
            )
            assert (power >= 0.8) == enough
    assert pairs_needed(1.0) == 6


def test_runs_needed_are_those_of_the_literature_and_of_simulation():
    assert runs_needed(0.75, power=0.95, level=0.9) == 29
    n, shift = runs_needed(0.75), math.sqrt(2) * ndtri(0.75)
    rng = np.random.default_rng(6)
    pairs = zip(rng.normal(shift, 1, (RUNS, n)), rng.normal(0, 1, (RUNS, n)), strict=True)
    power = np.mean([compare(one, other, "max", paired=False).significant for one, other in pairs])
    assert power == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare([1, 2], [1, 2], "best", True), r"^goal 'best', expected 'min' or 'max'"),
        (lambda: compare([1, 2], [1], "min", True), r"^2 runs against 1, expected as many of both where paired; drop"),
        (lambda: compare([1, 2], [1], "min", False), r"^2 runs against 1, expected 2 or more of each; retrain"),
        (lambda: compare([], [1], "min", False), r"^candidate has runs of shape \(0,\), expected \(n,\)"),
        (lambda: pairs_needed(0.5), r"^probability 0.5, expected one above 0.5 and at most 1; state by how much"),
        (lambda: pairs_needed(0.6), r"^probability 0.6 is adopted with power 0.8 at no number of pairs up to 1000"),
        (lambda: runs_needed(1.5), r"^probability 1.5, expected one above 0.5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
