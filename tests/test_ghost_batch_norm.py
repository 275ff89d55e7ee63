import dataclasses
import math
import warnings

import numpy as np
import pytest

from harness.experiments import ghost_batch_norm as ghost
from harness.experiments.ghost_batch_norm import EXPERIMENT, WHOLE, arm_name
from harness.experiments.verdict import judge
from harness.records import TrialRecord
from workloads.workload import ConfigurationError

LAPTOP = ghost.SETTINGS["laptop"]
MOST = LAPTOP.devices[-1]
DECOUPLES, BETTER, SYNCED = (claim.id for claim in EXPERIMENT.claims)
FOLLOWING = {devices: LAPTOP.batch_size // devices for devices in LAPTOP.devices}


def plan(control=False, scale="laptop", overrides=None):
    return [place for study in EXPERIMENT.studies(scale, control, overrides or {}) for place in study.plan(0)]


def record(place, error, loss):
    complete = error is not None
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=f"{place.arm}-{place.replicate}",
        hyperparameters=place.trial.hyperparameters,
        seeds=place.trial.seeds,
        status="complete" if complete else "infeasible",
        reason=None if complete else "loss is not finite",
        results={"final_error": error, "final_loss": loss} if complete else {},
        curves={"train_loss": np.linspace(2.3, 0.1 + (error or 0), 20).astype(np.float32)},
        timings={},
    )


PLANS = {control: plan(control) for control in (False, True)}


def records_of(outcome, control=False):
    """Records of the whole plan; `outcome` maps (virtual, devices, replicate) to an error, or to error and loss."""
    made, records = {}, []
    for place in PLANS[control]:
        key = place.arm, place.trial.hyperparameters["learning_rate"], place.replicate
        if key not in made:  # studies share trials
            found = outcome(place.trial.workload.virtual_batch_size, place.trial.devices, place.replicate)
            made[key] = found if isinstance(found, tuple) else (found, found and 0.35)
        records.append(record(place, *made[key]))
    return records


def verdicts(outcome, control=False):
    return {v.claim.id: v for v in judge(EXPERIMENT.judge(records_of(outcome, control), "laptop", control))}


def alike(spread=0.3, seed=0):
    """Errors of one seed around a value of its own, apart by a share of delta."""
    rng = np.random.default_rng(seed)
    return lambda virtual, devices, replicate: 0.07 + 0.001 * replicate + spread * LAPTOP.delta * rng.standard_normal()


# --- the plan ---


def test_arms_differ_by_virtual_batch_and_devices_alone():
    pairs = {}
    for place in PLANS[False]:
        rate = place.trial.hyperparameters["learning_rate"]
        pairs.setdefault((rate, place.replicate), {})[place.arm] = place.trial
    for arms in pairs.values():
        assert len({tuple(trial.seeds.items()) for trial in arms.values()}) == 1
        assert len({(t.batch_size, t.steps, t.schedule, *t.hyperparameters.items()) for t in arms.values()}) == 1
        for arm, trial in arms.items():
            assert arm == arm_name(trial.workload.virtual_batch_size, trial.devices)
            bare = dataclasses.replace(trial.workload, virtual_batch_size=0)
            assert bare == PLANS[False][-1].trial.workload


def test_every_claim_has_its_seeds():
    counts = {}
    for place in PLANS[False]:
        key = place.arm, place.trial.hyperparameters["learning_rate"]
        counts.setdefault(key, set()).add(place.replicate)
    for devices in LAPTOP.devices:
        assert len(counts[arm_name(LAPTOP.virtual, devices), LAPTOP.short.learning_rate]) == LAPTOP.replicates
    for devices in (1, MOST):
        assert len(counts[arm_name(LAPTOP.local, devices), LAPTOP.short.learning_rate]) == LAPTOP.averages_replicates
    for virtual in (LAPTOP.virtual, WHOLE):
        assert len(counts[arm_name(virtual, 1), LAPTOP.full.learning_rate]) == LAPTOP.full_replicates


def test_the_control_has_a_virtual_batch_of_the_device_batch():
    for place in PLANS[True]:
        assert place.trial.workload.virtual_batch_size * place.trial.devices == place.trial.batch_size


@pytest.mark.parametrize("scale", ghost.SETTINGS)
def test_device_batches_lie_on_both_sides_of_the_virtual_one(scale):
    settings = ghost.SETTINGS[scale]
    assert settings.devices[0] == 1
    assert list(settings.devices) == sorted(set(settings.devices))
    assert settings.local < settings.virtual < settings.batch_size
    assert not any(settings.batch_size % devices for devices in settings.devices)


def test_a_field_can_be_set():
    assert {place.trial.workload.width for place in plan(overrides={"width": "2"})} == {2}
    with pytest.raises(ConfigurationError, match="width"):
        plan(overrides={"widht": "2"})


# --- the judge ---


def test_the_claims_are_reproduced_where_they_hold():
    found = verdicts(alike())
    assert list(found) == [DECOUPLES, BETTER, SYNCED]
    assert {v.verdict for v in found.values()} == {"reproduced"}


