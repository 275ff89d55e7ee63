import warnings
from collections import Counter

import numpy as np
import pytest

from harness.experiments import warmup_benefit as benefit
from harness.experiments.experiment import SCALES
from harness.experiments.verdict import ALPHA, judge
from harness.experiments.warmup_benefit import ARMS, EXPERIMENT, NORMALIZATIONS
from harness.figures.published import published
from harness.figures.style import save
from harness.records import TrialRecord

LAPTOP = benefit.SETTINGS["laptop"]
STEPS = {plain: rates[1] / rates[0] for plain, rates in LAPTOP.rates.items()}
TRUE_EDGES = {
    "pre_ln": LAPTOP.rates["pre_ln"][3],
    "pre_ln_warmup": LAPTOP.rates["pre_ln"][4],
    "post_ln": LAPTOP.rates["post_ln"][2],
    "post_ln_warmup": LAPTOP.rates["post_ln"][4],
}


def record(place, loss, infeasible):
    bad = infeasible(place)
    trial = place.trial
    curves = {
        "train_loss": np.linspace(4.5, 3.0, 40, dtype=np.float32),
        "learning_rate": np.full(40, trial.hyperparameters["learning_rate"], np.float32),
    }
    if trial.curvature_examples:
        curves["sharpness_step"] = np.array(trial.curvature_steps, np.float32)
        curves["preconditioned_sharpness"] = np.linspace(5000, 400, len(trial.curvature_steps), dtype=np.float32)
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=trial.address(),
        hyperparameters=trial.hyperparameters,
        seeds=trial.seeds,
        status="infeasible" if bad else "complete",
        reason="loss is not finite" if bad else None,
        results={} if bad else {"final_loss": float(loss(place))},
        curves=curves,
        timings={},
    )


def rounds(loss, control=False, infeasible=lambda place: False, scale="laptop"):
    """Records of both rounds, the second planned from the first; `loss` maps a planned trial to its loss."""

    def run(studies):
        return [record(place, loss, infeasible) for study in studies for place in study.plan(0)]

    records = run(EXPERIMENT.studies(scale, control, {}))
    return records + run(EXPERIMENT.follow_ups[0](records, scale, control, {}))


def walls(edges, rng, gain=0.0, sd=0.02, blur=0.3):
    """Losses that fall with the rate up to a wall, which each trial meets a little elsewhere, and are stuck beyond."""

    def loss(place):
        rate = place.trial.hyperparameters["learning_rate"]
        step = STEPS[benefit.plain_of(place.arm)]
        if rate > edges[place.arm] * step ** (0.5 + rng.normal(0, blur)):
            return 3.38 + rng.normal(0, 0.02)
        below = np.log(edges[place.arm] / rate) / np.log(step)
        return 2.6 + 0.03 * abs(below - 1.2) - gain * place.arm.endswith("_warmup") + rng.normal(0, sd)

    return loss


def verdicts(records, control=False):
    return {v.claim.id: v for v in judge(EXPERIMENT.judge(records, "laptop", control))}


@pytest.fixture(scope="module")
def true_records():
    return rounds(walls(TRUE_EDGES, np.random.default_rng(0), gain=0.05))


# --- the plan ---


def test_every_arm_meets_every_rate_with_the_same_seeds_and_steps_at_the_peak():
    places = [place for study in EXPERIMENT.studies("laptop", False, {})[:2] for place in study.plan(0)]
    count = {arm: len(LAPTOP.rates[benefit.plain_of(arm)]) * LAPTOP.replicates for arm in ARMS}
    assert Counter(place.arm for place in places) == count
    seeds = {}
    for place in places:
        seeds.setdefault(place.replicate, set()).add(tuple(place.trial.seeds.items()))
        assert place.trial.steps == LAPTOP.steps
        warmed = place.arm.endswith("_warmup")
        assert place.trial.total_steps == LAPTOP.steps + LAPTOP.warmup_steps * warmed
        assert place.trial.workload.normalization == NORMALIZATIONS[benefit.plain_of(place.arm)]
    assert [len(found) for found in seeds.values()] == [1] * LAPTOP.replicates


