import dataclasses
import warnings

import numpy as np
import pytest
from scipy.stats import binomtest

from harness.experiments.experiment import SCALES
from harness.experiments.variance_sources import _SETTINGS, EXPERIMENT, SHARE, mcnemar, significantly_wider
from harness.experiments.verdict import judge, share_above
from harness.figures.style import save
from harness.records import TrialRecord
from harness.training.trial import PURPOSES, describe_workload
from workloads.workload import configure, workload_scale

PAIRS = configure(workload_scale("mlp", "laptop").workload, _SETTINGS["laptop"].configuration)
EXAMPLES = 4000


def made_up(spread, control=False, sources=None):
    """Records of both rounds at `laptop`.

    `spread` is the standard deviation of the share of the 4,000 labels that a run of a pair has wrong, beside 8% that
    it draws on its own; `sources` gives what a source's seed adds, 1 where it does not say.
    """
    labels = {}

    def record(place):
        seeds, workload = place.trial.seeds, place.trial.workload
        rng = np.random.default_rng([seeds["init"], seeds["order"]])
        curves = {}
        if place.study == "pairs":
            split = seeds["split"]
            labels.setdefault(split, PAIRS.data(split).validation["label"])
            wrong = rng.random(EXAMPLES) < max(0.0, 0.08 + spread * rng.normal())
            curves["prediction"] = np.where(wrong, (labels[split] + 1) % 10, labels[split]).astype(np.float32)
            outcome = float(wrong.mean())
        else:
            source = place.study.split("-")[1]
            seed = place.replicate if source == "search" else seeds[source]
            size = 1.0 if sources is None else sources.get(source, 1.0)
            outcome = 0.1 + 0.001 * size * np.random.default_rng(seed).normal()
        own = {f"workload.{name}": value for name, value in describe_workload(workload).items()}
        return TrialRecord(
            study=place.study,
            arm=place.arm,
            replicate=place.replicate,
            address=place.trial.address(),
            hyperparameters={**place.trial.hyperparameters, **own},
            seeds=seeds,
            status="complete",
            reason=None,
            results={"final_error": outcome, "final_loss": outcome},
            curves=curves,
            timings={},
        )

    first = [record(p) for study in EXPERIMENT.studies("laptop", control, {}) for p in study.plan(0)]
    later = EXPERIMENT.follow_ups[0](first, "laptop", control, {})
    return first + [record(p) for study in later for p in study.plan(0)]


def verdicts(records, control=False):
    return {v.claim.id: v.verdict for v in judge(EXPERIMENT.judge(records, "laptop", control))}


def test_mcnemar_is_the_sign_test_of_the_discordant():
    right, other = np.zeros((2, 40), bool)
    right[:12], other[10:13] = True, True
    assert mcnemar(right, other) == pytest.approx(binomtest(10, 11).pvalue)
    assert mcnemar(right, other) == mcnemar(other, right)
    assert mcnemar(right, right) == 1.0


def test_one_source_varies_and_all_others_are_held():
    settings = _SETTINGS["laptop"]
    for study in EXPERIMENT.studies("laptop", False, {}):
        seeds = [p.trial.seeds for p in study.plan(0)]
        name, _, source = study.name.partition("-")
        varied = {purpose for purpose in PURPOSES if len({s[purpose] for s in seeds}) > 1}
        if study.name == "pairs":
            assert varied == set(PURPOSES) - {"split"} and len(seeds) == 2 * settings.pairs
            assert study.predictions
        elif source.startswith("search-"):
            assert not varied
        else:
            assert varied == {source} and len(seeds) == settings.seeds >= 20
            assert source in settings.measured[name].sources


def test_every_source_of_the_catalogue_is_measured():
    measured = {source for each in _SETTINGS["laptop"].measured.values() for source in each.sources}
    assert measured == {*PURPOSES, "search"}


def test_a_source_is_measured_where_the_workload_draws_for_it():
    for study in EXPERIMENT.studies("laptop", False, {}):
        if study.name == "transformer-dropout":
            assert study.workload.dropout > 0
        if study.name == "resnet-augment":
            assert study.workload.dataset == "photo_patches_jpeg"


