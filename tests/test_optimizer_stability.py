import warnings
from collections import Counter

import numpy as np
import pytest

from harness.experiments import optimizer_stability as stability
from harness.experiments.optimizer_stability import EXPERIMENT
from harness.experiments.verdict import ALPHA, judge
from harness.figures.published import published
from harness.figures.style import save
from harness.records import TrialRecord
from tests.made_up_records import falling
from workloads.workload import workload_scale

LAPTOP = stability._SETTINGS["laptop"]
CURVE = falling(100).astype(np.float32)
BEST = {"nesterov": 0.1, "adamw": 0.00316}  # of standard strides


def rounds(control, error, infeasible=lambda place: False):
    """Records of both rounds, the second planned from the first; `error` maps a planned trial to its error."""

    def run(studies):
        return [record(place, error, infeasible) for study in studies for place in study.plan(0)]

    records = run(EXPERIMENT.studies("laptop", control, {}))
    return records + run(EXPERIMENT.follow_ups[0](records, "laptop", control, {}))


def record(place, error, infeasible):
    bad = infeasible(place)
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=f"{place.study} {place.replicate} {place.trial.hyperparameters['learning_rate']}",
        hyperparameters=place.trial.hyperparameters,
        seeds=place.trial.seeds,
        status="infeasible" if bad else "complete",
        reason="loss is not finite" if bad else None,
        results={} if bad else {"final_error": error(place)},
        curves={"train_loss": CURVE, "train_objective": CURVE},
        timings={},
    )


def pattern(rng, highest, floor=0.0, sd=0.002):
    """Errors that are flat from a third of the best rate up to a highest usable one, by arm, and chance beyond.

    Args:
      rng: of the trial spread.
      highest: half decades from the best rate to the highest usable one, of the bug by optimizer; standard strides 2.
      floor: by how much the bug raises the error of momentum at every usable rate.
      sd: of the trials.
    """

    def error(place):
        optimizer, workload = place.arm.split("_", 1)
        step = round(2 * np.log10(place.trial.hyperparameters["learning_rate"] / BEST[optimizer]))
        bug = workload == "stride_bug"
        if step > (highest[optimizer] if bug else 2):
            return 0.9
        slope = 0.05 + 0.003 * abs(step) if step >= -1 else 0.2
        return slope + floor * (bug and optimizer == "nesterov") + rng.normal(0, sd)

    return error


PUBLISHED = {"nesterov": -1, "adamw": 2}  # momentum is held below its best rate, Adam is not


def verdicts(records, control=False):
    return {v.claim.id: v for v in judge(EXPERIMENT.judge(records, "laptop", control))}


@pytest.fixture(scope="module")
def true_records():
    return rounds(False, pattern(np.random.default_rng(0), PUBLISHED, floor=0.03))


# --- the plan ---


def test_rates_are_evenly_spaced_and_at_most_two_thirds_of_a_decade_apart():
    for scale, settings in stability._SETTINGS.items():
        for rates in settings.rates.values():
            gaps = np.diff(np.log10(rates))
            assert gaps.max() <= (1.0 if scale == "smoke" else 0.68)
            np.testing.assert_allclose(gaps, gaps.mean(), rtol=0.02)
        assert len({round(np.diff(np.log10(rates)).mean(), 2) for rates in settings.rates.values()}) == 1


def test_arms_and_optimizers_share_their_seeds(true_records):
    seeds = {}
    for found in true_records:
        seeds.setdefault(found.replicate, set()).add(tuple(found.seeds.items()))
    assert len(seeds) == LAPTOP.swept + LAPTOP.judged
    assert {len(found) for found in seeds.values()} == {1}


def test_optimizers_differ_in_the_update_rule_alone():
    studies = EXPERIMENT.studies("laptop", False, {})
    by_optimizer = {name: [s for s in studies if s.optimizer == name] for name in stability.OPTIMIZERS}
    for one, other in zip(*by_optimizer.values(), strict=True):
        assert (one.workload, one.batch_size, one.steps, one.schedule) == (
            other.workload,
            other.batch_size,
            other.steps,
            other.schedule,
        )
        assert one.arms[0].workload == other.arms[0].workload
        assert one.hyperparameters["weight_decay"] == other.hyperparameters["weight_decay"]


