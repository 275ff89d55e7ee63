"""Variance: coverage of every interval, also for skewed outcomes, and agreement with the textbook forms."""

import math

import numpy as np
import pytest
from scipy.special import fdtri

from harness.analysis import variance as v
from harness.analysis.best_of_k import best_of
from harness.analysis.intervals import sd_limits
from harness.records import InputError

RUNS = 2000  # simulated experiments
LOGNORMAL_SD = math.sqrt((math.exp(0.36) - 1) * math.exp(0.36))


def lognormal(rng, shape):
    """Skewed outcomes of mean 0 and variance 1."""
    return (rng.lognormal(0, 0.6, shape) - math.exp(0.18)) / LOGNORMAL_SD


FAMILIES = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "lognormal": lognormal,
    "diverged": lambda rng, shape: (
        ((rng.random(shape) < 0.1) * 0.8 + rng.normal(0, 0.01, shape) - 0.08) / math.sqrt(0.0577)
    ),
}


def covered(spreads, sd):
    return np.mean([s.interval[0] <= sd <= s.interval[1] for s in spreads])


def near(rate, stated, tolerance=0.015):
    return abs(rate - stated) <= tolerance + 3 * math.sqrt(stated * (1 - stated) / RUNS)


# --- trial variance ---


@pytest.mark.parametrize(
    ("family", "groups", "runs", "stated"),
    [
        ("normal", 1, 8, 0.96),
        ("normal", 10, 3, 0.96),
        ("normal", 1, 100, 0.95),
        ("lognormal", 1, 20, 0.81),
        ("lognormal", 50, 3, 0.88),
        ("diverged", 1, 8, 0.39),
        ("diverged", 50, 3, 0.95),
    ],
)
def test_pooled_sd_covers_as_documented(family, groups, runs, stated):
    labels = np.repeat(np.arange(groups), runs)
    outcomes = FAMILIES[family](np.random.default_rng(1), (RUNS, groups * runs)) + labels
    assert near(covered([v.pooled_sd(row, labels) for row in outcomes], 1.0), stated)


def test_pooled_sd_is_the_textbook_one():
    values, groups = np.array([1.0, 3.0, 10.0, 10.0, 13.0, 50.0]), np.array([7, 7, 3, 3, 3, 5])
    found = v.pooled_sd(values, groups)
    assert found.sd == pytest.approx(math.sqrt((2 + 6) / 3))
    assert (found.n, found.df) == (5, 3)  # the setting run once adds nothing
    assert found.interval == pytest.approx(sd_limits(found.sd, 3))
    assert sd_limits(1.0, 9) == pytest.approx((0.68784, 1.82562), abs=1e-4)  # chi-square table: 19.0228 and 2.7004


def test_heavy_tails_only_widen():
    rng = np.random.default_rng(2)
    for family in FAMILIES.values():
        found = v.pooled_sd(family(rng, 30))
        exact = sd_limits(found.sd, 29)
        assert found.interval[0] <= exact[0] + 1e-12 and exact[1] - 1e-12 <= found.interval[1]


def test_nothing_run_twice_has_no_spread():
    found = v.pooled_sd([1.0, 2.0], [0, 1])
    assert math.isnan(found.sd) and found.interval == (0, math.inf) and found.n == 0


# --- study variance ---


@pytest.mark.parametrize(
    ("family", "k", "stated"),
    [("normal", 6, 0.97), ("normal", 20, 0.99), ("lognormal", 6, 0.99), ("lognormal", 20, 0.99)],
)
def test_study_sd_covers_as_documented(family, k, stated):
    rng = np.random.default_rng(3)
    sd = FAMILIES[family](rng, (200_000, k)).min(axis=1).std()
    found = [v.study_sd(row, "min", k) for row in FAMILIES[family](rng, (RUNS, 100))]
    assert near(covered(found, sd), stated)
    assert 0.8 < np.mean([s.sd for s in found]) / sd < 1.02


def test_study_sd_is_that_of_disjoint_studies():
    values = np.random.default_rng(4).normal(size=4000)
    exact, repeated = v.study_sd(values, "max", 10), v.pooled_sd(values.reshape(400, 10).max(axis=1))
    assert repeated.interval[0] < exact.sd < repeated.interval[1]
    assert exact.sd == best_of(values, "max", [10], replacement=False).sd[0]
    assert exact.df == 399


def test_all_infeasible_trials_have_no_study_sd():
    found = v.study_sd(np.full(9, np.nan), "min", 3)
    assert math.isnan(found.sd) and found.interval == (0, math.inf)


# --- data sampling ---


def test_the_binomial_floor_is_taken_off():
    rng, examples, spread = np.random.default_rng(5), 1000, 0.02
    rates = np.clip(rng.normal(0.2, spread, (RUNS, 30)), 0, 1)
    errors = rng.binomial(examples, rates) / examples
    found = [v.without_sampling(v.pooled_sd(row), float(row.mean()), examples) for row in errors]
    assert covered(found, spread) >= 0.94
    assert np.median([s.sd for s in found]) == pytest.approx(spread, rel=0.03)
    assert np.median([v.pooled_sd(row).sd for row in errors]) > 1.1 * spread
    assert v.sampling_sd(0.23, 50_000) == pytest.approx(0.001882, abs=1e-6)
    assert v.without_sampling(v.pooled_sd([0.2, 0.2001]), 0.2, 1000).sd == 0


