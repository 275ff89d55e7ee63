import dataclasses
import functools
import warnings
from collections import Counter

import numpy as np
import pytest

from harness.experiments.experiment import SCALES
from harness.experiments.study_variance import (
    _SETTINGS,
    BLOCKS,
    EXPERIMENT,
    RETRAININGS,
    TRIALS,
    _study_against_trial,
    excess_distances,
    paired_excess,
    range_ratio,
)
from harness.experiments.verdict import judge, no_worse
from harness.figures.published import published
from harness.figures.style import save
from harness.records import TrialRecord

RNG = np.random.default_rng(0)


def trials(plan, error):
    """Trial records of planned trials; `error` gives that of a place, None where it diverged."""
    records = []
    for place in plan:
        value = error(place)
        records.append(
            TrialRecord(
                study=place.study,
                arm=place.arm,
                replicate=place.replicate,
                address=place.trial.address(),
                hyperparameters=place.trial.hyperparameters,
                seeds=place.trial.seeds,
                status="infeasible" if value is None else "complete",
                reason=None,
                results={"final_error": float("nan") if value is None else value},
                curves={},
                timings={},
            )
        )
    return records


@functools.cache
def searched(control):
    """The first round at `laptop`, planned; it takes half a second."""
    return [place for study in EXPERIMENT.studies("laptop", control, {}) for place in study.plan(0)]


def made_up(error, control=False):
    """Records of both rounds at `laptop`."""
    first = trials(searched(control), error)
    later = EXPERIMENT.follow_ups[0](first, "laptop", control, {})
    return first + trials([p for s in later for p in s.plan(0)], error)


def verdicts(records, control=False):
    return {v.claim.id: v.verdict for v in judge(EXPERIMENT.judge(records, "laptop", control))}


def by_point(spread, noise, floor=0.1):
    """Error of a place: a fixed one of its point, and noise of its seed; divergence at high rates."""

    def error(place):
        hyperparameters = place.trial.hyperparameters
        if hyperparameters["learning_rate"] > 8:
            return None
        centre = floor + spread * abs(np.log10(hyperparameters["weight_decay"]) + 2.5)
        return round(centre + noise * np.random.default_rng(place.trial.seeds["init"]).normal(), 3)

    return error


@pytest.mark.parametrize("control", [False, True])
def test_every_trial_has_seeds_of_its_own_and_one_split(control):
    plan = searched(control)
    settings = _SETTINGS["laptop"]
    assert len(plan) == settings.studies * BLOCKS * TRIALS == 2800
    assert len({p.trial.seeds["init"] for p in plan}) == len({p.trial.seeds["order"] for p in plan}) == len(plan)
    assert len({p.trial.seeds["split"] for p in plan}) == 1
    assert set(Counter(p.study for p in plan).values()) == {TRIALS}
    points = {tuple(p.trial.hyperparameters.items()) for p in plan}
    assert len(points) == (1 if control else len(plan))


def test_winners_retrain_on_fresh_seeds():
    records = made_up(by_point(0.05, 0.002))
    searched = {r.seeds["init"] for r in records if r.study.startswith("search")}
    retrained = [r for r in records if r.study.startswith("retrained")]
    assert len({r.seeds["init"] for r in retrained}) == len(retrained) == _SETTINGS["laptop"].winners * RETRAININGS
    assert searched.isdisjoint(r.seeds["init"] for r in retrained)
    assert {r.seeds["split"] for r in records} == {records[0].seeds["split"]}
    for number in (0, 17):
        block = [r for r in records if r.study == f"search-{number}" and r.status == "complete"]
        best = min(block, key=lambda r: r.results["final_error"])
        again = [r for r in retrained if r.study == f"retrained-{number}"]
        assert all(r.hyperparameters == best.hyperparameters for r in again)


def test_the_ratio_of_the_published_quartiles_and_of_gaussian_trials():
    rows = {row["trials"]: row for row in published("fig3_best_of_k")}
    boxes = {k: float(rows[k]["q3"]) - float(rows[k]["q1"]) for k in ("6", "20")}
    assert boxes["20"] / boxes["6"] == pytest.approx(0.195, abs=0.001)
    many = np.random.default_rng(0).normal(size=200_000)
    assert range_ratio(many) == pytest.approx(0.81, abs=0.01)
    assert range_ratio(np.full(100, 0.1)) == 1.0
    # Best of 20: both quartiles are .1; best of 6: .1 and .4.
    assert range_ratio(np.repeat([0.1, 0.2, 0.4], [10, 10, 80])) == pytest.approx(0.05 / 0.3)
    assert range_ratio(np.arange(100.0)) == (7 - 2) / (21 - 5)


def test_excess_distances_by_hand():
    found = excess_distances(np.array([[0.1, 0.1, 0.1], [0.4, 0.4, 0.4], [0.5, 0.5, 0.8]]))
    last = np.mean([0.25 - 0.15, 0.25 - 0.15, 0.1 - 0.3])
    np.testing.assert_allclose(found, [0.3, 0.0, last], atol=1e-12)


def test_paired_excess_by_hand():
    winners = np.array([[0.1, 0.3, 0.5, 0.2, 9, 9], [0.5, 0.7, 0.1, 0.1, 0.2, 0.4], [9, 9, 9, 9, 9, 9]])
    np.testing.assert_allclose(paired_excess(winners), [0.4 - (0.3 - 0.2)])


