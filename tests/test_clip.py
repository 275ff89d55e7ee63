import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.clipping import share_clipped, threshold
from harness.procedures.clip import clip, decide, running_thresholds, share_by_part
from harness.procedures.procedure import comparison
from harness.records import InputError
from tests.made_up_records import exploding, falling, record
from tests.stand_in import stand_in_trial

norm_lists = st.lists(st.one_of(st.floats(1e-3, 1e3), st.just(np.inf), st.just(np.nan)), min_size=1, max_size=40)


def arms(unclipped_loss, clipped_loss, norms, limit, errors=(0.2, 0.1), seeds=8, **named):
    without = [record("unclipped", s, unclipped_loss, norms, error=errors[0] + 0.001 * s) for s in range(seeds)]
    clipped = [
        record("clipped", s, clipped_loss, norms, error=errors[1] + 0.001 * s, clip_threshold=limit, **named)
        for s in range(seeds)
    ]
    return without, clipped


def check(decision, name):
    (found,) = (finding for finding in decision.findings if finding.check == name)
    return found


def test_the_threshold_is_the_percentile_of_all_runs():
    norms = [np.arange(1, 51, dtype=float), np.arange(51, 102, dtype=float)]
    assert threshold(norms, 90) == pytest.approx(91)
    assert threshold([np.append(norms[0], [np.nan, np.inf]), norms[1]], 90) == pytest.approx(91)


def test_norms_that_give_no_threshold():
    with pytest.raises(InputError, match="expected finite ones, there are none; lower the rate"):
        threshold([np.array([np.nan, np.inf])], 90)
    with pytest.raises(InputError, match="expected a 90th percentile above 0, got 0"):
        threshold([np.zeros(10)], 90)


@given(norm_lists, st.floats(1, 99))
def test_running_thresholds_are_percentiles_of_the_history(norms, percentile):
    found = running_thresholds(np.array(norms), percentile)
    for step in range(len(norms)):
        history = [norm for norm in norms[: step + 1] if np.isfinite(norm)]
        expected = np.percentile(history, percentile) if history else np.inf
        assert found[step] == pytest.approx(expected, rel=1e-9)


def test_what_is_not_below_the_threshold_is_clipped():
    assert share_clipped(np.array([1.0, 2.0, 3.0, np.inf]), 2.0) == 0.75
    assert share_clipped(np.array([1.0, np.nan]), 2.0) == 0.5
    norms = np.ones(100)
    norms[:10] = 5
    assert share_by_part([norms, norms], 2.0) == [1.0] + [0.0] * 9
    assert share_by_part([np.ones(3)], 2.0).count(None) == 7


def test_clipping_that_rescues_is_adopted():
    norms = np.full(200, 0.5)
    norms[:10] = 100
    decision = decide(*arms(exploding(200, 3), falling(200), norms, 1.0, errors=(0.9, 0.1)), 90, "error", 200)
    assert decision.values["adopt"]
    assert check(decision, "instability").severity == "good"
    assert check(decision, "what clipping changes").severity == "good"
    assert "8 of 8 runs are unstable without clipping, 0 with it" in check(decision, "instability").evidence
    assert decision.values["clipped_share"]["by_part"][:2] == [0.5, 0.0]


def test_clipping_that_harms_is_refused():
    decision = decide(*arms(falling(200), falling(200), np.ones(200), 1.5, errors=(0.1, 0.3)), 90, "error", 200)
    assert not decision.values["adopt"]
    assert check(decision, "what clipping changes").severity == "warning"
    assert check(decision, "instability").severity == "note"


def test_clipping_that_does_not_suffice():
    decision = decide(
        *arms(exploding(200, 3), exploding(200, 3), np.ones(200), 1.5, errors=(0.9, 0.9)), 90, "error", 200
    )
    found = check(decision, "instability")
    assert found.severity == "serious"
    assert "--percentile 45" in found.advice
    assert decision.findings[0] == found


@pytest.mark.parametrize(("share", "severity"), [(0.5, "note"), (0.51, "warning")])
def test_a_warning_past_half_of_the_steps(share, severity):
    decision = decide(*arms(falling(200), falling(200), np.ones(200), 1.5, clipped_share=share), 90, "error", 200)
    assert check(decision, "share clipped").severity == severity


def test_norms_that_are_not_finite_are_said():
    norms = np.ones(200)
    norms[-1] = np.nan
    decision = decide(*arms(falling(200), falling(200), norms, 1.5), 90, "error", 200)
    assert decision.values["norms"]["not_finite"] == 8
    assert check(decision, "not finite").severity == "warning"


def test_the_adaptive_threshold_follows_the_norms():
    for norms, first in ((np.linspace(10, 1, 200), "largest"), (np.linspace(1, 10, 200), "smallest")):
        limit = threshold([norms], 90)
        found = decide(*arms(falling(200), falling(200), norms, limit), 90, "error", 200).values
        assert found["adaptive"][first] == pytest.approx(norms[0], rel=0.01)
        assert found["adaptive"]["threshold_at_the_end"] == pytest.approx(limit)
        share = found["adaptive"]["clipped_share"]
        assert share == pytest.approx(0.005 if first == "largest" else 1.0)  # falling norms are below all before them
        assert found["clipped_share"]["of_unclipped_runs"] == pytest.approx(0.1)


def test_how_often_clipping_without_effect_is_adopted():
    random = np.random.default_rng(0)
    for sd in (0.0, 0.02):  # errors are multiples of 1 / 500
        errors = np.round(500 * (0.1 + sd * random.standard_normal((2000, 2, 8)))) / 500
        adopted = [comparison(*pair, "error")["verdict"] != "undecided" for pair in errors]
        assert np.mean(adopted) < 0.025


@pytest.mark.parametrize("percentile", [0, 100, -1, np.nan, np.inf])
def test_percentiles_out_of_range(percentile):
    with pytest.raises(InputError, match=r"--percentile .* expected more than 0 and less than 100"):
        clip(percentile)


def test_a_threshold_that_is_set_is_refused_and_0_is_none():
    trial = stand_in_trial(hyperparameters={**stand_in_trial().hyperparameters, "clip_threshold": 1.0})
    with pytest.raises(InputError, match="clip_threshold 1: expected none"):
        next(clip().rounds(trial, 0))
    trial = stand_in_trial(hyperparameters={**trial.hyperparameters, "clip_threshold": 0.0})
    planned = next(clip(seeds=3).rounds(trial, 0))
    assert len(planned) == 3
    assert "clip_threshold" not in planned[0].trial.hyperparameters


def test_the_second_round_pairs_its_seeds():
    rounds = clip(seeds=2).rounds(stand_in_trial(), 0)
    first = next(rounds)
    second = rounds.send([record("unclipped", s, falling(20), np.arange(1.0, 21.0)) for s in range(2)])
    assert [p.trial.seeds for p in second] == [p.trial.seeds for p in first]
    assert {p.trial.hyperparameters["clip_threshold"] for p in second} == {threshold([np.arange(1.0, 21.0)] * 2, 90)}
