import warnings
from collections import Counter

import numpy as np
import pytest

from harness.experiments import decay_schedules as schedules
from harness.experiments.decay_schedules import AVERAGED, CONSTANT, DECAYS, EXPERIMENT, SETTINGS, TUNED
from harness.experiments.experiment import SCALES
from harness.experiments.verdict import ALPHA, judge
from harness.figures.style import save
from harness.records import TrialRecord

LAPTOP = SETTINGS["laptop"]
ARMS = schedules.arms_of(control=False)


def record(place, loss, infeasible):
    trial, bad = place.trial, infeasible(place)
    steps = trial.evaluation_steps
    losses = np.array([loss(place, step == trial.total_steps) for step in steps], np.float32)
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=trial.address(),
        hyperparameters=trial.hyperparameters,
        seeds=trial.seeds,
        status="infeasible" if bad else "complete",
        reason="loss is not finite" if bad else None,
        results={} if bad else {"final_loss": float(losses[-1])},
        curves={
            "train_loss": np.linspace(4.5, 2.5, 60, dtype=np.float32),
            "evaluation_step": np.array([] if bad else steps, np.float32),
            "evaluation_loss": np.array([], np.float32) if bad else losses,
        },
        timings={},
    )


def rounds(loss, control=False, infeasible=lambda place: False, scale="laptop"):
    """Records of both rounds, the second planned from the first; `loss` maps a planned trial to its loss."""

    def run(studies):
        return [record(place, loss, infeasible) for study in studies for place in study.plan(0)]

    records = run(EXPERIMENT.studies(scale, control, {}))
    return records + run(EXPERIMENT.follow_ups[0](records, scale, control, {}))


