import functools
import warnings
from collections import Counter

import numpy as np
import pytest

from harness.analysis.evaluation_sample import fisher_z, rank_correlation, sample_size
from harness.experiments.eval_sampling import (
    CORRELATION,
    EVALUATIONS_PER_EPOCH,
    EXPERIMENT,
    FEW,
    MOST,
    PLANNED_CORRELATION,
    flagged,
)
from harness.experiments.experiment import SCALES
from harness.experiments.sampled_searches import (
    SETTINGS,
    SPACE,
    WIDTHS,
    narrowed,
    part_errors,
    sample_errors,
    trials_of,
    winners,
)
from harness.experiments.sampled_searches import test_errors as errors_of_test
from harness.experiments.verdict import every, judge, larger, no_worse, share_above, share_below
from harness.figures.style import save
from harness.records import TrialRecord

SETTING = SETTINGS["laptop"]
PARTS = 80


def record(place, errors, losses=None):
    """A record of a planned trial; `errors` of its parts, None where it diverged, `losses` of its evaluations."""
    trial = place.trial
    steps = np.array(trial.evaluation_steps, np.float32)
    curves = {"evaluation_step": steps, "evaluation_loss": np.zeros(len(steps)) if losses is None else losses}
    if errors is not None:
        curves["evaluation_error_by_batch"] = np.asarray(errors, np.float32)
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=trial.address(),
        hyperparameters=dict(trial.hyperparameters),
        seeds=trial.seeds,
        status="infeasible" if errors is None else "complete",
        reason=None,
        results={},
        curves=curves,
        timings={},
    )


@functools.cache
def first_plan(control):
    return [p for s in EXPERIMENT.studies("laptop", control, {}) for p in s.plan(0)]


def waves(place, amplitude):
    """A loss with a wave of an epoch, of a shape of its own, and noise."""
    count = len(place.trial.evaluation_steps)
    generator = np.random.default_rng(place.trial.seeds["order"])
    shape = generator.normal(size=EVALUATIONS_PER_EPOCH)
    wave = np.resize(np.roll(shape - shape.mean(), -1), count)
    return 2 * np.exp(-np.arange(count) / 80) + amplitude * wave + 0.01 * generator.normal(size=count)


def made_up(truth, sd, amplitude, control=False, rounds=2):
    """Records of all rounds; `truth` gives the true error of a place, `sd` is the noise of a part of 50 examples."""

    def one(place):
        if place.study == "order":
            return record(place, np.full(4, 0.1), waves(place, amplitude if place.arm == "unshuffled" else 0.0))
        generator = np.random.default_rng(place.trial.seeds["init"])
        value = truth(place, generator)
        return record(place, None if value is None else value + sd * generator.normal(size=PARTS))

    records = [one(place) for place in first_plan(control)]
    for follow_up in EXPERIMENT.follow_ups[:rounds]:
        later = follow_up(records, "laptop", control, {})
        records += [one(place) for study in later for place in study.plan(0)]
    return records


def by_point(place, generator):
    """Depends on rate and decay; a few diverge."""
    point = place.trial.hyperparameters
    if generator.random() < 0.02:
        return None
    return 0.12 + 0.06 * abs(np.log10(point["learning_rate"]) + 1.5) + 0.02 * abs(np.log10(point["weight_decay"]) + 2.5)


def verdicts(records, control=False):
    return {v.claim.id: v.verdict for v in judge(EXPERIMENT.judge(records, "laptop", control))}


@functools.cache
def as_claimed():
    return made_up(by_point, 0.015, 0.1)


def test_the_stated_size_is_that_of_the_formula():
    wanted = sample_size(SETTING.error, SETTING.spread, PLANNED_CORRELATION)
    assert abs(SETTING.stated - wanted) < SETTING.part
    assert 3 * SETTING.stated <= PARTS * SETTING.part / 2


