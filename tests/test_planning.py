import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from harness.analysis.planning import (
    EXCESS,
    MAX_TRIALS,
    MIN_RUNS,
    Noise,
    chance,
    chance_to_draw,
    compared,
    expected_chance,
    noise,
    paired_noise,
    runs_needed,
    trials_needed,
)
from harness.records import InputError, TrialTable

OUTCOMES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "skewed": lambda rng, shape: np.exp(0.6 * rng.standard_normal(shape)) / 0.795,
    "bimodal": lambda rng, shape: (
        (np.where(rng.random(shape) < 0.3, 3.0, 0.0) + 0.5 * rng.standard_normal(shape)) / 1.463
    ),
}
"""Of standard deviation 1; the bimodal ones end at another level in 3 of 10 runs."""


def table(values, codes=None, seeds=None):
    n = len(values)
    columns = {"x": np.zeros(n) if codes is None else np.asarray(codes, float)}
    values = np.asarray(values, float)
    return TrialTable(
        tuple(map(str, range(n))),
        columns,
        values,
        ~np.isfinite(values),
        "error",
        "min",
        {} if seeds is None else {"seed": np.asarray(seeds, float)},
        {},
    )


def found(rng, outcomes, runs, effect, paired, experiments=4000):
    """How often the t interval of the difference lies above 0."""
    first, second = (outcomes(rng, (experiments, runs)) for _ in range(2))
    if paired:
        difference = second + effect - first
        mean, error, df = difference.mean(1), difference.std(1, ddof=1) / np.sqrt(runs), runs - 1
    else:
        a, b = first.var(1, ddof=1), second.var(1, ddof=1)
        mean, error = second.mean(1) + effect - first.mean(1), np.sqrt((a + b) / runs)
        df = (runs - 1) * (a + b) ** 2 / (a**2 + b**2)
    return np.mean(mean > stdtrit(df, 0.975) * error)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", OUTCOMES)
def test_the_promised_chance_holds_within_5_points(name, paired):
    """On average over pilots of 10 runs, or of 10 pairs; the planner is not told the true standard deviation."""
    rng, outcomes = np.random.default_rng(8), OUTCOMES[name]
    planned = []
    for _ in range(150):
        pilot = table(outcomes(rng, 20), np.repeat([0, 1], 10), np.tile(np.arange(10), 2))
        told = paired_noise(pilot) if paired else noise(table(pilot.objective[:10]))
        planned.append(runs_needed(1.0, told, 0.8))
    needed, known = ([getattr(runs, field) for runs in planned] for field in ("needed", "as_if_known"))
    chances = {runs: found(rng, outcomes, runs, 1.0, paired) for runs in {*needed, *known}}
    assert 0.75 <= np.mean([chances[runs] for runs in needed]) <= 0.88
    assert np.mean([chances[runs] for runs in known]) < np.mean([chances[runs] for runs in needed]) - 0.02


def test_assured_runs_keep_the_promise_in_most_pilots():
    rng, kept = np.random.default_rng(9), []
    for _ in range(200):
        runs = runs_needed(1.0, noise(table(rng.standard_normal(10))), 0.8)
        kept.append(chance(runs.assured, 1.0, False) >= 0.8)
        assert runs.as_if_known <= runs.needed
    assert 0.8 <= np.mean(kept) <= 0.97


@pytest.mark.parametrize(("runs", "paired", "known"), [(17, False, 0.807), (10, True, 0.803), (64, False, None)])
def test_the_chance_is_the_textbooks(runs, paired, known):
    ratio = 1.0 if known else 0.5
    assert chance(runs, ratio, paired) == pytest.approx(known or 0.8014, abs=5e-4)
    simulated = found(np.random.default_rng(0), OUTCOMES["normal"], runs, ratio * (2**0.5 if paired else 1), paired)
    assert simulated == pytest.approx(chance(runs, ratio, paired), abs=0.02)


