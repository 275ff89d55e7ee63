import dataclasses
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harness.training import run
from harness.training.batches import step_indices
from harness.training.programs import CHUNK, CURVES, Programs, half_squared_kernels
from harness.training.run import compile_programs, run_trial
from harness.training.trial import Trial, derive_seeds
from workloads.workload import Splits, workload_scale

FEATURES = 4
QUICKLY = {"xla_backend_optimization_level": 1}  # halves compilation, as in harness.studies.worker


@dataclasses.dataclass(frozen=True)
class Logistic:
    """Logistic regression on synthetic examples of three classes; its state counts the training steps."""

    name: ClassVar[str] = "logistic"
    classes: ClassVar[int] = 3

    examples: int = 50

    def data_hashes(self):
        return {}

    def data(self, split_seed):
        random = np.random.default_rng(split_seed)
        label = random.integers(self.classes, size=self.examples).astype(np.int32)
        image = (random.standard_normal((self.examples, FEATURES)) + label[:, None]).astype(np.float32)
        held_out = self.examples // 3
        train = {"image": image[held_out:], "label": label[held_out:]}
        return Splits(train=train, validation={"image": image[:held_out], "label": label[:held_out]})

    def initial(self, key):
        kernel = jax.random.normal(key, (FEATURES, self.classes), jnp.float32)
        return {"head": {"kernel": kernel, "bias": jnp.ones(self.classes, jnp.float32)}}, {"steps": jnp.float32(0)}

    def loss(self, parameters, state, batch, train, key):
        logits = batch["image"] @ parameters["head"]["kernel"] + parameters["head"]["bias"]
        weight = batch["weight"] / jnp.sum(batch["weight"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        error = jnp.sum((jnp.argmax(logits, axis=-1) != batch["label"]).astype(jnp.float32) * weight)
        loss = jnp.sum(losses * weight)
        state = {"steps": state["steps"] + 1} if train else state
        return loss, ({"loss": loss, "error": error}, state)


BASE = Trial(
    workload=Logistic(),
    batch_size=5,
    steps=20,
    evaluation_steps=(25,),
    evaluation_batch_size=7,  # 16 held-out examples: the last batch is padded
    optimizer="nesterov",
    schedule="cosine",
    hyperparameters={"learning_rate": 0.3, "momentum": 0.9, "weight_decay": 1e-2, "warmup_steps": 5},
    seeds=derive_seeds(0, 0),
)


def vary(trial, **hyperparameters):
    return dataclasses.replace(trial, hyperparameters={**trial.hyperparameters, **hyperparameters})


def assert_same_bits(one, other, curves=(*CURVES, "learning_rate")):
    for name in curves:
        assert one.curves[name].tobytes() == other.curves[name].tobytes(), name
    assert np.array_equal(list(one.results.values()), list(other.results.values()), equal_nan=True)
    assert (one.status, one.reason) == (other.status, other.reason)


def by_numpy(trial):
    """The whole trial in float64: curves by name, and the validation error and loss at the end and at the start."""
    data = trial.workload.data(trial.seeds["split"])
    parameters, _ = trial.workload.initial(jax.random.key(np.uint32(trial.seeds["init"])))
    kernel, bias = (np.asarray(parameters["head"][name], np.float64) for name in ("kernel", "bias"))
    h = trial.hyperparameters
    warmup = h["warmup_steps"]
    velocity = [np.zeros_like(kernel), np.zeros_like(bias)]
    curves = {name: [] for name in CURVES}

    def softmax(images):
        logits = images @ kernel + bias
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    def evaluate():
        shares = softmax(data.validation["image"])
        labels = data.validation["label"]
        own = shares[np.arange(len(labels)), labels]
        return np.mean(shares.argmax(axis=1) != labels), -np.mean(np.log(own))

    start = evaluate()
    batches = step_indices(trial.seeds["order"], len(data.train["label"]), trial.batch_size, 0, trial.total_steps)
    for step, rows in enumerate(batches):
        images, labels = data.train["image"][rows].astype(np.float64), data.train["label"][rows]
        shares = softmax(images)
        loss = -np.mean(np.log(shares[np.arange(len(rows)), labels]))
        slope = (shares - np.eye(3)[labels]) / len(rows)
        gradients = [images.T @ slope + h["weight_decay"] * kernel, slope.sum(axis=0)]
        curves["train_loss"].append(loss)
        curves["train_objective"].append(loss + h["weight_decay"] * np.sum(kernel**2) / 2)
        curves["gradient_norm"].append(np.sqrt(sum(np.sum(g**2) for g in gradients)))
        cosine = (1 + np.cos(np.pi * (step - warmup) / trial.steps)) / 2
        rate = h["learning_rate"] * (step / warmup if step < warmup else cosine)
        velocity = [h["momentum"] * v + g for v, g in zip(velocity, gradients, strict=True)]
        kernel, bias = (
            p - rate * (h["momentum"] * v + g) for p, v, g in zip((kernel, bias), velocity, gradients, strict=True)
        )
    return curves, start, evaluate()


@pytest.fixture(scope="module")
def programs():
    """Of the stand-in; compiled once."""
    return Programs(Logistic(), "nesterov")


@pytest.fixture(scope="module")
def outcome(programs):
    return run_trial(programs, BASE)


def test_every_number_against_numpy(programs):
    """Losses, norms, schedule, update rule, weight decay and padded evaluation, through a whole trial."""
    result = run_trial(programs, dataclasses.replace(BASE, evaluation_steps=(0, 25)))
    curves, start, end = by_numpy(BASE)
    for name in CURVES:
        np.testing.assert_allclose(result.curves[name], curves[name], rtol=1e-3, err_msg=name)
    np.testing.assert_array_equal(result.curves["evaluation_step"], [0, 25])
    np.testing.assert_allclose(result.curves["evaluation_error"], [start[0], end[0]], rtol=1e-5)
    np.testing.assert_allclose(result.curves["evaluation_loss"], [start[1], end[1]], rtol=1e-3)
    assert result.results["final_error"] == result.curves["evaluation_error"][-1]
    assert result.results["final_loss"] == result.curves["evaluation_loss"][-1]


def test_shape_of_an_outcome(outcome):
    assert (outcome.status, outcome.reason) == ("complete", None)
    assert {name: len(curve) for name, curve in outcome.curves.items()} == {
        **dict.fromkeys((*CURVES, "learning_rate"), 25),
        **dict.fromkeys(("evaluation_step", "evaluation_error", "evaluation_loss"), 1),
    }
    assert {curve.dtype for curve in outcome.curves.values()} == {np.dtype(np.float32)}
    assert np.isnan(outcome.results["sharpness"])
    assert all(type(value) is float for value in outcome.results.values())


def test_the_same_trial_gives_the_same_bits(programs, outcome):
    assert_same_bits(run_trial(programs, BASE), outcome)
    assert_same_bits(run_trial(Programs(Logistic(), "nesterov"), BASE), outcome)


def test_evaluations_on_the_way_change_nothing(programs, outcome):
    """They cut the chunks, and read the state without touching it."""
    often = run_trial(programs, dataclasses.replace(BASE, evaluation_steps=(0, 1, 2, 9, 24, 25)))
    assert_same_bits(often, outcome)
    np.testing.assert_array_equal(often.curves["evaluation_step"], [0, 1, 2, 9, 24, 25])


@pytest.mark.parametrize("chunk", [1, 7, 25])
def test_the_length_of_the_chunks_does_not_matter(monkeypatch, outcome, chunk):
    monkeypatch.setattr(run, "CHUNK", chunk)
    assert_same_bits(run_trial(Programs(Logistic(), "nesterov"), BASE), outcome)


def test_trials_longer_than_a_chunk(programs):
    longer = dataclasses.replace(BASE, steps=2 * CHUNK + 3, evaluation_steps=(8, 2 * CHUNK + 8))
    result = run_trial(programs, longer)
    curves, _, end = by_numpy(longer)
    np.testing.assert_allclose(result.curves["train_loss"], curves["train_loss"], rtol=1e-2)
    assert result.results["final_loss"] == pytest.approx(end[1], rel=1e-2)


def test_every_seed_has_its_own_effect(programs, outcome):
    for purpose, first_loss_changes in {"init": True, "order": True, "split": True, "dropout": False}.items():
        other = dataclasses.replace(BASE, seeds={**BASE.seeds, purpose: 12345})
        changed = run_trial(programs, other).curves["train_loss"][0] != outcome.curves["train_loss"][0]
        assert changed == first_loss_changes, purpose


def test_a_loss_that_overflows_makes_the_trial_infeasible(programs):
    wild = dataclasses.replace(
        vary(BASE, learning_rate=1e30, warmup_steps=0, weight_decay=0.0), evaluation_steps=(0, 1, 20)
    )
    result = run_trial(programs, wild)
    losses = result.curves["train_loss"]
    assert result.status == "infeasible"
    assert result.reason == f"the training loss was not finite at step {len(losses)}"
    assert 2 <= len(losses) < 20
    assert np.all(np.isfinite(result.curves["train_objective"][:-1]))
    assert not np.isfinite(result.curves["train_objective"][-1])
    assert {len(result.curves[name]) for name in (*CURVES, "learning_rate")} == {len(losses)}
    assert np.isnan(result.results["final_error"])
    assert np.isnan(result.results["final_loss"])
    assert set(result.curves["evaluation_step"]) <= {0, 1}
    assert result.curves["evaluation_step"][0] == 0


def test_a_high_but_finite_loss_does_not_stop_a_trial(programs):
    result = run_trial(programs, vary(BASE, learning_rate=1e4, weight_decay=0.0))
    assert result.status == "complete"
    assert result.curves["train_loss"].max() > 1000
    assert len(result.curves["train_loss"]) == 25


def test_evaluation_steps_beyond_the_end_are_not_reached(programs):
    result = run_trial(programs, dataclasses.replace(BASE, evaluation_steps=(3, 26)))
    np.testing.assert_array_equal(result.curves["evaluation_step"], [3])


def test_sharpness_is_the_largest_eigenvalue_at_initialisation(programs):
    trial = dataclasses.replace(BASE, curvature_examples=9)
    data = trial.workload.data(trial.seeds["split"])
    parameters, state = trial.workload.initial(jax.random.key(np.uint32(trial.seeds["init"])))
    rows = step_indices(trial.seeds["order"], len(data.train["label"]), 9, 0, 1)[0]
    batch = {name: values[rows] for name, values in data.train.items()} | {"weight": np.ones(9, np.float32)}
    flat, unravel = jax.flatten_util.ravel_pytree(parameters)

    def objective(flat):
        loss, _ = trial.workload.loss(unravel(flat), state, batch, True, jax.random.key(0))
        return loss + 1e-2 * half_squared_kernels(unravel(flat))

    largest = np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(objective))(flat), np.float64))[-1]
    assert run_trial(programs, trial).results["sharpness"] == pytest.approx(largest, rel=1e-2)


