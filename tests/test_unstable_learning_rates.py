import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from harness.experiments import unstable_learning_rates
from harness.experiments.experiment import SCALES
from harness.experiments.unstable_learning_rates import (
    _SETTINGS,
    EXPERIMENT,
    FRESH,
    NEAR,
    best_rate,
    chance,
    edges,
    final_loss,
)
from harness.experiments.unstable_rates_figure import sensitivity
from harness.experiments.verdict import judge
from harness.figures.published import published
from harness.records import TrialRecord

LAPTOP = _SETTINGS["laptop"]
STEPS = LAPTOP.warmup_steps + LAPTOP.steps


def record(place, final, jump, scale="laptop"):
    """A made-up record; a `final` of None is a loss that is not finite."""
    rng = np.random.default_rng(place.replicate)
    loss = 2.3 + 2.1 * np.exp(-np.arange(STEPS) / 40) + 0.05 * rng.standard_normal(STEPS)
    if jump:
        loss[STEPS // 2 :] += 0.9
    curves = {"train_loss": loss.astype(np.float32), "learning_rate": np.full(STEPS, 0.01, np.float32)}
    if place.trial.curvature_examples:
        steps = np.array(place.trial.curvature_steps, np.float32)
        curves |= {"sharpness_step": steps, "preconditioned_sharpness": 5000 / (1 + steps)}
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=place.trial.address(),
        hyperparameters=place.trial.hyperparameters,
        seeds=place.trial.seeds,
        status="infeasible" if final is None else "complete",
        reason=None,
        results={"final_loss": float("nan") if final is None else final},
        curves=curves,
        timings={},
    )


def rounds(loss, jumps, control=False):
    """Records of both rounds; `loss` and `jumps` map (arm, rate, replicate) to what a trial gives."""

    def run(studies):
        return [
            record(place, loss(*key), jumps(*key))
            for study in studies
            for place in study.plan(0)
            for key in [(place.arm, place.trial.hyperparameters["learning_rate"], place.replicate)]
        ]

    first = run(EXPERIMENT.studies("laptop", control, {}))
    return first + run(EXPERIMENT.follow_ups[0](first, "laptop", control, {}))


def valley(best=0.01, edge=0.03, gain=0.05, sd=0.01, failed=3.3):
    """Validation losses least at `best`, infeasible from `edge` on for post-LN, lower by `gain` for pre-LN."""

    def loss(arm, rate, replicate):
        if arm == "post_ln" and rate >= edge:
            return failed
        noise = sd * np.random.default_rng([replicate, int(rate * 1e6), arm == "pre_ln"]).standard_normal()
        return 2.25 - gain * (arm == "pre_ln") + 0.08 * np.log2(rate / best) ** 2 + noise

    return loss


def above_the_edge(arm, rate, replicate):
    return arm == "post_ln" and rate >= 0.03


def verdicts(found, control=False):
    return {v.claim.id: v.verdict for v in judge(EXPERIMENT.judge(found, "laptop", control))}


@pytest.fixture(scope="module")
def true_records():
    return rounds(valley(), above_the_edge)


@pytest.mark.parametrize("scale", SCALES)
def test_rates_reach_past_the_published_ratio_and_are_as_close_as_published(scale):
    settings = _SETTINGS[scale]
    rates = np.array(settings.rates)
    assert np.all(np.diff(rates) > 0)
    if scale != "smoke":
        assert np.diff(np.log2(rates)).max() < 1.01
        assert rates[-1] / rates[0] >= 4 * NEAR
    for control in (False, True):
        places = [place for study in EXPERIMENT.studies(scale, control, {}) for place in study.plan(0)]
        assert {place.trial.schedule for place in places} == {"linear"}
        assert {place.arm for place in places} == ({"pre_ln"} if control else {"post_ln", "pre_ln"})


def test_paper_scale_has_the_published_rates():
    assert list(_SETTINGS["paper"].rates) == [float(row["learning_rate"]) for row in published("fig7a_axis")]


def test_the_published_ratio_is_near():
    rows = published("fig7a_axis")
    feasible = [row for row in rows if row["infeasible"] == "0"]
    best = min(feasible, key=lambda row: float(row["validation_loss"]))
    edge = next(row for row in rows if row["infeasible"] == "1")
    assert float(edge["learning_rate"]) / float(best["learning_rate"]) < NEAR


def test_the_second_round_takes_fresh_seeds_at_multiples_of_the_best_rate(true_records):
    later = [r for r in true_records if not r.study.startswith("sweep")]
    assert min(r.replicate for r in later) == FRESH
    rates = {
        study: {r.hyperparameters["learning_rate"] for r in later if r.study == study}
        for study in ("fresh", "fresh-mended", "above", "above-drawn")
    }
    assert rates == {"fresh": {0.01}, "fresh-mended": {0.01}, "above": {0.05}, "above-drawn": {0.1}}
    paired = {study: [r.seeds for r in later if r.study == study] for study in ("fresh", "fresh-mended")}
    assert paired["fresh"] == paired["fresh-mended"]


def test_the_published_picture_is_reproduced(true_records):
    assert set(verdicts(true_records).values()) == {"reproduced"}


def test_an_edge_that_is_far_contradicts():
    found = verdicts(rounds(valley(best=0.005, edge=0.08), above_the_edge))
    assert found["unstable.best-near-edge"] == "contradicted"


def test_a_loss_that_does_not_jump_contradicts():
    found = verdicts(rounds(valley(), lambda *_: False))
    assert found["unstable.loss-jumps"] == "contradicted"


