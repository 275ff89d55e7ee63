import warnings
from itertools import product

import numpy as np
import pytest

from harness.experiments import residual_normalization as residual
from harness.experiments.residual_normalization import EXPERIMENT
from harness.experiments.verdict import judge
from harness.records import TrialRecord

LAPTOP = residual.SETTINGS["laptop"]
LOW, HIGH = LAPTOP.low, LAPTOP.high
STABLE, ZERO = "norm.inside-residual-stable", "norm.zero-init-helps"


def records_of(loss, control=False, scale="laptop"):
    """Records of the whole plan; `loss` maps (arm, rate, replicate) to a final loss, None of an infeasible trial."""
    places = [place for study in EXPERIMENT.studies(scale, control, {}) for place in study.plan(0)]
    return [record(p, loss(p.arm, p.trial.hyperparameters["learning_rate"], p.replicate)) for p in places]


def record(place, loss):
    complete = loss is not None
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=place.trial.address(),
        hyperparameters=place.trial.hyperparameters,
        seeds=place.trial.seeds,
        status="complete" if complete else "infeasible",
        reason=None if complete else "loss is not finite",
        results={"final_loss": loss, "final_error": min(0.9, loss / 4)} if complete else {},
        curves={"train_loss": np.linspace(4.4, loss if complete else 9.0, 20).astype(np.float32)},
        timings={},
    )


def claimed(arm, rate, replicate):
    """What the playbook claims."""
    fails = arm == "none" or (arm == "after" and rate > LOW)
    return (3.38 if fails else 2.5) + 0.01 * replicate


def verdicts(records, control=False):
    return {v.claim.id: v for v in judge(EXPERIMENT.judge(records, "laptop", control))}


# --- the plan ---


def test_arms_differ_by_placement_and_start_alone():
    trials = {}
    for study in EXPERIMENT.studies("laptop", False, {}):
        for place in study.plan(0):
            trials.setdefault((place.trial.hyperparameters["learning_rate"], place.replicate), {})[place.arm] = (
                place.trial
            )
    for arms in trials.values():
        assert len({tuple(trial.seeds.items()) for trial in arms.values()}) == 1
        assert len({tuple(trial.hyperparameters.items()) for trial in arms.values()}) == 1
        fields = [(trial.workload.normalization, trial.workload.rezero) for trial in arms.values()]
        assert len(set(fields)) == len(fields)
    for rate in HIGH:
        assert {"before", "inside", "after", "after_zero"} <= set(trials[rate, 0])
    assert {"none", "none_zero"} <= set(trials[HIGH[0], 0])


@pytest.mark.parametrize("scale", residual.SETTINGS)
def test_rates_rise_and_nothing_warms_up(scale):
    settings = residual.SETTINGS[scale]
    assert list(settings.high) == sorted(settings.high)
    assert settings.low < settings.high[0]
    for study in EXPERIMENT.studies(scale, False, {}):
        assert study.schedule == "constant"
        assert study.hyperparameters["warmup_steps"] == 0


def test_the_control_has_one_block_whatever_is_set():
    for overrides in ({}, {"layers": "4"}):
        (study,) = EXPERIMENT.studies("laptop", True, overrides)
        assert {place.trial.workload.layers for place in study.plan(0)} == {1}
        assert {arm.name for arm in study.arms} == {"before", "inside", "after"}


def test_a_field_can_be_set():
    studies = EXPERIMENT.studies("laptop", False, {"layers": "2"})
    assert {place.trial.workload.layers for study in studies for place in study.plan(0)} == {2}


# --- the judge ---


def test_the_claims_are_reproduced_where_they_hold():
    found = verdicts(records_of(claimed))
    assert list(found) == [claim.id for claim in EXPERIMENT.claims] == [STABLE, ZERO]
    assert {v.verdict for v in found.values()} == {"reproduced"}
    assert {v.n for v in found.values()} == {LAPTOP.replicates}


def test_one_exception_still_decides():
    def loss(arm, rate, replicate):
        return claimed(arm, rate, replicate) if replicate else 5.9 - claimed(arm, rate, replicate)

    assert {v.verdict for v in verdicts(records_of(loss)).values()} == {"reproduced"}


@pytest.mark.parametrize("fails", ["before", "inside"])
def test_a_placement_that_fails_too_contradicts(fails):
    found = verdicts(records_of(lambda arm, *rest: 3.4 if arm == fails else claimed(arm, *rest)))
    assert found[STABLE].verdict == "contradicted"
    assert found[ZERO].verdict == "reproduced"