@pytest.mark.parametrize("control", [False, True])
def test_every_trial_of_a_search_has_its_own_seeds_and_the_split_of_its_unit(control):
    plan = [p for p in first_plan(control) if p.study != "order"]
    assert set(Counter(p.study for p in plan).values()) == {SETTING.first}
    assert len({p.trial.seeds["init"] for p in plan}) == len(plan) == SETTING.units * SETTING.first
    splits = {study: {p.trial.seeds["split"] for p in plan if p.study == study} for study in {p.study for p in plan}}
    assert {len(seeds) for seeds in splits.values()} == {1}
    assert len(set().union(*splits.values())) == SETTING.units
    points = {tuple(p.trial.hyperparameters.items()) for p in plan}
    assert len(points) == (1 if control else len(plan))


def test_orders_differ_in_the_order_alone():
    order = [p for p in first_plan(False) if p.study == "order"]
    unshuffled, shuffled = ([p.trial for p in order if p.arm == arm] for arm in ("unshuffled", "shuffled"))
    assert [t.seeds for t in unshuffled] == [t.seeds for t in shuffled]
    assert {t.shuffled for t in unshuffled} == {False}
    assert {t.shuffled for t in shuffled} == {True}
    epoch = SETTING.examples // SETTING.batch_size
    assert unshuffled[0].evaluation_steps[: EVALUATIONS_PER_EPOCH + 1][-1] == epoch


def test_later_rounds_search_around_the_winner_by_their_sample():
    records = as_claimed()
    assert len({r.seeds["init"] for r in records if r.study != "order"}) == SETTING.units * (
        SETTING.first + 3 * SETTING.later
    )
    for name, number, before, width in (
        ("second", 0, ("first",), WIDTHS[0]),
        ("reused", 0, ("first", "second"), WIDTHS[1]),
        ("fresh", 1, ("first", "second"), WIDTHS[1]),
    ):
        trials = trials_of(records, 7, before)
        best = trials[int(np.argmin(sample_errors(trials, SETTING, number)))]
        space = narrowed({axis: best.hyperparameters[axis] for axis in SPACE}, width)
        later = trials_of(records, 7, (name,))
        assert len(later) == SETTING.later
        for trial in later:
            assert all(axis.low <= trial.hyperparameters[n] <= axis.high for n, axis in space.items())


def test_narrowed_is_cut_off_at_the_ends():
    space = narrowed({"learning_rate": 3e-3, "momentum": 0.0, "weight_decay": 1e-3, "label_smoothing": 0.2}, 0.5)
    assert space["learning_rate"].low == 3e-3
    assert space["learning_rate"].high == pytest.approx(3e-3 * 100**0.25)
    assert (space["weight_decay"].low, space["weight_decay"].high) == pytest.approx((1e-4, 1e-2))
    assert (space["label_smoothing"].low, space["label_smoothing"].high) == pytest.approx((0.1, 0.3))


def test_samples_are_disjoint_and_none_is_of_the_test_half():
    records = [record(first_plan(False)[0], np.arange(PARTS))]
    size = SETTING.stated // SETTING.part
    found = [float(sample_errors(records, SETTING, number)[0]) for number in range(3)]
    assert found == [np.mean(np.arange(number * size, (number + 1) * size)) for number in range(3)]
    assert errors_of_test(records)[0] == np.mean(np.arange(40, 80))


def test_winners_by_hand():
    records = as_claimed()
    trials = trials_of(records, 3, ("first", "second", "fresh"))
    best = int(np.argmin(part_errors(trials)[:, 26:39].mean(axis=1)))
    assert winners(records, "laptop")["fresh"][3] == part_errors(trials)[best, 40:].mean()


def test_infeasible_trials_count_with_chance_error():
    assert part_errors([record(first_plan(False)[0], None)]).tolist() == [[0.9]]
    pair = [record(first_plan(False)[0], None), record(first_plan(False)[1], np.full(PARTS, 0.1))]
    np.testing.assert_allclose(part_errors(pair)[:, 5], [0.9, 0.1], rtol=1e-6)


def test_what_is_claimed_is_reproduced():
    assert set(verdicts(as_claimed()).values()) == {"reproduced"}


def test_noise_beyond_the_spread_is_contradicted_and_flat_curves_too():
    found = verdicts(made_up(by_point, 0.5, 0.0))
    assert found["eval.sample-agrees"] == found["eval.periodicity-finds-bugs"] == "contradicted"


