import dataclasses
import warnings

import numpy as np
import pytest

from harness.experiments import batch_size_retuning as retuning
from harness.experiments.batch_size_retuning import EXPERIMENT, FROZEN, KEPT, SETTINGS, Fresh
from harness.experiments.verdict import ALPHA, judge, larger
from harness.records import TrialRecord

LAPTOP = SETTINGS["laptop"]
PLAIN, FULL = retuning.plain_of(LAPTOP), retuning.full_of(LAPTOP)
RATES, DECAYS, SEARCHES = np.log(LAPTOP.rates), np.log(LAPTOP.decays), PLAIN.searches

SHIFTED = {"small": (0.4, 0.4), "large": (0.65, 0.7)}
"""Where in the space, from 0 to 1 along rate and decay, the errors of each batch size are lowest."""


def record(place, rng, best=SHIFTED, floor=0.13, loss_falls=True, infeasible=False):
    """A trial whose error rises with the distance from the best setting of its batch size; below it, it overfits."""
    trial = place.trial
    size = "small" if trial.batch_size == LAPTOP.sizes[0] else "large"
    rate, decay = np.log(trial.hyperparameters["learning_rate"]), np.log(trial.hyperparameters["weight_decay"])
    at = np.array([(rate - RATES[0]) / np.ptp(RATES), (decay - DECAYS[0]) / np.ptp(DECAYS)])
    off = at - best[size]
    error = (floor if size == "large" else 0.13) + 0.3 * off[1] ** 2 + 0.1 * off[0] ** 2
    loss = 0.8 + (off[1] if loss_falls and size == "large" else 0.0) + 0.02 * rng.standard_normal()
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=trial.address(),
        hyperparameters={**trial.hyperparameters, "batch_size": trial.batch_size},
        seeds=trial.seeds,
        status="infeasible" if infeasible else "complete",
        reason="loss is not finite" if infeasible else None,
        results={} if infeasible else {"final_error": float(error + 0.006 * rng.standard_normal())},
        curves={"train_loss": np.full(20, loss, np.float32)},
        timings={},
    )


def rounds(control=False, infeasible=lambda place: False, **truth):
    """Records of both rounds, the second planned from the first."""
    rng = np.random.default_rng(0)

    def run(studies):
        return [record(p, rng, infeasible=infeasible(p), **truth) for study in studies for p in study.plan(0)]

    records = run(EXPERIMENT.studies("laptop", control, {}))
    return records + run(EXPERIMENT.follow_ups[0](records, "laptop", control, {}))


def verdicts(records, control=False):
    return {v.claim.id: v.verdict for v in judge(EXPERIMENT.judge(records, "laptop", control))}


@pytest.fixture(scope="module")
def true_records():
    return rounds()


# --- the plan ---


@pytest.mark.parametrize("pipeline", [PLAIN, FULL], ids=["plain", "full"])
def test_both_batch_sizes_are_searched_at_the_same_points_and_every_search_at_its_own(pipeline):
    studies = {study.name: study for study in EXPERIMENT.studies("laptop", False, {})}
    space = retuning.space_of(LAPTOP, pipeline)
    drawn = set()
    for search in range(pipeline.searches):
        small, large = (studies[retuning.study_of(arm, search, "search")] for arm in pipeline.arms)
        assert (small.batch_size, large.batch_size) == LAPTOP.sizes
        assert small.points == large.points and small.replicates == large.replicates
        assert small.steps == large.steps == LAPTOP.steps
        assert all(0 <= space[name].to_unit(value) <= 1 for point in small.points for name, value in point.items())
        drawn.add(tuple(tuple(point.values()) for point in small.points))
    assert len(drawn) == pipeline.searches


def test_label_smoothing_is_in_the_full_pipeline_alone(true_records):
    smoothed = {record.arm for record in true_records if "label_smoothing" in record.hyperparameters}
    assert smoothed == set(FULL.arms)


def test_winners_are_retrained_on_fresh_seeds_that_the_arms_share(true_records):
    fresh = {}
    for record in true_records:
        if "-fresh-" in record.study:
            fresh.setdefault(record.arm, []).append(record.replicate)
    assert not {r.replicate for r in true_records if "-search-" in r.study} & {r for of in fresh.values() for r in of}
    assert fresh["small"] == fresh["large"] == fresh[KEPT]
    assert fresh["small_smoothed"] == fresh["large_smoothed"]
    for pipeline in (PLAIN, FULL):
        assert len(set(fresh[pipeline.arms[0]])) == pipeline.searches * LAPTOP.fresh