def test_equal_bits_are_the_same():
    found = verdicts(lambda virtual, devices, replicate: 0.07 + 0.001 * replicate)
    assert {v.verdict for v in found.values()} == {"reproduced"}
    assert found[DECOUPLES].effect == 0


@pytest.mark.parametrize("devices", LAPTOP.devices[1:])
@pytest.mark.parametrize("shift", [-3, 3])
def test_one_device_count_that_differs_contradicts(devices, shift):
    base = alike()
    found = verdicts(
        lambda v, d, r: base(v, d, r) + (shift * LAPTOP.delta if (v, d) == (LAPTOP.virtual, devices) else 0)
    )
    assert found[DECOUPLES].verdict == "contradicted"
    assert found[SYNCED].verdict == "reproduced"


def test_a_whole_batch_that_is_better_contradicts_and_one_that_is_worse_does_not():
    base = alike()
    found = verdicts(lambda v, d, r: base(v, d, r) - (3 * LAPTOP.delta if v == WHOLE else 0))
    assert found[BETTER].verdict == "contradicted"
    found = verdicts(lambda v, d, r: base(v, d, r) + (3 * LAPTOP.delta if v == WHOLE else 0))
    assert found[BETTER].verdict == "reproduced"


@pytest.mark.parametrize("which", ["error", "loss"])
def test_averages_that_evaluate_otherwise_contradict(which):
    base = alike()

    def outcome(virtual, devices, replicate):
        error = base(virtual, devices, replicate)
        worse = (virtual, devices) == (LAPTOP.local, MOST)
        loss = 0.2 + 3 * LAPTOP.loss_delta * (worse and which == "loss")
        return error + 3 * LAPTOP.delta * (worse and which == "error"), loss

    found = verdicts(outcome)
    assert found[SYNCED].verdict == "contradicted"
    assert found[DECOUPLES].verdict == "reproduced"


def test_noise_leaves_it_undecided():
    found = verdicts(alike(spread=20))
    assert {v.verdict for v in found.values()} == {"inconclusive"}


def test_infeasible_trials_count_with_chance():
    base = alike()
    found = verdicts(lambda v, d, r: None if d == MOST else base(v, d, r))
    assert found[DECOUPLES].verdict == found[SYNCED].verdict == "contradicted"
    assert found[SYNCED].effect == pytest.approx(0.9 - 0.07, abs=0.02) or found[SYNCED].effect > 1
    assert found[BETTER].verdict == "reproduced"
    diverged = records_of(lambda v, d, r: (0.85, 50.0))[0]
    assert ghost.final_loss(diverged, 10) == math.log(10)


def test_the_control_tells_device_counts_apart():
    base = alike()
    found = verdicts(lambda v, d, r: base(v, d, r) + (4 * LAPTOP.delta if d == MOST else 0), control=True)
    assert list(found) == [DECOUPLES, "ghost.control-differs"]
    assert found[DECOUPLES].verdict == "contradicted"
    assert found["ghost.control-differs"].verdict == "reproduced"


def test_a_control_without_effect_is_found():
    found = verdicts(alike(), control=True)
    assert found[DECOUPLES].verdict == "reproduced"
    assert found["ghost.control-differs"].verdict == "contradicted"


# --- calibration ---

FAMILIES = {
    "normal": lambda rng: rng.normal(0, 1),
    "skewed": lambda rng: rng.lognormal(0, 0.6) - math.exp(0.18),
    "diverged": lambda rng: 60.0 * (rng.random() < 0.1) + rng.normal(0, 1),
    "tied": lambda rng: float(np.round(rng.normal(0, 1))),
}
"""Noise of one arm, in units of delta."""

EDGES = {
    DECOUPLES: [((LAPTOP.virtual, devices), side) for devices in LAPTOP.devices[1:] for side in (-1, 1)],
    BETTER: [((WHOLE, 1), -1)],
    SYNCED: [((LAPTOP.local, MOST), side) for side in (-1, 1)],
}
"""Claim to the arms that one at a time stand at the edge of it, and on which side."""


@pytest.mark.parametrize("family", FAMILIES)
def test_differences_of_delta_are_rarely_taken_for_none(family):
    rng = np.random.default_rng(2026)
    runs, level, false = 20, 0.05, 0
    for number in range(runs):
        shifts = dict(edges[number % len(edges)] for edges in EDGES.values())

        def outcome(virtual, devices, replicate, shifts=shifts):
            value = FAMILIES[family](rng) + shifts.get((virtual, devices), 0)
            return 0.3 + LAPTOP.delta * value, 1.0 + LAPTOP.loss_delta * value

        false += any(verdict.verdict == "reproduced" for verdict in verdicts(outcome).values())
    assert false / runs <= level + 3 * math.sqrt(level * (1 - level) / runs)


# --- the figure ---


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(control, tmp_path):
    base = alike()
    records = records_of(lambda v, d, r: None if r == 1 and d == 1 else base(v, d, r), control)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = EXPERIMENT.draw(records, [], "laptop")
        figure.savefig(tmp_path / "figure.png")
    assert len(figure.axes) == (2 if control else 4)
    assert (tmp_path / "figure.png").stat().st_size > 20_000
