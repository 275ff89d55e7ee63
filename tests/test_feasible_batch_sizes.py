import warnings

import numpy as np
import pytest

from harness.experiments import feasible_batch_sizes as feasible
from harness.experiments.feasible_batch_sizes import DOUBLES, EXPERIMENT, SETTINGS
from harness.experiments.verdict import every, judge, larger, no_worse
from harness.figures.style import save
from harness.records import TrialRecord
from harness.training.profile import THRESHOLD

LAPTOP = SETTINGS["laptop"]
SATURATES, ACCUMULATION = "throughput.saturates", "throughput.accumulation-no-gain"


def noise(random, shape):
    """Factors of timings: a few per cent, and a tenth slowed by up to a half."""
    slow = np.where(random.random(shape) < 0.1, 1 + 0.5 * random.random(shape), 1.0)
    return slow * np.exp(0.03 * random.standard_normal(shape))


def records_of(step, input_share=0.0, control=False, scale="laptop", seed=0):
    """Records of the whole plan; `step` maps (batch size, parts) to seconds."""
    random = np.random.default_rng(seed)
    found = []
    for place in [place for study in EXPERIMENT.studies(scale, control, {}) for place in study.plan(0)]:
        trial = place.trial
        seconds = float(step(trial.batch_size, trial.accumulation) * noise(random, ()))
        timings = {"trial_seconds": 9.0, "seconds_per_step": seconds}
        if trial.profiled:
            timings["input_share"] = input_share
        fields = {"batch_size": trial.batch_size, "accumulation": trial.accumulation, **trial.hyperparameters}
        found.append(
            TrialRecord(
                study=place.study,
                arm=place.arm,
                replicate=place.replicate,
                address=trial.address(),
                hyperparameters=fields,
                seeds=trial.seeds,
                status="complete",
                reason=None,
                results={},
                curves={},
                timings=timings,
            )
        )
    return found


def saturating(size, parts=1):
    """A device that a few examples fill: a start of 1 ms, and .1 ms an example, for each part."""
    return parts * max(1e-3, 1e-4 * size / parts)


def verdicts(records, control=False):
    return {v.claim.id: v for v in judge(EXPERIMENT.judge(records, "laptop", control))}


# --- the plan ---


@pytest.mark.parametrize("scale", SETTINGS)
@pytest.mark.parametrize("control", [False, True])
def test_every_trial_runs_alone_in_calls_of_like_size(scale, control):
    settings = SETTINGS[scale]
    assert {*settings.small, *settings.large} <= set(settings.sizes)
    assert settings.small[-1] < settings.large[0]
    for study in EXPERIMENT.studies(scale, control, {}):
        for place in study.plan(0):
            trial = place.trial
            assert trial.alone
            assert trial.steps == settings.calls * trial.steps_per_call
            assert trial.steps_per_call * trial.batch_size <= max(settings.examples, trial.batch_size)
            assert trial.profiled == (place.arm == "profiled")
            assert (trial.read_ahead, trial.waits) == ((False, True) if control else (True, False))


def test_the_accumulated_batch_has_parts_of_a_full_device():
    (study,) = (s for s in EXPERIMENT.studies("laptop", False, {}) if s.accumulation > 1)
    assert study.batch_size // study.accumulation == LAPTOP.large[0]
    assert not any(s.accumulation > 1 for s in EXPERIMENT.studies("laptop", True, {}))


def test_the_check_has_the_threshold_of_profiles():
    assert feasible.INPUT_BOUND == THRESHOLD


# --- the judge ---


def test_a_device_that_fills_up_is_reproduced():
    found = verdicts(records_of(saturating))
    assert list(found) == [claim.id for claim in EXPERIMENT.claims]
    assert {v.verdict for v in found.values()} == {"reproduced"}
    assert found[SATURATES].n == LAPTOP.replicates


def test_a_device_that_never_fills_up_contradicts():
    assert verdicts(records_of(lambda size, parts: 1e-3))[SATURATES].verdict == "contradicted"


def test_a_device_that_is_full_from_the_start_contradicts():
    assert verdicts(records_of(lambda size, parts: 1e-4 * size))[SATURATES].verdict == "contradicted"


def test_accumulation_that_gains_contradicts():
    found = verdicts(records_of(lambda size, parts: saturating(size) / (1.5 if parts > 1 else 1)))
    assert found[ACCUMULATION].verdict == "contradicted"


def test_the_control_is_bound_by_its_input():
    found = verdicts(records_of(lambda size, parts: 1e-3 * size, input_share=0.8, control=True), control=True)
    assert [v.verdict for v in found.values()] == ["contradicted", "reproduced"]
    unbound = verdicts(records_of(lambda size, parts: 1e-3 * size, input_share=0.05, control=True), control=True)
    assert unbound["throughput.control-input-bound"].verdict == "contradicted"


# --- calibration ---


def false_positives(runs, seed):
    """Shares of experiments reproduced whose truth is at the edge of one part, the other being certain."""
    random = np.random.default_rng(seed)
    found = {"doubles": 0, "full": 0, "accumulation": 0}
    for _ in range(runs):
        # The noise is the same at both sizes, so that the mean of the log ratios is the edge itself.
        wobble = np.log2(noise(random, (2, LAPTOP.replicates))) / np.log2(2)
        edge = wobble[0] - wobble[1]
        small, large = larger(DOUBLES + edge, DOUBLES), no_worse(feasible.FULL + edge / 2, feasible.FULL)
        sure = larger(np.full(LAPTOP.replicates, 1.0) + edge, 0.0), no_worse(edge / 2, 1.0)
        gained = no_worse(feasible.NO_GAIN + edge, feasible.NO_GAIN)
        for name, main, other in (
            ("doubles", every(small, sure[1]), no_worse(edge, 1.0)),
            ("full", every(sure[0], large), no_worse(edge, 1.0)),
            ("accumulation", every(*sure), gained),
        ):
            pairs = [(feasible.SATURATES, main), (feasible.ACCUMULATION, other)]
            judged = [v.verdict == "reproduced" for v in judge(pairs)]
            found[name] += judged[1] if name == "accumulation" else judged[0]
    return {name: count / runs for name, count in found.items()}


def test_null_experiments_are_rarely_reproduced():
    """100 of each at the edge: 2.5% are allowed, and 10% would come by chance in 1 of 4,000."""
    assert max(false_positives(100, seed=1).values()) <= 0.1


# --- the figure ---


@pytest.mark.parametrize("control", [False, True])
def test_the_figure_is_drawn_without_a_warning(tmp_path, control):
    records = records_of(saturating, control=control)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