def test_a_reused_sample_that_is_fitted_is_told():
    # Trials of the reused search look better on the first sample than they are, and are worse.
    records = as_claimed()
    fitted = []
    for r in records:
        errors = r.curves.get("evaluation_error_by_batch")
        if r.study.startswith("reused") and errors is not None:
            errors = errors.copy()
            errors[:13], errors[13:] = errors[:13] - 0.1, errors[13:] + 0.1
            r = TrialRecord(**{**r.__dict__, "curves": {**r.curves, "evaluation_error_by_batch": errors}})
        fitted.append(r)
    assert verdicts(fitted)["eval.adaptive-overfitting-small"] == "contradicted"


def test_the_control():
    records = made_up(lambda place, generator: 0.12 + 0.003 * generator.normal(), 0.03, 0.0, control=True)
    found = verdicts(records, control=True)
    assert found == {"eval.sample-agrees": "contradicted", "eval.control-same": "reproduced"}


def test_a_control_whose_winners_stay_better_is_told():
    def truth(place, generator):
        return 0.12 - 0.02 * place.study.startswith("again")

    assert verdicts(made_up(truth, 0.03, 0.0, control=True), control=True)["eval.control-same"] == "contradicted"


@pytest.mark.parametrize("amplitude", [0.1, 0.0])
def test_flagged(amplitude):
    order = [p for p in first_plan(False) if p.arm == "unshuffled"]
    found = [flagged(record(place, np.zeros(4), waves(place, amplitude))) for place in order]
    assert found == [(amplitude > 0, amplitude > 0)] * len(order)


def test_a_period_that_is_no_part_of_an_epoch_does_not_count():
    place = next(p for p in first_plan(False) if p.arm == "unshuffled")
    steps = np.arange(len(place.trial.evaluation_steps))
    noise = 0.01 * np.random.default_rng(0).normal(size=len(steps))
    assert flagged(record(place, np.zeros(4), np.sin(2 * np.pi * steps / 7) + noise)) == (True, False)


RNG = np.random.default_rng(0)
NULL = 100  # experiments; the docstring has 2,000


@functools.cache
def correlations(noise):
    """Fisher z of rank correlations of 20 skewed errors with themselves and noise, (4000,)."""
    truth = RNG.exponential(size=(4000, SETTING.first))
    found = [rank_correlation(t, t + noise * RNG.normal(size=t.shape)) for t in truth]
    return fisher_z(np.array(found))


def test_rules_keep_their_level_at_their_edges():
    runs, units, wrong = SETTING.runs, SETTING.units, Counter()
    z = correlations(0.3)
    certain = larger(fisher_z(np.full(units, 0.99)), fisher_z(CORRELATION))
    for _ in range(NULL):
        edge = larger(RNG.choice(z, units) - z.mean() + fisher_z(CORRELATION), fisher_z(CORRELATION))
        wrong["ranks"] += every(edge, certain, share_above(units, units, MOST)).p_for <= 0.05
        wrong["regret"] += every(share_above(int(RNG.binomial(units, MOST)), units, MOST), certain).p_for <= 0.05
        tied = SETTING.trial_sd + 0.008 * np.round(2 * RNG.normal(size=units)) / 2
        wrong["reuse"] += no_worse(tied, SETTING.trial_sd).p_for <= 0.05
        edge = share_above(int(RNG.binomial(runs, MOST)), runs, MOST)
        wrong["order"] += every(edge, share_below(0, runs, FEW)).p_for <= 0.05
    assert max(wrong.values()) / NULL < 0.025 + 4 * np.sqrt(0.025 / NULL)


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(tmp_path, control):
    records = as_claimed() if not control else made_up(lambda p, g: 0.12 + 0.003 * g.normal(), 0.03, 0.0, control=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 20_000


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_plans(scale):
    order = [p.trial for s in EXPERIMENT.studies(scale, False, {}) if s.name == "order" for p in s.plan(0)]
    assert len(order) == 2 * SETTINGS[scale].runs
    assert np.diff(order[0].evaluation_steps).min() >= 1