def test_only_leaves_named_kernel_decay():
    parameters = {"a": {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([100.0])}, "kernel": jnp.array([[2.0]])}
    assert half_squared_kernels(parameters) == 14.5
    assert half_squared_kernels({"scale": jnp.ones(3)}) == 0


@pytest.fixture
def compilations():
    """The names of the functions that JAX has compiled since."""
    names = []

    def count(event, seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(count)
    yield names
    jax.monitoring.unregister_event_duration_listener(count)


def test_hyperparameters_compile_nothing_anew(compilations):
    """Every program is compiled once, ahead of the trials, whatever their hyperparameters and seeds."""
    programs = Programs(Logistic(), "heavy_ball")
    trial = dataclasses.replace(BASE, optimizer="heavy_ball", curvature_examples=9)
    compile_programs(programs, trial)
    assert sorted(compilations) == ["jit(_evaluate)", "jit(_hessian_product)", "jit(_train)"]
    first, *others = [
        run_trial(programs, dataclasses.replace(vary(trial, **change), **fields))
        for change, fields in [
            ({}, {}),
            ({"learning_rate": 0.01, "warmup_steps": 11}, {}),
            ({"momentum": 0.5, "weight_decay": 0.0}, {"seeds": derive_seeds(1, 4)}),
            ({"learning_rate": 1}, {"steps": 150, "schedule": "linear", "evaluation_steps": (1, 7, 150)}),
        ]
    ]
    assert len(compilations) == 3
    assert all(not np.array_equal(o.curves["train_loss"][:20], first.curves["train_loss"][:20]) for o in others)


@pytest.fixture(scope="module")
def wide_resnet():
    size = workload_scale("wide_resnet", "smoke")
    trial = Trial(
        workload=size.workload,
        batch_size=size.batch_size,
        steps=size.steps,
        evaluation_steps=(0, size.steps),
        evaluation_batch_size=size.evaluation_batch_size,
        optimizer="heavy_ball",
        schedule="constant",
        hyperparameters=size.hyperparameters,
        seeds=derive_seeds(0, 0),
    )
    programs = Programs(size.workload, "heavy_ball")
    programs.train = jax.jit(programs._train, donate_argnums=0, compiler_options=QUICKLY)
    return trial, programs, run_trial(programs, trial)


def test_wide_resnet_trains(wide_resnet):
    trial, _, result = wide_resnet
    assert result.status == "complete"
    assert result.curves["train_loss"].shape == (trial.steps,)
    assert abs(result.curves["evaluation_error"][0] - 0.9) < 0.1


def test_wide_resnet_gives_the_same_bits_again(wide_resnet):
    trial, programs, result = wide_resnet
    assert_same_bits(run_trial(programs, trial), result, result.curves)
    cut = run_trial(programs, dataclasses.replace(trial, evaluation_steps=(0, 1, 4, trial.steps)))
    assert_same_bits(cut, result)


def test_first_step_of_wide_resnet(wide_resnet):
    """The recorded numbers of step 1 are those of the workload at the initial state."""
    trial, programs, result = wide_resnet
    weight_decay = np.float32(trial.hyperparameters["weight_decay"])
    data = trial.workload.data(trial.seeds["split"])
    rows = step_indices(trial.seeds["order"], len(data.train["label"]), trial.batch_size, 0, 1)[0]
    batch = {name: values[rows] for name, values in data.train.items()}
    batch["weight"] = np.ones(trial.batch_size, np.float32)
    initial, _, _ = programs.train(
        programs.blank_state(),
        np.uint32(trial.seeds["init"]),
        np.uint32(trial.seeds["dropout"]),
        {name: np.float32(0) for name in ("momentum", "weight_decay")},
        dict(data.train),
        np.zeros((CHUNK, trial.batch_size), np.int32),
        np.zeros(CHUNK, np.float32),
        np.int32(0),
        np.int32(0),
    )

    @partial(jax.jit, compiler_options=QUICKLY)
    def directly(parameters, state, batch):
        def objective(parameters):
            loss, _ = trial.workload.loss(parameters, state, batch, True, jax.random.key(0))
            return loss + weight_decay * half_squared_kernels(parameters), loss

        (_, loss), gradients = jax.value_and_grad(objective, has_aux=True)(parameters)
        return loss, half_squared_kernels(parameters), jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradients)))

    loss, kernels, norm = map(float, directly(initial.parameters, initial.model_state, batch))
    first = {name: result.curves[name][0] for name in CURVES}
    assert first["train_loss"] == pytest.approx(loss, rel=1e-4)
    assert first["gradient_norm"] == pytest.approx(norm, rel=1e-3)
    assert first["train_objective"] - first["train_loss"] == pytest.approx(weight_decay * kernels, rel=1e-3)
