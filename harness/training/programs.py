"""The compiled programs of a compile group: train a chunk of steps, evaluate, multiply by the Hessian."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from harness.training.optimizer import velocity
from workloads.workload import Workload

CHUNK = 64
"""Steps of one call of the training program; shorter calls use the same compilation."""

CURVES = ("train_loss", "train_objective", "gradient_norm")
"""What a training step records: the loss, the loss with L2 decay, and the global norm of the latter's gradient."""


class TrainingState(NamedTuple):
    """Everything that a step reads and writes, as pytrees of float32.

    Attributes:
      parameters: of the workload.
      model_state: of the workload, such as running batch statistics.
      optimizer_state: of the optimizer.
    """

    parameters: Any
    model_state: Any
    optimizer_state: Any


class Programs:
    """Programs that every trial of a compile group shares; each is compiled once, when it is first asked for.

    Hyperparameters and seeds are arguments of the programs, so that they compile nothing anew.
    """

    def __init__(self, workload: Workload, optimizer: str):
        """Prepares the programs of a configured workload and an optimizer family."""
        self._workload = workload
        self._optimizer = optimizer
        self.train = jax.jit(self._train, donate_argnums=0)
        self.evaluate = jax.jit(self._evaluate)
        self.hessian_product = jax.jit(self._hessian_product)

    def blank_state(self) -> TrainingState:
        """A training state of zeros, in the shapes that `train` fills in at step 0; compiles nothing."""
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self._shapes)

    @cached_property
    def _shapes(self) -> TrainingState:
        return jax.eval_shape(self._initial, jax.ShapeDtypeStruct((), np.uint32))

    def _initial(self, init_seed: jax.Array) -> TrainingState:
        parameters, model_state = self._workload.initial(jax.random.key(init_seed))
        return TrainingState(parameters, model_state, velocity(self._optimizer, 0.0).init(parameters))

    def _objective(
        self, parameters: Any, model_state: Any, batch: Mapping, weight_decay: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        loss, (_, new_state) = self._workload.loss(parameters, model_state, batch, True, key)
        return loss + weight_decay * half_squared_kernels(parameters), (loss, new_state)

    def _train(
        self,
        state: TrainingState,
        init_seed: jax.Array,
        dropout_seed: jax.Array,
        hyperparameters: Mapping[str, jax.Array],
        examples: Mapping[str, jax.Array],
        indices: jax.Array,
        rates: jax.Array,
        start: jax.Array,
        count: jax.Array,
    ) -> tuple[TrainingState, dict[str, jax.Array], jax.Array]:
        """Trains `count` steps from step `start`; at step 0 it first initialises the state.

        Initialisation lives in here because its own program would take as long to compile as the training step.

        Args:
          state: from the last call, or `blank_state` at step 0.
          init_seed: uint32 ().
          dropout_seed: uint32 ().
          hyperparameters: `momentum` and `weight_decay`, float32 ().
          examples: the training set.
          indices: examples of each step, int32 (CHUNK, batch).
          rates: learning rate of each step, float32 (CHUNK,).
          start: steps done before, int32 ().
          count: steps to do, at most CHUNK, int32 (); 0 only initialises.

        Returns:
          The new state, a curve of float32 (CHUNK,) for each of `CURVES`, NaN where no step was done, and the number
          of steps done, int32 (): fewer than `count` where a loss was not finite, which ends the trial.
        """
        state = jax.lax.cond(start == 0, lambda old: self._initial(init_seed), lambda old: old, state)
        transformation = velocity(self._optimizer, hyperparameters["momentum"])
        dropout_key = jax.random.key(dropout_seed)
        weight = jnp.ones(indices.shape[1], jnp.float32)

        def going_on(carry):
            done, finite, _, _ = carry
            return (done < count) & finite

        def step(carry):
            done, _, state, curves = carry
            batch = {**{name: values[indices[done]] for name, values in examples.items()}, "weight": weight}
            (objective, (loss, model_state)), gradients = jax.value_and_grad(self._objective, has_aux=True)(
                state.parameters,
                state.model_state,
                batch,
                hyperparameters["weight_decay"],
                jax.random.fold_in(dropout_key, start + done),
            )
            recorded = {
                "train_loss": loss,
                "train_objective": objective,
                "gradient_norm": optax.tree.norm(gradients),
            }
            curves = {name: curve.at[done].set(recorded[name]) for name, curve in curves.items()}
            directions, optimizer_state = transformation.update(gradients, state.optimizer_state)
            parameters = jax.tree.map(lambda p, d: p - rates[done] * d, state.parameters, directions)
            return done + 1, jnp.isfinite(objective), TrainingState(parameters, model_state, optimizer_state), curves

        curves = {name: jnp.full(indices.shape[0], jnp.nan, jnp.float32) for name in CURVES}
        done, _, state, curves = jax.lax.while_loop(going_on, step, (jnp.int32(0), jnp.bool_(True), state, curves))
        return state, curves, done

    def _evaluate(
        self,
        parameters: Any,
        model_state: Any,
        examples: Mapping[str, jax.Array],
        indices: jax.Array,
        weights: jax.Array,
    ) -> dict[str, jax.Array]:
        """Evaluates on every example.

        Args:
          parameters: of the training state.
          model_state: of the training state.
          examples: the set.
          indices: int32 (batches, batch), from `padded_batches`.
          weights: float32 (batches, batch), from `padded_batches`.

        Returns:
          Metric to its weighted mean over the set, float32 ().
        """

        def one(batch_indices, batch_weights):
            batch = {**{name: values[batch_indices] for name, values in examples.items()}, "weight": batch_weights}
            _, (metrics, _) = self._workload.loss(parameters, model_state, batch, False, jax.random.key(0))
            return metrics

        metrics = jax.lax.map(lambda batch: one(*batch), (indices, weights))
        shares = jnp.sum(weights, axis=1) / jnp.sum(weights)
        return {name: jnp.sum(values * shares) for name, values in metrics.items()}

    def _hessian_product(
        self,
        parameters: Any,
        model_state: Any,
        batch: Mapping[str, jax.Array],
        weight_decay: jax.Array,
        vector: jax.Array,
    ) -> jax.Array:
        """Multiplies the Hessian of the training objective on one batch by a vector, float32 (parameters,)."""
        flat, unravel = ravel_pytree(parameters)
        weighted = {**batch, "weight": jnp.ones(next(iter(batch.values())).shape[0], jnp.float32)}

        def objective(flat_parameters):
            value, _ = self._objective(unravel(flat_parameters), model_state, weighted, weight_decay, jax.random.key(0))
            return value

        return jax.jvp(jax.grad(objective), (flat,), (vector,))[1]


def half_squared_kernels(parameters: Any) -> jax.Array:
    """Half the squared L2 norm of every leaf named `kernel`; times the weight decay it is added to the loss."""
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    kernels = [leaf for path, leaf in leaves if getattr(path[-1], "key", None) == "kernel"]
    return 0.5 * sum(jnp.sum(jnp.square(kernel)) for kernel in kernels)