def test_a_search_that_matters_is_reproduced():
    found = verdicts(made_up(by_point(0.05, 0.001)))
    assert found == {"variance.more-trials-narrower": "reproduced", "variance.study-against-trial": "reproduced"}


def test_noise_alone_is_not_reproduced():
    found = verdicts(made_up(by_point(0.0, 0.01)))
    assert found["variance.more-trials-narrower"] in ("contradicted", "inconclusive")
    assert found["variance.study-against-trial"] == "contradicted"


def test_the_control_does_not_reproduce_and_its_winners_are_the_same():
    found = verdicts(made_up(by_point(0.05, 0.003), control=True), control=True)
    assert found["variance.more-trials-narrower"] in ("contradicted", "inconclusive")
    assert found["variance.control-same"] == "reproduced"


def test_a_control_whose_winners_are_better_is_told():
    def error(place):
        return 0.1 + (0.02 if place.study.startswith("search") else 0.0)

    assert verdicts(made_up(error, control=True), control=True)["variance.control-same"] == "contradicted"


def test_diverged_trials_count_with_chance_error():
    records = made_up(by_point(0.05, 0.001))
    assert any(record.status == "infeasible" for record in records)
    broken = [dataclasses.replace(r, status="infeasible") if r.study == "retrained-0" else r for r in records]
    # All its retrainings at .9: that winner lies far from the others, and no further apart in itself.
    (_, before), (_, after) = (EXPERIMENT.judge(r, "laptop", False)[1] for r in (records, broken))
    assert after.data[0] > 0.7 > before.data[0]


SHAPES = {
    "normal": lambda size: RNG.normal(size=size),
    "skewed": lambda size: np.exp(0.6 * RNG.normal(size=size)),
    "skewed to the better": lambda size: -np.exp(0.6 * RNG.normal(size=size)),
    "bimodal": lambda size: (RNG.random(size) < 0.15) + 0.2 * RNG.normal(size=size),
    "exponential": lambda size: RNG.exponential(size=size),
}
NULL = 2000  # experiments; fewer where each takes long


@pytest.mark.parametrize("shape", SHAPES)
def test_the_rule_of_spreads_keeps_its_level_where_studies_spread_as_trials_do(shape):
    draw = SHAPES[shape]
    experiments = 400
    retrained = np.round(draw((experiments, 60, 1)) + draw((experiments, 60, RETRAININGS)), 1)  # rounded: ties
    found = [_study_against_trial(one, 1.0) for one in retrained]
    wrong = [np.mean([j.p_for <= 0.05 for j in found]), np.mean([j.p_against <= 0.05 for j in found])]
    assert max(wrong) < 0.025 + 4 * np.sqrt(0.025 / experiments)


def test_a_f_interval_would_not_keep_it():
    from harness.analysis.variance import between_within

    draw, groups = SHAPES["skewed"], np.repeat(np.arange(60), RETRAININGS)
    found = [between_within((draw((60, 1)) + draw((60, RETRAININGS))).ravel(), groups).verdict for _ in range(200)]
    assert np.mean([verdict == "larger" for verdict in found]) > 0.05


@pytest.mark.parametrize(
    "draw",
    [
        lambda size: RNG.random(size) ** 0.51,
        lambda size: np.exp(0.556 * RNG.normal(size=size)),
        lambda size: (RNG.random(size) > 0.15) * 0.303 + 0.1 * RNG.normal(size=size),
        lambda size: np.where(RNG.random(size) < 0.3, 0.9, 0.1 * RNG.random(size) ** 0.51),
        lambda size: np.round(30 * RNG.random(size) ** 0.506),
    ],
    ids=["power law", "lognormal", "bimodal", "partly diverged", "tied"],
)
def test_the_rule_of_ratios_keeps_its_level_at_a_ratio_of_a_half(draw):
    ratios = np.log2([range_ratio(errors) for errors in draw((NULL, 100))])
    ratios -= ratios.mean() + 1  # the mean is the threshold
    found = [no_worse(RNG.choice(ratios, 20), -1.0) for _ in range(NULL)]
    assert np.mean([j.p_for <= 0.05 for j in found]) < 0.025 + 4 * np.sqrt(0.025 / NULL)
    assert np.mean([j.p_against <= 0.05 for j in found]) < 0.05


@pytest.mark.parametrize("shape", ["normal", "skewed to the better", "bimodal"])
def test_trials_that_share_a_setting_do_not_narrow_enough(shape):
    ratios = np.log2([range_ratio(errors) for errors in np.round(SHAPES[shape]((NULL, 100)), 1)])
    assert np.mean([no_worse(RNG.choice(ratios, 20), -1.0).p_for <= 0.05 for _ in range(NULL)]) < 0.025


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(tmp_path, control):
    records = made_up(by_point(0.05, 0.002), control)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 20_000


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_plans(scale):
    if scale == "paper":
        studies = EXPERIMENT.studies(scale, False, {})
        assert len(studies) == 100
        return
    plan = [p for s in EXPERIMENT.studies(scale, False, {})[:25] for p in s.plan(0)]
    assert {p.trial.schedule for p in plan} == {"cosine"}
