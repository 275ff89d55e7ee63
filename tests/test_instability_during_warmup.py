import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from harness.analysis.lost_progress import LostProgress
from harness.experiments import instability_during_warmup
from harness.experiments.experiment import SCALES
from harness.experiments.instability_during_warmup import _SETTINGS, EXPERIMENT, ends
from harness.experiments.verdict import judge
from harness.figures.published import published
from harness.records import TrialRecord

LAPTOP = _SETTINGS["laptop"]


def loss_of(warmup, steps, fails_at=None, size=0.8, stuck=False):
    """Training loss with a seed's noise; `fails_at` counts from the end of the warmup."""
    total = warmup + steps
    loss = 2.5 + 1.9 * np.exp(-np.arange(total) / 80)
    if stuck:
        loss = np.full(total, 3.3)
    if fails_at is not None:
        loss[warmup + fails_at :] += size
    return loss + 0.05 * np.random.default_rng(total).standard_normal(total)


def records(loss, control=False, scale="laptop"):
    """Made-up records; `loss` maps (warmup, replicate) to a curve."""
    found = []
    for study in EXPERIMENT.studies(scale, control, {}):
        for place in study.plan(0):
            hyperparameters = place.trial.hyperparameters
            warmup = int(hyperparameters["warmup_steps"])
            curve = np.asarray(loss(warmup, place.replicate), np.float32)
            complete = bool(np.all(np.isfinite(curve)))
            curves = {"train_loss": curve, "learning_rate": np.full(len(curve), hyperparameters["learning_rate"])}
            if place.trial.curvature_examples:
                steps = np.array(place.trial.curvature_steps, np.float32)
                curves |= {"sharpness_step": steps, "preconditioned_sharpness": 1000 / (1 + steps)}
            found.append(
                TrialRecord(
                    study=place.study,
                    arm=place.arm,
                    replicate=place.replicate,
                    address=place.trial.address(),
                    hyperparameters=hyperparameters,
                    seeds=place.trial.seeds,
                    status="complete" if complete else "infeasible",
                    reason=None if complete else "made up",
                    results={},
                    curves=curves,
                    timings={},
                )
            )
    return found


def verdicts(found, control=False):
    return {v.claim.id: v.verdict for v in judge(EXPERIMENT.judge(found, "laptop", control))}


def as_published(warmup, replicate):
    return loss_of(warmup, LAPTOP.steps, fails_at=None if warmup == LAPTOP.long else 100 + 10 * replicate)


@pytest.mark.parametrize("scale", SCALES)
def test_every_warmup_has_as_many_steps_at_the_peak_of_at_least_twice_the_longest(scale):
    settings = _SETTINGS[scale]
    assert max(settings.short, settings.long, *settings.drawn) == settings.long
    for control in (False, True):
        places = [place for study in EXPERIMENT.studies(scale, control, {}) for place in study.plan(0)]
        assert {place.trial.steps for place in places} == {settings.steps}
        assert settings.steps >= 2 * settings.long
        assert {place.trial.schedule for place in places} == {"constant"}
        assert {place.trial.workload.normalization for place in places} == {"before" if control else "after"}


def test_warmups_share_their_seeds():
    judged = EXPERIMENT.studies("laptop", False, {})[0].plan(0)
    seeds = {}
    for place in judged:
        seeds.setdefault(place.replicate, set()).add(tuple(place.trial.seeds.items()))
    assert [len(found) for found in seeds.values()] == [1] * LAPTOP.replicates


def test_paper_scale_has_the_published_warmups():
    settings = _SETTINGS["paper"]
    rows = published("fig6_warmup_instability")
    assert {settings.short, settings.long, *settings.drawn} == {int(row["warmup_steps"]) for row in rows}
    assert {settings.rate} == {float(row["peak_learning_rate"]) for row in rows}


def test_the_published_picture_is_reproduced():
    found = verdicts(records(as_published))
    assert found == {"warmup.too-short-diverges": "reproduced", "warmup.longer-is-stable": "reproduced"}


def test_runs_that_all_train_contradict():
    found = verdicts(records(lambda warmup, _: loss_of(warmup, LAPTOP.steps)))
    assert found == {"warmup.too-short-diverges": "contradicted", "warmup.longer-is-stable": "contradicted"}


def test_failing_within_the_warmup_is_not_failing_after_the_peak():
    found = verdicts(records(lambda warmup, _: loss_of(warmup, LAPTOP.steps, fails_at=-60)))
    assert found["warmup.too-short-diverges"] == "contradicted"


def test_a_loss_that_never_gets_anywhere_did_not_start_well():
    found = verdicts(records(lambda warmup, _: loss_of(warmup, LAPTOP.steps, stuck=True)))
    assert found["warmup.too-short-diverges"] == "contradicted"


@pytest.mark.parametrize("end", [4.5, np.inf])
def test_a_loss_that_climbs_from_the_start_fails_and_did_not_start_well(end):
    def loss(warmup, replicate):
        curve = loss_of(warmup, LAPTOP.steps, stuck=True)
        curve[warmup + 100 :] = end
        return curve

    assert {(found.risen, found.lost) for found in ends(records(loss), LAPTOP.short)} == {(True, False)}
    found = verdicts(records(loss))
    assert found == {"warmup.too-short-diverges": "contradicted", "warmup.longer-is-stable": "contradicted"}


def test_a_long_warmup_that_fails_too_contradicts_only_that_claim():
    found = verdicts(records(lambda warmup, _: loss_of(warmup, LAPTOP.steps, fails_at=1500)))
    assert found == {"warmup.too-short-diverges": "reproduced", "warmup.longer-is-stable": "contradicted"}


def test_an_infeasible_run_fails_when_it_ends():
    def loss(warmup, replicate):
        curve = loss_of(warmup, LAPTOP.steps)
        return curve if warmup == LAPTOP.long else np.append(curve[: warmup + 300], np.nan)

    found = records(loss)
    assert {(end.lost, end.step) for end in ends(found, LAPTOP.short)} == {(True, LAPTOP.short + 301)}
    assert verdicts(found)["warmup.too-short-diverges"] == "reproduced"


def test_the_control_that_never_fails_contradicts_the_main_claim():
    found = verdicts(records(lambda warmup, _: loss_of(warmup, LAPTOP.steps), control=True), control=True)
    assert found["warmup.too-short-diverges"] == "contradicted"


def test_false_positives_stay_within_the_level(monkeypatch):
    # Null: a seed fails or not by the toss of a coin, whatever its warmup, and half of the failures come early.
    rng = np.random.default_rng(0)
    wrong = np.zeros(2)
    n = 3000
    for _ in range(n):
        failed = rng.random((2, LAPTOP.replicates)) < 0.5
        made_up = {
            warmup: [LostProgress(2.5, 100, 3.3, bool(lost), bool(lost), LAPTOP.short + 100) for lost in row]
            for warmup, row in zip((LAPTOP.short, LAPTOP.long), failed, strict=True)
        }
        monkeypatch.setattr(instability_during_warmup, "ends", lambda records, warmup: made_up[warmup])  # noqa: B023
        wrong += [v.verdict == "reproduced" for v in judge(EXPERIMENT.judge([], "laptop", False))]
    assert np.all(wrong / n <= 0.025 + 3 * np.sqrt(0.025 / n))


@pytest.mark.parametrize("control", [False, True])
def test_drawing_warns_of_nothing(control):
    found = records(as_published, control)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = EXPERIMENT.draw(found, [], "laptop")
        FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == 4
