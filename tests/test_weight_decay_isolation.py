import dataclasses
import warnings
from collections import Counter

import numpy as np
import pytest

from harness.experiments import weight_decay_isolation as isolation
from harness.experiments.verdict import ALPHA, judge, share_above
from harness.experiments.weight_decay_isolation import EXPERIMENT
from harness.figures.published import published
from harness.figures.style import save
from harness.records import TrialRecord

LAPTOP = isolation.SETTINGS["laptop"]


def rounds(control, error, scale="laptop", infeasible=lambda place: False):
    """Records of both rounds, the second planned from the first; `error` maps a planned trial to its error."""

    def run(studies):
        return [record(place, error, infeasible) for study in studies for place in study.plan(0)]

    records = run(EXPERIMENT.studies(scale, control, {}))
    return records + run(EXPERIMENT.follow_ups[0](records, scale, control, {}))


def record(place, error, infeasible):
    bad = infeasible(place)
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=f"{place.study} {place.arm} {place.replicate} {place.trial.hyperparameters['learning_rate']}",
        hyperparameters=place.trial.hyperparameters,
        seeds=place.trial.seeds,
        status="infeasible" if bad else "complete",
        reason="loss is not finite" if bad else None,
        results={} if bad else {"final_error": error(place)},
        curves={},
        timings={},
    )


def valley(rng, decay_at=-1.75, rate_moves=1.0, sd=0.01):
    """Errors that are least at a decay of 10^decay_at, with a best rate that falls as the decay rises."""

    def error(place):
        decay, rate = (place.trial.hyperparameters[name] for name in ("weight_decay", "learning_rate"))
        decay = np.log10(max(decay, 1e-6))
        middle = -0.8 if place.arm.startswith("resnet") else -1.5
        best_rate = middle - rate_moves * 0.25 * (decay + 2)
        bowl = 0.02 * min(abs(decay - decay_at), 2.5) + 0.05 * (np.log10(rate) - best_rate) ** 2
        return 0.15 + bowl + rng.normal(0, sd)

    return error


def verdicts(records, scale="laptop", control=False):
    return {v.claim.id: v for v in judge(EXPERIMENT.judge(records, scale, control))}


@pytest.fixture(scope="module")
def true_records():
    return rounds(False, valley(np.random.default_rng(0)))


# --- the plan ---


def test_rates_are_at_most_half_a_decade_apart_and_decays_even():
    for scale, settings in isolation.SETTINGS.items():
        for grid in (settings.resnet, settings.mlp):
            assert np.diff(np.log10(grid.rates)).max() <= 0.505, scale
            np.testing.assert_allclose(
                np.diff(np.log10(grid.decays)), np.log10(grid.decays[1] / grid.decays[0]), rtol=0.01
            )
            assert len(grid.decays) >= 3


def test_paper_scale_has_the_published_decays():
    shown = [float(row["weight_decay"]) for row in published("fig2_weight_decay")]
    np.testing.assert_allclose(isolation.SETTINGS["paper"].resnet.decays, shown, rtol=0.02)


def test_every_decay_meets_every_rate_with_the_same_seeds():
    grid = EXPERIMENT.studies("laptop", False, {})[0]
    places = grid.plan(0)
    assert len(places) == 6 * 6 * LAPTOP.selection
    seeds = {}
    for place in places:
        seeds.setdefault(place.replicate, set()).add(tuple(place.trial.seeds.items()))
    assert [len(found) for found in seeds.values()] == [1] * LAPTOP.selection


def test_searches_have_points_and_seeds_of_their_own():
    searches = [s for s in EXPERIMENT.studies("laptop", False, {}) if s.name.startswith("search-")]
    places = [place for study in searches for place in study.plan(0)]
    assert len(places) == LAPTOP.searches * LAPTOP.search_trials
    assert len({place.trial.address() for place in places}) == len(places)
    assert len({place.replicate for place in places}) == LAPTOP.searches