def test_kept_changes_the_decay_alone_and_frozen_nothing(true_records):
    def of(records, arm, search):
        return next(r.hyperparameters for r in records if r.study == retuning.study_of(arm, search, "fresh"))

    control = rounds(control=True)
    for search in range(SEARCHES):
        small, large, kept = (of(true_records, arm, search) for arm in ("small", "large", KEPT))
        assert kept == {**large, "weight_decay": small["weight_decay"]}
        tuned, frozen = of(control, "small", search), of(control, FROZEN, search)
        assert frozen == {**tuned, "batch_size": LAPTOP.sizes[1]}


@pytest.mark.parametrize("scale", SETTINGS)
def test_settings_can_be_planned_and_judged(scale):
    settings = SETTINGS[scale]
    assert settings.sizes[0] < settings.sizes[1] and settings.fresh % 2
    assert scale == "smoke" or min(settings.plain[0], settings.full[0]) >= 8
    for search_control in (False, True):
        assert all(study.plan(0) for study in EXPERIMENT.studies(scale, search_control, {}))


def test_overrides_reach_the_workload():
    assert {study.workload.width for study in EXPERIMENT.studies("smoke", False, {"width": "8"})} == {8}


# --- the judge ---


def test_the_playbook_s_world_is_reproduced(true_records):
    found = verdicts(true_records)
    assert list(found) == [claim.id for claim in EXPERIMENT.claims]
    assert set(found.values()) == {"reproduced"}


def test_where_the_batch_size_does_nothing_only_equality_is_reproduced():
    found = verdicts(rounds(best={"small": (0.5, 0.5), "large": (0.5, 0.5)}, loss_falls=False))
    assert found.pop("retune.same-best-error") == "reproduced"
    assert set(found.values()) == {"inconclusive"}


def test_the_opposite_contradicts():
    found = verdicts(rounds(best={"small": (0.65, 0.7), "large": (0.4, 0.4)}, floor=0.11))
    assert set(found.values()) == {"contradicted"}


def test_a_large_batch_that_is_worse_at_its_best_contradicts_equality():
    assert verdicts(rounds(floor=0.155))["retune.same-best-error"] == "contradicted"


def test_a_worse_error_at_a_higher_training_loss_is_no_overfitting():
    small = Fresh(np.full(24, 0.13), np.full(24, 0.8))
    noise = 0.01 * np.random.default_rng(0).standard_normal(24)
    assert retuning._overfits(Fresh(0.16 + noise, 0.5 + noise), small).p_for <= ALPHA
    assert retuning._overfits(Fresh(0.16 + noise, 1.1 + noise), small).p_against <= ALPHA


def test_infeasible_trials_never_win_and_count_with_chance():
    half = rounds(infeasible=lambda place: "search" in place.study and place.trial.hyperparameters["momentum"] > 0)
    assert {retuning.error(r) for r in half if "-search-" in r.study} == {0.9}
    high = np.sqrt(np.prod(LAPTOP.rates))
    some = rounds(infeasible=lambda place: place.trial.hyperparameters["learning_rate"] > high)
    assert (retuning.winners_of(some, PLAIN, "large")["learning_rate"] <= high).all()
    lost = dataclasses.replace(some[0], status="infeasible", results={}, curves={})
    assert retuning.training_loss(lost) == pytest.approx(np.log(10))


@pytest.mark.parametrize("end, place", [("low", 0.0), ("high", 1.0)])
@pytest.mark.parametrize("axis, name", [(0, "learning_rate"), (1, "weight_decay")])
def test_winners_crowded_at_an_end_are_out_of_range(end, place, axis, name):
    moved = [0.5, 0.5]
    moved[axis] = -0.5 if place == 0 else 1.5
    records = rounds(best={"small": (0.4, 0.4), "large": tuple(moved)})
    for pipeline in (PLAIN, FULL):
        small, large = (retuning.winners_of(records, pipeline, arm) for arm in pipeline.arms)
        assert retuning.crowded(LAPTOP, pipeline, small) == []
        assert f"{name} {end}" in retuning.crowded(LAPTOP, pipeline, large)
    found = judge(EXPERIMENT.judge(records, "laptop", False))
    assert {(v.verdict, v.reason) for v in found} == {("inconclusive", "range")}


