import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.checkpoint_choice import chosen_value
from harness.experiments.experiment import SCALES
from harness.experiments.max_steps_settings import (
    AUGMENTATION,
    BUDGETS,
    DROPOUT,
    ESTIMATE,
    EVALUATIONS,
    FOUR_TIMES,
    NOISES,
    NOISY,
    OVERFITTED,
    PLAIN,
    QUARTER,
    SETTINGS,
    SMALLER_BATCH,
    SWEEP,
    WINDOW,
)
from harness.experiments.max_train_steps import (
    EXPERIMENT,
    edge_of,
    errors_at,
    estimate,
    good_share,
    noise_cost,
    pass_steps,
    steps_with,
    study_error,
    workable,
)
from harness.experiments.verdict import every, judge, larger, no_worse, same
from harness.figures.style import save
from harness.records import TrialRecord
from workloads.resnet.shifted import ShiftedResNet
from workloads.workload import configure, workload_scale

SETTING = SETTINGS["laptop"]
RATES = SETTING.sweep.rates
FASTEST = 0.1
PASS = 8  # steps of a pass of the sweep


def fits_at(rate, fastest=FASTEST):
    """Steps to a full fit at a rate: 160 at the fastest, twice as many a decade away."""
    return round(160 * 2 ** abs(np.log10(rate / fastest)))


def falls_at(step, steps):
    """A training loss of 3 that is 0 from a step (from 1) on; of None, never."""
    loss = np.full(steps, 3.0)
    if step is not None:
        loss[step - 1 :] = 0
    return loss


def errors_after(place, floor=0.1):
    """Error of a study's trial: falls with the steps, the less the rate matters the more there are."""
    trial = place.trial
    miss = abs(np.log10(trial.hyperparameters["learning_rate"] / 0.3))
    return floor + 0.1 * (40 / trial.steps) ** 2 * (1 + 3 * miss)


def record(place, loss, errors, diverged=False):
    """A record of a planned trial; to its true errors at the evaluations noise is added, most of it of the part."""
    trial = place.trial
    steps = np.array(trial.evaluation_steps, np.float32)
    generator = np.random.default_rng([trial.seeds["split"], trial.seeds["init"], trial.steps])
    shared = 0.01 * np.random.default_rng(trial.seeds["split"]).normal(size=2)
    by_batch = np.broadcast_to(errors, len(steps))[:, None] + shared + 0.002 * generator.normal(size=(len(steps), 2))
    mean = by_batch.mean(axis=1)
    best = int(np.argmin(mean))
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=trial.address(),
        hyperparameters={**trial.hyperparameters, "batch_size": trial.batch_size, "steps": trial.steps},
        seeds=trial.seeds,
        status="infeasible" if diverged else "complete",
        reason=None,
        results={"best_error": float(mean[best]), "best_step": float(steps[best]), "final_error": float(mean[-1])},
        curves={
            "evaluation_step": steps,
            "evaluation_error": mean,
            "evaluation_error_by_batch": by_batch.ravel(),
            "train_loss": loss,
        },
        timings={},
    )


def as_claimed(place):
    """The estimate is workable, longer is no worse, noise costs steps."""
    trial = place.trial
    total = trial.steps + int(trial.hyperparameters["warmup_steps"])
    if place.study == SWEEP:
        return falls_at(fits_at(trial.hyperparameters["learning_rate"]) + place.replicate, total), 0.2
    if place.study in NOISES:
        at = 60 + place.replicate + (40 if place.arm == NOISY else 0)
        return falls_at(at + int(trial.hyperparameters["warmup_steps"]), total), 0.2
    if place.study.startswith(OVERFITTED):
        along = np.linspace(0, 1, len(trial.evaluation_steps))
        return falls_at(None, total), 0.2 + 0.3 * along
    return falls_at(None, total), errors_after(place)