def test_the_second_round_takes_the_best_rates(true_records):
    rates = {}
    for found in true_records:
        if found.study.endswith("-fresh"):
            rates.setdefault(found.arm, set()).add(found.hyperparameters["learning_rate"])
            assert found.replicate >= LAPTOP.swept
    assert rates == {
        "nesterov_standard": {0.1},
        "nesterov_stride_bug": {0.0316},
        "adamw_standard": {0.00316},
        "adamw_stride_bug": {0.00316},
    }


def test_paper_scale_is_figure_4():
    rates = sorted({float(row["learning_rate"]) for row in published("fig4_learning_rate")})
    end = max(int(row["step"]) for row in published("fig4_train_loss"))
    assert list(stability._SETTINGS["paper"].rates["nesterov"][:-1]) == rates
    for study in EXPERIMENT.studies("paper", False, {}):
        assert (study.steps, study.schedule) == (end, "cosine")
        assert study.workload == workload_scale("wide_resnet", "paper").workload


def test_the_control_differs_by_seeds_alone():
    studies = EXPERIMENT.studies("laptop", True, {})
    for standard, bug in zip(studies[::2], studies[1::2], strict=True):
        for one, other in zip(standard.plan(0), bug.plan(0), strict=True):
            assert one.trial.workload == other.trial.workload
            assert one.trial.hyperparameters == other.trial.hyperparameters
            seeds = one.trial.seeds, other.trial.seeds
            assert {p for p in seeds[0] if seeds[0][p] != seeds[1][p]} == {"init", "order"}


# --- the judge ---


def test_the_published_pattern_is_reproduced(true_records):
    found = verdicts(true_records)
    assert list(found) == [claim.id for claim in EXPERIMENT.claims]
    assert {v.verdict for v in found.values()} == {"reproduced"}


def test_a_bug_that_costs_adam_more_contradicts():
    found = verdicts(rounds(False, pattern(np.random.default_rng(1), {"nesterov": 2, "adamw": -1}, floor=-0.005)))
    assert {v.verdict for v in found.values()} == {"contradicted"}


def test_equal_losses_contradict():
    found = verdicts(rounds(False, pattern(np.random.default_rng(2), {"nesterov": 0, "adamw": 0})))
    assert found["optimizer.adam-tolerates"].verdict == "contradicted"


def test_half_the_loss_is_not_reproduced():
    found = verdicts(rounds(False, pattern(np.random.default_rng(2), {"nesterov": 0, "adamw": 1})))
    assert found["optimizer.adam-tolerates"].verdict == "inconclusive"


def test_adam_must_keep_its_best_error():
    raised = pattern(np.random.default_rng(3), PUBLISHED)
    harm = rounds(False, lambda place: raised(place) + 0.02 * (place.arm == "adamw_stride_bug"))
    assert verdicts(harm)["optimizer.adam-tolerates"].verdict == "contradicted"


def test_lost_octaves_are_counted(true_records):
    step = stability.step_octaves("laptop")
    assert step == pytest.approx(np.log2(10) / 2, abs=0.01)
    np.testing.assert_allclose(stability.range_lost(true_records, "nesterov", "laptop"), 4 * step)
    np.testing.assert_allclose(stability.range_lost(true_records, "adamw", "laptop"), 0)


def test_a_range_past_the_sweep_is_not_judged():
    error = pattern(np.random.default_rng(4), PUBLISHED)
    low = rounds(False, lambda place: 0.055 if place.arm == "adamw_standard" else error(place))
    found = verdicts(low)["optimizer.adam-tolerates"]
    assert (found.verdict, found.reason) == ("inconclusive", "range")


def test_infeasible_trials_count_with_chance_error():
    def diverges(place):
        return place.arm == "nesterov_stride_bug" and place.trial.hyperparameters["learning_rate"] >= 0.1

    clean = rounds(False, pattern(np.random.default_rng(5), {"nesterov": 2, "adamw": 2}), infeasible=diverges)
    np.testing.assert_allclose(stability.range_lost(clean, "nesterov", "laptop"), 3 * stability.step_octaves("laptop"))
    assert verdicts(clean)["optimizer.adam-tolerates"].verdict == "reproduced"


