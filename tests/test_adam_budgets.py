import dataclasses
import warnings

import numpy as np
import pytest

from harness.experiments import adam_budgets as adam
from harness.experiments.adam_budgets import EXPERIMENT, SETTINGS, SPACES, UNTUNED
from harness.experiments.adam_figure import draw
from harness.experiments.experiment import SCALES
from harness.experiments.verdict import ALPHA, judge, larger, no_worse
from harness.records import TrialRecord

LAPTOP = SETTINGS["laptop"]
SMALL = dataclasses.replace(LAPTOP, budgets=(1, 2, 4, 4), pools=8, fresh=1)
"""What whole rounds are made up at."""

BUDGETS = LAPTOP.budgets
MARGIN = LAPTOP.delta

PLAYBOOK = np.array(
    [
        [2.600, 2.640, 2.680, 2.700],
        [2.600, 2.570, 2.590, 2.600],
        [2.600, 2.565, 2.550, 2.555],
        [2.600, 2.565, 2.545, 2.530],
    ]
)
"""Losses by budget and space in the playbook's world."""


def pools(means=PLAYBOOK, sd=0.004, seed=0):
    """Losses of winners, (pools, budgets, spaces)."""
    noise = np.random.default_rng(seed).standard_normal((LAPTOP.pools, len(BUDGETS), len(SPACES)))
    return means + sd * noise


def verdicts(monkeypatch, losses, control=False):
    monkeypatch.setattr(adam, "expected", lambda records, scale: losses)
    monkeypatch.setattr(adam, "crowded", lambda records, scale: [])
    return {v.claim.id: v.verdict for v in judge(EXPERIMENT.judge([], "laptop", control))}


def bowl(point):
    """A loss with its best rate inside the space, that the other hyperparameters change a little."""
    full = {**UNTUNED, **point}
    away = np.log10(full["learning_rate"]) + 1.3
    return 2.55 + 0.1 * away**2 + 0.02 * (full["beta1"] - 0.6) ** 2 + 0.03 * max(np.log10(full["epsilon"]) + 4, 0)


def record(place, loss, infeasible=False):
    trial = place.trial
    return TrialRecord(
        study=place.study,
        arm=place.arm,
        replicate=place.replicate,
        address="",
        hyperparameters=trial.hyperparameters,
        seeds=trial.seeds,
        status="infeasible" if infeasible else "complete",
        reason="loss is not finite" if infeasible else None,
        results={} if infeasible else {"final_loss": float(loss)},
        curves={},
        timings={},
    )


def rounds(control=False, loss=bowl, infeasible=lambda place: False, scale="small"):
    """Records of both rounds, the second planned from the first."""
    rng = np.random.default_rng(0)

    def run(studies):
        places = [place for study in studies for place in study.plan(0)]
        return [record(p, loss(p.trial.hyperparameters) + rng.normal(0, 0.008), infeasible(p)) for p in places]

    records = run(EXPERIMENT.studies(scale, control, {}))
    return records + run(EXPERIMENT.follow_ups[0](records, scale, control, {}))


@pytest.fixture(scope="module", autouse=True)
def small_scale():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "small", SMALL)
        yield


@pytest.fixture(scope="module")
def bowl_records():
    return rounds()


# --- the plan ---


def test_spaces_are_nested_and_share_coordinates_seeds_and_split():
    places = [place for study in EXPERIMENT.studies("smoke", False, {}) for place in study.plan(0)]
    by_space = {space: [p.trial for p in places if p.arm == space] for space in SPACES}
    assert {len(trials) for trials in by_space.values()} == {SETTINGS["smoke"].budgets[-1]}
    names = ("learning_rate", "beta1", "epsilon", "beta2")
    for tuned, space in enumerate(SPACES, 1):
        for smaller, trial in zip(by_space["rate"], by_space[space], strict=True):
            assert trial.seeds == smaller.seeds
            assert trial.hyperparameters["learning_rate"] == smaller.hyperparameters["learning_rate"]
            assert all(trial.hyperparameters[name] == UNTUNED[name] for name in names[tuned:])
        for name in names[1:tuned]:
            assert len({trial.hyperparameters[name] for trial in by_space[space]}) == len(by_space[space])


def test_every_pool_has_points_seeds_and_a_split_of_its_own():
    studies = EXPERIMENT.studies("laptop", False, {})
    assert len(studies) == LAPTOP.pools * len(SPACES) * BUDGETS[-1]
    first = {study.name: study for study in reversed(studies)}  # the first of a name stays
    plans = [first[adam.study_of("search", pool, 3)].plan(0)[0].trial for pool in range(LAPTOP.pools)]
    assert len({trial.hyperparameters["learning_rate"] for trial in plans}) == LAPTOP.pools
    for purpose in ("init", "order", "split"):
        assert len({trial.seeds[purpose] for trial in plans}) == LAPTOP.pools
    assert len({study.plan(0)[0].trial.compile_group() for study in first.values()}) == 1


