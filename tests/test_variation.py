import dataclasses
import json

import pytest

from harness.experiments.experiment import experiments
from harness.experiments.variation import AXES, FACTORS, CannotVaryError, Variation, grid, varied
from harness.flips import flips
from harness.recorded import own_flips, recorded_flips
from harness.records import InputError
from harness.report.page import flip_maps
from harness.studies.study import Arm, Study
from tests.stand_in import EXPERIMENT, ROUNDS, stand_in_study
from workloads.workload import workload_scale

BASE = workload_scale("mlp", "laptop")


def study(**changes):
    fields = {
        "name": "one",
        "workload": BASE.workload,
        "arms": (Arm("plain"), Arm("wide", {"width": 128}), Arm("warm", hyperparameters={"warmup_steps": 40})),
        "points": [{"learning_rate": 0.1}, {"learning_rate": 0.1, "constant_steps": 10}],
        "replicates": range(2),
        "hyperparameters": BASE.hyperparameters,
        "batch_size": 64,
        "steps": 100,
        "evaluation_batch_size": 500,
        "evaluation_steps": (0, 1, 50),
        "curvature_steps": (0, 30),
        "noise_steps": (10,),
    }
    return Study(**{**fields, **changes})


def of(one, axis, factor):
    experiment = dataclasses.replace(EXPERIMENT, studies=lambda *arguments: [one])
    (found,) = varied(experiment, Variation(axis, factor)).studies("laptop", False, {})
    return found


@pytest.mark.parametrize("factor", FACTORS)
def test_only_the_axis_changes(factor):
    base = study()
    changed = {
        "model": {"workload", "arms"},
        "steps": {"steps", "evaluation_steps", "curvature_steps", "noise_steps", "hyperparameters", "points", "arms"},
        "batch": {"batch_size"},
        "data": {"workload"},
    }
    assert changed.keys() == set(AXES)
    for axis, names in changed.items():
        if (axis, factor) == ("data", 2.0):
            continue
        found = of(base, axis, factor)
        for field in dataclasses.fields(Study):
            if field.name not in names:
                assert getattr(found, field.name) == getattr(base, field.name), (axis, field.name)


def test_the_model_is_wider_in_every_arm():
    found = of(study(), "model", 2.0)
    assert found.workload.width == 2 * BASE.workload.width
    assert [arm.workload.get("width") for arm in found.arms] == [None, 256, None]


def test_whatever_is_counted_in_steps_goes_with_them():
    found = of(study(), "steps", 0.5)
    assert (found.steps, found.evaluation_steps, found.curvature_steps, found.noise_steps) == (
        50,
        (0, 1, 25),
        (0, 15),
        (5,),
    )
    assert found.points == [{"learning_rate": 0.1}, {"learning_rate": 0.1, "constant_steps": 5}]
    assert found.arms[2].hyperparameters == {"warmup_steps": 20}
    trials = [place.trial for place in found.plan(0)]
    assert {trial.total_steps for trial in trials} == {50, 70}


def test_data_are_halved_and_grow_only_where_there_are_more():
    assert of(study(), "data", 0.5).workload.training_examples == 2000
    part = dataclasses.replace(BASE.workload, training_examples=1000)
    assert of(study(workload=part), "data", 2.0).workload.training_examples == 2000
    with pytest.raises(InputError, match=r"^8000 training examples: mlp has 4000 here$"):
        of(study(), "data", 2.0)


def test_batches_stay_multiples_of_their_parts():
    found = of(study(batch_size=12, accumulation=4), "batch", 0.5)
    assert found.batch_size == 8
    assert of(study(batch_size=1), "batch", 0.5).batch_size == 1