@given(st.floats(0.3, 5), st.floats(0.5, 0.95), st.integers(2, 40), st.booleans())
def test_needed_is_the_smallest_number(effect, power, df, paired):
    pilot = Noise(1.0, float(df), (0.5, 2.0), df + 1, 1, paired)
    runs = runs_needed(effect, pilot, power)
    assert runs.chance == expected_chance(runs.needed, effect, pilot) >= power
    assert runs.needed == MIN_RUNS or expected_chance(runs.needed - 1, effect, pilot) < power
    scaled = Noise(7.0, float(df), (3.5, 14.0), df + 1, 1, paired)
    assert runs_needed(7 * effect, scaled, power).needed == pytest.approx(runs.needed, abs=1)


def test_noise_is_pooled_over_settings():
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(3), 5)
    values = rng.standard_normal(15) + 10 * codes
    pilot = noise(table(values, codes))
    assert (pilot.runs, pilot.settings, pilot.paired) == (15, 3, False)
    assert pilot.sd == pytest.approx(np.sqrt(values.reshape(3, 5).var(axis=1, ddof=1).mean()))
    assert pilot.df <= 2 / (2 / 12 + EXCESS / 15)
    assert pilot.interval[0] < pilot.sd < pilot.interval[1]


def test_the_spread_is_that_of_the_best_settings():
    """Rates that are far too high spread more than any winner; a bad run does not rule its setting out."""
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(20), 3)
    values = 0.01 * rng.standard_normal(60) + 0.1 * codes
    values[15:] += 5 * rng.random(45)
    values[1] = 0.5  # the best setting's
    pilot = table(values, codes)
    assert compared(pilot).tolist() == [0, 1, 2, 3, 4]
    assert noise(pilot).sd == pytest.approx(np.sqrt(values[:15].reshape(5, 3).var(axis=1, ddof=1).mean()))
    paired = paired_noise(table(values, codes, np.tile(np.arange(3), 20)))
    assert (paired.settings, paired.runs) == (6, 18)
    assert compared(table(-values, codes)).tolist() != compared(pilot).tolist()


@pytest.mark.parametrize("name", OUTCOMES)
def test_picking_the_best_settings_does_not_understate_the_spread(name):
    """Where 16 settings are all alike, luck alone picks; by their means, skewed outcomes would seem half as spread."""
    rng, squares = np.random.default_rng(2), []
    for outcomes in OUTCOMES[name](rng, (300, 48)):
        squares.append(noise(table(outcomes, np.repeat(np.arange(16), 3))).sd ** 2)
    assert 0.9 < np.mean(squares) < 1.8


def test_what_seeds_share_is_taken_out_of_differences():
    rng = np.random.default_rng(2)
    own, common = rng.standard_normal((5, 40)), 3 * rng.standard_normal(40)
    values = own + common + 10 * np.arange(5)[:, None]
    pilot = paired_noise(table(values.ravel(), np.repeat(np.arange(5), 40), np.tile(np.arange(40), 5)))
    assert pilot.sd == pytest.approx(2**0.5, rel=0.1)
    assert noise(table(values.ravel(), np.repeat(np.arange(5), 40))).sd == pytest.approx(10**0.5, rel=0.3)
    two = paired_noise(table(values[:2].ravel(), np.repeat([0, 1], 40), np.tile(np.arange(40), 2)))
    assert two.sd == pytest.approx(np.std(values[0] - values[1], ddof=1))


def test_blocks_are_settings_of_the_same_seeds():
    values = np.random.default_rng(3).standard_normal(9)
    seeds = [0, 1, 0, 1, 5, 6, 7, 5, 6]
    pilot = paired_noise(table(values, [0, 0, 1, 1, 2, 2, 2, 3, 3], seeds))
    assert (pilot.runs, pilot.settings) == (4, 2)
    assert paired_noise(table(values, [0, 0, 1, 1, 2, 2, 2, 3, 3])) is None
    assert paired_noise(table(values[:2], [0, 1], [0, 0])) is None
    infeasible = np.where(np.arange(9) == 0, np.nan, values)
    assert paired_noise(table(infeasible, [0, 0, 1, 1, 2, 2, 2, 3, 3], seeds)) is None