def test_the_second_round_takes_fresh_seeds(true_records):
    by_round = {True: set(), False: set()}
    for r in true_records:
        by_round[r.study.endswith("-fresh")].add(r.replicate)
    assert not by_round[True] & by_round[False]
    assert len(by_round[True]) == LAPTOP.judged


def test_every_tuning_chooses_by_a_seed_and_is_judged_by_another(true_records):
    for grid in (LAPTOP.resnet, LAPTOP.mlp):
        name, none = grid.workload[0], isolation.arm_of(grid, isolation.NO_DECAY).name
        chosen = isolation.tunings(true_records, grid, LAPTOP.tunings)
        seeds = {}
        for number, tuning in enumerate(chosen):
            own = [r for r in true_records if r.study.startswith(name) and r.study.endswith(f"-tuned-{number}")]
            trained = {(r.arm, r.hyperparameters["learning_rate"]) for r in own}
            assert trained == {(tuning.arm, tuning.rate), (none, tuning.rate), (none, tuning.baseline)}
            (seeds[number],) = {tuple(r.seeds.items()) for r in own}
        others = {tuple(r.seeds.items()) for r in true_records if "-tuned-" not in r.study}
        assert len(set(seeds.values()) - others) == LAPTOP.tunings
        tuned = [r for r in true_records if r.study == f"{name}-tunings"]
        assert len(tuned) == 4 * len(grid.rates) * LAPTOP.tunings
        by_replicate = {}
        for r in tuned:
            by_replicate.setdefault(r.replicate, {})[r.arm, r.hyperparameters["learning_rate"]] = isolation.error(r)
        for errors, tuning in zip(by_replicate.values(), chosen, strict=True):
            assert errors[tuning.arm, tuning.rate] == min(e for (arm, _), e in errors.items() if arm != none)
            assert errors[none, tuning.baseline] == min(e for (arm, _), e in errors.items() if arm == none)


def test_the_control_differs_by_seeds_alone():
    (study,) = EXPERIMENT.studies("laptop", True, {})
    by_arm = {}
    for place in study.plan(0):
        by_arm.setdefault(place.arm, []).append(place.trial)
    assert len(by_arm) == len(LAPTOP.resnet.decays)
    first, *others = by_arm.values()
    for trials in others:
        for one, other in zip(first, trials, strict=True):
            assert one.hyperparameters == other.hyperparameters
            differing = {purpose for purpose in one.seeds if one.seeds[purpose] != other.seeds[purpose]}
            assert differing == {"init", "order"}


def test_buckets_are_centred_on_the_decays(true_records):
    slices = isolation.search_of(true_records, LAPTOP.mlp, 0).slices
    np.testing.assert_allclose([piece.value for piece in slices], LAPTOP.mlp.decays, rtol=0.01)


# --- the judge ---


def test_a_valley_is_reproduced(true_records):
    found = verdicts(true_records)
    assert list(found) == [claim.id for claim in EXPERIMENT.claims]
    assert {v.verdict for v in found.values()} == {"reproduced"}


def test_an_end_that_is_best_contradicts():
    found = verdicts(rounds(False, valley(np.random.default_rng(1), decay_at=-4.0, sd=0.006)))
    assert found["isolation.interior-optimum"].verdict == "contradicted"


def test_a_rate_that_decay_does_not_move_contradicts_the_baselines():
    found = verdicts(rounds(False, valley(np.random.default_rng(2), rate_moves=0.0, sd=0.004)))
    for name in ("isolation.fair-baseline", "isolation.fair-baseline-unnormalised"):
        assert found[name].verdict == "contradicted"
    assert found["isolation.interior-optimum"].verdict == "reproduced"


def test_buckets_elsewhere_contradict():
    right, wrong = (valley(np.random.default_rng(3), decay_at=at) for at in (-1.75, -4.0))
    found = verdicts(rounds(False, lambda place: (wrong if place.arm == "mlp_search" else right)(place)))
    assert found["isolation.buckets-agree"].verdict == "contradicted"
    assert found["isolation.buckets-agree"].effect == 0


