"""The tests that every workload's test class inherits."""

import dataclasses
import json
import math
import pickle
import subprocess
import sys
from functools import partial
from importlib.resources import files
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.recorded import device_folder
from harness.train import plan, train
from workloads.workload import ConfigurationError, configure, workload_scale

QUICKLY = {"xla_backend_optimization_level": 1}
"""Compiler options that halve the time of compilation; `harness.studies.worker` has them too."""

BATCH = 16
PADDING = 4

BASELINE_TOLERANCE = 0.1
"""Of the objective, relative: other versions of the compiler round otherwise, which a whole training run amplifies."""


compile_quickly = partial(jax.jit, compiler_options=QUICKLY)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def dtypes(tree: Any) -> set[str]:
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


def weighted(examples: dict, rows: Any, weight: Any = 1.0) -> dict:
    """A batch of some of the examples."""
    batch = {name: values[rows] for name, values in examples.items()}
    return {**batch, "weight": np.broadcast_to(np.float32(weight), len(next(iter(batch.values())))).copy()}


def trace_loss_and_gradient(workload: Any, train: bool, parameters: Any, state: Any, batch: dict) -> None:
    """Traces them without compiling, for what JAX refuses while it traces."""

    def loss(parameters, state, batch, key):
        return workload.loss(parameters, state, batch, train, key)

    jax.eval_shape(jax.value_and_grad(loss, has_aux=True), parameters, state, batch, jax.random.key(1))


