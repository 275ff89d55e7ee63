import numpy as np
import pytest

from harness.procedures.sweep import STEPS, best, lowest_unstable, read_sweep, sweep, sweep_rates
from harness.records import InputError
from tests.made_up_records import exploding, falling, record, swept
from tests.stand_in import stand_in_trial


def test_rates_around_the_workloads_own():
    rates = sweep_rates(None, 0.1)
    assert rates[-STEPS.start] == 0.1
    assert np.diff(np.log10(rates)) == pytest.approx(0.5, abs=0.002)
    assert sweep_rates("1,0.1, 0.01,1", 5.0) == [0.01, 0.1, 1.0]


@pytest.mark.parametrize("text", ["0.1,x,1", "0.1,1", "0.1,1,1", "0,0.1,1", "-1,0.1,1", "inf,0.1,1", "nan,0.1,1", ""])
def test_bad_rates_are_one_line(text):
    with pytest.raises(InputError, match=r"--rates .* expected .*such as 0.01,0.1,1"):
        sweep_rates(text, 0.1)


def test_a_rate_of_0_has_no_sweep_around_it():
    with pytest.raises(InputError, match="learning_rate 0: expected more than 0"):
        sweep_rates(None, 0.0)


def test_seeds_are_paired_over_rates():
    planned = sweep(stand_in_trial(), 3, [0.1, 1.0], 2)
    assert [(p.trial.hyperparameters["learning_rate"], p.replicate) for p in planned] == [
        (0.1, 0),
        (0.1, 1),
        (1.0, 0),
        (1.0, 1),
    ]
    assert planned[0].trial.seeds == planned[2].trial.seeds != planned[1].trial.seeds


def test_what_a_sweep_reads():
    rates = read_sweep(swept(unstable_from=0.3), "error")
    assert [rate.is_unstable for rate in rates] == [False, False, False, True, True, True]
    assert best(rates).rate == 0.1
    assert lowest_unstable(rates).rate == 0.3
    assert lowest_unstable(rates, above=0.3).rate == 1.0
    assert lowest_unstable(rates, above=3.0) is None
    assert rates[3].types == {"initialisation": 5}
    assert rates[3].interval == (pytest.approx(0.478, abs=1e-3), 1.0)
    assert rates[0].interval[0] == 0.0


def test_more_than_half_of_the_runs_make_a_rate_unstable():
    for unstable, expected in ((2, False), (3, True)):
        records = [
            record("sweep", seed, exploding(200, 3) if seed < unstable else falling(200), learning_rate=0.1)
            for seed in range(5)
        ]
        rates = read_sweep([*records, *swept(1e9, rates=(0.01,))], "error")
        assert rates[1].is_unstable == expected


def test_an_infeasible_run_rules_a_rate_out_as_the_best():
    records = swept(unstable_from=1e9)
    diverged = record("sweep", 0, [*falling(50), np.nan], error=np.nan, status="infeasible", learning_rate=0.1)
    rates = read_sweep(
        [diverged if (r.replicate, r.hyperparameters["learning_rate"]) == (0, 0.1) else r for r in records], "error"
    )
    at = next(rate for rate in rates if rate.rate == 0.1)
    assert (at.infeasible, at.unstable, at.is_unstable) == (1, 1, False)
    assert best(rates).rate in (0.03, 0.3)


def test_a_sweep_without_a_stable_rate():
    with pytest.raises(
        InputError, match=r"--rates from 0.01 to 3: expected a stable one .* such as --rates 1e-05,0.0001"
    ):
        read_sweep(swept(unstable_from=0.0), "error")


def test_how_often_a_stable_workload_has_an_unstable_rate():
    # Curves of which one in twenty is wrongly called unstable, 8 rates of 5 runs.
    wrong = np.random.default_rng(0).random((4000, 8, 5)) < 0.05
    assert np.mean((wrong.sum(axis=2) > 2.5).any(axis=1)) < 0.02


def test_what_is_stuck_above_the_best_rate_is_unstable_and_what_is_slow_below_it_is_not():
    flat = np.full(200, 2.3)
    records = swept(unstable_from=1e9)
    ends = (0.01, 1.0)
    records = [
        record("sweep", r.replicate, flat, error=0.9, learning_rate=r.hyperparameters["learning_rate"])
        if r.hyperparameters["learning_rate"] in ends
        else r
        for r in records
    ]
    rates = {rate.rate: rate for rate in read_sweep(records, "error")}
    assert rates[1.0].types == {"stuck": 5}
    assert rates[1.0].is_unstable
    assert rates[0.01].types == {}
    assert [rate for rate, one in rates.items() if one.is_unstable] == [1.0]
