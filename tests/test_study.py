import dataclasses
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import harness.training
import workloads
from harness.records import InputError
from harness.search.samplers import sample
from harness.search.space import Hyperparameter, Space
from harness.studies.identity import difference, identity, source_hash
from harness.studies.study import Arm
from harness.training.trial import LATER, OF_THE_RATE, OPTIONAL, PURPOSES, Trial, derive_seeds
from tests.stand_in import HYPERPARAMETERS, StandIn, stand_in_study, stand_in_trial
from workloads.workload import ConfigurationError

ONE = {"points": [{"learning_rate": 0.1}], "replicates": [0]}


def addresses(planned):
    return [place.trial.address() for place in planned]


class TestPlan:
    def test_order(self):
        """Arm by arm, point by point, replicate by replicate."""
        planned = stand_in_study().plan(0)
        places = [(p.study, p.arm, p.trial.hyperparameters["learning_rate"], p.replicate) for p in planned]
        assert places == [
            ("rates", arm, rate, replicate)
            for arm in ("narrow", "wide")
            for rate in (0.1, 0.5)
            for replicate in range(3)
        ]

    def test_the_same_seed_gives_the_same_plan(self):
        assert stand_in_study().plan(3) == stand_in_study().plan(3)
        assert not set(addresses(stand_in_study().plan(3))) & set(addresses(stand_in_study().plan(4)))

    def test_settings_reach_the_trials(self):
        study = stand_in_study(
            batch_size=4,
            steps=9,
            evaluation_batch_size=8,
            optimizer="nesterov",
            schedule="cosine",
            curvature_examples=6,
            curvature_steps=(0, 5, 10),
            predictions=True,
            noise_steps=(3, 10),
            accumulation=2,
        )
        for trial in (place.trial for place in study.plan(0)):
            assert (trial.batch_size, trial.steps, trial.evaluation_batch_size) == (4, 9, 8)
            assert (trial.optimizer, trial.schedule) == ("nesterov", "cosine")
            assert (trial.curvature_examples, trial.predictions, trial.accumulation) == (6, True, 2)
            assert trial.curvature_steps == (0, 5)  # the trial ends before the third
            assert trial.noise_steps == (3,)

    def test_an_arm_overrides_the_study_and_a_point_overrides_both(self):
        arms = (Arm("plain"), Arm("other", {"features": 7}, {"momentum": 0.5, "learning_rate": 9.0, "warmup_steps": 3}))
        plain, other = (p.trial for p in stand_in_study(arms=arms, **ONE).plan(0))
        assert plain.workload == StandIn()
        assert plain.hyperparameters == {**HYPERPARAMETERS, "learning_rate": 0.1}
        assert other.workload == StandIn(features=7)
        assert other.hyperparameters == {**HYPERPARAMETERS, "learning_rate": 0.1, "momentum": 0.5, "warmup_steps": 3}

    def test_evaluates_at_the_end_of_warmup_and_schedule(self):
        arms = (Arm("plain"), Arm("warmed", {}, {"warmup_steps": 3}))
        plain, warmed = (p.trial for p in stand_in_study(arms=arms, **ONE).plan(0))
        assert (plain.evaluation_steps, warmed.evaluation_steps) == ((20,), (23,))
        assert (plain.total_steps, warmed.total_steps) == (20, 23)

    def test_evaluation_steps_come_before_the_end(self):
        """Those of a longer arm that a shorter one does not reach are left out of it."""
        arms = (Arm("plain"), Arm("warmed", {}, {"warmup_steps": 3}))
        study = stand_in_study(arms=arms, evaluation_steps=(21, 10, 0, 20, 23, 30), **ONE)
        plain, warmed = (p.trial for p in study.plan(0))
        assert plain.evaluation_steps == (0, 10, 20)
        assert warmed.evaluation_steps == (0, 10, 20, 21, 23)

    def test_arms_of_a_replicate_share_its_seeds(self):
        for place in stand_in_study().plan(5):
            assert place.trial.seeds == derive_seeds(5, place.replicate)

    def test_pilots_have_seeds_of_their_own(self):
        for place in stand_in_study(pilot=True).plan(5):
            assert place.trial.seeds == derive_seeds(5, place.replicate, pilot=True)

    def test_replicates_are_numbers_of_seeds(self):
        planned = stand_in_study(replicates=(7, 100)).plan(5)
        assert {place.replicate for place in planned} == {7, 100}
        assert all(place.trial.seeds == derive_seeds(5, place.replicate) for place in planned)

    @pytest.mark.parametrize("purpose", PURPOSES)
    def test_an_arm_takes_some_seeds_of_other_replicates(self, purpose):
        arms = (Arm("plain"), Arm("shifted", seeds_of={purpose: range(100, 103)}))
        planned = stand_in_study(arms=arms).plan(5)
        plain, shifted = ([p for p in planned if p.arm == arm] for arm in ("plain", "shifted"))
        for place, other in zip(plain, shifted, strict=True):
            assert other.replicate == place.replicate
            expected = {**place.trial.seeds, purpose: derive_seeds(5, place.replicate + 100)[purpose]}
            assert other.trial.seeds == expected != place.trial.seeds

    def test_an_arm_keeps_all_seeds_but_one(self):
        kept = {purpose: [0] * 3 for purpose in PURPOSES if purpose != "order"}
        first, *others = stand_in_study(arms=(Arm("order", seeds_of=kept),), points=[{}]).plan(5)
        assert first.trial.seeds == derive_seeds(5, 0)
        for place in others:
            assert place.trial.seeds == {**derive_seeds(5, 0), "order": derive_seeds(5, place.replicate)["order"]}

    def test_seeds_of_another_number_of_replicates_are_refused(self):
        with pytest.raises(ValueError, match="zip"):
            stand_in_study(arms=(Arm("short", seeds_of={"init": (0, 0)}),)).plan(0)

    @pytest.mark.parametrize(("sampler", "points"), [("grid", (1, 2)), ("halton", (3, 5)), ("random", (1, 4))])
    def test_more_points_and_replicates_keep_the_earlier_trials(self, sampler, points):
        values = {"values": (0.1, 0.5)} if sampler == "grid" else {"low": 0.01, "high": 1, "scale": "log"}
        space = Space([Hyperparameter("learning_rate", **values)])
        fewer, more = (stand_in_study(points=sample(space, sampler, 3, n), replicates=range(n)).plan(0) for n in points)
        later = dict(zip([(p.arm, a) for p, a in zip(more, addresses(more), strict=True)], more, strict=True))
        for place, address in zip(fewer, addresses(fewer), strict=True):
            assert later[place.arm, address] == place
        assert len(later) == 2 * points[1] ** 2

    def test_an_unknown_field_of_an_arm_is_refused(self):
        with pytest.raises(ConfigurationError, match="unknown field 'feature' of stand_in: did you mean 'features'"):
            stand_in_study(arms=(Arm("odd", {"feature": 3}),)).plan(0)