def test_budgets_are_where_the_playbook_draws_its_lines():
    few, more, many, most = BUDGETS
    assert few < 10 <= more <= 25 <= many and most >= 2 * 25
    assert all(settings.budgets[-1] % budget == 0 for settings in SETTINGS.values() for budget in settings.budgets)


def test_winners_are_those_of_disjoint_searches():
    losses = np.array([3.0, 1.0, 2.0, 2.0, 5.0, 4.0])
    assert adam.winners_of(losses, 2).tolist() == [1, 2, 5]
    assert adam.winners_of(losses, 3).tolist() == [1, 3]
    assert adam.winners_of(losses, 6).tolist() == [1]


def test_every_winner_is_retrained_on_fresh_seeds_that_the_spaces_share(bowl_records):
    searched, _ = adam.searched(bowl_records, "small")
    fresh = [r for r in bowl_records if r.study.startswith("fresh")]
    assert not {r.replicate for r in fresh} & {r.replicate for r in bowl_records if r.study.startswith("search")}
    for pool in range(SMALL.pools):
        own = [[r for r in fresh if r.study == adam.study_of("fresh", pool, space)] for space in range(len(SPACES))]
        assert len({frozenset(r.replicate for r in records) for records in own}) == 1
        for space, records in enumerate(own):
            won = {
                trial for budget in SMALL.budgets for trial in adam.winners_of(searched[pool, space], budget).tolist()
            }
            assert len(records) == len(won) * SMALL.fresh


def test_what_is_judged_is_the_median_over_fresh_seeds_and_the_mean_over_searches():
    records = rounds(loss=lambda point: 0.0, scale="smoke")
    found = adam.expected(records, "smoke")
    fresh = {r.hyperparameters["beta2"]: r.results["final_loss"] for r in records if r.study == "fresh-0-beta2"}
    assert found.shape == (1, 4, 4)
    assert found[0, 0, 3] == pytest.approx(np.mean(list(fresh.values())))
    best = min((r for r in records if r.study == "search-0-beta2"), key=lambda r: r.results["final_loss"])
    assert found[0, 3, 3] == fresh[best.hyperparameters["beta2"]]


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_can_be_planned(scale):
    assert SETTINGS[scale].fresh % 2
    assert scale == "smoke" or SETTINGS[scale].pools >= 8
    assert adam._placed(scale, {"width": "8"})("search", 0, 0, {"learning_rate": 0.01}, [0]).workload.width == 8


# --- the judge ---


def test_the_playbook_s_world_is_reproduced_and_its_control_is_not(monkeypatch):
    found = verdicts(monkeypatch, pools())
    assert list(found) == [claim.id for claim in EXPERIMENT.claims]
    assert set(found.values()) == {"reproduced"}
    control = verdicts(monkeypatch, pools(), control=True)
    assert control == {"adam.budget-order": "contradicted", "adam.control-loses": "reproduced"}


def test_where_nothing_matters_neither_the_order_nor_its_reverse_is_reproduced(monkeypatch):
    losses = pools(np.full((4, 4), 2.6))
    assert set(verdicts(monkeypatch, losses).values()) == {"inconclusive"}
    assert set(verdicts(monkeypatch, losses, control=True).values()) == {"inconclusive"}


def test_the_opposite_is_contradicted(monkeypatch):
    found = verdicts(monkeypatch, pools(PLAYBOOK[:, ::-1]))
    assert found["adam.budget-order"] == found["adam.few-rate-alone"] == found["adam.beta2-pays"] == "contradicted"
    assert verdicts(monkeypatch, pools(PLAYBOOK[:, ::-1]), control=True)["adam.budget-order"] == "reproduced"


@pytest.mark.parametrize("budget, other", [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)])
def test_a_neighbour_that_is_better_by_more_than_the_margin_contradicts(monkeypatch, budget, other):
    means = PLAYBOOK.copy()
    means[budget, other] = means[budget, budget] - 3 * MARGIN
    assert verdicts(monkeypatch, pools(means))["adam.budget-order"] == "contradicted"
    means[budget, other] = means[budget, budget] - MARGIN / 4
    assert verdicts(monkeypatch, pools(means))["adam.budget-order"] == "reproduced"


def test_a_hyperparameter_that_does_not_pay_fails_its_own_claim_alone(monkeypatch):
    means = PLAYBOOK.copy()
    means[3, 3] = means[3, 2]
    found = verdicts(monkeypatch, pools(means))
    assert found.pop("adam.beta2-pays") == "inconclusive"
    assert set(found.values()) == {"reproduced"}


def test_winners_crowded_at_an_end_are_out_of_range(bowl_records):
    assert adam.crowded(bowl_records, "small") == []
    records = rounds(loss=lambda point: 2.6 - 0.1 * np.log10(point["learning_rate"]))
    assert adam.crowded(records, "small") == ["learning_rate high"]
    for control in (False, True):
        found = judge(EXPERIMENT.judge(records, "small", control))
        assert {(v.verdict, v.reason) for v in found} == {("inconclusive", "range")}


def test_ends_that_widening_does_not_change_are_walls():
    def at_walls(point):
        full = {**UNTUNED, **point}
        return bowl({"learning_rate": full["learning_rate"]}) + full["beta1"] + 0.1 * np.log10(full["epsilon"])

    assert not {"beta1 low", "epsilon low"} & set(adam.crowded(rounds(loss=at_walls), "small"))