@pytest.mark.parametrize(("gain", "verdict"), [(-0.05, "contradicted"), (0.0, "contradicted"), (0.012, "inconclusive")])
def test_a_mend_that_brings_little_is_not_reproduced(gain, verdict):
    assert verdicts(rounds(valley(gain=gain), above_the_edge))["unstable.mending-improves-best"] == verdict


def test_edges_by_hand():
    def loss(arm, rate, replicate):
        if arm == "pre_ln":
            return 2.2
        return {
            0: {0.005: 2.3, 0.01: 2.2, 0.02: 2.4, 0.04: 3.1, 0.08: 3.3},  # 4 times
            1: {0.005: 2.1, 0.01: 2.2, 0.02: 2.4, 0.04: None, 0.08: 3.3},  # 8 times, and not finite is infeasible
            2: {0.005: 2.3, 0.01: 2.2, 0.02: 2.4, 0.04: 2.5, 0.08: 2.6},  # reaches 8 times without one
            3: {0.005: 2.3, 0.01: 2.2, 0.02: 2.1, 0.04: 2.0, 0.08: 2.3},  # ends at 2 times without one
        }[replicate % 4][round(rate, 6)]

    first = [
        record(place, loss(place.arm, place.trial.hyperparameters["learning_rate"], place.replicate), False)
        for study in EXPERIMENT.studies("laptop", False, {})
        for place in study.plan(0)
    ]
    found = edges(first, "post_ln", LAPTOP.infeasible)
    np.testing.assert_allclose(found[:4], [4, 8, np.inf, np.nan])
    assert best_rate(first, "post_ln", chance("laptop")) == 0.01


@pytest.mark.parametrize("scale", SCALES)
def test_a_loss_that_is_not_finite_is_worse_than_a_stuck_one_and_none_is_worse(scale):
    places = [place for study in EXPERIMENT.studies("laptop", False, {}) for place in study.plan(0)][:3]
    stuck, broken, huge = (record(place, final, True) for place, final in zip(places, (3.3, None, 50.0), strict=True))
    most = chance(scale)
    assert final_loss(stuck, most) == 3.3 < final_loss(broken, most) == final_loss(huge, most) == most
    assert most > _SETTINGS[scale].infeasible


def test_a_rate_whose_losses_are_not_finite_is_no_best_rate_and_loses_by_the_loss_of_guessing():
    def broken_from(edge):
        whole = valley(best=0.01, edge=1.0, gain=-1.0)  # pre-LN ends at 3.25, over `infeasible`

        def loss(arm, rate, replicate):
            return None if arm == "post_ln" and rate >= edge else whole(arm, rate, replicate)

        return loss

    found = rounds(broken_from(0.0), above_the_edge)
    assert verdicts(found)["unstable.mending-improves-best"] == "reproduced"
    found = rounds(broken_from(0.03), above_the_edge)
    assert best_rate(found, "post_ln", chance("laptop")) == 0.01


def test_a_sweep_that_ends_too_soon_is_out_of_range():
    judgement = EXPERIMENT.judge(rounds(valley(best=0.08, edge=1.0), above_the_edge), "laptop", False)[0][1]
    assert judgement.reason == "range"


def test_the_control_is_not_reproduced():
    found = verdicts(rounds(valley(), above_the_edge, control=True), control=True)
    assert found == {"unstable.best-near-edge": "contradicted", "unstable.loss-jumps": "contradicted"}


def test_false_positives_stay_within_the_level(monkeypatch):
    # Null: by the toss of a coin each seed is near the edge, and jumps; the gain is delta, with skewed noise.
    rng = np.random.default_rng(0)
    wrong = np.zeros(3)
    n = 500
    edge = valley()
    base = rounds(edge, above_the_edge)
    above = [r for r in base if r.study == "above"]
    calm, jumped = (record_like(above[0], jump) for jump in (False, True))
    for _ in range(n):
        coins = rng.random(LAPTOP.replicates) < 0.5
        monkeypatch.setattr(unstable_learning_rates, "edges", lambda *_: np.where(coins, 4.0, 8.0))  # noqa: B023
        skewed = LAPTOP.delta + 0.02 * (rng.exponential(size=LAPTOP.judged) - rng.exponential(size=LAPTOP.judged))
        pairs = {FRESH + i: gain for i, gain in enumerate(skewed)}
        found = [jumped if coin else calm for coin in rng.random(LAPTOP.judged) < 0.5]
        monkeypatch.setattr(
            unstable_learning_rates,
            "of_study",
            lambda records, study: found if study == "above" else [],  # noqa: B023
        )
        monkeypatch.setattr(
            unstable_learning_rates,
            "paired_differences",
            lambda *_: np.array(list(pairs.values())),  # noqa: B023
        )
        wrong += [v.verdict == "reproduced" for v in judge(EXPERIMENT.judge(base[:1], "laptop", False))]
    assert np.all(wrong / n <= 0.025 + 3 * np.sqrt(0.025 / n))


def record_like(trial, jump):
    fields = {name: getattr(trial, name) for name in trial.__dataclass_fields__}
    loss = np.r_[np.linspace(4.4, 2.5, 300), np.full(200, 3.4 if jump else 2.5)]
    return TrialRecord(**{**fields, "curves": {"train_loss": loss}})


def test_sensitivity_is_larger_where_rates_fail(true_records):
    unstable, mended = (sensitivity(true_records, arm) for arm in ("post_ln", "pre_ln"))
    assert unstable.value > mended.value > 0
    assert len(unstable.by_seed) == LAPTOP.replicates
    assert unstable.best_rate == 0.01


@pytest.mark.parametrize("control", [False, True])
def test_drawing_warns_of_nothing(control, true_records):
    found = rounds(valley(), above_the_edge, control=True) if control else true_records
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("error")
        figure = EXPERIMENT.draw(found, [], "laptop")
        FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == 4