def small_rates(place):
    """Of the control: the highest rate is the fastest, and a quarter of its steps are enough."""
    trial = place.trial
    if place.study == SWEEP:
        return falls_at(round(4 / trial.hyperparameters["learning_rate"]) + place.replicate, trial.steps), 0.2
    return falls_at(None, trial.steps), 0.1


def made_up(outcome, control=False, diverged=lambda place: False):
    """Records of both rounds."""
    plan = [p for s in EXPERIMENT.studies("laptop", control, {}) for p in s.plan(0)]
    records = [record(place, *outcome(place), diverged(place)) for place in plan]
    later = EXPERIMENT.follow_ups[0](records, "laptop", control, {})
    return records + [record(p, *outcome(p), diverged(p)) for study in later for p in study.plan(0)]


def verdicts(records, control=False):
    return {v.claim.id: v.verdict for v in judge(EXPERIMENT.judge(records, "laptop", control))}


CLAIMED = made_up(as_claimed)


def test_the_plan():
    plan = [p for s in EXPERIMENT.studies("laptop", False, {}) for p in s.plan(0)]
    by_study = {name: [p for p in plan if p.study == name] for name in {p.study for p in plan}}
    count, noise, rates = SETTING.replicates, SETTING.noise_replicates, len(RATES)
    assert {name: len(found) for name, found in by_study.items()} == {
        SWEEP: count * rates,
        SMALLER_BATCH: 2 * noise * rates,
        AUGMENTATION: noise * rates,
        DROPOUT: 2 * noise * len(SETTING.text.rates),
    }
    assert {p.trial.schedule for p in by_study[SWEEP]} == {"constant"}
    assert {p.trial.hyperparameters["weight_decay"] for p in plan} == {0.0}
    # The batch's arm without noise is the sweep, and trained once.
    swept = {p.trial.address() for p in by_study[SWEEP]}
    assert {p.trial.address() for p in by_study[SMALLER_BATCH] if p.arm == PLAIN} < swept
    assert len({p.trial.seeds["split"] for p in by_study[SWEEP]}) == count


def test_studies_are_trained_at_multiples_of_each_replicates_own_estimate():
    for replicate in range(SETTING.replicates):
        steps = fits_at(FASTEST) + replicate + PASS - 1
        assert estimate(CLAIMED, replicate, "laptop") == steps
        assert edge_of(CLAIMED, replicate, "laptop") is None
        for budget, multiple in BUDGETS.items():
            found = [r for r in CLAIMED if r.study == f"{budget}-{replicate}"]
            assert {r.hyperparameters["steps"] for r in found} == {round(multiple * steps)}
            assert {r.replicate for r in found} == {replicate}
            assert len(found) == len(SETTING.rates) * len(SETTING.schedules)
            assert len(found[0].curves["evaluation_step"]) == EVALUATIONS[budget]
    overfitted = {r.study for r in CLAIMED if r.study.startswith(OVERFITTED)}
    assert len(overfitted) == 2 * SETTING.replicates


def test_a_sweep_in_which_nothing_fits_counts_with_its_length():
    plan = EXPERIMENT.studies("laptop", False, {})[0].plan(0)
    records = [record(p, falls_at(None, p.trial.steps), 0.2) for p in plan]
    assert estimate(records, 0, "laptop") == SETTING.sweep.steps
    assert EXPERIMENT.follow_ups[0](records, "laptop", False, {})


def test_a_pass_is_over_the_examples_that_were_trained_on():
    swept = CLAIMED[0]
    doubled = {**swept.hyperparameters, "workload.training_examples": 2 * SETTING.sweep.examples}
    assert pass_steps(swept, "laptop") == PASS
    assert pass_steps(dataclasses.replace(swept, hyperparameters=doubled), "laptop") == 2 * PASS


def test_what_is_claimed_is_reproduced():
    assert set(verdicts(CLAIMED).values()) == {"reproduced"}


