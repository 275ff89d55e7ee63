import dataclasses

import numpy as np
import pytest

from harness.analysis.instability import classify
from harness.procedures.instability import (
    CURVATURE_STEPS,
    OUTLIER,
    PROBE_STEPS,
    decide,
    instability,
    largest_norm,
    mends,
)
from harness.procedures.sweep import read_sweep
from tests.made_up_records import exploding, falling, record, swept
from tests.stand_in import stand_in_trial

TRAINING = 5000


def decision(unstable_from=0.15, at=3, probe_at=None, norms=None, failing=5, best=0.1, **named):
    """Of a sweep that is unstable from a rate on, and a probe that is so at a step."""
    records = swept(unstable_from, best=best, **named)
    probe = [
        record(
            "probe",
            s,
            exploding(500, probe_at) if probe_at is not None and s < failing else falling(500),
            norms,
            learning_rate=2 * best,
        )
        for s in range(5)
    ]
    return decide(read_sweep(records, "error"), records, probe, TRAINING)


def check(found, name):
    return next(finding for finding in found.findings if finding.check == name)


@pytest.mark.parametrize(("at", "kind"), [(3, "initialisation"), (60, "early")])
def test_instability_at_the_start_wants_warmup(at, kind):
    found = decision(probe_at=at)
    assert found.values["type"] == kind
    assert found.values["limited"]
    assert found.values["mends"][0] == "warmup"
    assert found.values["probe"]["unstable"] == 5
    assert check(found, "twice the best rate").severity == "serious"
    assert check(found, "type").advice.startswith("first warm the rate up: playbook warmup; then clip")


def test_what_is_early_is_so_by_the_whole_training():
    records = swept(0.15)
    probe = [record("probe", s, exploding(500, 300), learning_rate=0.2) for s in range(5)]
    rates = read_sweep(records, "error")
    assert decide(rates, records, probe, 5000).values["type"] == "early"
    assert decide(rates, records, probe, 500).values["type"] == "mid-training"


def test_outliers_in_mid_training_want_clipping():
    records = swept(0.15)
    rates = read_sweep(records, "error")
    norms = np.ones(500)
    norms[300] = 50.0
    for spike, first in ((norms, "clipping"), (np.ones(500), "warmup")):
        probe = [record("probe", s, exploding(500, 300), spike, learning_rate=0.2) for s in range(5)]
        found = decide(rates, records, probe, 500)
        assert found.values["mends"][0] == first
        assert found.values["norms"]["outlying"] == (5 if first == "clipping" else 0)


def test_the_lowest_rate_is_the_last_resort():
    for kind in ("initialisation", "early", "mid-training"):
        for outliers in (False, True):
            assert mends(kind, outliers)[-3:] == ["optimizer", "architecture", "rate"]


def test_a_stable_workload():
    found = decision(unstable_from=1e9)
    assert found.values["type"] is None
    assert not found.values["limited"]
    assert found.values["mends"] == []
    assert {f.severity for f in found.findings} <= {"good", "note"}
    assert "rises by at most 0.0" in check(found, "twice the best rate").evidence


def test_a_rate_that_is_far_off_limits_nothing():
    found = decision(unstable_from=1.0)
    assert found.values["type"] == "initialisation"
    assert not found.values["limited"]
    assert check(found, "rates above").severity == "note"
    assert check(found, "type").severity == "note"


def test_an_unstable_rate_near_the_best_limits_though_the_probe_is_stable():
    found = decision(unstable_from=0.3)
    assert found.values["limited"]
    assert check(found, "rates above").severity == "warning"
    assert "at 0.3 training becomes unstable at initialisation" in check(found, "type").evidence


def test_few_unstable_runs_of_the_probe_are_not_an_unstable_probe():
    assert check(decision(1e9, probe_at=3, failing=2), "twice the best rate").severity == "note"
    assert check(decision(1e9, probe_at=3, failing=3), "twice the best rate").severity == "serious"


@pytest.mark.parametrize(("best", "end"), [(0.01, "lowest"), (3.0, "highest")])
def test_a_best_rate_at_the_end_of_the_sweep(best, end):
    found = check(decision(1e9, best=best), "best rate")
    assert found.severity == "warning"
    assert f"the {end}" in found.evidence


def test_the_largest_norm_before_the_rise():
    norms = np.ones(300)
    norms[0], norms[150], norms[250] = 30.0, 20.0, 1000.0
    loss = exploding(300, 150)
    late = classify(loss)
    assert dataclasses.astuple(largest_norm(norms, falling(300), 2.0, classify(falling(300)))) == (500.0, 251)
    early = dataclasses.replace(late, type="early")
    assert dataclasses.astuple(largest_norm(norms, loss, 2.0, early)) == (15.0, 1)
    assert dataclasses.astuple(largest_norm(norms, loss, 2.0, late)) == (20.0, 151)
    norms[150] = np.nan
    assert largest_norm(norms, loss, 2.0, late).ratio == np.inf
    diverged = np.where(np.arange(300) < 150, falling(300), np.nan)
    assert largest_norm(norms, diverged, 2.0, classify(diverged)).step == 151


def test_how_often_usual_norms_stand_out():
    norms = np.exp(0.5 * np.random.default_rng(0).standard_normal((2000, 500)))
    ratios = norms.max(axis=1) / np.median(norms, axis=1)
    assert np.mean(ratios > OUTLIER) < 0.01


def test_curvature_stands_beside_the_threshold():
    records = swept(0.15)
    probe = [record("probe", s, exploding(500, 3), learning_rate=0.2) for s in range(5)]
    for number, one in enumerate(probe):
        values = [30.0 if number else np.nan, 10.0]
        one.curves.update(
            sharpness_step=np.array([0, 500]), sharpness=np.array(values), learning_rate=np.full(500, 0.2)
        )
    found = decide(read_sweep(records, "error"), records, probe, TRAINING)
    assert found.values["curvature"]["threshold"] == pytest.approx([19.0, 19.0])
    assert found.values["curvature"]["values"] == [30.0, 10.0]
    assert "at 1 of 2 steps" in check(found, "curvature").evidence


def test_the_probe_is_at_twice_the_best_rate():
    trial = stand_in_trial(hyperparameters={**stand_in_trial().hyperparameters, "warmup_steps": 5}, steps=50)
    rounds = instability("0.01,0.1,1", seeds=2).rounds(trial, 0)
    next(rounds)
    probe = rounds.send(swept(1.0, rates=(0.01, 0.1, 1.0), seeds=2))
    assert len(probe) == 2
    first = probe[0].trial
    assert (first.hyperparameters["learning_rate"], first.steps, first.schedule) == (0.2, PROBE_STEPS, "constant")
    assert first.curvature_steps == (*CURVATURE_STEPS, first.total_steps)
    assert first.curvature_examples == trial.batch_size


def test_a_probe_that_is_stuck_wants_warmup():
    records = swept(1e9)
    probe = [record("probe", s, np.full(500, 2.3), learning_rate=0.2) for s in range(5)]
    found = decide(read_sweep(records, "error"), records, probe, TRAINING)
    assert (found.values["type"], found.values["mends"][0]) == ("stuck", "warmup")
    assert "5 are stuck without a rise" in check(found, "twice the best rate").evidence
    assert "gets stuck without a rise of its loss" in check(found, "type").evidence