class TestTrial:
    CHANGED = {  # noqa: RUF012
        "workload": StandIn(examples=51),
        "batch_size": 9,
        "steps": 21,
        "evaluation_steps": (10, 20),
        "evaluation_batch_size": 17,
        "optimizer": "nesterov",
        "schedule": "linear",
        "hyperparameters": {**HYPERPARAMETERS, "momentum": 0.8},
        "seeds": derive_seeds(0, 1),
        "curvature_examples": 4,
        "curvature_steps": (0, 7),
        "predictions": True,
        "noise_steps": (0, 7),
        "accumulation": 2,
        "shuffled": False,
        "evaluation_by_batch": True,
        "devices": 2,
        "alone": True,
        "profiled": True,
        "steps_per_call": 4,
        "read_ahead": False,
        "waits": True,
    }

    @pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Trial)])
    def test_every_field_changes_the_address(self, field):
        assert stand_in_trial(**{field: self.CHANGED[field]}).address() != stand_in_trial().address()

    @pytest.mark.parametrize("name", HYPERPARAMETERS)
    def test_every_hyperparameter_changes_the_address(self, name):
        changed = {**HYPERPARAMETERS, name: HYPERPARAMETERS[name] + 1}
        assert stand_in_trial(hyperparameters=changed).address() != stand_in_trial().address()

    @pytest.mark.parametrize("purpose", PURPOSES)
    def test_every_seed_changes_the_address(self, purpose):
        seeds = derive_seeds(0, 0)
        changed = {**seeds, purpose: seeds[purpose] + 1}
        assert stand_in_trial(seeds=changed).address() != stand_in_trial().address()

    def test_the_name_of_the_workload_changes_the_address(self):
        class Other(StandIn):
            name = "other"

        assert stand_in_trial(workload=Other()).address() != stand_in_trial().address()

    def test_the_order_of_names_plays_no_part(self):
        trial = stand_in_trial()
        turned = stand_in_trial(
            hyperparameters=dict(reversed(trial.hyperparameters.items())), seeds=dict(reversed(trial.seeds.items()))
        )
        assert list(turned.seeds) != list(trial.seeds)
        assert turned.address() == trial.address()

    def test_pinned_address(self):
        """Stores of earlier versions are resumed by address."""
        assert stand_in_trial().address() == "b4d0eed821236230c9a5024e591b481a10c947ccd36fc513a73561d953100abe"

    def test_the_specification_is_plain_data(self):
        specification = stand_in_trial().specification()
        assert json.loads(json.dumps(specification)) == specification
        assert set(specification) == {field.name for field in dataclasses.fields(Trial)} - LATER.keys()
        assert specification["workload"] == {"name": "stand_in", "features": 4, "examples": 48}

    @pytest.mark.parametrize(
        ("field", "same_group"),
        [
            ("workload", False),
            ("batch_size", False),
            ("evaluation_batch_size", False),
            ("optimizer", False),
            ("steps", True),
            ("evaluation_steps", True),
            ("schedule", True),
            ("hyperparameters", True),
            ("seeds", True),
            ("curvature_examples", True),
            ("curvature_steps", True),
            ("noise_steps", True),
            ("accumulation", False),
            ("shuffled", True),
            ("evaluation_by_batch", False),
            ("devices", False),
            ("alone", True),
            ("profiled", True),
            ("steps_per_call", False),
            ("read_ahead", True),
            ("waits", True),
        ],
    )
    def test_only_what_changes_programs_changes_the_compile_group(self, field, same_group):
        changed = stand_in_trial(**{field: self.CHANGED[field]})
        assert (changed.compile_group() == stand_in_trial().compile_group()) == same_group

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            (
                "optimizer",
                "heavyball",
                "unknown optimizer 'heavyball'; did you mean 'heavy_ball'?; known: sgd, .*, adamw",
            ),
            ("optimizer", "adam", "hyperparameter 'beta1' is missing; adam takes learning_rate, .*, epsilon"),
            ("schedule", "step", "unknown schedule 'step'; known: constant, linear, cosine, square_root"),
            ("hyperparameters", {**HYPERPARAMETERS, "beta1": 0.9}, "unknown hyperparameter 'beta1' of heavy_ball; .*"),
            ("hyperparameters", {**HYPERPARAMETERS, "momentum": math.nan}, "momentum nan: expected a finite number"),
            ("batch_size", 0, "batch_size 0, steps 20: expected at least 1"),
            ("steps", 0, "batch_size 8, steps 0: expected at least 1"),
            ("curvature_steps", (), r"curvature_steps \(\): expected ascending steps from 0 on, .*"),
            ("curvature_steps", (5, 0), r"curvature_steps \(5, 0\): expected ascending steps .*"),
            ("curvature_steps", (-1, 0), r"curvature_steps \(-1, 0\): expected ascending steps .*"),
            ("noise_steps", (5, 0), r"noise_steps \(5, 0\): expected ascending steps .*"),
            ("accumulation", 3, r"accumulation 3: expected a divisor of batch_size 8, such as 1"),
            ("accumulation", 0, r"accumulation 0: expected a divisor of batch_size 8, such as 1"),
        ],
    )
    def test_bad_values_are_refused(self, field, value, message):
        with pytest.raises(InputError, match=f"^{message.replace('?', '.')}$"):
            stand_in_trial(**{field: value})

    @pytest.mark.parametrize("name", [name for name in OPTIONAL if name not in OF_THE_RATE])
    def test_optional_features_have_compile_groups_of_their_own(self, name):
        trials = [stand_in_trial(hyperparameters={**HYPERPARAMETERS, name: value}) for value in (0.1, 0.2)]
        assert trials[0].compile_group() == trials[1].compile_group() != stand_in_trial().compile_group()


