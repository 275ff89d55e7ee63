import dataclasses
import warnings

import numpy as np
import pytest

from harness.analysis.checkpoint_choice import choice_gain
from harness.experiments.checkpoint_selection import (
    DECAY,
    EVALUATIONS,
    EXPERIMENT,
    HIGH,
    LOSS_GAP,
    LOW,
    NO_DECAY,
    SETTINGS,
    STATED_GAIN,
    chosen_rate,
    gains,
    training_loss,
)
from harness.experiments.experiment import SCALES
from harness.experiments.verdict import every, judge, larger, no_worse
from harness.figures.style import save
from harness.records import TrialRecord

SETTING = SETTINGS["laptop"]
PARTS = 2


def record(place, curve, losses, diverged=False):
    """A record of a planned trial.

    Args:
      place: of the plan.
      curve: true errors at its evaluations, to which noise is added, most of it shared by those of a part.
      losses: of its training steps.
      diverged: whether it is infeasible.
    """
    trial = place.trial
    steps = np.array(trial.evaluation_steps, np.float32)
    generator = np.random.default_rng([trial.seeds["split"], trial.seeds["init"], len(steps)])
    shared, own = 0.01 * generator.normal(size=PARTS), 0.002 * generator.normal(size=(len(steps), PARTS))
    by_batch = np.round(np.broadcast_to(curve, len(steps))[:, None] + shared + own, 3)
    errors = by_batch.mean(axis=1)
    best = int(np.argmin(errors))
    results = {"final_error": errors[-1], "best_error": errors[best], "best_step": float(steps[best])}
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=trial.address(),
        hyperparameters={**trial.hyperparameters, "workload.dataset": "mnist5k"},
        seeds=trial.seeds,
        status="infeasible" if diverged else "complete",
        reason=None,
        results={name: float("nan") for name in results} if diverged else results,
        curves={
            "evaluation_step": steps,
            "evaluation_error": errors,
            "evaluation_error_by_batch": by_batch.ravel(),
            "train_loss": np.asarray(losses),
        },
        timings={},
    )


def made_up(curve, control=False):
    """Records of both rounds; `curve` gives (true errors at the evaluations, training losses) of a place."""
    plan = [p for s in EXPERIMENT.studies("laptop", control, {}) for p in s.plan(0)]
    records = [record(place, *curve(place)) for place in plan]
    later = EXPERIMENT.follow_ups[0](records, "laptop", control, {})
    return records + [record(place, *curve(place)) for study in later for place in study.plan(0)]


