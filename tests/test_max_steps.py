import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.full_fit import FIT, fastest_first, pass_means, read_paces, steps_to_fit
from harness.procedures.max_steps import decide, max_steps, without_regularisation
from harness.procedures.procedure import FRESH, PAIRS
from harness.records import InputError
from tests.made_up_records import record
from tests.stand_in import StandIn, stand_in_trial

WINDOW, STEPS = 10, 1000


def loss_that_fits(at, steps=STEPS):
    """A training loss of 1 that is 0 from a step (from 1) on; of None, never."""
    loss = np.ones(steps)
    if at is not None:
        loss[at - 1 :] = 0
    return loss


def runs_of(study, rate, ats, infeasible=0):
    found = [record(study, s, loss_that_fits(at), learning_rate=rate) for s, at in enumerate(ats)]
    diverged = [*loss_that_fits(5, 60), np.nan]
    return found + [
        record(study, len(ats) + s, diverged, status="infeasible", learning_rate=rate) for s in range(infeasible)
    ]


def decision(sweep, fresh, off=None, stream=False):
    """Of rates to the steps at which their runs fit, in the sweep and afresh."""
    paces, again = (
        read_paces([r for rate, ats in found.items() for r in runs_of(study, rate, ats)], FIT, WINDOW)
        for study, found in (("sweep", sweep), ("afresh", fresh))
    )
    return decide(paces, again, FIT, WINDOW, STEPS, off or {}, stream)


def check(found, name):
    return next(finding for finding in found.findings if finding.check == name)


SWEEP = {0.01: [None] * 3, 0.1: [600, 620, 640], 1.0: [300, 310, None], 10.0: [None] * 3}


@given(st.lists(st.floats(0, 3, width=32), min_size=1, max_size=60), st.integers(1, 20), st.floats(0.01, 2))
def test_a_run_fits_when_its_last_pass_does(loss, window, fit):
    means = [np.mean(np.float64(loss[end - window : end])) for end in range(window, len(loss) + 1)]
    np.testing.assert_allclose(pass_means(np.array(loss), window), means, rtol=1e-9, atol=1e-9)
    found = steps_to_fit(np.array(loss), fit, window)
    clear = [i + window for i, mean in enumerate(means) if mean <= fit - 1e-6]
    doubtful = [i + window for i, mean in enumerate(means) if mean <= fit + 1e-6]
    assert found is None or found >= doubtful[0]
    assert not clear or found <= clear[0]


def test_one_step_below_the_loss_is_no_fit():
    loss = np.ones(100)
    loss[50] = 0
    assert steps_to_fit(loss, FIT, WINDOW) is None
    loss[60:75] = 0
    assert steps_to_fit(loss, FIT, WINDOW) == 70


def test_the_fastest_rate_gives_its_median_on_fresh_seeds():
    found = decision(SWEEP, {1.0: [300 + 10 * i for i in range(8)]})
    assert found.decided
    values = found.values
    assert (values["learning_rate"], values["boundary"]) == (1.0, None)
    assert values["max_train_steps"] == 340 + WINDOW - 1
    assert (values["steps_of_the_fastest"], values["steps_of_the_slowest"]) == (309, 379)
    assert {f.severity for f in found.findings} == {"good", "note"}
    assert "--set steps=349" in check(found, "max_train_steps").advice


def test_a_rate_counts_where_more_than_half_of_its_runs_fit():
    paces = read_paces(runs_of("sweep", 0.1, [500, 500, None]) + runs_of("sweep", 1.0, [100, None, None]), FIT, WINDOW)
    assert [pace.rate for pace in fastest_first(paces)] == [0.1]
    even = read_paces(runs_of("sweep", 0.1, [500, 500, None, None]), FIT, WINDOW)
    assert not fastest_first(even)


def test_an_infeasible_run_has_not_fitted_though_it_did_before():
    (pace,) = read_paces(runs_of("sweep", 0.1, [500], infeasible=2), FIT, WINDOW)
    assert (pace.infeasible, pace.steps, pace.median, pace.loss) == (2, (509,), np.inf, np.inf)


@pytest.mark.parametrize(("best", "side"), [(0.01, "low"), (10.0, "high")])
def test_a_rate_on_the_boundary_is_warned_of(best, side):
    found = decision({**SWEEP, best: [100] * 3}, {best: [100] * 8})
    assert found.decided
    assert found.values["boundary"] == side
    assert check(found, "boundary").severity == "warning"
    higher = [float(word) for word in check(found, "boundary").advice.split()[-1].split(",")]
    assert max(higher) > 10 if side == "high" else min(higher) < 0.01