@pytest.mark.parametrize("scale", SCALES)
def test_rates_ascend_evenly(scale):
    rates = benefit.SETTINGS[scale].rates
    for own in rates.values():
        steps = np.diff(np.log(own))
        np.testing.assert_allclose(steps, steps.mean(), rtol=0.03)
    assert rates["pre_ln"][0] < rates["post_ln"][-1]  # where they are compared


def test_published_scales_have_the_published_rates_and_the_warmup_that_the_playbook_allows():
    shown = sorted({float(row["learning_rate"]) for row in published("fig8_warmup")})
    for scale in ("accelerator", "paper"):
        assert [list(rates) for rates in benefit.SETTINGS[scale].rates.values()] == [shown, shown]
        study = EXPERIMENT.studies(scale, False, {})[0]
        assert benefit.SETTINGS[scale].warmup_steps <= 0.1 * study.steps


def test_the_second_round_is_of_fresh_seeds_at_the_best_rates_and_ten_times_the_unstable_ones(true_records):
    first = {r.replicate for r in true_records if r.study.startswith("sweep-")}
    later = [r for r in true_records if r.study.startswith(("best-", "tenfold-"))]
    assert not first & {r.replicate for r in later}
    assert len(later) == 4 * benefit.TUNED * LAPTOP.judged + 2 * LAPTOP.tenfold
    tried = {}
    for r in later:
        tried.setdefault(r.study, set()).add(r.hyperparameters["learning_rate"])
    for plain, unstable in (("pre_ln", 4), ("post_ln", 3)):
        rates = LAPTOP.rates[plain]
        assert tried[f"tenfold-{plain}"] == {10 * rates[unstable]}
        losses = benefit.sweep_losses(true_records, plain, "laptop")
        assert tried[f"best-{plain}"] == {rates[index] for index in np.argsort(losses.mean(axis=1))[:2]}


def test_the_control_has_the_same_integral_of_the_rate_without_warmup():
    plans = [study.plan(0) for study in EXPERIMENT.studies("laptop", True, {})]
    warmed = {p.arm: p.trial for study in EXPERIMENT.studies("laptop", False, {})[:2] for p in study.plan(0)}
    for place in (place for plan in plans for place in plan):
        if place.arm.endswith("_warmup"):
            assert place.trial.hyperparameters["warmup_steps"] == 1
            assert place.trial.steps == LAPTOP.steps + LAPTOP.warmup_steps / 2
            assert place.trial.compile_group() == warmed[place.arm].compile_group()
        else:
            assert place.trial.total_steps == LAPTOP.steps


# --- the measures ---


def test_the_largest_stable_rate_is_sought_from_the_best_rate_up():
    losses = np.array(
        [
            # too slow, stuck all along, stuck and lucky later, stable to the end
            [3.1, 3.4, 2.9, 2.9],
            [2.7, 3.4, 2.8, 2.8],
            [2.6, 3.4, 3.4, 2.7],
            [3.4, 3.4, 2.9, 2.6],
        ]
    )
    assert benefit.largest_stable(losses, 2.95).tolist() == [2, 0, 1, 3]


def test_the_unstable_rate_is_above_the_best_and_fails_in_half_of_the_seeds():
    rates = (1e-4, 1e-3, 1e-2, 1e-1)
    losses = np.array([[3.1, 3.1], [2.6, 2.6], [3.3, 2.6], [3.3, 3.3]])
    assert benefit.unstable_rate(losses, rates, 2.95) == 1e-2
    losses[2, 0] = 2.7
    assert benefit.unstable_rate(losses, rates, 2.95) == 1e-1
    losses[3, :] = 2.7
    assert benefit.unstable_rate(losses, rates, 2.95) is None