def test_winners_of_searches_retrain_on_seeds_that_all_share_and_no_search_had():
    records = made_up(0.01)
    winners = [r for r in records if r.study == "mlp-search"]
    assert len(winners) == len({r.replicate for r in winners}) == _SETTINGS["laptop"].seeds
    assert len({tuple(sorted(r.seeds.items())) for r in winners}) == 1
    others = {r.seeds["init"] for r in records if r.study != "mlp-search"}
    assert winners[0].seeds["init"] not in others
    points = {r.hyperparameters["learning_rate"] for r in records if r.study == "mlp-search-3"}
    assert next(r for r in winners if r.replicate == 3).hyperparameters["learning_rate"] in points


def test_runs_that_vary_more_than_their_examples_are_reproduced():
    found = verdicts(made_up(0.02))
    assert found == {"sources.significance-is-not-enough": "reproduced", "sources.measured": "reproduced"}


def test_runs_that_vary_as_their_examples_do_are_not():
    assert verdicts(made_up(0.0))["sources.significance-is-not-enough"] != "reproduced"


def test_a_source_without_effect_is_not_measured():
    assert verdicts(made_up(0.01, sources={"dropout": 0.0}))["sources.measured"] == "contradicted"


def test_identical_seeds_are_the_same_run():
    plan = [p for study in EXPERIMENT.studies("laptop", True, {}) for p in study.plan(0)]
    assert len({p.trial.address() for p in plan}) == len(plan)  # each is really run
    assert len({tuple(p.trial.seeds[purpose] for purpose in ("init", "order", "split")) for p in plan}) == 1
    found = verdicts(made_up(0.01, control=True), control=True)
    assert found == {"sources.significance-is-not-enough": "contradicted", "sources.control-same": "reproduced"}


def test_a_diverged_run_is_not_significant():
    records = [
        dataclasses.replace(r, status="infeasible", curves={}) if r.study == "pairs" else r for r in made_up(0.01)
    ]
    (_, significance), _ = EXPERIMENT.judge(records, "laptop", False)
    assert significance.effect == 0


def test_the_share_keeps_its_level():
    rng = np.random.default_rng(0)
    pairs = _SETTINGS["laptop"].pairs
    # Networks of equal error on examples of unequal difficulty: the exact test keeps its 5%.
    hard = rng.beta(0.2, 2.0, size=(2000, 1, 1000))
    right, other = np.moveaxis(rng.random((2000, 2, 1000)) > hard, 1, 0)
    significant = np.array([mcnemar(a, b) < 0.05 for a, b in zip(right, other, strict=True)])
    assert significant.mean() < 0.05
    # At a true share of the threshold itself.
    found = [share_above(int(rng.binomial(pairs, SHARE)), pairs, SHARE) for _ in range(2000)]
    assert np.mean([j.p_for <= 0.05 for j in found]) <= 0.025 + 3 * np.sqrt(0.025 / 2000)


def test_sources_are_ranked_only_where_they_differ():
    rng = np.random.default_rng(1)
    outcomes = {"a": rng.normal(size=20), "b": 10 * rng.normal(size=20), "c": 1.1 * rng.normal(size=20)}
    assert {(wide, narrow) for wide, narrow, _ in significantly_wider(outcomes)} == {("b", "a"), ("b", "c")}
    alike = [significantly_wider({name: rng.normal(size=20) for name in "abcd"}) for _ in range(100)]
    assert sum(bool(found) for found in alike) <= 12


@pytest.mark.parametrize("control", [False, True])
def test_it_draws_without_warnings(tmp_path, control):
    records = made_up(0.01, control)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(lambda: EXPERIMENT.draw(records, [], "laptop"), tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 20_000


@pytest.mark.parametrize("scale", [scale for scale in SCALES if scale != "paper"])
def test_every_scale_plans(scale):
    names = [study.name for study in EXPERIMENT.studies(scale, False, {})]
    assert len(set(names)) == len(names)
    assert [study.name for study in EXPERIMENT.studies(scale, True, {})] == ["pairs"]