def test_where_steps_and_noise_do_nothing_nothing_is_reproduced_but_that_longer_is_no_worse():
    def nothing(place):
        loss, _ = as_claimed(place)
        if place.study in NOISES:
            loss = falls_at(60 + place.replicate, len(loss))
        return loss, 0.2

    found = verdicts(made_up(nothing))
    assert found.pop("steps.longer-never-hurts") == "reproduced"
    assert "reproduced" not in found.values()


def test_the_opposite_is_contradicted():
    def opposite(place):
        loss, errors = as_claimed(place)
        trial = place.trial
        if place.study in NOISES:
            return falls_at(100 if place.arm == PLAIN else 60, len(loss)), errors
        if place.study.startswith(f"{OVERFITTED}-{FOUR_TIMES}"):
            return loss, 0.4
        if place.study != SWEEP:
            miss = abs(np.log10(trial.hyperparameters["learning_rate"] / 0.3))
            return loss, 0.1 + 1e-4 * trial.steps * (1 + miss)
        return loss, errors

    assert set(verdicts(made_up(opposite)).values()) == {"contradicted"}


def test_too_few_steps_are_not_workable_either():
    def still_falls(place):
        loss, errors = as_claimed(place)
        return loss, 0.3 if place.study.startswith(ESTIMATE) else 0.5 if place.study.startswith(QUARTER) else errors

    assert verdicts(made_up(still_falls))["steps.sweep-estimate"] == "contradicted"


def test_the_control():
    records = made_up(small_rates, control=True)
    found = verdicts(records, control=True)
    assert found["steps.control-same"] == "reproduced"
    assert found["steps.sweep-estimate"] != "reproduced"
    assert {edge_of(records, r, "laptop") for r in range(SETTING.control_replicates)} == {"high"}
    assert not any(r.study.startswith((FOUR_TIMES, OVERFITTED)) for r in records)


def test_infeasible_trials_have_chance_error_and_reach_nothing():
    def of_highest_rate(place):
        return place.trial.hyperparameters["learning_rate"] == 1.0

    records = made_up(as_claimed, diverged=of_highest_rate)
    assert study_error([r for r in records if r.study == f"{QUARTER}-0" and r.status != "complete"], "laptop") == 0.9
    assert np.isfinite(errors_at(records, QUARTER, "laptop")).all()
    assert set(verdicts(records).values()) == {"reproduced"}
    lost = made_up(as_claimed, diverged=lambda place: place.study == DROPOUT)
    assert np.isinf(steps_with(lost, DROPOUT, PLAIN, "laptop")).all()
    assert verdicts(lost)["steps.gradient-noise-costs"] == "inconclusive"


def test_runs_that_are_stopped_before_the_target_count_with_their_budget():
    plain = np.full(12, 50.0)
    assert noise_cost(plain, np.full(12, np.inf), 400.0).effect == 3.0
    one_lost = np.where(np.arange(12) == 0, np.inf, plain)
    assert noise_cost(one_lost, np.full(12, 100.0), 400.0).form == "larger"
    two_lost = np.where(np.arange(12) < 2, np.inf, plain)
    assert noise_cost(two_lost, np.full(12, 100.0), 400.0).reason == "range"


def test_steps_to_the_target_are_those_of_the_fastest_rate_after_warmup():
    found = steps_with(CLAIMED, DROPOUT, PLAIN, "laptop")
    assert len(found) == SETTING.noise_replicates
    assert found[0] == pytest.approx(60, abs=WINDOW)
    np.testing.assert_array_equal(
        steps_with(CLAIMED, AUGMENTATION, PLAIN, "laptop"), steps_with(CLAIMED, SMALLER_BATCH, PLAIN, "laptop")
    )


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=20))
def test_the_chosen_value_is_one_that_was_measured_and_never_below_the_least(halves):
    by_batch = np.array(halves) / 100
    found = chosen_value(by_batch)
    assert by_batch.min(axis=0).mean() - 1e-12 <= found <= by_batch.max(axis=0).mean() + 1e-12
    assert chosen_value(by_batch[:1]) == pytest.approx(by_batch[0].mean())