def test_infeasible_trials_count_with_the_loss_of_guessing():
    records = rounds(walls(TRUE_EDGES, np.random.default_rng(0)), infeasible=lambda p: p.replicate == 3)
    losses = benefit.sweep_losses(records, "pre_ln", "laptop")
    np.testing.assert_allclose(losses[:, 3], np.log(85))
    assert benefit.largest_stable(losses, LAPTOP.usable)[3] == 0


# --- the judge ---


def test_what_the_figure_shows_is_reproduced_but_the_tenfold_rate(true_records):
    found = verdicts(true_records)
    assert list(found) == [claim.id for claim in EXPERIMENT.claims]
    assert found.pop("warmup.tenfold").verdict == "contradicted"
    assert {v.verdict for v in found.values()} == {"reproduced"}
    assert found["warmup.extends-range"].effect == pytest.approx(np.log2(STEPS["pre_ln"]), abs=0.4)


def test_a_warmup_that_reaches_ten_times_the_unstable_rate_is_reproduced():
    edges = {"pre_ln": 6.81e-3, "pre_ln_warmup": 0.15, "post_ln": 1e-3, "post_ln_warmup": 0.02}
    assert verdicts(rounds(walls(edges, np.random.default_rng(1))))["warmup.tenfold"].verdict == "reproduced"


def test_a_warmup_that_lowers_the_stable_rate_contradicts():
    edges = {arm: TRUE_EDGES[f"{arm}_warmup"] for arm in NORMALIZATIONS}
    edges |= {f"{arm}_warmup": TRUE_EDGES[arm] for arm in NORMALIZATIONS}
    assert verdicts(rounds(walls(edges, np.random.default_rng(2))))["warmup.extends-range"].verdict == "contradicted"


def test_only_one_normalisation_that_gains_does_not_suffice():
    edges = {**TRUE_EDGES, "pre_ln_warmup": TRUE_EDGES["pre_ln"]}
    assert verdicts(rounds(walls(edges, np.random.default_rng(3))))["warmup.extends-range"].verdict == "inconclusive"


def test_a_pre_ln_that_fails_first_contradicts():
    swapped = {"pre": "post", "post": "pre"}
    edges = {arm: TRUE_EDGES[swapped[arm.split("_")[0]] + arm.removeprefix(arm.split("_")[0])] for arm in ARMS}
    assert verdicts(rounds(walls(edges, np.random.default_rng(4))))["warmup.post-ln-narrower"].verdict == "contradicted"


def test_a_warmup_that_costs_loss_contradicts():
    found = verdicts(rounds(walls(TRUE_EDGES, np.random.default_rng(5), gain=-0.1)))
    assert found["warmup.best-no-worse"].verdict == "contradicted"


def test_a_sweep_that_reaches_no_wall_is_out_of_range():
    found = verdicts(rounds(walls(dict.fromkeys(ARMS, 10.0), np.random.default_rng(6))))
    for name in ("warmup.extends-range", "warmup.tenfold"):
        assert (found[name].verdict, found[name].reason) == ("inconclusive", "range")


def test_the_control_is_the_same_and_not_the_main_claim():
    edges = {arm: TRUE_EDGES[arm.removesuffix("_warmup")] for arm in ARMS}
    found = verdicts(rounds(walls(edges, np.random.default_rng(7), blur=0.15), control=True), control=True)
    assert found["warmup.extends-range"].verdict != "reproduced"
    assert found["warmup.control-same"].verdict == "reproduced"


def test_a_control_with_the_effect_is_found():
    found = verdicts(rounds(walls(TRUE_EDGES, np.random.default_rng(8), blur=0.1), control=True), control=True)
    assert found["warmup.extends-range"].verdict == "reproduced"
    assert found["warmup.control-same"].verdict == "contradicted"