class WorkloadContract:
    """Tests of `workloads.workload.Workload`.

    A subclass names the workload and states the sizes of its splits. The compiled programs, which cost seconds each,
    are shared by its tests.
    """

    name: ClassVar[str]
    split_sizes: ClassVar[dict[str, int]]
    initial_loss_slack: ClassVar[float] = 0.5
    """How far from log(classes) the head lets the loss at initialisation be, in nats."""
    stated: ClassVar[dict[str, float]] = {}
    """Scale to what a run with the defaults stays under, in the workload's objective on validation examples."""

    @pytest.fixture(scope="class")
    @classmethod
    def workload(cls, scale):
        return workload_scale(cls.name, scale).workload

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, workload):
        return workload.data(7)

    @pytest.fixture(scope="class")
    @classmethod
    def programs(cls, workload):
        """`initial` of a key; `train` and `evaluate`, of (parameters, state, batch, key)."""
        return SimpleNamespace(
            initial=compile_quickly(workload.initial),
            train=compile_quickly(jax.value_and_grad(partial(cls._loss, workload, True), has_aux=True)),
            evaluate=compile_quickly(partial(cls._loss, workload, False)),
        )

    @pytest.fixture(scope="class")
    @classmethod
    def batch(cls, data):
        return weighted(data.train, slice(BATCH))

    @pytest.fixture(scope="class")
    @classmethod
    def first_step(cls, programs, batch):
        """Parameters, state, and what `train` gives for them."""
        parameters, state = programs.initial(jax.random.key(0))
        return parameters, state, programs.train(parameters, state, batch, jax.random.key(1))

    @staticmethod
    def _loss(workload, train, parameters, state, batch, key):
        return workload.loss(parameters, state, batch, train, key)

    def test_initialisation_is_a_function_of_the_key_alone(self, programs):
        first, again, other = (programs.initial(jax.random.key(seed)) for seed in (3, 3, 4))
        assert bits(first) == bits(again)
        assert bits(first[0]) != bits(other[0])

    def test_everything_is_float32(self, programs, first_step):
        parameters, state, ((loss, (metrics, new_state)), gradients) = first_step
        assert dtypes((parameters, state, loss, metrics, new_state, gradients)) == {"float32"}

    def test_examples_are_float32_and_int32(self, workload, data):
        assert dtypes((dict(data.train), dict(data.validation))) <= {"float32", "int32"}
        for part in (data.train, data.validation):
            assert set(np.unique(part["label"])) <= set(range(workload.classes))

    def test_the_state_keeps_its_shape(self, first_step):
        _, state, ((_, (_, new_state)), _) = first_step
        assert jax.tree.structure(new_state) == jax.tree.structure(state)
        assert [leaf.shape for leaf in jax.tree.leaves(new_state)] == [leaf.shape for leaf in jax.tree.leaves(state)]

    def test_loss_at_initialisation_is_that_of_guessing(self, workload, first_step):
        _, _, ((loss, (metrics, _)), _) = first_step
        assert metrics["loss"] == pytest.approx(math.log(workload.classes), abs=self.initial_loss_slack)
        assert metrics["loss"] <= loss
        assert 0 <= metrics["error"] <= 1

    def test_a_small_gradient_step_lowers_the_loss(self, programs, batch, first_step):
        parameters, state, ((loss, _), gradients) = first_step
        moved = jax.tree.map(lambda p, g: p - 1e-3 * g, parameters, gradients)
        (lower, _), _ = programs.train(moved, state, batch, jax.random.key(1))
        assert lower < loss

    def test_padding_of_weight_zero_changes_no_metric(self, programs, data, first_step):
        parameters, state, _ = first_step
        labels = data.validation["label"].reshape(len(data.validation["label"]), -1)[:, 0]
        by_class = np.argsort(labels, kind="stable")
        kept, low, high = by_class[: BATCH - PADDING], by_class[BATCH : BATCH + PADDING], by_class[-PADDING:]
        assert not np.any(np.isin(labels[high], labels[kept]))
        weight = np.repeat([1.0, 0.0], [BATCH - PADDING, PADDING])
        bare, padded, padded_otherwise = (
            programs.evaluate(parameters, state, batch, jax.random.key(1))[1][0]
            for batch in (
                weighted(data.validation, kept),
                weighted(data.validation, np.r_[kept, high], weight),
                weighted(data.validation, np.r_[kept, low], weight),
            )
        )
        assert bits(padded) == bits(padded_otherwise)
        for name, value in bare.items():
            assert padded[name] == pytest.approx(float(value), rel=1e-5), name

    def test_weights_weigh(self, programs, data, first_step):
        parameters, state, _ = first_step

        def loss(weight):
            batch = weighted(data.validation, slice(BATCH), weight)
            metrics = programs.evaluate(parameters, state, batch, jax.random.key(1))[1][0]
            return float(metrics["loss"]), float(metrics["weight"])

        (first, first_weight), (second, second_weight) = (loss(np.eye(BATCH)[row]) for row in range(2))
        both = np.zeros(BATCH)
        both[:2] = 1, 3
        mean, weight = loss(both)
        assert weight == first_weight + 3 * second_weight
        assert mean == pytest.approx((first_weight * first + 3 * second_weight * second) / weight, rel=1e-5)

    def test_a_batch_of_padding_alone_weighs_nothing(self, programs, data, first_step):
        parameters, state, _ = first_step
        batch = weighted(data.validation, slice(BATCH), 0.0)
        _, (metrics, _) = programs.evaluate(parameters, state, batch, jax.random.key(1))
        assert {name: float(value) for name, value in metrics.items()} == {"loss": 0, "error": 0, "weight": 0}

    def test_predictions_give_the_error(self, workload, programs, data, first_step):
        parameters, state, _ = first_step
        batch = weighted(data.validation, slice(BATCH))
        predicted = np.asarray(compile_quickly(workload.predictions)(parameters, state, batch))
        assert predicted.dtype == np.int32
        assert predicted.shape == batch["label"].shape
        _, (metrics, _) = programs.evaluate(parameters, state, batch, jax.random.key(1))
        wrong = float(np.sum((predicted != batch["label"]) & self.counts(batch["label"])))
        assert wrong == pytest.approx(float(metrics["error"] * metrics["weight"]), abs=1e-3)

    @staticmethod
    def counts(labels):
        """Which labels are not padding."""
        return np.full(labels.shape, True)

    def test_label_smoothing_changes_what_is_minimised_alone(self, workload, batch, first_step):
        parameters, state, ((loss, (metrics, _)), _) = first_step

        @compile_quickly
        def smoothed(parameters, state, batch, key, smoothing):
            return workload.loss(parameters, state, batch, True, key, smoothing)

        results = [smoothed(parameters, state, batch, jax.random.key(1), np.float32(s)) for s in (0, 0.1, 0.2)]
        losses = [float(value) for value, _ in results]
        assert losses[0] == pytest.approx(float(loss), rel=1e-5)
        assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-2, abs=1e-5)
        assert losses[1] != losses[0]
        for _, (smoothed_metrics, _) in results:
            assert smoothed_metrics["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-5)

    def test_vmapped_loss_equals_one_at_a_time(self, workload, programs, batch):
        seeds = jnp.arange(3, dtype=jnp.uint32)
        states = [programs.initial(jax.random.key(seed)) for seed in seeds]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        train = partial(self._loss, workload, True)
        together, _ = compile_quickly(jax.vmap(train, (0, 0, None, None)))(*stacked, batch, jax.random.key(1))
        alone = [programs.train(*state, batch, jax.random.key(1))[0][0] for state in states]
        np.testing.assert_allclose(together, alone, rtol=1e-4)
        assert len(set(map(float, alone))) == 3

    @pytest.mark.parametrize("train", [True, False])
    def test_promotes_no_rank(self, workload, first_step, batch, train):
        with jax.numpy_rank_promotion("raise"):
            trace_loss_and_gradient(workload, train, *first_step[:2], batch)

    @pytest.mark.parametrize("train", [True, False])
    def test_promotes_no_dtype(self, workload, first_step, batch, train):
        with jax.numpy_dtype_promotion("strict"):
            trace_loss_and_gradient(workload, train, *first_step[:2], batch)

    def test_unknown_fields_are_rejected(self, workload):
        fields = [field.name for field in dataclasses.fields(workload)]
        for name, hint in (("zzz", "known: "), (fields[0] + "x", f"did you mean {fields[0]!r}\\? known: ")):
            with pytest.raises(ConfigurationError, match=f"^unknown field '{name}' of {self.name}: {hint}") as caught:
                configure(workload, {name: "1"})
            assert str(caught.value).endswith(", ".join(fields))

    def test_unknown_scales_are_rejected(self):
        with pytest.raises(ConfigurationError, match=r"^unknown scale 'smok' of .*did you mean 'smoke'.*laptop"):
            workload_scale(self.name, "smok")

    def test_splits_are_a_function_of_their_seed(self, workload, data):
        again, other = workload.data(7), workload.data(8)
        assert bits(dict(again.train)) == bits(dict(data.train))
        assert bits(dict(again.validation)) == bits(dict(data.validation))
        assert bits(dict(other.validation)) != bits(dict(data.validation))

    def test_splits_are_disjoint_and_of_the_stated_sizes(self, data):
        rows = {}
        for part, size in self.split_sizes.items():
            fields = getattr(data, part).values()
            assert {len(values) for values in fields} == {size}
            rows[part] = {b"".join(values[i].tobytes() for values in fields) for i in range(size)}
        assert rows["train"].isdisjoint(rows["validation"])

    def test_data_have_hashes(self, workload):
        assert all(len(digest) == 64 for digest in workload.data_hashes().values())
        assert workload.data_hashes()

    def test_trains_to_what_is_stated(self, scale, tmp_path, monkeypatch):
        """At a scale of which nothing is stated, as well as the baseline of the same device."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        trial = plan(self.name, scale, seed=0, settings={})
        result = train(trial, tmp_path / "run", best=1, fresh=False, command="pytest workloads")
        reached = result["results"][f"best_{trial.workload.objective}"]
        assert result["status"] == "complete"
        if scale in self.stated:
            assert reached < self.stated[scale]
            return
        device = device_folder(result["provenance"]["device"])
        recorded = files("baselines").joinpath(device, "train", self.name, f"{scale}-seed0.json")
        if not recorded.is_file():
            pytest.skip(f"{recorded} is not there; playbook record writes it")
        baseline = json.loads(recorded.read_text())["results"][f"best_{trial.workload.objective}"]
        assert reached == pytest.approx(baseline, rel=BASELINE_TOLERANCE)

    def test_equal_configurations_are_equal_and_travel(self, workload):
        copy = configure(workload, {})
        assert copy == workload
        assert hash(copy) == hash(workload)
        jax.eval_shape(workload.initial, jax.random.key(0))  # whatever it caches must travel too
        assert pickle.loads(pickle.dumps(workload)) == workload

    def test_configuration_imports_without_jax(self):
        code = f"import sys, workloads.{self.name}.workload; assert 'jax' not in sys.modules, 'it imports JAX'"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