class TestIdentity:
    def test_says_what_the_studies_are(self):
        found = identity(stand_in_study().plan(0))
        assert set(found) == {"studies", "trials", "data", "source", "jax"}
        assert set(found["studies"]) == {"rates/narrow", "rates/wide"}
        wide = found["studies"]["rates/wide"]
        assert (wide["workload.features"], wide["learning_rate"], wide["replicate"]) == (5, [0.1, 0.5], [0, 1, 2])
        assert found["data"] == {"synthetic": "0" * 64}
        assert json.loads(json.dumps(found)) == found

    def test_equal_plans_are_equal(self):
        assert identity(stand_in_study().plan(0)) == identity(stand_in_study().plan(0))

    @pytest.mark.parametrize(
        ("changes", "seed", "message"),
        [
            ({"batch_size": 9}, 0, "studies.rates/narrow.batch_size was 8, is now 9"),
            ({"workload": StandIn(examples=51)}, 0, "studies.rates/narrow.workload.examples was 48, is now 51"),
            ({"replicates": range(4)}, 0, "studies.rates/narrow.replicate was [0,1,2], is now [0,1,2,3]"),
            ({"points": ONE["points"]}, 0, "studies.rates/narrow.learning_rate was [0.1,0.5], is now 0.1"),
            ({"schedule": "linear"}, 0, 'studies.rates/narrow.schedule was "constant", is now "linear"'),
            ({"name": "others"}, 0, "studies.others/narrow is new"),
            ({"arms": (Arm("narrow"),)}, 0, "studies.rates/wide is gone"),
        ],
    )
    def test_the_difference_names_path_old_and_new_value(self, changes, seed, message):
        found, wanted = (identity(study.plan(seed)) for study in (stand_in_study(), stand_in_study(**changes)))
        assert difference(found, wanted) == message

    @pytest.mark.parametrize("changes", [{"pilot": True}, {"arms": (Arm("wide", {"features": 5}), Arm("narrow"))}])
    def test_seeds_and_order_of_trials_count(self, changes):
        found, wanted = (identity(study.plan(0)) for study in (stand_in_study(), stand_in_study(**changes)))
        assert difference(found, wanted).startswith("trials was ")

    def test_no_difference(self):
        assert difference({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}) is None

    def test_long_values_are_cut(self):
        message = difference({"a": "x" * 100}, {"a": list(range(100))})
        assert message == f'a was "{"x" * 36}..., is now [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,1...'[: len(message)]
        assert len(message) < 110