def test_the_control_is_the_same_and_not_the_main_claim():
    found = verdicts(rounds(True, pattern(np.random.default_rng(6), {"nesterov": 2, "adamw": 2})), control=True)
    assert {name: v.verdict for name, v in found.items()} == {
        "optimizer.adam-tolerates": "inconclusive",
        "optimizer.control-same": "reproduced",
    }


def test_a_control_with_an_effect_is_found():
    found = verdicts(rounds(True, pattern(np.random.default_rng(7), PUBLISHED)), control=True)
    assert found["optimizer.adam-tolerates"].verdict == "reproduced"
    assert found["optimizer.control-same"].verdict == "contradicted"


# Steps of the sweep that the bug costs on each seed, to momentum and to Adam: two arrays of shape n. In the first three
# Adam loses half of what momentum loses on average, in the last two as much, and errors rise alike.
NULLS = {
    "half, spread": lambda rng, n: (rng.choice([1, 2, 3], n, p=[0.3, 0.4, 0.3]), rng.choice(3, n, p=[0.3, 0.4, 0.3])),
    "half, skewed": lambda rng, n: (
        rng.choice(4, n, p=[0.65, 0.25, 0.05, 0.05]),
        rng.choice(3, n, p=[0.8, 0.15, 0.05]),
    ),
    "half, bimodal": lambda rng, n: (rng.choice([0, 4], n), rng.choice([0, 2], n)),
    "equal, spread": lambda rng, n: rng.choice(3, (2, n)),
    "equal, none": lambda rng, n: np.zeros((2, n), int),
}


def null_shares(family, runs, seed):
    """Shares of null experiments in which each claim is reproduced."""
    rng = np.random.default_rng(seed)
    records = rounds(False, lambda place: 0.05)
    # Every rate on the fresh seeds too; those of the best rates are kept in each experiment.
    kept = [r for r in records if r.study.endswith("-sweep")]
    fresh = range(LAPTOP.swept, LAPTOP.swept + LAPTOP.judged)
    second = {}
    for one in kept:
        if one.replicate == 0:
            second[one.arm, one.hyperparameters["learning_rate"]] = [
                TrialRecord(**{**vars(one), "study": f"{one.arm}-fresh", "replicate": n, "results": {}}) for n in fresh
            ]
    everything = kept + [one for group in second.values() for one in group]
    place = [(*r.arm.split("_", 1), r.replicate, r.hyperparameters["learning_rate"]) for r in everything]
    steps = [round(2 * np.log10(rate / BEST[optimizer])) for optimizer, _, _, rate in place]
    found = Counter()
    for _ in range(runs):
        lost = dict(zip(stability.OPTIMIZERS, NULLS[family](rng, fresh.stop), strict=True))
        noise = rng.gamma(4, 0.0025, len(everything))
        for one, (optimizer, workload, replicate, _), step, extra in zip(everything, place, steps, noise, strict=True):
            highest = 2 - (lost[optimizer][replicate] if workload == "stride_bug" else 0)
            slope = 0.05 + 0.003 * abs(step) if step >= -1 else 0.2
            one.results["final_error"] = 0.9 if step > highest else slope + extra
        chosen = {arm: stability.best_rate(kept, arm) for arm in dict.fromkeys(arm for arm, _ in second)}
        records = kept + [one for arm, rate in chosen.items() for one in second[arm, rate]]
        for claim, judgement in EXPERIMENT.judge(records, "laptop", False):
            found[claim.id] += judgement.p_for <= ALPHA
    return [found[claim.id] / runs for claim in EXPERIMENT.claims]


@pytest.mark.parametrize("family", NULLS)
def test_costs_are_not_told_apart_by_chance(family):
    # 2,000 runs of each, seed 2026: main claim 2.2% at most, errors .1% where they rise alike
    runs = 15
    main, errors = null_shares(family, runs, seed=7)
    limit = 0.025 + 3 * np.sqrt(0.025 * 0.975 / runs)
    assert main <= limit
    assert errors <= limit or family.startswith("half")


# --- the figure ---


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(control, tmp_path):
    records = rounds(
        control, pattern(np.random.default_rng(0), PUBLISHED), infeasible=lambda place: place.replicate == 1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 20_000