@pytest.mark.parametrize(
    ("axis", "workload", "message"),
    [
        ("model", stand_in_study().workload, "stand_in has no field 'width'"),
        ("data", stand_in_study().workload, "stand_in has no field 'training_examples'"),
        ("model", workload_scale("wide_resnet", "laptop").workload, "wide_resnet is as narrow as it can be"),
    ],
)
def test_what_cannot_be_varied_is_said(axis, workload, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        of(study(workload=workload, arms=(Arm("plain"),)), axis, 0.5)


def test_every_experiment_can_be_varied_along_its_axes():
    """Each cell has studies of its own, or a reason why not."""
    for experiment in experiments().values():
        assert set(experiment.flips) <= set(AXES)
        chosen = {p.trial.address() for one in experiment.studies("smoke", False, {}) for p in one.plan(0)}
        for variation in grid(experiment.flips):
            try:
                studies = varied(experiment, variation).studies("smoke", False, {})
                addresses = {place.trial.address() for one in studies for place in one.plan(0)}
            except InputError:
                continue
            assert addresses != chosen, (experiment.name, variation.name)


def test_flips_of_a_stand_in(tmp_path):
    """Runs end to end, twice; the second time nothing is trained."""
    seen = []
    short = dataclasses.replace(ROUNDS, flips=("model", "steps"))
    named = {"jobs": 1, "executor": None, "overrides": {}, "fresh": False, "command": "test"}
    for _ in range(2):
        for path in tmp_path.glob("*/*/flips.json"):
            path.write_text('{"cells": []}')  # of an older version
        found = flips(short, "smoke", tmp_path, 0, on_variation=seen.append, **named)
    assert seen[:5] == ["", "model-x0.5", "steps-x0.5", "model-x2", "steps-x2"]
    cells = {(cell["axis"], cell["factor"]): cell for cell in found["cells"]}
    assert cells["model", 2.0]["unavailable"] == "stand_in has no field 'width'"
    assert cells["steps", 2.0]["claims"] == []
    kept = json.loads((tmp_path / "stand-in-rounds/smoke-seed0/flips.json").read_text())
    assert kept["cells"] == found["cells"]
    assert kept["claims"] == []
    longer = json.loads((tmp_path / "flips/steps-x2/stand-in-rounds/smoke-seed0/result.json").read_text())
    assert longer["trials"]["complete"] > 0


def test_flips_that_were_stopped_show_what_is_finished(tmp_path):
    """Each cell is kept as it is judged; the others say that they were not run and what runs them."""

    def stop(variation):
        if variation == "steps-x2":
            raise KeyboardInterrupt

    short = dataclasses.replace(ROUNDS, flips=("steps",))
    named = {"jobs": 1, "executor": None, "overrides": {}, "fresh": False, "command": "test"}
    with pytest.raises(KeyboardInterrupt):
        flips(short, "smoke", tmp_path, 0, on_variation=stop, **named)
    kept = own_flips(tmp_path / "stand-in-rounds/smoke-seed0")
    assert kept["cells"] == [
        {"axis": "steps", "factor": 0.5, "claims": []},
        {"axis": "steps", "factor": 2.0, "unavailable": "not run yet; playbook flips stand-in-rounds goes on"},
    ]
    assert flips(short, "smoke", tmp_path, 0, **named)["cells"][1] == {"axis": "steps", "factor": 2.0, "claims": []}


def test_what_goes_wrong_while_a_variation_runs_is_no_missing_cell(tmp_path):
    """It would stand on the page as a property of the experiment."""
    short = dataclasses.replace(ROUNDS, flips=("steps",))
    named = {"jobs": 1, "executor": None, "overrides": {}, "fresh": False, "command": "test"}
    flips(short, "smoke", tmp_path, 0, **named)
    before = own_flips(tmp_path / "stand-in-rounds/smoke-seed0")
    (store,) = (tmp_path / "flips/steps-x0.5").glob("*/*/study.sqlite")
    store.write_bytes(b"no store" * 1000)
    with pytest.raises(InputError, match=r"steps-x0\.5.*--fresh"):
        flips(short, "smoke", tmp_path, 0, **named)
    assert own_flips(tmp_path / "stand-in-rounds/smoke-seed0") == before
    again = flips(short, "smoke", tmp_path, 0, **{**named, "fresh": True})
    assert again["cells"] == before["cells"]


def test_what_a_variation_cannot_be_judged_by_is_a_missing_cell(tmp_path):
    def judge(records, scale, control):
        raise InputError("no trial reaches the target")

    one = varied(dataclasses.replace(ROUNDS, judge=judge), Variation("steps", 2.0))
    with pytest.raises(CannotVaryError, match="no trial reaches the target"):
        one.judge([], "laptop", False)


def test_a_map_has_the_chosen_setting_in_the_middle():
    claim = {"id": "a.b", "verdict": "reproduced", "reason": None, "effect": 1.0, "interval": [0, 2], "n": 8}
    cells = [
        {"axis": "steps", "factor": 0.5, "claims": [{**claim, "verdict": "contradicted"}]},
        {"axis": "steps", "factor": 2.0, "unavailable": "no more"},
    ]
    (found,) = flip_maps({"claims": [claim], "cells": cells})
    assert found["factors"] == [0.5, 1.0, 2.0]
    (row,) = found["rows"]
    assert [cell.get("verdict") for cell in row["cells"]] == ["contradicted", "reproduced", None]
    assert row["cells"][2] == {"unavailable": "no more"}


def test_a_page_shows_recorded_maps_of_its_own_kind_of_device(monkeypatch, tmp_path):
    """Of the lowest seed; a map of a GPU says nothing of a CPU's verdict."""
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    folder = tmp_path / "laptop" / "some"
    folder.mkdir(parents=True)
    for seed in (10, 2):
        (folder / f"laptop-seed{seed}.flips.json").write_text(json.dumps({"seed": seed, "claims": [], "cells": []}))
    assert recorded_flips("some", "laptop", "AMD EPYC")["seed"] == 2
    assert recorded_flips("some", "laptop", "NVIDIA H200") == {}
    assert recorded_flips("some", "paper", "AMD EPYC") == {}
    assert recorded_flips("other", "laptop", None) == {}
