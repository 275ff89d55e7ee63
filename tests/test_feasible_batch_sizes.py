import warnings

import numpy as np
import pytest

from harness.experiments import feasible_batch_sizes as feasible
from harness.experiments.feasible_batch_sizes import DOUBLES, EXPERIMENT, FULL, SETTINGS
from harness.experiments.verdict import ALPHA, MIN_PAIRS, judge, no_worse
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
    assert settings.part in settings.sizes[1:]
    for study in EXPERIMENT.studies(scale, control, {}):
        for place in study.plan(0):
            trial = place.trial
            assert trial.alone
            assert trial.steps == settings.calls * trial.steps_per_call
            assert trial.steps_per_call * trial.batch_size <= max(settings.examples, trial.batch_size)
            assert trial.profiled == (place.arm == "profiled")
            assert (trial.read_ahead, trial.waits) == ((False, True) if control else (True, False))


@pytest.mark.parametrize("scale", [scale for scale in SETTINGS if scale != "smoke"])
def test_enough_replicates_are_left_to_judge(scale):
    count = SETTINGS[scale].replicates
    assert len(np.delete(np.zeros(count), feasible._APART)) >= MIN_PAIRS
    assert len(np.zeros(count)[feasible._APART]) >= 4


def test_the_accumulated_batch_has_parts_of_a_full_device():
    (study,) = (s for s in EXPERIMENT.studies("laptop", False, {}) if s.accumulation > 1)
    assert study.batch_size // study.accumulation == LAPTOP.part
    assert not any(s.accumulation > 1 for s in EXPERIMENT.studies("laptop", True, {}))


def test_the_check_has_the_threshold_of_profiles():
    assert feasible.INPUT_BOUND == THRESHOLD


# --- the judge ---


def test_a_device_that_fills_up_is_reproduced():
    found = verdicts(records_of(saturating))
    assert list(found) == [claim.id for claim in EXPERIMENT.claims]
    assert {v.verdict for v in found.values()} == {"reproduced"}
    assert (found[SATURATES].n, found[ACCUMULATION].n) == (LAPTOP.replicates * 2 // 3, LAPTOP.replicates)


def test_a_device_that_never_fills_up_is_out_of_range():
    found = verdicts(records_of(lambda size, parts: 1e-3))[SATURATES]
    assert (found.verdict, found.reason) == ("inconclusive", "range")


def test_a_device_that_gains_too_little_and_never_fills_up_contradicts():
    assert verdicts(records_of(lambda size, parts: 1e-3 * size**0.5))[SATURATES].verdict == "contradicted"


def test_a_device_that_is_full_from_the_start_contradicts():
    assert verdicts(records_of(lambda size, parts: 1e-4 * size))[SATURATES].verdict == "contradicted"


PILOT = {1: 0.50e-3, 2: 0.46e-3, 4: 0.60e-3, 16: 1.3e-3, 64: 4.5e-3, 128: 8.9e-3, 256: 17.8e-3}


def test_a_first_doubling_alone_does_not_confirm():
    """Times of a core: the smallest doubling gains over 1, but the device is full from 16, and gains fade before."""
    found = verdicts(records_of(lambda size, parts: PILOT[size]))[SATURATES]
    assert found.verdict == "contradicted"
    assert found.effect == pytest.approx(np.log2(16 * PILOT[1] / PILOT[16]) / 4, abs=0.03)


def test_a_device_that_works_off_and_on_again_contradicts():
    """Nothing gained from 4 to 16 does not make it full at 4 where it gains from 16 to 64: the ramp goes on."""
    times = {**dict.fromkeys((1, 2, 4), 1e-3), 16: 4e-3, 64: 4e-3, 128: 8e-3, 256: 16e-3}
    speed = feasible.throughput(records_of(lambda size, parts: times[size]))
    assert feasible.full_from(speed) == 64
    assert feasible._saturates(speed).effect == pytest.approx(4 / 6, abs=0.03)


def test_where_the_device_is_full_is_found_on_other_replicates_than_are_judged():
    speed = feasible.throughput(records_of(saturating))
    assert feasible.full_from(speed) == 16
    judged = np.ones(LAPTOP.replicates, bool)
    judged[feasible._APART] = False
    others = {size: np.where(judged, size * 1.0, each) for size, each in speed.items()}
    assert feasible.full_from(others) == 16
    found = {size: np.where(judged, each, size * 1.0) for size, each in speed.items()}
    assert feasible.full_from(found) is None
    same_data = [feasible._saturates(one).parts[1].data for one in (speed, {**speed, 1: found[1], 2: found[2]})]
    assert same_data[0] == same_data[1]


def test_accumulation_that_gains_contradicts():
    found = verdicts(records_of(lambda size, parts: saturating(size) / (1.5 if parts > 1 else 1)))
    assert found[ACCUMULATION].verdict == "contradicted"


def test_the_control_is_bound_by_its_input():
    found = verdicts(records_of(lambda size, parts: 1e-3 * size, input_share=0.8, control=True), control=True)
    assert [v.verdict for v in found.values()] == ["contradicted", "reproduced"]
    unbound = verdicts(records_of(lambda size, parts: 1e-3 * size, input_share=0.05, control=True), control=True)
    assert unbound["throughput.control-input-bound"].verdict == "contradicted"
    assert unbound["throughput.control-input-bound"].n == len(LAPTOP.sizes) * LAPTOP.checks


def test_a_control_whose_throughput_doubles_all_the_same_is_found():
    found = verdicts(records_of(saturating, input_share=0.8, control=True), control=True)
    assert found[SATURATES].verdict == "reproduced"


# --- calibration ---


# Gains of the four doublings from 1 to 16, and of each above: one of the claim's parts at its edge, or both false.
EDGES = {
    "doubles, evenly": ([DOUBLES] * 4, 0.0),
    "doubles, fading": ([DOUBLES + 0.35, DOUBLES + 0.05, DOUBLES - 0.2, DOUBLES - 0.2], 0.0),
    "full": ([1.0] * 4, FULL),
    "full at once": ([0.0] * 4, 0.0),
}


def speeds(random, ramp, after):
    """Examples per second of each batch size and replicate, with the gains of `EDGES`."""
    above = int(np.log2(LAPTOP.sizes[-1])) - len(ramp)
    logs = np.concatenate([[0.0], np.cumsum([*ramp, *[after] * above])])
    return {size: 1e3 * 2 ** logs[int(np.log2(size))] / noise(random, (LAPTOP.replicates,)) for size in LAPTOP.sizes}


def false_positives(name, runs, seed):
    """Share of experiments reproduced whose truth is at an edge; alone, where Holm's correction asks least."""
    random = np.random.default_rng(seed)
    if name == "accumulation":
        # The noise is the same at both sizes, so that the mean of the log ratios is the edge itself.
        wobble = np.log2(noise(random, (runs, 2, LAPTOP.replicates)))
        found = [no_worse(feasible.NO_GAIN + one[0] - one[1], feasible.NO_GAIN) for one in wobble]
    else:
        found = [feasible._saturates(speeds(random, *EDGES[name])) for _ in range(runs)]
    return np.mean([one.p_for <= ALPHA for one in found])


@pytest.mark.parametrize("name", [*EDGES, "accumulation"])
def test_null_experiments_are_rarely_reproduced(name):
    """100 of each: 2.5% are allowed, and 10% would come by chance in 1 of 4,000."""
    assert false_positives(name, 100, seed=1) <= 0.1


# --- the figure ---


@pytest.mark.parametrize("control", [False, True])
def test_the_figure_is_drawn_without_a_warning(tmp_path, control):
    records = records_of(saturating, control=control)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