def as_claimed(place):
    """Fluctuates, overfits or settles; without decay the low rate is best, with it the high one."""
    trial, count = place.trial, len(place.trial.evaluation_steps)
    rate, overfits = trial.hyperparameters["learning_rate"], trial.hyperparameters["weight_decay"] == 0
    along = np.linspace(0, 1, count) if count > 1 else np.ones(1)
    generator = np.random.default_rng(trial.seeds["order"])
    losses = np.full(trial.steps, 0.3 + 0.3 * abs(np.log10(rate)) ** 2)
    if place.study in ("rates", LOW, HIGH):
        miss = abs(np.log10(rate) - (-1.75 if overfits else -0.5))
        losses[: trial.steps // 2] += 1
        return 0.15 + 0.1 * miss + (0.08 * along if overfits else 0), losses
    if place.study == "overfitting":
        return 0.2 + 0.4 * abs(along - 0.4), losses
    noise = 0.03 * generator.exponential(size=count) if place.study == "fluctuating" else 0
    return 0.05 + 0.2 * np.exp(-6 * along) + noise, losses


def improving(place):
    """All curves fall; decay and rate do nothing."""
    count = len(place.trial.evaluation_steps)
    return 0.1 + 0.2 * np.exp(-4 * np.linspace(0, 1, count)), np.full(place.trial.steps, 0.5)


def overfitting_everywhere(place):
    """All curves rise after their lowest point, the low rates too."""
    count = len(place.trial.evaluation_steps)
    return 0.2 + 0.4 * abs(np.linspace(0, 1, count) - 0.3), np.full(place.trial.steps, 0.5)


def verdicts(records, control=False):
    return {v.claim.id: v.verdict for v in judge(EXPERIMENT.judge(records, "laptop", control))}


def test_the_plan():
    plan = [p for s in EXPERIMENT.studies("laptop", False, {}) for p in s.plan(0)]
    by_study = {name: [p for p in plan if p.study == name] for name in {p.study for p in plan}}
    assert {n: len(found) for n, found in by_study.items()} == {
        "fluctuating": SETTING.judged,
        "decayed": SETTING.judged,
        "improving": SETTING.judged,
        "overfitting": SETTING.judged,
        "rates": 2 * len(SETTING.rates) * SETTING.selection,
    }
    assert all(p.trial.evaluation_by_batch for p in plan)
    curves = [p.trial for p in plan if p.study != "rates"]
    assert {len(trial.evaluation_steps) for trial in curves} == {EVALUATIONS}
    assert {trial.evaluation_steps[-1] for trial in curves} == {trial.steps for trial in curves}
    # The validation examples of every seed are its own: seeds are independent units.
    assert len({p.trial.seeds["split"] for p in by_study["fluctuating"]}) == SETTING.judged


def test_chosen_rates_are_trained_on_fresh_seeds_without_and_with_decay():
    records = made_up(as_claimed)
    low, high = chosen_rate(records, NO_DECAY), chosen_rate(records, DECAY)
    assert (low, high) == (0.0178, 0.316)
    swept = {r.seeds["init"] for r in records if r.study == "rates"}
    for study, rate in ((LOW, low), (HIGH, high)):
        found = [r for r in records if r.study == study]
        assert {(r.arm, r.hyperparameters["learning_rate"]) for r in found} == {(NO_DECAY, rate), (DECAY, rate)}
        assert len({r.seeds["init"] for r in found}) == SETTING.fresh
        assert swept.isdisjoint(r.seeds["init"] for r in found)


def test_what_is_claimed_is_reproduced():
    assert set(verdicts(made_up(as_claimed)).values()) == {"reproduced"}


def test_where_all_curves_only_improve_nothing_is_reproduced_but_that_the_best_is_no_worse():
    found = verdicts(made_up(improving))
    assert found["checkpoint.helps-when-noisy"] in ("contradicted", "inconclusive")
    assert found["checkpoint.best-no-worse"] == "reproduced"
    assert found["checkpoint.hides-overfitting"] == "contradicted"  # both choices have one training loss


def test_where_the_choice_is_harmful_it_is_contradicted():
    records = made_up(as_claimed)
    turned = []
    for r in records:
        by_batch = r.curves["evaluation_error_by_batch"].reshape(-1, PARTS).copy()
        if r.study in ("fluctuating", "decayed"):  # what looks best on one half is worst on the other
            by_batch = np.linspace(0, 0.3, len(by_batch))[:, None] * np.array([1, -1]) + 0.3
            by_batch[-1] = 0.2
        turned.append(dataclasses.replace(r, curves={**r.curves, "evaluation_error_by_batch": by_batch.ravel()}))
    found = verdicts(turned)
    assert found["checkpoint.helps-when-noisy"] == found["checkpoint.best-no-worse"] == "contradicted"


def test_where_the_low_rate_is_good_with_decay_too_nothing_is_hidden():
    def curve(place):
        errors, losses = as_claimed(place)
        if place.arm == DECAY:
            return 0.15 + 0.01 * (place.trial.hyperparameters["learning_rate"] != 0.316), losses
        return errors, losses

    assert verdicts(made_up(curve))["checkpoint.hides-overfitting"] != "reproduced"


@pytest.mark.parametrize(
    ("curve", "same"), [(improving, "reproduced"), (overfitting_everywhere, "contradicted")], ids=["improve", "overfit"]
)
def test_the_control(curve, same):
    found = verdicts(made_up(curve, control=True), control=True)
    assert found["checkpoint.control-same"] == same
    assert (found["checkpoint.helps-when-noisy"] == "reproduced") == (same == "contradicted")


def test_an_infeasible_trial_gains_nothing_and_has_the_loss_of_chance():
    plan = [p for s in EXPERIMENT.studies("laptop", True, {}) for p in s.plan(0)]
    lost = record(plan[0], *improving(plan[0]), diverged=True)
    assert gains([lost], "fluctuating").tolist() == [0.0]
    assert training_loss(lost) == pytest.approx(np.log(10))


def test_training_loss_up_to_a_checkpoint():
    plan = [p for s in EXPERIMENT.studies("laptop", True, {}) for p in s.plan(0)]
    trial = record(plan[0], improving(plan[0])[0], np.arange(600.0))
    assert training_loss(trial) == 584.0
    assert training_loss(trial, 100.0) == 84.0


RNG = np.random.default_rng(0)
NULL = 60  # experiments; the docstring has 2,000


def test_the_main_rule_keeps_its_level_where_all_checkpoints_are_equally_good():
    # Errors on 500 examples have ties; of each experiment one arm gains for certain, the other has nothing to gain.
    seeds = SETTING.judged
    pool = np.array([choice_gain(c) for c in RNG.binomial(500, 0.1, (4000, EVALUATIONS, 2)) / 500])
    found = []
    for _ in range(NULL):
        flat = np.where(RNG.random(seeds) < 0.1, 0.0, RNG.choice(pool, seeds))  # a tenth diverged
        found.append(every(larger(flat, 0.0, STATED_GAIN), larger(RNG.normal(0.1, 0.01, seeds), 0.0)))
    assert np.mean([j.p_for <= 0.05 for j in found]) < 0.025 + 4 * np.sqrt(0.025 / NULL)


@pytest.mark.parametrize("shape", ["bimodal", "tied"])
def test_rules_keep_their_level_at_their_edges(shape):
    def draw(mean, sd):
        size = SETTING.judged
        noise = {
            "bimodal": lambda: np.where(RNG.random(size) < 0.5, -1.0, 1.0) + 0.2 * RNG.normal(size=size),
            "tied": lambda: np.round(RNG.normal(size=size)),
        }[shape]()
        return mean + sd * noise

    wrong = {"no worse": 0, "hides": 0}
    for _ in range(NULL):
        edge = no_worse(draw(SETTING.delta, 0.008), SETTING.delta)
        wrong["no worse"] += every(edge, no_worse(draw(0.0, 0.001), SETTING.delta)).p_for <= 0.05
        certain = [larger(draw(1.0, 0.01), LOSS_GAP), larger(draw(1.0, 0.01), 0.0)]
        wrong["hides"] += every(*certain, larger(draw(SETTING.noisy_delta, 0.03), SETTING.noisy_delta)).p_for <= 0.05
    assert max(wrong.values()) / NULL < 0.025 + 4 * np.sqrt(0.025 / NULL)


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(tmp_path, control):
    records = made_up(as_claimed if not control else improving, control)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 20_000


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_plans(scale, control):
    plan = [p for s in EXPERIMENT.studies(scale, control, {}) for p in s.plan(0)]
    assert plan
    assert all(p.trial.evaluation_steps[-1] == p.trial.total_steps for p in plan)
