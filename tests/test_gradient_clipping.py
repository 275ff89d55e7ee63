import dataclasses
import warnings

import numpy as np
import pytest

from harness.experiments import gradient_clipping as clipping
from harness.experiments.experiment import SCALES
from harness.experiments.gradient_clipping import EXPERIMENT
from harness.experiments.verdict import ALPHA, judge, share_above, share_below
from harness.figures.style import save
from harness.records import TrialRecord

LAPTOP = clipping.SETTINGS["laptop"]
CHANCE = np.log(10)


def rounds(make, scale="laptop", control=False):
    """Records of both rounds, the second planned from the first; `make` gives a trial's (loss, norms)."""

    def run(studies):
        return [record(place, *make(place)) for study in studies for place in study.plan(0)]

    records = run(EXPERIMENT.studies(scale, control, {}))
    return records + run(EXPERIMENT.follow_ups[0](records, scale, control, {}))


def record(place, loss, norms):
    hyperparameters = dict(place.trial.hyperparameters)
    infeasible = not np.all(np.isfinite(loss))
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=f"{place.study} {place.arm} {place.replicate} {hyperparameters['learning_rate']}",
        hyperparameters=hyperparameters,
        seeds=place.trial.seeds,
        status="infeasible" if infeasible else "complete",
        reason="loss is not finite" if infeasible else None,
        results={"clipped_share": float(np.mean(norms >= hyperparameters["clip_threshold"]))},
        curves={"train_loss": np.asarray(loss, np.float32), "gradient_norm": np.asarray(norms, np.float32)},
        timings={},
    )


def truth(rng, explodes=100.0, clipped_trains=1.0, unclipped_trains=0.0, warmup_survives=0.0, clip_survives=1.0):
    """What the claims say, with chances of the diverged-or-not outcomes; each can be set to say otherwise."""

    def make(place):
        trial = place.trial
        steps = trial.total_steps
        falling = CHANCE - 1.5 * np.arange(steps) / steps + 0.02 * rng.normal(size=steps)
        stuck = np.full(steps, CHANCE)
        norms = np.exp(0.05 * rng.normal(size=steps))
        if place.arm in ("unclipped", "probe", "clipped"):
            norms[1] *= explodes * np.exp(0.2 * rng.normal())
            chance = clipped_trains if place.arm == "clipped" else unclipped_trains
            return (falling if rng.random() < chance else stuck), norms
        if place.arm.startswith("sgd"):
            rate = trial.hyperparameters["learning_rate"] * min(1.0, trial.hyperparameters["clip_threshold"])
            return falling - 0.2 * np.log10(rate), norms
        survives = {"bad_batch_warmup": warmup_survives, "bad_batch_clipped": clip_survives, "bad_batch_probe": 1}
        bad = int(trial.hyperparameters["bad_batch_step"])
        if rng.random() >= survives.get(place.arm, 0.0):
            falling[bad:] += 3
        return falling, norms

    return make


def verdicts(records, control=False):
    return {v.claim.id: v for v in judge(EXPERIMENT.judge(records, "laptop", control))}


@pytest.fixture(scope="module")
def true_records():
    return rounds(truth(np.random.default_rng(0)))


# --- the plan ---


def test_arms_are_paired_and_differ_by_clipping_alone(true_records):
    for one, other, more in (
        ("unclipped", "clipped", set()),
        ("bad_batch", "bad_batch_clipped", set()),
        ("bad_batch", "bad_batch_warmup", {"warmup_steps", "bad_batch_step"}),
    ):
        judged = {"learning_rate": LAPTOP.deep.learning_rate} if one == "unclipped" else {}
        a, b = clipping.at(true_records, one, **judged), clipping.at(true_records, other, **judged)
        assert a.keys() == b.keys()
        assert len(a) == (LAPTOP.replicates if one == "unclipped" else LAPTOP.bad_replicates)
        for seed in a:
            assert a[seed].seeds == b[seed].seeds
            changed = {k for k, v in a[seed].hyperparameters.items() if b[seed].hyperparameters[k] != v}
            assert changed == (more or {"clip_threshold"})


def test_probes_are_not_judged(true_records):
    probes = [r for r in true_records if r.arm.endswith("probe")]
    assert {r.replicate for r in probes} == {clipping.PROBE}
    assert clipping.PROBE not in {r.replicate for r in true_records if not r.arm.endswith("probe")}
    for probe in probes:
        assert probe.hyperparameters["clip_threshold"] == clipping.NEVER


def test_thresholds_are_those_of_the_probes(true_records):
    (probe,) = clipping.at(true_records, "probe").values()
    (sgd,) = clipping.at(true_records, "sgd_probe").values()
    found = clipping.thresholds(true_records)
    assert found["clipped"] == pytest.approx(np.percentile(probe.curves["gradient_norm"], 90))
    assert found["sgd_clipped"] == pytest.approx(clipping.TIGHT * np.median(sgd.curves["gradient_norm"]))
    for arm, limit in found.items():
        assert {r.hyperparameters["clip_threshold"] for r in true_records if r.arm == arm} == {limit}


