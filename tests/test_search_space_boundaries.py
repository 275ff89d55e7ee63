import dataclasses
import warnings
from functools import lru_cache

import numpy as np
import pytest

from harness.experiments import search_space_boundaries as module
from harness.experiments.search_space_boundaries import EXPERIMENT, is_infeasible
from harness.experiments.verdict import judge, larger, share_above, share_below
from harness.figures.style import save
from harness.records import TrialRecord

CALM = np.full(20, 1.0, np.float32)
SPIKED = np.array([1.0] * 10 + [5.0] * 10, np.float32)
RUNS = 200  # with 2,000 it passes as well


def record(place, error, diverged=False):
    """What a planned trial would leave, with an error made up."""
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address=f"{place.study}-{len(str(place.trial.hyperparameters))}",
        hyperparameters=place.trial.hyperparameters,
        seeds=place.trial.seeds,
        status="complete",
        reason=None,
        results={"final_error": 0.9 if diverged else float(error)},
        curves={"train_loss": SPIKED if diverged else CALM},
        timings={},
    )


@lru_cache  # planning takes a second
def outcomes(error, scale="laptop", control=False):
    """Records of both rounds; `error` maps (arm, log10 of the rate, generator) to an error, None if diverged."""
    rng = np.random.default_rng(0)

    def records(studies):
        found = []
        for study in studies:
            for place in study.plan(0):
                value = error(place.arm, np.log10(place.trial.hyperparameters["learning_rate"]), rng)
                found.append(record(place, value or 0.9, diverged=value is None))
        return found

    first = records(EXPERIMENT.studies(scale, control, {}))
    return first + records(EXPERIMENT.follow_ups[0](first, scale, control, {}))


def verdicts(found, control=False):
    judged = judge(EXPERIMENT.judge(found, "laptop", control))
    return {verdict.claim.id.removeprefix("boundary."): verdict.verdict for verdict in judged}


def as_published(arm, rate, rng):
    """A valley about the rate .05; before the wall, at 1, an error that falls up to it."""
    if arm == "wall":
        return None if rate > 0 else 0.1 - 0.1 * rate + rng.normal(0, 0.005)
    if rate > -0.3:
        return None
    return 0.1 + 0.1 * abs(rate + 1.3) + rng.normal(0, 0.005)


def test_the_plan_is_30_searches_a_space_and_shares_no_seed_between_searches():
    studies = EXPERIMENT.studies("laptop", False, {})
    assert [study.arms[0].name for study in studies] == ["bad"] * 30 + ["good"] * 30 + ["wall"] * 30
    seeds = [place.trial.seeds["init"] for study in studies[:30] for place in study.plan(0)[:1]]
    assert len(set(seeds)) == 30
    # Searches of two spaces are paired, and so are the points' positions in them.
    bad, good = studies[3].plan(0), studies[33].plan(0)
    assert bad[0].trial.seeds == good[0].trial.seeds
    rates = [[place.trial.hyperparameters["learning_rate"] for place in plan] for plan in (bad, good)]
    assert max(rates[0]) <= 0.005 < max(rates[1]) and np.argmax(rates[0]) == np.argmax(rates[1])


def test_the_wall_has_neither_momentum_nor_the_overrides_of_other_workloads():
    studies = EXPERIMENT.studies("laptop", False, {"width": "32"})
    wall = next(study for study in studies if study.arms[0].name == "wall")
    assert (wall.optimizer, wall.batch_size, wall.workload.width) == ("sgd", 512, 64)
    assert studies[0].workload.width == 32


@pytest.mark.parametrize("control", [False, True])
def test_winners_are_retrained_on_seeds_that_no_search_used(control):
    found = outcomes(as_published, control=control)
    winners = [r for r in found if r.arm.endswith("-winner")]
    assert len(winners) == 2 * 30 * 4
    used = {r.seeds["init"] for r in found if not r.arm.endswith("-winner")}
    assert not used & {r.seeds["init"] for r in winners}
    search = [r for r in found if (r.arm, r.replicate) == ("good", 7)]
    best = min(search, key=lambda r: r.results["final_error"])
    again = [r for r in winners if r.study == "good-winner-7"]
    assert {r.hyperparameters["learning_rate"] for r in again} == {best.hyperparameters["learning_rate"]}