def bowls(rng, gain=0.03, falls=1.0, cosine=0.0, sd=0.006):
    """Losses with a best rate; a constant rate is worse by `gain`, and its best rate falls by log2 `falls`."""
    centre = np.log2(LAPTOP.rates[len(LAPTOP.rates) // 2])

    def loss(place, at_end):
        constant = place.arm in (CONSTANT, AVERAGED)
        best = centre + (0.0 if at_end or not constant else falls)
        away = np.log2(place.trial.hyperparameters["learning_rate"]) - best
        level = (gain if constant else 0.0) + (cosine if place.arm == "cosine" else 0.0)
        return 2.3 + level + 0.02 * away**2 + rng.normal(0, sd)

    return loss


def verdicts(records, control=False):
    return {v.claim.id: v for v in judge(EXPERIMENT.judge(records, "laptop", control))}


@pytest.fixture(scope="module")
def true_records():
    return rounds(bowls(np.random.default_rng(0)))


# --- the plan ---


def test_every_schedule_meets_every_rate_with_the_same_seeds_and_steps():
    places = [place for study in EXPERIMENT.studies("laptop", False, {}) for place in study.plan(0)]
    count = {
        arm: len(LAPTOP.rates) * (LAPTOP.selection if arm != CONSTANT else LAPTOP.constant_selection) for arm in ARMS
    }
    assert Counter(place.arm for place in places) == count
    seeds = {}
    for place in places:
        seeds.setdefault(place.replicate, set()).add(tuple(place.trial.seeds.items()))
        assert place.trial.schedule == place.arm
        assert (place.trial.steps, place.trial.total_steps) == (LAPTOP.steps, LAPTOP.steps + LAPTOP.warmup_steps)
    assert [len(found) for found in seeds.values()] == [1] * LAPTOP.constant_selection


@pytest.mark.parametrize("scale", SCALES)
def test_rates_ascend_evenly(scale):
    steps = np.diff(np.log(SETTINGS[scale].rates))
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.05)


def test_the_constant_rate_is_evaluated_early_too():
    early = schedules.early_step("laptop")
    assert early == LAPTOP.warmup_steps + LAPTOP.steps // 20
    for study in EXPERIMENT.studies("laptop", False, {}):
        found = {place.trial.evaluation_steps for place in study.plan(0)}
        end = LAPTOP.steps + LAPTOP.warmup_steps
        assert found == {(early, end) if study.name == "sweep-constant" else (end,)}


def test_the_second_round_is_of_fresh_seeds_at_the_two_best_points(true_records):
    by_round = {True: set(), False: set()}
    for r in true_records:
        by_round[r.study.startswith("best-")].add(r.replicate)
    assert not by_round[True] & by_round[False]
    for arm in (CONSTANT, *DECAYS):
        retrained = schedules.in_round(true_records, arm, "best")
        assert len(retrained) == TUNED * LAPTOP.judged
        found = {r.hyperparameters["learning_rate"] for r in retrained}
        assert found == {p["learning_rate"] for p in schedules.best_points(true_records, arm, "laptop")}
        assert LAPTOP.rates[len(LAPTOP.rates) // 2] in found


def test_the_control_averages_the_constant_rate_alone_and_tunes_the_average():
    places = [place for study in EXPERIMENT.studies("laptop", True, {}) for place in study.plan(0)]
    assert {place.arm for place in places} == {AVERAGED, *DECAYS}
    for place in places:
        averaged = place.arm == AVERAGED
        assert ("averaging_decay" in place.trial.hyperparameters) == averaged
        assert place.trial.schedule == ("constant" if averaged else place.arm)
    found = Counter(p.trial.hyperparameters["averaging_decay"] for p in places if p.arm == AVERAGED)
    assert found == dict.fromkeys(LAPTOP.averaging_decays, len(LAPTOP.rates) * LAPTOP.selection)


# --- the judge ---


def test_decay_that_helps_is_reproduced(true_records):
    found = verdicts(true_records)
    assert list(found) == [claim.id for claim in EXPERIMENT.claims]
    assert {v.verdict for v in found.values()} == {"reproduced"}
    assert found["schedule.nonconstant-helps"].effect == pytest.approx(0.03, abs=0.015)


def test_decay_that_harms_contradicts():
    found = verdicts(rounds(bowls(np.random.default_rng(1), gain=-0.03)))
    assert found["schedule.nonconstant-helps"].verdict == "contradicted"


def test_one_decay_that_does_not_help_is_not_enough():
    found = verdicts(rounds(bowls(np.random.default_rng(2), cosine=0.03)))
    assert found["schedule.nonconstant-helps"].verdict == "inconclusive"
    assert found["schedule.linear-cosine-same"].verdict == "contradicted"
    assert found["schedule.linear-cosine-same"].effect == pytest.approx(-0.03, abs=0.01)


def test_a_best_rate_that_rises_contradicts():
    found = verdicts(rounds(bowls(np.random.default_rng(3), falls=-1.0)))
    assert found["schedule.best-rate-falls"].verdict == "contradicted"


def test_diverged_trials_count_as_guessing():
    # Of the constant rate only the lowest trains; so it is best early, too.
    def infeasible(place):
        return place.arm == CONSTANT and place.trial.hyperparameters["learning_rate"] > LAPTOP.rates[0]

    pairs = {
        c.id: j
        for c, j in EXPERIMENT.judge(rounds(bowls(np.random.default_rng(4)), False, infeasible), "laptop", False)
    }
    first, second = pairs["schedule.nonconstant-helps"].parts[:2]
    assert second.effect == pytest.approx(np.log(85) - 2.3, abs=0.05)
    assert first.effect < 0.3
    assert pairs["schedule.best-rate-falls"].effect == 0


def test_the_control_is_no_worse_and_not_the_main_claim():
    found = verdicts(rounds(bowls(np.random.default_rng(5), gain=-0.01), control=True), control=True)
    assert found["schedule.nonconstant-helps"].verdict != "reproduced"
    assert found["schedule.control-no-worse"].verdict == "reproduced"


def test_a_control_that_decay_helps_is_found():
    found = verdicts(rounds(bowls(np.random.default_rng(6), gain=0.04), control=True), control=True)
    assert found["schedule.nonconstant-helps"].verdict == "reproduced"
    assert found["schedule.control-no-worse"].verdict == "contradicted"


# Noise of a trial's loss where schedules do not differ: array of shape n.
NULLS = {
    "skewed": lambda rng, n: 0.02 * rng.lognormal(0, 0.6, n),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.1, 1.5, rng.normal(0, 0.01, n)),
    "tied": lambda rng, n: np.round(rng.normal(0, 0.01, n) / 0.01) * 0.01,
    "normal": lambda rng, n: rng.normal(0, 0.01, n),
}


def null_shares(family, runs, seed, **levels):
    """Shares of null experiments of each decision: helps, harms, same, no worse, worse, the best rate falls, rises.

    The rate has an effect, so that choosing it matters; schedules differ by their `levels` alone, 0 unless given.
    """
    rates = np.log2(LAPTOP.rates)
    bowl = 0.01 * (rates - rates[len(rates) // 2]) ** 2
    rng = np.random.default_rng(seed)
    found = Counter()
    for _ in range(runs):
        loss = {}
        for arm in (CONSTANT, *DECAYS):
            tuning = LAPTOP.constant_selection if arm == CONSTANT else LAPTOP.selection
            own = levels.get(arm, 0.0) + bowl[:, None] + NULLS[family](rng, (len(rates), tuning + LAPTOP.judged))
            best = np.argsort(own[:, :tuning].mean(axis=1), kind="stable")[:TUNED]
            loss[arm] = own[best, tuning:]
        excess = [loss[CONSTANT][:, None] - loss[decay][None, :] for decay in DECAYS]
        helps, no_worse = schedules.helps(excess), schedules.ends_no_worse(excess, LAPTOP.delta)
        linear, cosine = (min(loss[decay], key=np.mean) for decay in DECAYS)
        alike = schedules.same(linear - cosine, LAPTOP.delta)
        early, late = (np.argmin(NULLS[family](rng, (len(rates), LAPTOP.constant_selection)), axis=0) for _ in range(2))
        falls = schedules.larger((early - late).astype(float), 0.0)
        for name, p in (
            ("helps", helps.p_for),
            ("harms", helps.p_against),
            ("same", alike.p_for),
            ("no worse", no_worse.p_for),
            ("worse", no_worse.p_against),
            ("falls", falls.p_for),
            ("rises", falls.p_against),
        ):
            found[name] += p <= ALPHA
    return {name: count / runs for name, count in found.items()}


def _allowed(level, runs):
    return level + 3 * np.sqrt(level * (1 - level) / runs)


@pytest.mark.parametrize("family", NULLS)
def test_schedules_that_do_not_differ_are_not_judged_by_chance(family):
    # 2,000 runs of each, seed 2026: helps in at most .9%, harms in 2.5%, the best rate falls in 1.3%, rises in 2.0%.
    runs = 50
    for levels in ({}, {CONSTANT: 0.1, "cosine": 0.1}):  # in the latter linear decay helps, which is not enough
        shares = null_shares(family, runs, seed=7, **levels)
        assert max(shares[name] for name in ("helps", "harms", "falls", "rises")) <= _allowed(0.025, runs)


@pytest.mark.parametrize("family", NULLS)
def test_schedules_that_differ_by_delta_are_not_called_the_same(family):
    # 2,000 runs of each, seed 2026: the same in at most 5.1% (nominally 5%), no worse in 1.3% (2.5%).
    runs = 100
    assert null_shares(family, runs, seed=8, linear=LAPTOP.delta)["same"] <= _allowed(0.05, runs)
    assert null_shares(family, runs, seed=9, constant=LAPTOP.delta)["no worse"] <= _allowed(0.025, runs)


# --- the figure ---


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(control, tmp_path):
    records = rounds(bowls(np.random.default_rng(0)), control, infeasible=lambda place: place.replicate == 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 20_000