def test_norm_after_the_addition_that_trains_contradicts_both():
    found = verdicts(records_of(lambda arm, *rest: 2.5 if arm == "after" else claimed(arm, *rest)))
    assert {v.verdict for v in found.values()} == {"contradicted"}


def test_norm_after_the_addition_that_never_trains_contradicts():
    found = verdicts(records_of(lambda arm, *rest: 3.4 if arm == "after" else claimed(arm, *rest)))
    assert found[STABLE].verdict == "contradicted"


@pytest.mark.parametrize("fails", ["after_zero", "none_zero"])
def test_branches_from_zero_that_fail_contradict(fails):
    found = verdicts(records_of(lambda arm, *rest: 3.4 if arm == fails else claimed(arm, *rest)))
    assert found[ZERO].verdict == "contradicted"
    assert found[STABLE].verdict == "reproduced"


def test_a_network_without_norm_that_trains_has_no_need_of_zero():
    found = verdicts(records_of(lambda arm, *rest: 2.6 if arm == "none" else claimed(arm, *rest)))
    assert found[ZERO].verdict == "contradicted"


def test_seeds_that_differ_are_undecided():
    def loss(arm, rate, replicate):
        return 2.5 if arm == "after" and replicate % 2 else claimed(arm, rate, replicate)

    found = verdicts(records_of(loss))
    assert {v.verdict for v in found.values()} == {"inconclusive"}
    assert found[STABLE].effect == 0.5


def test_infeasible_trials_do_not_train():
    records = records_of(lambda arm, *rest: None if claimed(arm, *rest) > 3 else claimed(arm, *rest))
    assert {v.verdict for v in verdicts(records).values()} == {"reproduced"}
    records = records_of(lambda arm, *rest: None if arm == "inside" else claimed(arm, *rest))
    assert verdicts(records)[STABLE].verdict == "contradicted"


def test_one_block_is_the_same_and_not_the_main_claim():
    rng = np.random.default_rng(0)
    found = verdicts(records_of(lambda *_: 2.45 + rng.normal(0, 0.02), control=True), control=True)
    assert found[STABLE].verdict == "contradicted"
    assert found["norm.control-same"].verdict == "reproduced"


def test_one_block_that_fails_is_found():
    found = verdicts(records_of(claimed, control=True), control=True)
    assert found[STABLE].verdict == "reproduced"
    assert found["norm.control-same"].verdict == "contradicted"
    found = verdicts(records_of(lambda arm, *_: None if arm == "after" else 2.45, control=True), control=True)
    assert found["norm.control-same"].effect == pytest.approx(np.log(85) - 2.45)


# --- calibration ---

POINTS = [("after", LOW), *product(residual.ARMS, HIGH)]
CERTAIN = {(arm, rate): float(claimed(arm, rate, 0) < 3) for arm, rate in POINTS}


def reproduced(chances, rng, shared):
    """Ids of the claims that one simulated experiment reproduces; `chances` has that of training at each point."""
    luck = rng.random((1 if shared else len(POINTS), LAPTOP.replicates))
    trained = luck < np.array([chances[point] for point in POINTS])[:, None]
    counts = {point: (int(row.sum()), LAPTOP.replicates) for point, row in zip(POINTS, trained, strict=True)}
    return {v.claim.id for v in judge(residual.judge_counts(counts, LOW, HIGH)) if v.verdict == "reproduced"}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_placements_that_are_alike_are_not_told_apart(chance, shared):
    rng = np.random.default_rng(2026)
    assert not any(reproduced(dict.fromkeys(POINTS, chance), rng, shared) for _ in range(40))


PARTS = {
    STABLE: [("after", LOW), *product(("before", "inside", "after"), HIGH)],
    ZERO: [("none", HIGH[0]), ("none_zero", HIGH[0]), *product(("after_zero", "after"), HIGH)],
}


@pytest.mark.parametrize("claim", PARTS)
def test_a_part_at_the_edge_is_rarely_enough(claim):
    runs = 60
    for part in PARTS[claim]:
        rng = np.random.default_rng(2027)
        false = sum(claim in reproduced({**CERTAIN, part: 0.5}, rng, False) for _ in range(runs))
        assert false / runs <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / runs), part


# --- the figure ---


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(control, tmp_path):
    records = records_of(lambda arm, rate, r: None if r == 1 else claimed(arm, rate, r), control)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = EXPERIMENT.draw(records, [], "laptop")
        figure.savefig(tmp_path / "figure.png")
    assert len(figure.axes) == 4
    assert (tmp_path / "figure.png").stat().st_size > 20_000
