import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.training.batches import step_indices
from harness.training.checkpoints import Checkpoints
from harness.training.programs import CURVES, Programs, half_squared_kernels
from harness.training.run import compile_programs, run_pack, run_trial
from harness.training.trial import Trial, derive_seeds
from workloads.contract import compile_quickly
from workloads.cross_entropy import weighted_cross_entropy
from workloads.workload import Splits, workload_scale

FEATURES = 4
CHUNK = Programs.__init__.__defaults__[1]


@dataclasses.dataclass(frozen=True)
class Logistic:
    """Logistic regression on synthetic examples of three classes; its state counts the training steps."""

    name: ClassVar[str] = "logistic"
    classes: ClassVar[int] = 3
    objective: ClassVar[str] = "loss"

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

    def loss(self, parameters, state, batch, train, key, label_smoothing=0.0):
        loss, metrics = weighted_cross_entropy(
            self.logits(parameters, batch), batch["label"], batch["weight"], label_smoothing
        )
        return loss, (metrics, {"steps": state["steps"] + 1} if train else state)

    def predictions(self, parameters, state, batch):
        return jnp.argmax(self.logits(parameters, batch), axis=-1).astype(jnp.int32)

    def logits(self, parameters, batch):
        return batch["image"] @ parameters["head"]["kernel"] + parameters["head"]["bias"]


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
    for name in ("sharpness", "final_error", "final_loss"):
        assert np.array_equal(one.results[name], other.results[name], equal_nan=True)
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
    return Programs(BASE)


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
    assert_same_bits(run_trial(Programs(BASE), BASE), outcome)


def test_evaluations_on_the_way_change_nothing(programs, outcome):
    """They cut the chunks, and read the state without touching it."""
    often = run_trial(programs, dataclasses.replace(BASE, evaluation_steps=(0, 1, 2, 9, 24, 25)))
    assert_same_bits(often, outcome)
    np.testing.assert_array_equal(often.curves["evaluation_step"], [0, 1, 2, 9, 24, 25])


@pytest.mark.parametrize("chunk", [1, 7, 25])
def test_the_length_of_the_chunks_does_not_matter(outcome, chunk):
    assert_same_bits(run_trial(Programs(BASE, chunk=chunk), BASE), outcome)


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


ADAM = dataclasses.replace(
    BASE,
    optimizer="adam",
    hyperparameters={
        **{"learning_rate": 0.03, "beta1": 0.9, "beta2": 0.98, "epsilon": 1e-9},
        **{"weight_decay": 1e-2, "warmup_steps": 5},
    },
)


@pytest.mark.parametrize("optimizer", ["nesterov", "adam", "nadam", "adamw"])
def test_curvature_along_training_is_that_of_the_dense_hessian(optimizer, tmp_path):
    """At the states of checkpoints; Adam's second moment is that of the state, and at step 0 of the first gradient."""
    base = BASE if optimizer == "nesterov" else dataclasses.replace(ADAM, optimizer=optimizer)
    steps = (0, 3, 25)
    trial = dataclasses.replace(base, curvature_examples=9, curvature_steps=steps, evaluation_steps=(3, 25))
    programs = Programs(trial)
    kept = Checkpoints(tmp_path, "loss", best=2)
    curves = run_trial(programs, trial, kept).curves
    np.testing.assert_array_equal(curves["sharpness_step"], steps)
    assert ("preconditioned_sharpness" in curves) == (optimizer != "nesterov")
    saved = [kept.restore(programs.blank_state(), step).state for step in steps[1:]]
    kept.close()
    start = programs._initial(np.uint32(trial.seeds["init"]))
    states = [start, *(jax.tree.map(lambda leaf: leaf[0], state) for state in saved)]

    data = trial.workload.data(trial.seeds["split"])
    rows = step_indices(trial.seeds["order"], len(data.train["label"]), 9, 0, 1)[0]
    batch = {name: values[rows] for name, values in data.train.items()} | {"weight": np.ones(9, np.float32)}
    decay = 0.0 if optimizer == "adamw" else 1e-2
    for row, state in enumerate(states):
        flat, unravel = jax.flatten_util.ravel_pytree(state.parameters)

        def objective(flat, unravel=unravel, model_state=state.model_state):
            loss, _ = trial.workload.loss(unravel(flat), model_state, batch, True, jax.random.key(0))
            return loss + decay * half_squared_kernels(unravel(flat))

        hessian = np.asarray(jax.jit(jax.hessian(objective))(flat), np.float64)
        assert curves["sharpness"][row] == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-2)
        if optimizer != "nesterov":
            if row == 0:
                second = 0.02 * np.asarray(jax.grad(objective)(flat), np.float64) ** 2
            else:
                second = np.asarray(jax.flatten_util.ravel_pytree(state.optimizer_state[0].nu)[0], np.float64)
            t = max(steps[row], 1)
            root = np.sqrt((np.sqrt(second) + 1e-9) * (1 - 0.9**t) / np.sqrt(1 - 0.98**t))
            largest = np.linalg.eigvalsh(hessian / root / root[:, None])[-1]
            assert curves["preconditioned_sharpness"][row] == pytest.approx(largest, rel=1e-2)