def test_infeasible_trials_count_with_guessing_and_so_does_worse(bowl_records):
    high = rounds(infeasible=lambda place: place.trial.hyperparameters["learning_rate"] > 0.05)
    losses, _ = adam.searched(high, "small")
    assert losses.max() == pytest.approx(np.log(85)) and np.isfinite(adam.expected(high, "small")).all()
    assert adam.loss_by("small")(record(EXPERIMENT.studies("smoke", False, {})[0].plan(0)[0], 50.0)) == losses.max()
    nothing = rounds(infeasible=lambda place: True)
    assert {v.verdict for v in judge(EXPERIMENT.judge(nothing, "small", False))} == {"inconclusive"}


# --- calibration ---


def simulated(kind, rng, units):
    """Losses of winners of simulated pools, random points instead of quasi-random ones, (units, budgets, spaces)."""
    trials, losses = BUDGETS[-1], np.empty((units, len(BUDGETS), len(SPACES)))
    coordinates = rng.random((units, trials, len(SPACES)))
    shared = {1: rng.standard_normal((units, trials, 1)), 3: rng.standard_normal((units, 1, 3))}
    for space in range(len(SPACES)):
        at = np.broadcast_to([0.5, 0.5, 0.1, 0.5], coordinates.shape).copy()
        at[..., : space + 1] = coordinates[..., : space + 1]
        rate, beta1, epsilon, beta2 = np.moveaxis(at, -1, 0)
        mean = 2.55 + 0.8 * (rate - 0.68) ** 2 + 0.2 * (beta1 - 0.6) ** 2
        mean += 0.3 * np.maximum(epsilon - 0.6, 0) + 0.03 * (beta2 - 0.4) ** 2
        edge = np.clip((rate - 0.8 + 0.15 * beta1) / 0.03, 0, 1)
        fails = {"edge": edge, "stuck": np.full_like(mean, 0.05)}.get(kind, np.zeros_like(mean))

        def train(seeds, mean=mean, fails=fails):
            noise = 0.7 * (rng.standard_normal((*mean.shape, seeds)) + shared[seeds])
            noise = np.exp(0.8 * noise) - 1.38 if kind == "skewed" else noise
            failed = rng.random(noise.shape) < fails[..., None]
            values = mean[..., None] + 0.009 * noise + failed * rng.uniform(0.1, 0.8, noise.shape)
            return np.round(values, 2) if kind == "ties" else values

        searched, fresh = train(1)[..., 0], np.median(train(3), axis=-1)
        for index, budget in enumerate(BUDGETS):
            won = searched.reshape(units, -1, budget).argmin(axis=2)[..., None]
            winners = np.take_along_axis(fresh.reshape(units, -1, budget), won, axis=2)[..., 0]
            losses[:, index, space] = winners.mean(axis=1)
    return losses


@pytest.mark.parametrize("kind", ["bowl", "edge", "stuck", "skewed", "ties"])
def test_thresholds_are_not_passed_by_chance(kind):
    runs = 150
    losses = simulated(kind, np.random.default_rng(7), runs * LAPTOP.pools)
    losses = (losses - losses.mean(axis=0)).reshape(runs, LAPTOP.pools, *losses.shape[1:])  # no difference anywhere
    found = {"no worse": 0, "worse": 0, "order": 0, "all": 0, "contradicted": 0}
    for one in losses:
        part = no_worse(one[:, 1, 1] - one[:, 1, 0] + MARGIN, MARGIN)
        found["no worse"] += part.p_for <= ALPHA
        found["worse"] += part.p_against <= ALPHA
        found["order"] += larger(adam.gain_over_reverse(one).mean(axis=1), 0.0).p_for <= ALPHA
        whole = adam.follows_order(one, 0.0)
        found["all"] += whole.p_for <= ALPHA
        found["contradicted"] += whole.p_against <= ALPHA
    assert max(found.values()) / runs <= 0.025 + 3 * np.sqrt(0.025 / runs)
    assert found["all"] == 0


# --- the figure ---


@pytest.mark.parametrize("kind", ["experiment", "control", "everything is infeasible", "smoke"])
def test_it_draws_without_warnings(kind, bowl_records):
    records = {
        "experiment": lambda: bowl_records,
        "control": lambda: bowl_records,
        "everything is infeasible": lambda: rounds(infeasible=lambda place: True),
        "smoke": lambda: rounds(scale="smoke"),
    }[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(records, "smoke" if kind == "smoke" else "small", kind == "control")
        figure.draw_without_rendering()
    assert len(figure.axes) == 4
    assert ("swapped" in figure.get_suptitle()) == (kind == "control")


def test_the_drawing_knows_a_control_by_its_claims(bowl_records):
    for control in (False, True):
        found = judge(EXPERIMENT.judge(bowl_records, "small", control))
        assert ("swapped" in EXPERIMENT.draw(bowl_records, found, "small").get_suptitle()) == control
