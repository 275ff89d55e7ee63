"""The compiled programs of a compile group: train, evaluate, predict, differentiate, multiply by the Hessian.

Every program works on a pack of trials, its lanes, that are stacked along the first axis of every argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from harness.training.devices import everywhere, place, split
from harness.training.optimizer import clip_by_global_norm, decays, polyak_average, update_rule
from harness.training.trial import OPTIMIZERS, Trial

CURVES = ("train_loss", "train_objective", "gradient_norm")
"""What a training step records: the cross-entropy; what is minimised, with label smoothing, z-loss and L2 decay; the
global norm of the latter's gradient, before clipping, of a bad batch what its missing division makes of it. With
clipping also `clipped`, 1 or 0."""


_COMPILER_OPTIONS = {
    # Halves compilation (12.5 s to 5.8 s for WRN-10-2 training) at the same speed of the compiled step.
    "cpu": {"xla_backend_optimization_level": 1},
}


class TrainingState(NamedTuple):
    """Everything that a step reads and writes, as pytrees of float32 (lanes, ...), counters int32.

    Attributes:
      parameters: of the workload.
      model_state: of the workload, such as running batch statistics.
      optimizer_state: of the optimizer.
      average: Polyak average of the parameters; None without averaging.
    """

    parameters: Any
    model_state: Any
    optimizer_state: Any
    average: Any

    @property
    def evaluated(self) -> Any:
        """The parameters that are evaluated: their average where there is one."""
        return self.parameters if self.average is None else self.average


class Programs:
    """Programs that every trial of a compile group shares; each is compiled once, when it is first asked for.

    Hyperparameters and seeds are arguments of the programs, so that they compile nothing anew.

    Attributes:
      lanes: trials of a pack.
      chunk: most steps of one call of the training program; shorter calls use the same compilation.
      mesh: of the devices that a batch is split over; None for one device.
      curves: what a training step records.
    """

    def __init__(self, trial: Trial, lanes: int = 1, chunk: int = 64, mesh: Mesh | None = None):
        """Prepares the programs of the compile group of a trial; with a mesh there is one lane."""
        self.lanes = lanes
        self.chunk = chunk
        self.mesh = mesh
        self._workload = trial.workload
        self._optimizer = trial.optimizer
        self._accumulation = trial.accumulation
        self._by_batch = trial.evaluation_by_batch
        self._averages = "averaging_decay" in trial.hyperparameters
        self.curves = (*CURVES, "clipped") if "clip_threshold" in trial.hyperparameters else CURVES
        options = _COMPILER_OPTIONS.get(jax.default_backend())
        # What comes out lies whole on every device, so that every host can read it.
        named = {"compiler_options": options, "out_shardings": everywhere(mesh)}
        self.train = jax.jit(self._train, donate_argnums=0, **named)
        self.evaluate = jax.jit(self._evaluate, **named)
        self.predict = jax.jit(self._predict, **named)
        self.hessian_product = jax.jit(self._hessian_product, compiler_options=options)
        self.gradient = jax.jit(self._gradient, compiler_options=options)

    def blank_state(self) -> TrainingState:
        """A training state of zeros, in the shapes that `train` fills in at step 0; compiles nothing."""
        blank = jax.tree.map(lambda leaf: np.zeros((self.lanes, *leaf.shape), leaf.dtype), self._shapes)
        if self.mesh is None:
            return blank
        # Where later states lie: the training program would be compiled again for another place.
        return jax.tree.map(lambda leaf: place(leaf, everywhere(self.mesh)), blank)

    @cached_property
    def _shapes(self) -> TrainingState:
        return jax.eval_shape(self._initial, jax.ShapeDtypeStruct((), np.uint32))

    def _in_lanes(self, function: Callable, shared: int) -> Callable:
        """Lets a function of one trial work on a pack; its last `shared` arguments are the same for all lanes.

        One lane goes without vmap, whose batched convolutions and products are slower and round otherwise.
        """

        def alone(*arguments):
            own = jax.tree.map(lambda leaf: leaf[0], arguments[: len(arguments) - shared])
            return jax.tree.map(lambda leaf: leaf[None], function(*own, *arguments[len(arguments) - shared :]))

        def together(*arguments):
            axes = (0,) * (len(arguments) - shared) + (None,) * shared
            return jax.vmap(function, axes)(*arguments)

        return alone if self.lanes == 1 else together

    def _batch(
        self, examples: Mapping[str, jax.Array], indices: jax.Array | None, weight: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """The examples `indices`, or all where that is None, with weight 1 unless given, split over the mesh."""
        batch = dict(examples) if indices is None else {name: values[indices] for name, values in examples.items()}
        count = len(next(iter(batch.values())))
        batch["weight"] = jnp.ones(count, jnp.float32) if weight is None else weight
        return batch if self.mesh is None else jax.lax.with_sharding_constraint(batch, split(self.mesh, 0))

    def _initial(self, init_seed: jax.Array) -> TrainingState:
        parameters, model_state = self._workload.initial(jax.random.key(init_seed))
        zeros = dict.fromkeys((*OPTIMIZERS[self._optimizer], "weight_decay"), 0.0)
        optimizer_state = update_rule(self._optimizer, zeros, 0.0).init(parameters)
        return TrainingState(parameters, model_state, optimizer_state, parameters if self._averages else None)

    def _objective(
        self, parameters: Any, model_state: Any, batch: Mapping, hyperparameters: Mapping, key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        smoothing = hyperparameters.get("label_smoothing", 0.0)
        minimised, (metrics, new_state) = self._workload.loss(parameters, model_state, batch, True, key, smoothing)
        if self._optimizer != "adamw":
            minimised = minimised + hyperparameters["weight_decay"] * half_squared_kernels(parameters)
        return minimised, (metrics["loss"], new_state)

    def _step(
        self,
        state: TrainingState,
        dropout_seed: jax.Array,
        hyperparameters: Mapping[str, jax.Array],
        examples: Mapping[str, jax.Array],
        indices: jax.Array | None,
        rate: jax.Array,
        number: jax.Array,
    ) -> tuple[TrainingState, dict[str, jax.Array]]:
        """Takes step `number` of one trial, int32 (), at a rate (); `indices`, int32 (batch,), as in `_batch`."""
        batch = self._batch(examples, indices)
        key = jax.random.fold_in(jax.random.key(dropout_seed), number)
        gradients_of = self._gradients if self._accumulation == 1 else self._accumulated
        (objective, (loss, model_state)), gradients = gradients_of(
            state.parameters, state.model_state, batch, hyperparameters, key
        )
        if "bad_batch_step" in hyperparameters:
            summed = number + 1 == hyperparameters["bad_batch_step"]
            gradients = optax.tree.scale(jnp.where(summed, jnp.sum(batch["weight"]), 1.0), gradients)
        norm = optax.tree.norm(gradients)
        recorded = {"train_loss": loss, "train_objective": objective, "gradient_norm": norm}
        if "clip_threshold" in hyperparameters:
            gradients, recorded["clipped"] = clip_by_global_norm(gradients, norm, hyperparameters["clip_threshold"])
        rule = update_rule(self._optimizer, hyperparameters, rate)
        updates, optimizer_state = rule.update(gradients, state.optimizer_state, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        average = None
        if self._averages:
            average = polyak_average(state.average, parameters, hyperparameters["averaging_decay"], number + 1)
        return TrainingState(parameters, model_state, optimizer_state, average), recorded

    def _gradients(self, *arguments: Any) -> tuple[tuple[jax.Array, tuple[jax.Array, Any]], Any]:
        """What `_objective` gives, and its gradients."""
        return jax.value_and_grad(self._objective, has_aux=True)(*arguments)

    def _accumulated(
        self, parameters: Any, model_state: Any, batch: Mapping, hyperparameters: Mapping, key: jax.Array
    ) -> tuple[tuple[jax.Array, tuple[jax.Array, Any]], Any]:
        """As `_gradients`, on one part of the batch after the other; what comes out is the mean over the parts.

        Each part has batch statistics, a mean over its tokens and a dropout of its own.
        """
        parts = {name: v.reshape(self._accumulation, -1, *v.shape[1:]) for name, v in batch.items()}

        def add(carry, numbered):
            model_state, total = carry
            number, part = numbered
            own_key = jax.random.fold_in(key, number)
            (objective, (loss, model_state)), gradients = self._gradients(
                parameters, model_state, part, hyperparameters, own_key
            )
            return (model_state, optax.tree.add(total, (objective, loss, gradients))), None

        start = (model_state, (jnp.float32(0), jnp.float32(0), optax.tree.zeros_like(parameters)))
        (model_state, total), _ = jax.lax.scan(add, start, (np.arange(self._accumulation), parts))
        objective, loss, gradients = optax.tree.scale(1 / self._accumulation, total)
        return (objective, (loss, model_state)), gradients

    def _train(
        self,
        state: TrainingState,
        init_seeds: jax.Array,
        dropout_seeds: jax.Array,
        hyperparameters: Mapping[str, jax.Array],
        examples: Mapping[str, jax.Array],
        indices: jax.Array | None,
        rates: jax.Array,
        start: jax.Array,
        count: jax.Array,
    ) -> tuple[TrainingState, dict[str, jax.Array]]:
        """Trains `count` steps from step `start`; at step 0 it first initialises the state.

        Initialisation lives in here because its own program would take as long to compile as the training step. Lanes
        whose objective is no longer finite go on uselessly, which harms no other; what they record is for the caller
        to cut off. When none is left the program ends.

        Args:
          state: from the last call, or `blank_state` at step 0.
          init_seeds: uint32 (lanes,).
          dropout_seeds: uint32 (lanes,).
          hyperparameters: all but rate and warmup, float32 (lanes,) each.
          examples: training sets, each field (lanes, examples, ...), or the batches of the steps, (lanes, chunk, batch,
            ...).
          indices: examples of each step, int32 (lanes, chunk, batch); None where the batches are given.
          rates: learning rate of each step, float32 (lanes, chunk).
          start: steps done before, int32 ().
          count: steps to do, at most `chunk`, int32 (); 0 only initialises.

        Returns:
          The new state, and a curve of float32 (lanes, chunk) for each of `curves`, NaN where no step was done.
        """
        state = jax.lax.cond(
            start == 0, lambda old: self._in_lanes(self._initial, 0)(init_seeds), lambda old: old, state
        )
        axis = 1  # of the steps
        one_step = jax.vmap(self._step, (0, 0, 0, 0, 0, 0, None))
        own = (state, dropout_seeds, hyperparameters, examples, indices, rates)
        if self.lanes == 1:  # in the loop an axis of one lane would cost a copy of the state at every step
            axis, one_step = 0, self._step
            own = jax.tree.map(lambda leaf: leaf[0], own)
        state, dropout_seeds, hyperparameters, examples, indices, rates = own

        def going_on(carry):
            done, finite, _, _ = carry
            return (done < count) & jnp.any(finite)

        def step(carry):
            done, finite, state, curves = carry
            picked, rows = examples, None
            if indices is None:
                picked = _batches_at(examples, done, axis)
            else:
                rows = jax.lax.dynamic_index_in_dim(indices, done, axis, keepdims=False)
            rate = jax.lax.dynamic_index_in_dim(rates, done, axis, keepdims=False)
            state, recorded = one_step(state, dropout_seeds, hyperparameters, picked, rows, rate, start + done)
            curves = {name: curve.at[..., done].set(recorded[name]) for name, curve in curves.items()}
            return done + 1, finite & jnp.isfinite(recorded["train_objective"]), state, curves

        curves = {name: jnp.full(rates.shape, jnp.nan, jnp.float32) for name in self.curves}
        finite = jnp.full(rates.shape[:-1], True)
        _, _, state, curves = jax.lax.while_loop(going_on, step, (jnp.int32(0), finite, state, curves))
        if self.lanes == 1:
            state, curves = jax.tree.map(lambda leaf: leaf[None], (state, curves))
        return state, curves

    def _evaluate(
        self,
        parameters: Any,
        model_state: Any,
        examples: Mapping[str, jax.Array],
        indices: jax.Array | None,
        weights: jax.Array,
    ) -> dict[str, jax.Array]:
        """Evaluates on every example of a piece.

        Args:
          parameters: of the training state.
          model_state: of the training state.
          examples: the sets, each field (lanes, examples, ...), or the batches, (lanes, batches, batch, ...).
          indices: int32 (batches, batch), from `padded_batches`; None where the batches are given.
          weights: float32 (batches, batch), from `padded_batches`.

        Returns:
          `loss` and `error`, weighted means over the piece, and `weight`, their weight, float32 (lanes,) each; where
          the trials ask for it `by_batch`, with `loss` and `error` of every batch, float32 (batches, lanes) each.
        """

        def one(parameters, model_state, examples, batch_indices, batch_weights):
            batch = self._batch(examples, batch_indices, batch_weights)
            _, (metrics, _) = self._workload.loss(parameters, model_state, batch, False, jax.random.key(0))
            return metrics

        def one_batch(batch):
            number, batch_indices, batch_weights = batch
            picked = _batches_at(examples, number, 1) if indices is None else examples
            return self._in_lanes(one, 2)(parameters, model_state, picked, batch_indices, batch_weights)

        metrics = jax.lax.map(one_batch, (np.arange(len(weights)), indices, weights))
        shares = metrics.pop("weight")
        total = jnp.sum(shares, 0)
        means = {name: jnp.sum(values * shares, 0) / total for name, values in metrics.items()}
        return {**means, "weight": total, **({"by_batch": metrics} if self._by_batch else {})}

    def _predict(
        self,
        parameters: Any,
        model_state: Any,
        examples: Mapping[str, jax.Array],
        indices: jax.Array | None,
        weights: jax.Array,
    ) -> jax.Array:
        """Predicts the label of every example, int32 (batches, lanes, batch, ...); the arguments are `evaluate`'s."""

        def one(parameters, model_state, examples, batch_indices):
            return self._workload.predictions(parameters, model_state, self._batch(examples, batch_indices))

        def one_batch(batch):
            number, batch_indices = batch
            picked = _batches_at(examples, number, 1) if indices is None else examples
            return self._in_lanes(one, 1)(parameters, model_state, picked, batch_indices)

        return jax.lax.map(one_batch, (np.arange(len(weights)), indices))

    def _gradient(
        self, parameters: Any, model_state: Any, batch: Mapping[str, jax.Array], hyperparameters: Mapping[str, Any]
    ) -> jax.Array:
        """The gradient of one trial's loss on one batch, without weight decay, float32 (parameters,)."""
        weighted = {**batch, "weight": jnp.ones(next(iter(batch.values())).shape[0], jnp.float32)}

        def loss(parameters):
            smoothing = hyperparameters.get("label_smoothing", 0.0)
            return self._workload.loss(parameters, model_state, weighted, True, jax.random.key(0), smoothing)[0]

        return ravel_pytree(jax.grad(loss)(parameters))[0]

    def _hessian_product(
        self,
        parameters: Any,
        model_state: Any,
        batch: Mapping[str, jax.Array],
        hyperparameters: Mapping[str, jax.Array],
        vector: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Multiplies the Hessian of one trial's objective on one batch by a vector.

        Returns:
          The gradient, which comes with it, and the product, float32 (parameters,) each.
        """
        flat, unravel = ravel_pytree(parameters)
        weighted = {**batch, "weight": jnp.ones(next(iter(batch.values())).shape[0], jnp.float32)}

        def objective(flat_parameters):
            key = jax.random.key(0)
            value, _ = self._objective(unravel(flat_parameters), model_state, weighted, hyperparameters, key)
            return value

        return jax.jvp(jax.grad(objective), (flat,), (vector,))


def _batches_at(examples: Mapping[str, jax.Array], number: jax.Array, axis: int) -> dict[str, jax.Array]:
    """The batch of that number along an axis."""
    return {name: jax.lax.dynamic_index_in_dim(v, number, axis, keepdims=False) for name, v in examples.items()}


def half_squared_kernels(parameters: Any) -> jax.Array:
    """Half the squared L2 norm of the leaves that decay; times the weight decay it is added to the loss."""
    leaves, chosen = jax.tree.leaves(parameters), jax.tree.leaves(decays(parameters))
    return 0.5 * sum(jnp.sum(jnp.square(leaf)) for leaf, decay in zip(leaves, chosen, strict=True) if decay)