def test_measuring_curvature_on_the_way_changes_nothing(programs, outcome):
    measured = dataclasses.replace(BASE, curvature_examples=9, curvature_steps=(2, 11, 25, 26))
    result = run_trial(programs, measured)
    for name in (*CURVES, "evaluation_loss"):
        assert result.curves[name].tobytes() == outcome.curves[name].tobytes(), name
    np.testing.assert_array_equal(result.curves["sharpness_step"], [2, 11, 25])
    assert np.isnan(result.results["sharpness"])  # which is that of step 0
    assert len(set(result.curves["sharpness"])) == 3


def test_curvature_ends_with_an_infeasible_trial(programs):
    wild = vary(BASE, learning_rate=1e30, warmup_steps=0, weight_decay=0.0)
    result = run_trial(programs, dataclasses.replace(wild, curvature_examples=9, curvature_steps=(0, 1, 20)))
    assert result.status == "infeasible"
    assert result.curves["sharpness_step"][0] == 0
    assert 20 not in result.curves["sharpness_step"]
    assert np.isfinite(result.results["sharpness"])


def test_gradient_noise_along_training_is_that_of_dense_gradients(tmp_path):
    """The exact moments over the training set, drawn with replacement, lie within the spread of the estimates."""
    steps = tuple(range(26))
    trial = dataclasses.replace(vary(BASE, weight_decay=0.0, learning_rate=1e-6), noise_steps=steps)
    programs = Programs(trial)
    curves = run_trial(programs, trial).curves
    np.testing.assert_array_equal(curves["noise_step"], steps)
    parameters, state = trial.workload.initial(jax.random.key(trial.seeds["init"]))
    train = trial.workload.data(trial.seeds["split"]).train

    def of_one(parameters, example):
        batch = {name: values[None] for name, values in example.items()} | {"weight": jnp.ones(1)}
        return trial.workload.loss(parameters, state, batch, True, jax.random.key(0))[0]

    each = jax.vmap(jax.grad(of_one), (None, 0))(parameters, train)
    each = np.concatenate([np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(each)], 1)
    mean = each.mean(0)
    exact = {"gradient_square": mean @ mean, "gradient_trace": np.mean(np.sum((each - mean) ** 2, 1))}
    for name, value in exact.items():
        error = np.std(curves[name], ddof=1) / np.sqrt(len(steps))
        assert abs(np.mean(curves[name]) - value) < 4 * error, name
        assert error < 0.2 * value, name


def test_measuring_noise_on_the_way_changes_nothing(programs, outcome):
    result = run_trial(programs, dataclasses.replace(BASE, noise_steps=(2, 11, 25, 26)))
    for name in (*CURVES, "evaluation_loss"):
        assert result.curves[name].tobytes() == outcome.curves[name].tobytes(), name
    np.testing.assert_array_equal(result.curves["noise_step"], [2, 11, 25])


def test_accumulation_takes_the_mean_over_the_parts_of_a_batch(outcome):
    """Without batch statistics that is the whole batch's step."""
    trial = dataclasses.replace(BASE, accumulation=BASE.batch_size)
    result = run_trial(Programs(trial), trial)
    for name in (*CURVES, "evaluation_loss"):
        np.testing.assert_allclose(result.curves[name], outcome.curves[name], rtol=1e-4, err_msg=name)


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
    trial = dataclasses.replace(BASE, optimizer="heavy_ball", curvature_examples=9)
    programs = Programs(trial)
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
    programs = Programs(trial)
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
    trial, _, result = wide_resnet
    weight_decay = np.float32(trial.hyperparameters["weight_decay"])
    data = trial.workload.data(trial.seeds["split"])
    rows = step_indices(trial.seeds["order"], len(data.train["label"]), trial.batch_size, 0, 1)[0]
    batch = {name: values[rows] for name, values in data.train.items()}
    batch["weight"] = np.ones(trial.batch_size, np.float32)
    parameters, state = compile_quickly(trial.workload.initial)(jax.random.key(np.uint32(trial.seeds["init"])))

    @compile_quickly
    def directly(parameters, state, batch):
        def objective(parameters):
            loss, _ = trial.workload.loss(parameters, state, batch, True, jax.random.key(0))
            return loss + weight_decay * half_squared_kernels(parameters), loss

        (_, loss), gradients = jax.value_and_grad(objective, has_aux=True)(parameters)
        return loss, half_squared_kernels(parameters), jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradients)))

    loss, kernels, norm = map(float, directly(parameters, state, batch))
    first = {name: result.curves[name][0] for name in CURVES}
    assert first["train_loss"] == pytest.approx(loss, rel=1e-4)
    assert first["gradient_norm"] == pytest.approx(norm, rel=1e-3)
    assert first["train_objective"] - first["train_loss"] == pytest.approx(weight_decay * kernels, rel=1e-3)


