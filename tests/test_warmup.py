import numpy as np
import pytest

from harness.procedures.labels import progress
from harness.procedures.procedure import FRESH, PAIRS
from harness.procedures.sweep import read_sweep
from harness.procedures.warmup import FLOOR_STEPS, decide, lengths, steps_at_peak, survival, warmup
from harness.records import InputError
from tests.made_up_records import exploding, falling, record, swept
from tests.stand_in import stand_in_trial

STEPS = 10_000


def lived(fails, lengths=(10, 100, 300, 1000), seeds=5):
    """Survivals where each length has so many failing runs."""
    reference = falling(STEPS)
    return [
        survival(
            [
                record(
                    "warmups",
                    s,
                    exploding(300, 30) if s < failing else falling(300, end=0.5),
                    warmup_steps=w,
                    steps=200,
                )
                for s in range(seeds)
            ],
            reference[:300],
            STEPS,
        )
        for w, failing in zip(lengths, fails, strict=True)
    ]


def whole(study, error, failing=0, **hyperparameters):
    """Whole trainings on fresh seeds."""
    return [
        record(study, s, exploding(60, 40) if s < failing else falling(60), error=error + 0.001 * s, **hyperparameters)
        for s in range(PAIRS)
    ]


def decision(fails, errors=(0.2, 0.1), unstable_from=0.3, afresh=(0, 0, 0, 0)):
    """Of warmups with so many failing runs, and so many failures afresh."""
    survivors = lived(fails)
    prepended = []
    for one, failing in zip(survivors, afresh, strict=True):
        if one.survives:
            prepended += whole("prepended", errors[1], failing, warmup_steps=one.warmup_steps)
            if failing <= PAIRS / 2:
                break
    baseline = whole("baseline", errors[0])
    return decide(STEPS, read_sweep(swept(unstable_from), "error"), 3.0, survivors, baseline, prepended, "error")


def severities(found):
    return {finding.check: finding.severity for finding in found.findings}


def test_lengths_go_over_orders_of_magnitude_up_to_a_tenth():
    assert lengths(10_000) == [1, 3, 10, 30, 100, 300, 1000]
    assert lengths(100) == [1, 3, 10]
    assert lengths(2_500) == [1, 3, 10, 30, 100, 250]
    assert lengths(10) == [1]
    with pytest.raises(InputError, match="steps 9: expected at least 10"):
        lengths(9)


def test_the_floor_of_the_steps_at_the_peak():
    assert steps_at_peak(1, 100) == FLOOR_STEPS
    assert steps_at_peak(1, 10_000) == 1000
    assert steps_at_peak(1000, 10_000) == 2000


def test_the_shortest_that_survives_is_prepended():
    found = decision([5, 3, 0, 0])
    assert found.decided
    values = found.values
    assert values["unstable_base_learning_rate"] == 0.3
    assert values["best_stable_rate"] == 0.1
    assert (values["warmup_steps"], values["total_steps"]) == (300, 10_300)
    assert "10,000 + 300 = 10,300 steps" in next(f.evidence for f in found.findings if f.check == "warmup")
    assert not severities(found).keys() & {"long warmup", "longer warmups", "edge of stability"}
    assert severities(found)["afresh"] == "good"
    assert values["adopt"]
    assert severities(found)["against the baseline"] == "good"


def test_what_is_warned_of():
    assert severities(decision([5, 5, 5, 0]))["long warmup"] == "warning"
    assert severities(decision([5, 5, 2, 0]))["afresh"] == "warning"
    assert severities(decision([5, 5, 0, 0], afresh=[0, 0, 1, 0]))["afresh"] == "warning"
    assert severities(decision([5, 0, 5, 0]))["longer warmups"] == "warning"
    assert severities(decision([0, 0, 0, 0], errors=(0.1, 0.2)))["against the baseline"] == "warning"
    assert severities(decision([0, 0, 0, 0], errors=(0.1, 0.1)))["against the baseline"] == "note"


def test_none_survives():
    found = decision([5, 5, 4, 3])
    assert not found.decided
    assert found.values["warmup_steps"] is found.values["total_steps"] is found.values["comparison"] is None
    assert found.findings[0].severity == "serious"
    assert "no warmup of up to 10% of 10,000 steps makes the rate 3 usable" in found.findings[0].evidence
    assert "smaller --factor" in found.findings[0].advice