def test_diverged_trials_count_with_chance_error(true_records):
    # The smallest decay never trains, the largest does not on half of the judged seeds.
    def infeasible(place):
        fresh = place.replicate >= LAPTOP.selection
        return place.arm == "resnet_decay_0.0001" or (place.arm == "resnet_decay_0.1" and fresh and place.replicate % 2)

    records = rounds(False, valley(np.random.default_rng(0)), infeasible=infeasible)
    pair = dict((c.id, j) for c, j in EXPERIMENT.judge(records, "laptop", False))["isolation.interior-optimum"]
    low, also_low, high, also_high = pair.parts
    assert low.effect == pytest.approx(0.9 - 0.15, abs=0.05) == also_low.effect
    for part in (high, also_high):
        assert max(part.data) > 0.6 > min(part.data)


def test_a_search_without_any_finished_trial_disagrees():
    records = rounds(
        False, valley(np.random.default_rng(0)), infeasible=lambda place: place.study in ("search-0", "search-1")
    )
    assert verdicts(records)["isolation.buckets-agree"].effect == pytest.approx(1 - 2 / LAPTOP.searches)


def test_the_control_is_the_same_and_not_the_main_claim():
    rng = np.random.default_rng(4)
    found = verdicts(rounds(True, lambda place: 0.15 + rng.normal(0, 0.015)), control=True)
    assert found["isolation.interior-optimum"].verdict != "reproduced"
    assert found["isolation.control-same"].verdict == "reproduced"


def test_a_control_with_an_effect_is_found():
    rng = np.random.default_rng(4)
    ends = ("level_1", f"level_{len(LAPTOP.resnet.decays)}")
    found = verdicts(rounds(True, lambda p: 0.15 + 0.05 * (p.arm in ends) + rng.normal(0, 0.015)), control=True)
    assert found["isolation.interior-optimum"].verdict == "reproduced"
    assert found["isolation.control-same"].verdict == "contradicted"


# Errors of trials on which a hyperparameter has no effect: array of shape n.
NULLS = {
    "skewed": lambda rng, n: 0.1 * rng.lognormal(0, 0.4, n),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.1, 0.9, rng.normal(0.15, 0.015, n)),
    "tied": lambda rng, n: np.round(rng.normal(0.15, 0.02, n) / 0.02) * 0.02,
}


def null_shares(family, runs, seed, control, ruin):
    """Shares of null experiments whose main claim is reproduced, and contradicted, by the whole road.

    The rate has an effect, so that choosing it matters; the level has none, but for the last where `ruin` is set, which
    leaves the comparison with the first alone to be passed by chance.
    """
    # Every rate on every seed, of which the judge reads what the first round chose.
    count = LAPTOP.control_judged if control else LAPTOP.judged
    arms = isolation.levels_of(LAPTOP.resnet, range(LAPTOP.selection + count), control)
    if not control:  # the other claims do not matter, but have to be judged
        arms += [isolation.arm_of(LAPTOP.resnet, 0.0)]
    points = [{"learning_rate": rate} for rate in LAPTOP.resnet.rates]
    study = isolation._study("null", LAPTOP.resnet, arms, points, range(LAPTOP.selection + count), {})
    records = [record(place, lambda _: 0.0, lambda _: False) for place in study.plan(0)]
    rates = np.log10([r.hyperparameters["learning_rate"] for r in records])
    ruined = np.array([ruin and r.arm == arms[len(LAPTOP.resnet.decays) - 1].name for r in records])
    rng = np.random.default_rng(seed)
    found = Counter()
    for _ in range(runs):
        errors = NULLS[family](rng, len(records)) + 0.02 * (rates + 0.7) ** 2 + 0.1 * ruined
        for one, error in zip(records, errors.tolist(), strict=True):
            one.results["final_error"] = error
        choice = isolation.choose(records, LAPTOP.resnet, LAPTOP.selection, control)
        judgement, _ = isolation._interior(records, LAPTOP.resnet, choice, LAPTOP.selection, control)
        found["reproduced"] += judgement.p_for <= ALPHA
        found["contradicted"] += judgement.p_against <= ALPHA
    return found["reproduced"] / runs, found["contradicted"] / runs