@pytest.mark.parametrize("scale", SCALES)
def test_every_network_compiles_once(scale):
    groups = {
        (place.trial.compile_group(), place.trial.workload.depth, place.trial.workload.norm_on_residual)
        for study in EXPERIMENT.studies(scale, False, {})
        for place in study.plan(0)
    }
    assert len(groups) == 2


def test_the_bad_batch_comes_as_long_after_warmup():
    (study,) = (s for s in EXPERIMENT.studies("laptop", False, {}) if s.name == "bad-batch")
    hyperparameters = [place.trial.hyperparameters for place in study.plan(0)]
    assert {h["bad_batch_step"] - h["warmup_steps"] for h in hyperparameters} == {LAPTOP.bad_step}
    assert LAPTOP.bad_step < LAPTOP.bad_batch.steps


def test_the_control_has_no_extra_norm_and_the_rest_alike():
    deep = {
        control: {
            place.arm: place.trial
            for study in EXPERIMENT.studies("laptop", control, {})
            for place in study.plan(0)
            if place.trial.workload.depth == LAPTOP.deep.fields["depth"] and study.name != "lower-rates"
        }
        for control in (False, True)
    }
    for arm, trial in deep[True].items():
        other = deep[False][arm]
        assert (trial.workload.norm_on_residual, other.workload.norm_on_residual) == (False, True)
        assert (trial.hyperparameters, trial.steps, trial.seeds) == (other.hyperparameters, other.steps, other.seeds)


# --- measures ---


def test_equivalent_rate():
    rates, losses = (0.01, 0.1, 1.0), (3.0, 2.0, 1.0)
    assert clipping.equivalent_rate(2.0, rates, losses) == pytest.approx(0.1)
    assert clipping.equivalent_rate(1.5, rates, losses) == pytest.approx(10**-0.5)
    assert clipping.equivalent_rate(1.0, rates, losses) == pytest.approx(1.0)
    assert np.isnan(clipping.equivalent_rate(3.0, rates, losses))
    assert clipping.equivalent_rate(0.9, rates, losses) == 1.0  # better than any
    # Past the best rate the loss rises again; the clipped run is compared with the rates up to it.
    assert clipping.equivalent_rate(2.5, rates, (3.0, 2.0, 2.8)) == pytest.approx(10**-1.5)


def test_a_bad_batch_is_blamed_only_for_what_comes_after_it(true_records):
    (one, *_) = clipping.at(true_records, "bad_batch_clipped").values()
    early = np.array(one.curves["train_loss"])
    early[10:20] += 3
    assert not clipping.spikes_after(with_loss(one, early))
    late = np.array(one.curves["train_loss"])
    late[LAPTOP.bad_step : LAPTOP.bad_step + 3] += 3
    assert clipping.spikes_after(with_loss(one, late))


def with_loss(one, loss, **fields):
    return dataclasses.replace(one, curves={**one.curves, "train_loss": loss}, **fields)


# --- the judge ---


def test_what_the_playbook_says_is_reproduced(true_records):
    found = verdicts(true_records)
    assert list(found) == [claim.id for claim in EXPERIMENT.claims]
    assert {v.verdict for v in found.values()} == {"reproduced"}, found


def test_the_opposite_is_contradicted():
    rng = np.random.default_rng(1)
    opposite = rounds(truth(rng, explodes=1.0, clipped_trains=0.0, warmup_survives=1.0, clip_survives=0.0))
    found = verdicts(opposite)
    slows = found.pop("clip.too-tight-slows")
    assert slows.verdict == "reproduced"
    assert {v.verdict for v in found.values()} == {"contradicted"}


def test_clipping_that_does_not_slow_is_contradicted(true_records):
    made = truth(np.random.default_rng(2))

    def make(place):
        loss, norms = made(place)
        return (loss - 0.18 if place.arm == "sgd_clipped" else loss), norms

    assert verdicts(rounds(make))["clip.too-tight-slows"].verdict == "contradicted"


def test_a_loss_beyond_the_sweep_is_out_of_range():
    made = truth(np.random.default_rng(3))

    def make(place):
        loss, norms = made(place)
        return (loss + 2 if place.arm == "sgd_clipped" else loss), norms

    found = verdicts(rounds(make))["clip.too-tight-slows"]
    assert (found.verdict, found.reason) == ("inconclusive", "range")


def test_one_probability_of_a_half_is_undecided():
    found = verdicts(rounds(truth(np.random.default_rng(4), clipped_trains=0.6, unclipped_trains=0.4)))
    assert found["clip.rescues-training"].verdict == "inconclusive"
    assert found["clip.p90-works"].verdict != "reproduced"