def test_the_share_of_good_schedules():
    errors = np.array([[0.1, 0.105, 0.2, 0.3], [0.1, 0.1, 0.1, 0.1]])
    assert good_share(errors, 0.01).tolist() == [0.5, 1.0]


def test_shifted_images():
    plain = configure(workload_scale("resnet", "laptop").workload, SETTING.noise.fields)
    shifted = ShiftedResNet.of(plain, 1)
    before, after = plain.data(3), shifted.data(3)
    count = len(before.train["label"])
    assert len(after.train["label"]) == 9 * count
    np.testing.assert_array_equal(after.train["image"][4 * count : 5 * count], before.train["image"])  # no shift
    down_right = after.train["image"][8 * count :]
    np.testing.assert_array_equal(down_right[:, 1:, 1:], before.train["image"][:, :-1, :-1])
    np.testing.assert_array_equal(after.train["label"][:count], before.train["label"])
    np.testing.assert_array_equal(after.validation["image"], before.validation["image"])
    assert {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}.items() <= vars(shifted).items()


RNG = np.random.default_rng(0)
NULL = 100  # experiments; the docstring of the settings has 2,000
ALLOWED = 0.025 + 4 * np.sqrt(0.025 / NULL)


def null_errors():
    """Errors of a study's schedules (6) and of the study: on two halves of 500, a tenth of the schedules diverged."""
    true = 0.16 + 0.02 * np.abs(RNG.normal(size=(6, 1))) + 0.01 * RNG.random((6, 20))
    true[RNG.random(6) < 0.1] = 0.9
    halves = RNG.binomial(500, np.clip(true[:, :, None] + 0.01 * RNG.normal(size=2), 0, 1)) / 500
    return [chosen_value(halves.reshape(-1, 2)), *(chosen_value(one) for one in halves)]


def test_rules_keep_their_level_where_nothing_is_true():
    pool, count, delta = np.array([null_errors() for _ in range(1000)]), 12, SETTING.delta
    wrong = {"quarter": 0, "four times": 0, "longer": 0, "eases": 0, "costs": 0, "control": 0}
    certain = [larger(1 + 0.1 * RNG.normal(size=count), 0.0) for _ in range(2)]
    for _ in range(NULL):
        one, two, three = (pool[RNG.integers(len(pool), size=count)] for _ in range(3))
        wrong["quarter"] += workable(one[:, 0], two[:, 0], two[:, 0], delta).p_for <= 0.05
        wrong["four times"] += workable(one[:, 0] + 0.2, two[:, 0] + delta, three[:, 0], delta).p_for <= 0.05
        longer = no_worse(one[:, 0] + delta - two[:, 0], delta)
        wrong["longer"] += every(longer, no_worse(RNG.normal(-0.1, 0.01, count), delta)).p_for <= 0.05
        eases = larger(good_share(one[:, 1:], delta) - good_share(two[:, 1:], delta), 0.0)
        wrong["eases"] += eases.p_for <= 0.05
        plain, noisy = (np.round(np.exp(RNG.normal(5, 0.3, count) + 0.3 * (RNG.random(count) < 0.3))) for _ in "ab")
        plain, noisy = (np.where(RNG.random(count) < 0.03, np.inf, steps) for steps in (plain, noisy))
        wrong["costs"] += every(noise_cost(plain, noisy, 400.0), *certain).p_for <= 0.05
        wrong["control"] += same(one[:, 0] + delta - two[:, 0], delta).p_for <= 0.05
    allowed = {name: ALLOWED + 0.025 * (name == "control") for name in wrong}
    assert [name for name, times in wrong.items() if times / NULL > allowed[name]] == []


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(tmp_path, control):
    records = made_up(small_rates, control) if control else CLAIMED
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