def test_copies_of_a_row_are_one_run():
    values, seeds = np.random.default_rng(4).standard_normal(10), np.tile(np.arange(5), 2)
    once = table(values, np.repeat([0, 1], 5), seeds)
    twice = table(np.tile(values, 2), np.tile(np.repeat([0, 1], 5), 2), np.tile(seeds, 2))
    assert noise(twice) == noise(once)
    assert paired_noise(twice) == paired_noise(once)


def test_without_repeated_runs_there_is_no_noise():
    assert noise(table([0.1, 0.2, 0.3], [0, 1, 2])) is None
    assert noise(table([np.nan, np.nan])) is None
    assert noise(table([0.1, np.nan, 0.3], [0, 0, 1])) is None


@pytest.mark.parametrize("dimensions", [1, 2, 4])
@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_a_search_of_the_planned_trials_comes_near_the_pilots_best(dimensions, spread):
    """Within 5 points of .8 on average over pilots of 50 random trials, an effect of a tenth of the typical range."""
    rng = np.random.default_rng(dimensions)

    def search(*shape):
        clean = ((rng.random((*shape, dimensions)) - 0.5) ** 2).sum(-1)
        return clean + spread * rng.standard_normal(shape)

    everything = np.sort(search(400_000))
    effect = 0.1 * (everything[200_000] - everything[200])
    chances = []
    for pilot in search(400, 50):
        planned = trials_needed(pilot, effect, 0.8)
        share = np.searchsorted(everything, pilot.min() + effect) / len(everything)
        chances.append(1 - (1 - share) ** planned.needed)
    assert 0.75 <= np.mean(chances) <= 0.87


@given(st.integers(1, 20), st.integers(1, 200), st.integers(0, 100))
def test_the_chance_to_draw_a_point_is_that_of_the_beta_distribution(near, trials, further):
    a = near + (0.5 if near > 1 else 0)
    b = near + further + 1 - a
    exact = 1 - np.prod([(b + i) / (a + b + i) for i in range(trials)])
    assert chance_to_draw(trials, near, near + further) == pytest.approx(exact, abs=1e-9)


def test_the_best_alone_is_matched_as_often_as_records_are():
    assert chance_to_draw(80, 1, 20) == pytest.approx(80 / 100)
    assert trials_needed(np.arange(20.0), 0.5, 0.8).needed == 80


def test_trials_count_infeasible_ones_and_ties():
    score = np.array([0.1, 0.1, 0.15, *[0.5] * 5, np.inf, np.inf])
    planned = trials_needed(score, 0.05, 0.8)
    assert (planned.near, planned.pilot) == (3, 10)
    assert trials_needed(score, 10.0).needed < planned.needed
    assert trials_needed(np.append(score, [np.inf] * 20), 0.05).needed > planned.needed
    assert trials_needed(np.arange(10.0**6), 0.5, 0.99).needed is None
    assert MAX_TRIALS == 10**6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: runs_needed(0.0, n), "--effect 0: expected a difference above 0"),
        (lambda n: runs_needed(-1.0, n), "--effect -1: expected"),
        (lambda n: runs_needed(np.nan, n), "--effect nan: expected"),
        (lambda n: runs_needed(np.inf, n), "--effect inf: expected"),
        (lambda n: runs_needed(1.0, n, 1.0), r"--power 1: expected a chance from .5 to .99"),
        (lambda n: runs_needed(1.0, n, 80), r"--power 80: expected"),
        (lambda n: runs_needed(1e-6, n), "--effect 1e-06: not found by 100,000 runs"),
        (lambda n: runs_needed(1.0, Noise(0.0, 3.0, (0.0, 0.0), 4, 1, False)), "gave the same objective each time"),
        (lambda n: trials_needed(np.arange(9.0), 1.0), "9 settings, expected at least 10 with a feasible one"),
        (lambda n: trials_needed(np.full(20, np.inf), 1.0), "20 settings, expected"),
        (lambda n: trials_needed(np.arange(20.0), 0.0), "--effect 0: expected"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(Noise(1.0, 4.0, (0.5, 2.0), 5, 1, False))