def test_what_survived_by_luck_is_passed_over():
    found = decision([5, 0, 0, 0], afresh=[0, 8, 5, 4])
    assert found.values["warmup_steps"] == 1000
    assert [one["failed_afresh"] for one in found.values["warmups"]] == [None, 8, 5, 4]
    assert "100 (0 of 5 fail; afresh 8 of 8)" in next(f.evidence for f in found.findings if f.check == "warmup")
    none = decision([5, 0, 0, 0], afresh=[0, 8, 8, 8])
    assert not none.decided
    assert none.values["warmup_steps"] is none.values["comparison"] is None


def test_no_rate_is_unstable():
    found = decide(STEPS, read_sweep(swept(1e9), "error"), None, [], [], [], "error")
    assert not found.decided
    assert "no rate from 0.01 to 3 is unstable" in found.findings[0].evidence
    assert found.values["unstable_base_learning_rate"] is None


def test_a_collapse_without_a_spike_is_no_survival():
    reference = falling(300)
    flat = 2.3 + 0.01 * np.random.default_rng(0).standard_normal(300)
    (stuck,) = [survival([record("warmups", s, flat, warmup_steps=10, steps=290) for s in range(5)], reference, 3000)]
    assert (stuck.unstable, stuck.stuck, stuck.survives) == (0, 5, False)
    delayed = np.concatenate([np.full(100, 2.3), falling(200)])
    (late,) = [survival([record("warmups", s, delayed, warmup_steps=10, steps=290) for s in range(5)], reference, 3000)]
    assert late.survives


def test_progress():
    reference = np.linspace(2, 1, 100)
    assert progress(reference, reference) == pytest.approx(1)
    assert progress(np.full(100, 2.0), reference) == 0
    assert progress(reference[:50], reference) == pytest.approx(1)
    assert np.isnan(progress(reference, np.ones(100)))
    assert np.isnan(progress(np.array([2.0, np.nan]), reference))


def test_rounds_are_planned_from_the_records():
    rounds = warmup("0.01,0.1,0.3", factor=10, seeds=2).rounds(stand_in_trial(steps=100), 0)
    first = next(rounds)
    assert len(first) == 6
    records = [r for r in swept(0.3, rates=(0.01, 0.1, 0.3), seeds=2, steps=100)]
    second = rounds.send(records)
    shape = [(p.trial.hyperparameters["warmup_steps"], p.trial.steps, p.trial.schedule) for p in second[::2]]
    assert shape == [(1, 100, "constant"), (3, 100, "constant"), (10, 100, "constant")]
    assert {p.trial.hyperparameters["learning_rate"] for p in second} == {3.0}
    records += [
        record(
            "warmups", s, exploding(110, 5) if w == 1 else falling(110), warmup_steps=w, steps=100, learning_rate=3.0
        )
        for w in (1, 3, 10)
        for s in range(2)
    ]
    third = rounds.send(records)
    assert [p.replicate for p in third] == [*range(FRESH, FRESH + PAIRS)] * 2
    baseline, prepended = third[0].trial, third[-1].trial
    assert (baseline.hyperparameters["learning_rate"], baseline.total_steps) == (0.1, 100)
    assert (prepended.hyperparameters["learning_rate"], prepended.total_steps) == (3.0, 103)
    assert prepended.evaluation_steps[-1] == 103
    records += whole("baseline", 0.1, steps=100) + whole("prepended", 0.1, 8, warmup_steps=3, steps=100)
    fourth = rounds.send(records)
    assert [p.trial.hyperparameters["warmup_steps"] for p in fourth] == [10] * PAIRS
    with pytest.raises(StopIteration) as end:
        rounds.send(records + whole("prepended", 0.1, warmup_steps=10, steps=100))
    assert end.value.value.values["warmup_steps"] == 10


@pytest.mark.parametrize("factor", [-1, 0, 1, np.nan, np.inf])
def test_factors_out_of_range(factor):
    with pytest.raises(InputError, match=r"--factor .* expected more than 1, such as 10"):
        warmup(factor=factor)


def test_a_warmup_that_is_set_is_refused():
    trial = stand_in_trial(hyperparameters={**stand_in_trial().hyperparameters, "warmup_steps": 7}, steps=100)
    with pytest.raises(InputError, match="warmup_steps 7: expected none"):
        next(warmup().rounds(trial, 0))
    with pytest.raises(InputError, match="--seeds 1: expected at least 2"):
        warmup(seeds=1)