class TestSourceHash:
    @pytest.fixture
    def copies(self, tmp_path, monkeypatch):
        """Copies of both packages that a test may change."""
        for package in (workloads, harness.training):
            copy = tmp_path / package.__name__
            shutil.copytree(Path(package.__path__[0]), copy, ignore=shutil.ignore_patterns("__pycache__"))
            monkeypatch.setattr(package, "__path__", [str(copy)])
        return SimpleNamespace(workloads=tmp_path / "workloads", training=tmp_path / "harness.training")

    def test_a_copy_elsewhere_has_the_same_hash(self, copies, monkeypatch):
        copied = source_hash()
        monkeypatch.undo()
        assert source_hash() == copied

    @pytest.mark.parametrize("name", ["test_new.py", "bench_new.py", "conftest.py", "contract.py", "notes.md"])
    @pytest.mark.parametrize("folder", ["workloads", "training"])
    def test_tests_and_benchmarks_do_not_count(self, copies, folder, name):
        before = source_hash()
        path = getattr(copies, folder) / name
        path.write_text("changed = 1\n")
        assert source_hash() == before

    @pytest.mark.parametrize("name", ["wide_resnet/model.py", "data/mnist5k.py", "workload.py"])
    def test_sources_of_workloads_count(self, copies, name):
        before = source_hash()
        with (copies.workloads / name).open("a") as file:
            file.write("# changed\n")
        assert source_hash() != before

    @pytest.mark.parametrize("change", [lambda p: p.unlink(), lambda p: p.rename(p.with_name("other.py"))])
    def test_files_that_go_or_are_renamed_count(self, copies, change):
        before = source_hash()
        change(copies.training / "schedule.py")
        assert source_hash() != before

    def test_line_ends_do_not_count(self, copies):
        before = source_hash()
        path = copies.training / "schedule.py"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert source_hash() == before