def test_no_smoothing_is_an_end_that_cannot_be_widened():
    middle = {"learning_rate": np.exp(RATES.mean()), "weight_decay": np.exp(DECAYS.mean())}
    winners = {name: np.full(FULL.searches, value) for name, value in middle.items()}
    found = [
        retuning.crowded(LAPTOP, FULL, {**winners, "label_smoothing": np.full(FULL.searches, smoothing)})
        for smoothing in LAPTOP.smoothings
    ]
    assert found == [[], ["label_smoothing high"]]


def test_the_control_differs_and_does_not_reproduce_the_main_claim():
    found = verdicts(rounds(control=True), control=True)
    assert found == {"retune.same-best-error": "contradicted", "retune.control-differs": "reproduced"}


def test_a_control_that_does_not_differ_is_found():
    found = verdicts(rounds(control=True, best={"small": (0.5, 0.5), "large": (0.5, 0.5)}), control=True)
    assert found == {"retune.same-best-error": "reproduced", "retune.control-differs": "contradicted"}


# Difference of a search's errors, of median 0. What the choice of a winner costs is skewed, and more so in one arm.
NOISE = {
    "skewed": lambda rng, n: 0.004 * (rng.lognormal(0, 0.8, n) - 1),
    "tied": lambda rng, n: np.round(24 * rng.standard_normal(n)) / 4000,  # what 4,000 examples resolve
    "stuck": lambda rng, n: np.where(rng.random(n) < 0.05, -0.05, 0.005 * rng.standard_normal(n) + 0.00033),
}


@pytest.mark.parametrize("family", NOISE)
def test_thresholds_are_not_passed_by_chance(family):
    runs = 200
    rng = np.random.default_rng(7)
    found = dict.fromkeys(("same above", "same below", "differs", "control", "overfits"), 0)
    small, delta = Fresh(np.full(SEARCHES, 0.13), np.full(SEARCHES, 0.8)), LAPTOP.delta
    for _ in range(runs):
        noise = NOISE[family](rng, SEARCHES)
        found["same above"] += retuning._same(delta + noise, delta).p_for <= ALPHA
        found["same below"] += retuning._same(-delta + noise, delta).p_for <= ALPHA
        found["differs"] += retuning._same(delta + noise, delta).p_against <= ALPHA
        found["control"] += retuning._most(delta + noise > delta).p_for <= ALPHA
        kept = Fresh(0.13 + noise, 0.5 + 0.05 * rng.standard_normal(SEARCHES))
        found["overfits"] += retuning._overfits(kept, small).p_for <= ALPHA
    assert max(found.values()) / runs <= 0.025 + 3 * np.sqrt(0.025 / runs)


@pytest.mark.parametrize("response", ["valley", "ends in divergence", "flat with ties"])
def test_nothing_but_the_batch_size_moves_winners(response):
    rng = np.random.default_rng(7)
    runs, moved = 60, 0
    points = [
        np.array([[point["learning_rate"], point["weight_decay"]] for point in study.points])
        for study in EXPERIMENT.studies("laptop", True, {})
    ]
    points = [(np.log(each) - [RATES[0], DECAYS[0]]) / [np.ptp(RATES), np.ptp(DECAYS)] for each in points]
    for _ in range(runs):
        ratio = np.zeros((SEARCHES, 2))
        for search, each in enumerate(points):
            x, y = each.T
            errors = {
                "valley": 0.13 + 0.1 * (x - 0.4) ** 2 + 0.2 * (y - 0.5) ** 2,
                "ends in divergence": np.where(x > 0.6, 0.9, 0.14 - 0.02 * x),
                "flat with ties": np.full(len(x), 0.13),
            }[response]
            # One and the same response at both batch sizes.
            small, large = (np.argmin(errors + 0.002 * np.round(4 * rng.standard_normal(len(x)))) for _ in LAPTOP.sizes)
            ratio[search] = each[large] - each[small]
        moved += sum(larger(ratio[:, axis], retuning.MOVED).p_for <= ALPHA for axis in range(2))
    assert moved / (2 * runs) <= 0.025 + 3 * np.sqrt(0.025 / (2 * runs))


# --- the figure ---


@pytest.mark.parametrize("kind", ["experiment", "control", "everything is infeasible"])
def test_it_draws_without_warnings(kind, true_records):
    records = {
        "experiment": lambda: true_records,
        "control": lambda: rounds(control=True),
        "everything is infeasible": lambda: rounds(infeasible=lambda place: True),
    }[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = EXPERIMENT.draw(records, [], "laptop")
        figure.draw_without_rendering()
    assert len(figure.axes) == 6
    assert all(panel.get_title() for panel in figure.axes)