def test_clipping_records_the_unclipped_norm_and_the_clipped_share():
    """At threshold 0.5: where it does not clip, nothing changes."""
    clipped = vary(BASE, clip_threshold=0.5)
    result = run_trial(Programs(clipped), clipped)
    norms = result.curves["gradient_norm"]
    assert norms.max() > 0.5 > norms.min()
    np.testing.assert_array_equal(result.curves["clipped"], norms >= 0.5)
    assert result.results["clipped_share"] == pytest.approx(np.mean(norms >= 0.5))
    plain = run_trial(Programs(BASE), BASE)
    assert norms[0] == pytest.approx(plain.curves["gradient_norm"][0], rel=1e-6)
    loose = vary(BASE, clip_threshold=1e6)
    unclipped = run_trial(Programs(clipped), loose)
    np.testing.assert_allclose(unclipped.curves["train_loss"], plain.curves["train_loss"], rtol=1e-5)
    assert unclipped.results["clipped_share"] == 0


def test_the_gradient_of_a_bad_batch_is_batch_size_times_too_large(outcome):
    """Until then nothing changes, and clipping takes the excess away."""
    bad = vary(BASE, bad_batch_step=6, clip_threshold=1e-3)  # clips always
    programs = Programs(bad)
    result, usual = (run_trial(programs, trial) for trial in (bad, vary(bad, bad_batch_step=0)))
    excess = result.curves["gradient_norm"] / usual.curves["gradient_norm"]
    np.testing.assert_allclose(excess, [BASE.batch_size if step == 6 else 1 for step in range(1, 26)], rtol=1e-3)
    np.testing.assert_allclose(result.curves["train_loss"], usual.curves["train_loss"], rtol=1e-3)
    unclipped = vary(BASE, bad_batch_step=6)
    changed = run_trial(Programs(unclipped), unclipped).curves["train_loss"] / outcome.curves["train_loss"]
    np.testing.assert_allclose(changed[:6], 1, rtol=1e-5)
    assert abs(changed[6] - 1) > 0.01


def test_the_average_is_evaluated_and_changes_no_training(outcome):
    averaged = vary(BASE, averaging_decay=0.9)
    programs = Programs(averaged)
    result = run_trial(programs, averaged)
    np.testing.assert_allclose(result.curves["train_loss"], outcome.curves["train_loss"], rtol=1e-5)
    assert result.results["final_loss"] != pytest.approx(outcome.results["final_loss"], rel=1e-3)
    current = run_trial(programs, vary(BASE, averaging_decay=0.0))
    assert current.results["final_loss"] == pytest.approx(outcome.results["final_loss"], rel=1e-5)


def test_label_smoothing_is_minimised_but_not_reported():
    smoothed = vary(BASE, label_smoothing=0.2)
    result = run_trial(Programs(smoothed), vary(smoothed, weight_decay=0.0))
    assert np.all(result.curves["train_objective"] != result.curves["train_loss"])
    assert result.results["final_loss"] > 0


def test_predictions_give_the_final_error():
    asked = dataclasses.replace(BASE, predictions=True)
    result = run_trial(Programs(asked), asked)
    labels = BASE.workload.data(BASE.seeds["split"]).validation["label"]
    assert result.curves["prediction"].shape == labels.shape
    assert result.results["final_error"] == pytest.approx(np.mean(result.curves["prediction"] != labels), rel=1e-6)


def test_the_best_checkpoint_is_selected_in_retrospect(programs):
    steps = (0, 5, 10, 15, 20, 25)
    result = run_trial(programs, dataclasses.replace(vary(BASE, learning_rate=20.0), evaluation_steps=steps))
    best = np.argmin(result.curves["evaluation_loss"])
    assert best != len(steps) - 1
    assert result.results["best_step"] == steps[best]
    assert result.results["best_loss"] == result.curves["evaluation_loss"][best]
    assert result.results["best_error"] == result.curves["evaluation_error"][best]