@pytest.mark.parametrize("family", NULLS)
@pytest.mark.parametrize("ruin", [False, True])
def test_a_hyperparameter_without_effect_is_not_judged_by_chance(family, ruin):
    # 2,000 runs of each, seed 2026: at most 1.1% reproduced, .5% contradicted; with the control, 1.8% and .8%.
    runs = 30
    shares = null_shares(family, runs, seed=7, control=False, ruin=ruin)
    assert max(shares) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / runs)


def test_a_rate_that_every_tuning_chooses_badly_is_no_gain_of_tuning():
    """Without decay all rates are alike: whichever are chosen, nothing is overstated."""
    rng = np.random.default_rng(13)
    found = verdicts(
        rounds(False, lambda p: 0.15 * (p.trial.hyperparameters["weight_decay"] > 0) + rng.normal(0.2, 0.004))
    )
    for name in ("isolation.fair-baseline", "isolation.fair-baseline-unnormalised"):
        assert found[name].verdict == "contradicted"
        assert np.ptp(found[name].interval) > 0.001


def test_a_gain_that_hangs_on_the_decay_chosen_is_judged_over_tunings():
    """Two decays are alike, and each tuning chooses one by chance: at the rate of the one tuning gains twice delta."""
    # 1,500 runs: 6.3% contradicted, .7% reproduced; choosing once for all would contradict, or reproduce, half of them.
    runs, laptop = 200, LAPTOP.resnet
    grid = dataclasses.replace(laptop, decays=laptop.decays[:4], rates=laptop.rates[:2])
    none = isolation.arm_of(grid, isolation.NO_DECAY).name
    arms = [*isolation.levels_of(grid, range(0), False)[1:-1], isolation.arm_of(grid, isolation.NO_DECAY)]
    points = [{"learning_rate": rate} for rate in grid.rates]
    seeds = [first + number for first in (2_000, 3_000) for number in range(LAPTOP.tunings)]
    records = [
        record(place, lambda _: 0.0, lambda _: False)
        for place in isolation._study("null", grid, arms, points, seeds, {}).plan(0)
    ]
    means = {
        **{
            (arm.name, rate): 0.1 + 0.1 * (n != m)
            for n, arm in enumerate(arms[:2])
            for m, rate in enumerate(grid.rates)
        },
        **{(none, rate): 0.2 + gain for rate, gain in zip(grid.rates, (0.0, 2 * LAPTOP.delta), strict=True)},
    }
    expected = [means[r.arm, r.hyperparameters["learning_rate"]] for r in records]
    rng = np.random.default_rng(5)
    found = Counter()
    for _ in range(runs):
        for one, error in zip(records, rng.normal(expected, 0.01).tolist(), strict=True):
            one.results["final_error"] = error
        judgement = isolation._overstated(records, grid, LAPTOP.tunings, LAPTOP.delta)
        found["reproduced"] += judgement.p_for <= ALPHA
        found["contradicted"] += judgement.p_against <= ALPHA
    assert max(found.values()) / runs <= 0.063 + 3 * np.sqrt(0.063 * 0.937 / runs)


@pytest.mark.parametrize("wanted", range(5))
def test_buckets_drawn_at_random_do_not_agree(wanted):
    rng = np.random.default_rng(11)
    runs = 2000
    counts = (abs(rng.integers(5, size=(runs, LAPTOP.searches)) - wanted) <= 1).sum(axis=1)
    form = [share_above(n, LAPTOP.searches, isolation.BY_CHANCE).p_for <= ALPHA for n in range(LAPTOP.searches + 1)]
    assert np.mean([form[count] for count in counts]) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / runs)


# --- the figure ---


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(control, tmp_path):
    records = rounds(control, valley(np.random.default_rng(0)), infeasible=lambda place: place.replicate == 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 20_000
