import dataclasses
import warnings

import numpy as np
import pytest

from harness.experiments import input_pipeline as pipeline
from harness.experiments.input_pipeline import AHEAD, AHEAD_WAITS, EXPERIMENT, NOTHING, OVERLAPPED, SETTINGS
from harness.experiments.verdict import judge, larger, no_worse, same
from harness.figures.style import save
from harness.records import TrialRecord
from tests.test_feasible_batch_sizes import noise

LAPTOP = SETTINGS["laptop"]
CLAIMED = {AHEAD: 1.0, AHEAD_WAITS: 1.0, OVERLAPPED: 1.1, NOTHING: 1.6}


def records_of(times, control=False, seed=0):
    """Records of the whole plan; `times` is the time per step of each loop."""
    random = np.random.default_rng(seed)
    found = []
    for place in [place for study in EXPERIMENT.studies("laptop", control, {}) for place in study.plan(0)]:
        timings = {"trial_seconds": 9.0, "seconds_per_step": float(1e-2 * times[place.arm] * noise(random, ()))}
        if place.trial.profiled:
            timings |= {"input_share": 0.2, "compute_share": 0.7, "host_share": 0.1}
        found.append(
            TrialRecord(
                study=place.study,
                arm=place.arm,
                replicate=place.replicate,
                address=place.trial.address(),
                hyperparameters=place.trial.hyperparameters,
                seeds=place.trial.seeds,
                status="complete",
                reason=None,
                results={},
                curves={},
                timings=timings,
            )
        )
    return found


def verdicts(times, control=False):
    return {v.claim.id: v for v in judge(EXPERIMENT.judge(records_of(times, control), "laptop", control))}


@pytest.mark.parametrize("scale", SETTINGS)
def test_loops_differ_by_how_they_are_fed_alone(scale):
    for control in (False, True):
        timed, profiled = EXPERIMENT.studies(scale, control, {})
        by_replicate = {}
        for place in timed.plan(0):
            assert place.trial.alone
            assert place.trial.steps_per_call == 1
            plain = dataclasses.replace(place.trial, read_ahead=True, waits=False)
            by_replicate.setdefault(place.replicate, []).append((place.trial, plain))
        for trials in by_replicate.values():
            assert len({trial.address() for trial, _ in trials}) == len(pipeline.ARMS)
            assert len({plain.address() for _, plain in trials}) == 1
        assert all(place.trial.profiled for place in profiled.plan(0))
        assert not set(timed.replicates) & set(profiled.replicates)


def test_what_the_playbook_claims_is_reproduced():
    found = verdicts(CLAIMED)
    assert list(found) == [claim.id for claim in EXPERIMENT.claims]
    assert {v.verdict for v in found.values()} == {"reproduced"}
    assert found["input.prefetch-helps"].effect == pytest.approx(np.log2(1.6), abs=0.1)


def test_loops_that_are_alike_contradict():
    found = verdicts(dict.fromkeys(CLAIMED, 1.0))
    assert [v.verdict for v in found.values()] == ["contradicted", "contradicted", "reproduced"]


def test_threads_that_suffer_from_the_wait_contradict():
    assert verdicts({**CLAIMED, AHEAD_WAITS: 1.5})["input.threads-bear-sync"].verdict == "contradicted"


def test_the_control_is_the_same():
    found = verdicts(dict.fromkeys(CLAIMED, 1.0), control=True)
    assert [v.verdict for v in found.values()] == ["contradicted", "reproduced"]
    assert verdicts(CLAIMED, control=True)["input.control-same"].verdict == "contradicted"


def false_positives(runs, seed):
    """Shares of experiments whose ratio lies at its edge that are reproduced, of each claim and of the control's."""
    random = np.random.default_rng(seed)
    found = dict.fromkeys(("prefetch", "sync", "threads", "control"), 0)
    delta = pipeline.MATTERS
    for _ in range(runs):
        ones, others = np.log2(noise(random, (2, 3, LAPTOP.replicates)))
        edge = delta + ones - others
        forms = (larger(edge[0], delta), larger(edge[1], delta), no_worse(edge[2], delta))
        claims = (pipeline.PREFETCH, pipeline.SYNC, pipeline.THREADS)
        for name, verdict in zip(found, judge(zip(claims, forms, strict=True)), strict=False):
            found[name] += verdict.verdict == "reproduced"
        pair = [(pipeline.PREFETCH, larger(edge[0], delta)), (pipeline.CONTROL, same(edge[0], delta))]
        found["control"] += judge(pair)[1].verdict == "reproduced"
    return {name: count / runs for name, count in found.items()}


def test_null_experiments_are_rarely_reproduced():
    """100 at the edge of every claim at once: 2.5% are allowed of each, 5% of the control's `same`."""
    rates = false_positives(100, seed=1)
    assert max(rates["prefetch"], rates["sync"], rates["threads"]) <= 0.1
    assert rates["control"] <= 0.15


@pytest.mark.parametrize("control", [False, True])
def test_the_figure_is_drawn_without_a_warning(tmp_path, control):
    records = records_of(CLAIMED, control)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