OTHERS = [
    dataclasses.replace(
        vary(BASE, learning_rate=rate),
        seeds=derive_seeds(0, replicate),
        curvature_examples=9,
        curvature_steps=(0, 20),
        noise_steps=(0, 10),
        predictions=True,
    )
    for replicate, rate in enumerate((0.3, 0.01, 1e30, 0.1))
]


def test_lanes_equal_one_at_a_time():
    """Data, seeds and rates are each lane's own; one that diverges harms no other; one lane is left over."""
    alone = Programs(OTHERS[0])
    together = run_pack(Programs(OTHERS[0], lanes=5), OTHERS)
    assert [outcome.status for outcome in together] == ["complete", "complete", "infeasible", "complete"]
    for trial, outcome in zip(OTHERS, together, strict=True):
        expected = run_trial(alone, trial)
        assert outcome.reason == expected.reason
        assert outcome.curves.keys() == expected.curves.keys()
        assert outcome.results.keys() == expected.results.keys()
        for name, curve in outcome.curves.items():
            np.testing.assert_allclose(curve, expected.curves[name], rtol=1e-3, err_msg=name)


def test_lanes_do_not_depend_on_their_neighbours():
    programs = Programs(OTHERS[0], lanes=2)
    first, second = run_pack(programs, OTHERS[:2])
    for outcome, again in ((first, run_pack(programs, OTHERS[:1])[0]), (second, run_pack(programs, OTHERS[1:2])[0])):
        np.testing.assert_allclose(outcome.curves["train_loss"], again.curves["train_loss"], rtol=1e-5)


def test_a_pack_ends_when_no_lane_is_finite():
    wild = [vary(trial, learning_rate=1e30, warmup_steps=0) for trial in OTHERS[:2]]
    outcomes = run_pack(Programs(wild[0], lanes=2), [dataclasses.replace(t, evaluation_steps=(20,)) for t in wild])
    for outcome in outcomes:
        assert outcome.status == "infeasible"
        assert len(outcome.curves["train_loss"]) < 20
        assert "prediction" not in outcome.curves


EVALUATED = dataclasses.replace(
    vary(BASE, averaging_decay=0.5, clip_threshold=0.5),
    evaluation_steps=(0, 5, 10, 25),
    curvature_examples=9,
    curvature_steps=(0, 5, 7, 25),
    noise_steps=(0, 7, 25),
)


class Killed(Exception):
    pass


@pytest.fixture
def checkpoints(tmp_path):
    """Opens the checkpoints of a trial, as often as asked."""
    opened = []

    def open_them(best=1):
        opened.append(Checkpoints(tmp_path / "checkpoints", "loss", best))
        return opened[-1]

    yield open_them
    for one in opened:
        one.close()


@pytest.mark.parametrize("killed_after", [5, 10])
def test_a_resumed_trial_has_the_bits_of_an_undisturbed_one(checkpoints, monkeypatch, killed_after):
    programs = Programs(EVALUATED)
    whole = run_trial(programs, EVALUATED)
    saving = checkpoints()
    save = saving.save

    def save_and_die(step, *content):
        save(step, *content)
        if step == killed_after:
            raise Killed

    monkeypatch.setattr(saving, "save", save_and_die)
    with pytest.raises(Killed):
        run_trial(programs, EVALUATED, saving)
    saving.close()
    resumed = checkpoints()
    assert resumed.restore(programs.blank_state()).step == killed_after
    outcome = run_trial(Programs(EVALUATED), EVALUATED, resumed)
    assert_same_bits(outcome, whole, whole.curves)
    assert outcome.results == pytest.approx(whole.results, nan_ok=True, abs=0)


def test_the_last_and_the_best_checkpoints_are_kept(checkpoints):
    trial = dataclasses.replace(vary(BASE, learning_rate=20.0), evaluation_steps=(5, 10, 15, 20, 25))
    programs = Programs(trial)
    kept = checkpoints(best=2)
    outcome = run_trial(programs, trial, kept)
    kept.close()
    order = np.argsort(outcome.curves["evaluation_loss"], kind="stable")
    best = {int(outcome.curves["evaluation_step"][i]) for i in order[:2]}
    again = checkpoints()
    assert set(again.steps()) == best | {25}
    saved = again.restore(programs.blank_state(), int(outcome.results["best_step"]))
    data = trial.workload.data(trial.seeds["split"]).validation
    batch = {**data, "weight": np.ones(len(data["label"]), np.float32)}
    parameters, state = jax.tree.map(lambda leaf: leaf[0], (saved.state.parameters, saved.state.model_state))
    _, (metrics, _) = trial.workload.loss(parameters, state, batch, False, None)
    assert float(metrics["loss"]) == pytest.approx(outcome.results["best_loss"], rel=1e-5)