def test_what_the_playbook_says_is_reproduced():
    assert set(verdicts(outcomes(as_published)).values()) == {"reproduced"}


def test_where_hyperparameters_do_nothing_nothing_is_reproduced_but_that_the_good_space_passes():
    found = verdicts(outcomes(lambda arm, rate, rng: 0.3 + rng.normal(0, 0.01)))
    assert found == {
        "bad-flagged": "contradicted",
        "good-passes": "reproduced",
        "widening-helps": "contradicted",
        "wall-is-not-edge": "contradicted",
    }


def test_the_opposite_is_contradicted():
    def error(arm, rate, rng):
        """Falls with the rate in the good space, rises in the others."""
        return 0.5 + (-0.05 if arm.startswith("good") else 0.05) * rate + rng.normal(0, 0.005) * (arm != "x")

    found = verdicts(outcomes(lambda *of: {"good-winner": 0.6}.get(of[0], error(*of))))
    assert set(found.values()) == {"contradicted"}


def test_a_wall_that_is_called_an_edge_contradicts():
    found = outcomes(lambda arm, rate, rng: 0.5 - 0.05 * rate if arm == "wall" else as_published(arm, rate, rng))
    assert verdicts(found)["wall-is-not-edge"] == "contradicted"


def test_the_control_is_not_flagged_and_widening_brings_nothing():
    found = outcomes(lambda arm, rate, rng: 0.1 + 0.1 * (rate + 1.3) ** 2 + rng.normal(0, 0.005), control=True)
    assert verdicts(found, control=True) == {"bad-flagged": "contradicted", "control-same": "reproduced"}


def test_diverged_is_not_finite_or_spiked_and_broken():
    place = EXPERIMENT.studies("laptop", False, {})[0].plan(0)[0]
    assert not is_infeasible(record(place, 0.88))  # a rate too low to learn anything is feasible
    assert is_infeasible(record(place, 0, diverged=True))
    recovered = record(place, 0.2)
    assert not is_infeasible(dataclasses.replace(recovered, curves={"train_loss": SPIKED}))
    assert is_infeasible(dataclasses.replace(recovered, status="infeasible", results={}))


def test_a_search_of_infeasible_trials_alone_counts_with_chance_error():
    found = outcomes(lambda arm, rate, rng: None if arm.startswith("bad") else as_published(arm, rate, rng))
    judged = dict(EXPERIMENT.judge(found, "laptop", False))
    assert judged[module.BAD].effect == 0
    assert judged[module.WIDENING].effect == pytest.approx(0.9 - 0.1, abs=0.03)


def test_false_positives_over_the_claims_stay_within_the_level():
    # Every claim at the border of its null: shares at their thresholds, skewed and tied differences with mean delta.
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(RUNS):
        flagged, passing, wall = rng.random((3, 30)) < [[module.FLAGGED], [module.FALSELY_FLAGGED], [module.MOSTLY]]
        gains = 0.01 + np.round(rng.exponential(0.01, 30) - rng.exponential(0.01, 30), 3)
        judged = judge(
            [
                (module.BAD, share_above(int(flagged.sum()), 30, module.FLAGGED)),
                (module.GOOD, share_below(int(passing.sum()), 30, module.FALSELY_FLAGGED)),
                (module.WIDENING, larger(gains, 0.01)),
                (module.WALL, share_above(int(wall.sum()), 30, module.MOSTLY)),
            ]
        )
        wrong += any(verdict.verdict != "inconclusive" for verdict in judged)
    assert wrong <= 0.05 * RUNS + 3 * np.sqrt(0.05 * 0.95 * RUNS)


@pytest.mark.parametrize("control", [False, True])
def test_drawing_warns_of_nothing(control, tmp_path):
    found = outcomes(as_published, control=control)
    judged = judge(EXPERIMENT.judge(found, "laptop", control))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(found, judged, "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