def test_rates_that_are_all_too_small_are_not_taken_for_a_long_training():
    """Where none fits, the loss tells on which side the best rate lies."""
    records = [record("sweep", s, np.full(STEPS, 1 - rate), learning_rate=rate) for rate in SWEEP0 for s in range(3)]
    found = decide(read_paces(records, FIT, WINDOW), [], FIT, WINDOW, STEPS, {}, False)
    assert not found.decided
    assert found.values["max_train_steps"] is None
    assert found.findings[0].severity == "serious"
    assert "all of them may be too small" in check(found, "boundary").evidence


SWEEP0 = (0.001, 0.01, 0.1)


def test_a_fit_by_luck_is_passed_over():
    found = decision({**SWEEP, 0.3: [500, 500, 500]}, {1.0: [300] * 4 + [None] * 4, 0.3: [500] * 7 + [None]})
    assert found.values["learning_rate"] == 0.3
    assert found.values["steps_of_the_slowest"] is None
    afresh = [finding for finding in found.findings if finding.check == "afresh"]
    assert [finding.severity for finding in afresh] == ["warning", "warning"]
    assert "1 (4 of 8 fit)" in afresh[0].evidence
    none = decision(SWEEP, {1.0: [None] * 8, 0.1: [None] * 8})
    assert not none.decided


def test_what_is_switched_off_is_said():
    found = decision(SWEEP, {1.0: [300] * 8}, {"dropout": 0.1}, stream=True)
    assert "dropout 0.1" in check(found, "regularisation").evidence
    assert check(found, "augmentation").severity == "warning"


@dataclasses.dataclass(frozen=True)
class Regularised(StandIn):
    dropout: float = 0.1
    augmented: bool = True


def test_regularisation_and_schedule_are_off():
    regular = stand_in_trial(
        workload=Regularised(),
        schedule="linear",
        hyperparameters={**stand_in_trial().hyperparameters, "label_smoothing": 0.1, "constant_steps": 5},
    )
    plain, off = without_regularisation(regular)
    assert plain.schedule == "constant"
    assert (plain.workload.dropout, plain.workload.augmented) == (0.0, False)
    assert plain.hyperparameters == {**stand_in_trial().hyperparameters, "weight_decay": 0.0}
    assert off == {"weight_decay": 1e-3, "label_smoothing": 0.1, "dropout": 0.1, "augmented": True}
    again, nothing = without_regularisation(plain)
    assert (again, nothing) == (plain, {})


def test_rounds_are_planned_from_the_records():
    rounds = max_steps("0.01,0.1,1", seeds=2).rounds(stand_in_trial(schedule="cosine", steps=STEPS), 0)
    first = next(rounds)
    assert len(first) == 6
    assert {p.trial.schedule for p in first} == {"constant"}
    assert {p.trial.hyperparameters["weight_decay"] for p in first} == {0.0}
    records = runs_of("sweep", 0.01, [None] * 2) + runs_of("sweep", 0.1, [500] * 2) + runs_of("sweep", 1.0, [400] * 2)
    second = rounds.send(records)
    assert [p.replicate for p in second] == list(range(FRESH, FRESH + PAIRS))
    assert {p.trial.hyperparameters["learning_rate"] for p in second} == {1.0}
    records += runs_of("afresh", 1.0, [None] * 8)
    third = rounds.send(records)
    assert {p.trial.hyperparameters["learning_rate"] for p in third} == {0.1}
    with pytest.raises(StopIteration) as end:
        rounds.send(records + runs_of("afresh", 0.1, [520] * 8))
    values = end.value.value.values
    assert values["window"] == 4  # 32 training examples in batches of 8
    assert values["max_train_steps"] == 523


def test_steps_are_counted_after_warmup():
    warm = record("sweep", 0, loss_that_fits(500), learning_rate=0.1, warmup_steps=100)
    (pace,) = read_paces([warm], FIT, WINDOW)
    assert pace.steps == (409,)


def test_fewer_steps_than_a_pass():
    with pytest.raises(InputError, match=r"steps 3: expected at least 4, one pass over the 32 .* --set steps=40"):
        next(max_steps().rounds(stand_in_trial(steps=3), 0))


@pytest.mark.parametrize("fit", [0, -1, np.nan, np.inf])
def test_fits_out_of_range(fit):
    with pytest.raises(InputError, match=r"--fit .* expected a training loss above 0, such as 0.005"):
        max_steps(fit=fit)


def test_how_often_the_fastest_of_equal_rates_looks_too_fast():
    """The sweep's own median is too low by the luck of the fastest of 8; that of the fresh seeds is not."""
    rng = np.random.default_rng(0)
    steps = 500 * np.exp(0.1 * rng.standard_normal((4000, 8, 3)))
    picked, fresh = np.median(steps, axis=2).min(axis=1), 500 * np.exp(0.1 * rng.standard_normal((4000, PAIRS)))
    assert np.median(picked) < 465
    assert 495 < np.median(np.sort(fresh, axis=1)[:, PAIRS // 2]) < 515