def test_an_infeasible_trial_neither_trains_nor_explodes_and_spikes(true_records):
    trial = next(iter(clipping.at(true_records, "bad_batch_clipped").values()))
    broken = with_loss(trial, np.append(trial.curves["train_loss"][:90], np.nan), status="infeasible")
    assert clipping.spikes_after(broken)
    assert not clipping.trains(broken, 10)
    assert not clipping.explodes(broken)


def test_control_is_contradicted():
    rng = np.random.default_rng(6)
    found = verdicts(rounds(truth(rng, explodes=1.5, unclipped_trains=1.0), control=True), control=True)
    assert list(found) == [claim.id for claim in EXPERIMENT.claims[:3]]
    assert {v.verdict for v in found.values()} == {"contradicted"}


# --- false verdicts ---


def null_share(form, n, delta, chance, rng, experiments):
    """How often a claim on a share is falsely reproduced or contradicted at its own threshold."""
    found = [form(int(rng.binomial(n, chance)), n, delta) for _ in range(experiments)]
    return [np.mean([getattr(j, p) <= ALPHA for j in found]) for p in ("p_for", "p_against")]


def test_false_verdicts_stay_within_their_level():
    """300 null experiments at seed 0; 4,000 gave at most .025, the level of a side."""
    rng = np.random.default_rng(0)
    experiments, limit = 300, 0.025 + 3 * np.sqrt(0.025 * 0.975 / 300)
    for form, n, delta in (
        (share_above, LAPTOP.replicates, clipping.RESCUED_SHARE),
        (share_above, LAPTOP.bad_replicates, 0.5),
        (share_below, LAPTOP.bad_replicates, 0.5),
    ):
        assert max(null_share(form, n, delta, delta, rng, experiments)) <= limit


def pairs(rng, n, unclipped, clipped, shared):
    """Which runs train, unclipped and clipped; where the chance is shared, no pair is one that only clipping loses."""
    one = rng.random(n)
    return (one < unclipped).tolist(), ((one if shared else rng.random(n)) < clipped).tolist()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("unclipped", [0.0, 0.1, 0.25, 0.4, 0.5])
def test_a_difference_at_its_threshold_is_rarely_decided(unclipped, shared):
    """2,000 null experiments a split; clipped minus unclipped share of runs that train right at the threshold."""
    rng, experiments, limit = np.random.default_rng(0), 2_000, 0.025 + 3 * np.sqrt(0.025 * 0.975 / 2_000)
    found = [
        clipping.percentile_works(*pairs(rng, LAPTOP.replicates, unclipped, unclipped + clipping.DIFFERENCE, shared))
        for _ in range(experiments)
    ]
    for side in ("p_for", "p_against"):
        assert np.mean([getattr(judgement, side) <= ALPHA for judgement in found]) <= limit


def test_a_difference_over_its_threshold_is_not_contradicted_by_a_share_under_another():
    """Clipping trains 60% where nothing trains unclipped, which a rescued share under .75 contradicts in 13 to 24%."""
    rng = np.random.default_rng(0)
    found = [clipping.percentile_works(*pairs(rng, LAPTOP.replicates, 0.0, 0.6, False)) for _ in range(2_000)]
    assert np.mean([judgement.p_against <= ALPHA for judgement in found]) <= 0.01
    judged = clipping.percentile_works([False] * 20, [True] * 10 + [False] * 10)
    assert share_above(10, 20, clipping.RESCUED_SHARE).p_against <= ALPHA < judged.p_against


def test_a_difference_under_its_threshold_is_contradicted():
    for trained, clipped in (([False] * 20, [True] * 5 + [False] * 15), ([True] * 20, [True] * 20)):
        assert clipping.percentile_works(trained, clipped).p_against <= ALPHA
    either = [True] * 10 + [False] * 10
    assert clipping.percentile_works(either, either[::-1]).p_against <= ALPHA


def test_a_contradiction_shows_in_the_interval():
    """That of the rescued share, whose threshold is another than that of the difference."""
    for rescued in range(21):
        for lost in range(21 - rescued):
            rest = [False] * (20 - rescued - lost)
            trained, clipped = [False] * rescued + [True] * lost + rest, [True] * rescued + [False] * lost + rest
            (verdict,) = judge([(clipping.PERCENTILE_WORKS, clipping.percentile_works(trained, clipped))])
            assert (verdict.verdict == "contradicted") <= (verdict.interval[1] < clipping.RESCUED_SHARE)


# --- the figure and the whole ---


@pytest.mark.parametrize("control", [False, True])
def test_draws_without_warnings(tmp_path, control, true_records):
    records = rounds(truth(np.random.default_rng(7)), control=True) if control else true_records
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