# --- sources ---


@pytest.mark.parametrize(("family", "by_f"), [("normal", 0.05), ("lognormal", 0.29), ("diverged", 0.40)])
def test_permutation_keeps_its_level_where_f_does_not(family, by_f):
    rng = np.random.default_rng(6)
    pairs = zip(FAMILIES[family](rng, (RUNS, 20)), FAMILIES[family](rng, (RUNS, 20)), strict=True)
    found = [v.compare_sds(one, other) for one, other in pairs]
    assert np.mean([c.p_robust <= 0.05 for c in found]) <= 0.06 + 3 * math.sqrt(0.06 * 0.94 / RUNS)
    assert near(np.mean([c.p_normal <= 0.05 for c in found]), by_f, 0.02)
    for c in found[:200]:
        assert (c.p_normal <= 0.05) == (not c.interval[0] < 1 < c.interval[1])


def test_a_threefold_spread_is_found():
    rng = np.random.default_rng(7)
    found = v.compare_sds(3 * lognormal(rng, 20), lognormal(rng, 20))
    assert found.p_robust < 0.05 and found.ratio > 1
    back = v.compare_sds(np.arange(4.0), 3 * np.arange(4.0))
    assert back.ratio == pytest.approx(1 / 3)
    assert back.interval[1] == pytest.approx(math.sqrt(fdtri(3, 3, 0.975)) / 3)
    assert math.isinf(v.compare_sds([1.0, 2.0], [1.0, 1.0]).ratio)


def test_sources_stand_widest_first():
    found = v.by_source({"order": np.array([1.0, 1.1]), "init": np.array([1.0, 3.0]), "split": np.array([2.0])})
    assert list(found) == ["init", "order", "split"]
    assert found["init"].sd == pytest.approx(math.sqrt(2))


# --- between winners and within ---

GROUPS = np.repeat(np.arange(12), 3)


def simulate(between, within, ratio, runs, groups=GROUPS, seed=8):
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        effects = ratio * FAMILIES[between](rng, groups.max() + 1)
        yield v.between_within(effects[groups] + FAMILIES[within](rng, groups.size), groups)


@pytest.mark.parametrize(
    ("between", "within", "stated"),
    [("normal", "normal", 0.95), ("normal", "lognormal", 0.89), ("lognormal", "lognormal", 0.84)],
)
def test_between_within_covers_as_documented(between, within, stated):
    found = list(simulate(between, within, 1.0, RUNS))
    assert near(np.mean([c.interval[0] <= 1 <= c.interval[1] for c in found]), stated, 0.02)
    if between == within == "normal":
        assert np.mean([c.verdict == "larger" for c in found]) <= 0.025 + 3 * math.sqrt(0.025 / RUNS)
        assert np.mean([c.verdict == "smaller" for c in found]) <= 0.025 + 3 * math.sqrt(0.025 / RUNS)
        assert covered([c.between for c in found], 1.0) >= 0.95


def test_groups_of_unequal_size_are_covered():
    groups = np.repeat(np.arange(8), [2, 2, 3, 3, 4, 5, 8, 12])
    found = list(simulate("normal", "normal", 2.0, RUNS, groups, seed=9))
    assert near(np.mean([c.interval[0] <= 2 <= c.interval[1] for c in found]), 0.95, 0.0)


def test_clear_cases_get_their_verdict():
    assert next(simulate("normal", "normal", 10.0, 1)).verdict == "larger"
    assert next(simulate("normal", "normal", 0.0, 1)).verdict == "smaller"
    assert next(simulate("normal", "normal", 1.0, 1)).verdict == "undecided"


def test_the_balanced_interval_is_the_textbook_one():
    rng = np.random.default_rng(10)
    values = (2 * rng.normal(size=12))[GROUPS] + rng.normal(size=36)
    table = values.reshape(12, 3)
    f = 3 * table.mean(axis=1).var(ddof=1) / table.var(axis=1, ddof=1).mean()
    limits = [math.sqrt((f / fdtri(11, 24, p) - 1) / 3) for p in (0.975, 0.025)]
    found = v.between_within(values, GROUPS)
    assert found.interval == pytest.approx(limits, rel=1e-9)
    assert found.between.interval[0] < found.between.sd < found.between.interval[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: v.pooled_sd([]), r"^outcomes of shape \(0,\), expected \(N,\)"),
        (lambda: v.pooled_sd([1.0, math.nan]), r"^outcome nan, expected finite values; leave infeasible"),
        (lambda: v.pooled_sd([1.0, 2.0], [1]), r"^1 group labels for 2 outcomes, expected one per outcome"),
        (lambda: v.sampling_sd(23.0, 10), r"^error rate 23.0, expected 0 to 1; give a share"),
        (lambda: v.sampling_sd(0.2, 0), r"^evaluation set of 0 examples, expected at least 1"),
        (lambda: v.compare_sds([1.0], [1.0, 2.0]), r"^1 outcomes against 2, expected 2 or more of each"),
        (lambda: v.between_within([1.0, 2.0], [0, 0]), r"^1 groups of 2 outcomes, expected 2 or more, one with 2"),
        (lambda: v.between_within([1.0, 1.0, 2.0], [0, 0, 1]), r"^outcomes do not differ inside any group"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