# Walls of seeds that warmup does not move, in steps of the grid: array of shape n.
NULLS = {
    "smooth": lambda rng, n: rng.normal(2.5, 1.0, n),
    "skewed": lambda rng, n: 1.0 + rng.exponential(1.2, n),
    "tied": lambda rng, n: np.where(rng.random(n) < 0.8, 3.5, 2.5),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.3, 1.5, 3.5),
    "censored": lambda rng, n: rng.normal(0.0, 1.5, n),
}


def null_shares(family, runs, seed, plain):
    """Shares of null experiments in which one arm's largest stable rate is called larger, and smaller, than another's.

    Trials fail, and lucky ones train, besides: of 100 one is infeasible and one beyond the wall is usable.
    """
    rng = np.random.default_rng(seed)
    rates = np.array(LAPTOP.rates[plain])
    shape = len(rates), LAPTOP.replicates
    found = Counter()
    for _ in range(runs):
        edges = []
        for _ in range(2):
            beyond = np.arange(shape[0])[:, None] > NULLS[family](rng, shape[1])
            losses = np.where(beyond, 3.38, 2.6) + 0.02 * rng.standard_normal(shape)
            losses = np.where(rng.random(shape) < 0.01, np.where(beyond, 2.8, np.log(85)), losses)
            edges.append(rates[benefit.largest_stable(losses, LAPTOP.usable)])
        judgement = benefit.larger_edge(*edges, rates[0], rates[-1], 2.0)
        found["reproduced"] += judgement.p_for <= ALPHA
        found["contradicted"] += judgement.p_against <= ALPHA
    return found["reproduced"] / runs, found["contradicted"] / runs


@pytest.mark.parametrize("family", NULLS)
def test_a_warmup_without_effect_is_not_judged_by_chance(family):
    # 2,000 runs of each, seed 2026: see the docstring of `Settings`.
    runs = 200
    shares = null_shares(family, runs, seed=9, plain="pre_ln")
    assert max(shares) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / runs)


def null_best(runs, seed, slope, own, shared, tied):
    """Shares of experiments in which warmup costs just delta and is called no worse, and worse, rates chosen by noise.

    A trial's noise is its own or that of its seed, which all arms and rates share; losses may be tied.
    """
    rng = np.random.default_rng(seed)
    rates, delta = LAPTOP.rates["pre_ln"], LAPTOP.deltas["pre_ln"]
    valley = slope * np.abs(np.arange(len(rates)) - 1.3)

    def noise(of_seeds, *shape):
        drawn = of_seeds + own * rng.standard_normal((*shape, len(of_seeds)))
        return np.round(drawn / 0.01) * 0.01 if tied else drawn

    found = Counter()
    for _ in range(runs):
        fresh = []
        sweep_seeds, fresh_seeds = (shared * rng.standard_normal(n) for n in (LAPTOP.replicates, LAPTOP.judged))
        for cost in (delta, 0.0):
            swept = valley[:, None] + cost + noise(sweep_seeds, len(rates))
            chosen = [rates.index(rate) for rate in benefit.best_rates(swept, rates)]
            fresh.append([valley[index] + cost + noise(fresh_seeds) for index in chosen])
        differences = np.array([[warmed - without for without in fresh[1]] for warmed in fresh[0]])
        judgement = benefit.tuned_no_worse(differences, delta)
        found["reproduced"] += judgement.p_for <= ALPHA
        found["contradicted"] += judgement.p_against <= ALPHA
    return found["reproduced"] / runs, found["contradicted"] / runs


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("tied", [False, True])
def test_a_warmup_that_costs_the_tolerance_is_not_judged_by_chance(slope, tied):
    runs = 100
    assert max(null_best(runs, 10, slope, 0.013, 0.01, tied)) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / runs)


# --- the figure ---


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(control, tmp_path):
    records = rounds(
        walls(TRUE_EDGES, np.random.default_rng(0)), control, infeasible=lambda place: place.replicate == 1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 20_000
