"""The tests that every workload's test class inherits."""

import dataclasses
import math
import pickle
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads.workload import ConfigurationError, configure, workload_scale

QUICKLY = {"xla_backend_optimization_level": 1}
"""Compiler options that halve the time of compilation; `harness.studies.worker` has them too."""

BATCH = 16
PADDING = 4


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
        assert loss == pytest.approx(math.log(workload.classes), abs=0.5)
        assert metrics["loss"] == loss
        assert 0 <= metrics["error"] <= 1

    def test_a_small_gradient_step_lowers_the_loss(self, programs, batch, first_step):
        parameters, state, ((loss, _), gradients) = first_step
        moved = jax.tree.map(lambda p, g: p - 1e-3 * g, parameters, gradients)
        (lower, _), _ = programs.train(moved, state, batch, jax.random.key(1))
        assert lower < loss

    def test_padding_of_weight_zero_changes_no_metric(self, programs, data, first_step):
        parameters, state, _ = first_step
        labels = data.validation["label"]
        by_class = np.argsort(labels.reshape(len(labels), -1)[:, 0], kind="stable")
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
            return float(programs.evaluate(parameters, state, batch, jax.random.key(1))[0])

        singles = [loss(np.eye(BATCH)[row]) for row in range(2)]
        both = np.zeros(BATCH)
        both[:2] = 1, 3
        assert loss(both) == pytest.approx((singles[0] + 3 * singles[1]) / 4, rel=1e-5)

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
