"""What `workloads.bench_peers` compares: each arm runs trials of a study as a process of its own.

    python -m workloads.bench_peers_arms ARM WORKLOAD TRIALS

prints JSON: when each trial finished and how well it ended, and how many were under way at once. With the arm
`resnet50` alone it prints the speed of training ResNet-50, on CPU that of a dry run at a tiny size.
"""

import dataclasses
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from harness.studies.processes import available_cores, run_trials
from harness.studies.worker import environment
from harness.training.batches import padded_batches, step_indices
from harness.training.trial import Trial, derive_seeds
from workloads.resnet.workload import ResNet
from workloads.transformer.workload import Transformer
from workloads.workload import Splits, Workload, configure, workload_scale

RATES = {"wide_resnet": (0.01, 0.1), "transformer": (3e-4, 3e-3)}
"""Workload to the lowest and highest learning rate of its study."""

EVALUATED_WINDOWS = 256


class Finish(NamedTuple):
    """When a trial finished, in seconds of the machine's monotonic clock, and its last validation error or loss."""

    at: float
    objective: float


class Finishes(NamedTuple):
    """What an arm prints: how many trials it has under way at once, and the finished ones in order."""

    at_once: int
    trials: list[Finish]


class CharacterTransformer(Transformer):
    """The Transformer with a small validation set, so that the time is spent on training."""

    def data(self, split_seed: int) -> Splits:
        splits = super().data(split_seed)
        return Splits(splits.train, {name: values[:EVALUATED_WINDOWS] for name, values in splits.validation.items()})


def study_trials(workload: str, count: int) -> list[Trial]:
    """Makes the trials of a study of the learning rate.

    Args:
      workload: `wide_resnet`, the laptop's with the stride bug, or `transformer`, small enough for 300 steps.
      count: number of trials, each at a rate and with seeds of its own, on one split of the data.
    """
    if workload == "wide_resnet":
        size = workload_scale("wide_resnet", "laptop")
        configured = configure(size.workload, {"group_strides": (1, 2, 1)})
        size = dataclasses.replace(size, workload=configured)
    else:
        size = workload_scale("transformer", "laptop")
        configured = CharacterTransformer(6, 64, 4, 256, length=64, dataset="shakespeare")
        size = dataclasses.replace(size, workload=configured, batch_size=8, steps=300)
    low, high = RATES[workload]
    return [
        Trial(
            workload=size.workload,
            batch_size=size.batch_size,
            steps=size.steps,
            evaluation_steps=(size.steps,),
            evaluation_batch_size=size.evaluation_batch_size,
            optimizer=size.optimizer,
            schedule="constant",
            hyperparameters={
                **size.hyperparameters,
                "warmup_steps": 0,
                "learning_rate": low * (high / low) ** (index / count),
            },
            seeds={**derive_seeds(0, index, pilot=True), "split": derive_seeds(0, 0, pilot=True)["split"]},
        )
        for index in range(count)
    ]


@lru_cache(maxsize=1)
def splits_of(workload: Workload, split_seed: int) -> Splits:
    """Reads the data once in each process."""
    return workload.data(split_seed)


def run_harness(trials: list[Trial], executor: str | None = None) -> Finishes:
    """This harness: workers and compilation included, from a cache that is empty where `bench_peers` starts it.

    Args:
      trials: of one compile group.
      executor: None for what the policy says.
    """
    workers, lanes, finished = 1, 1, []

    def started(machine):
        nonlocal workers
        workers = available_cores() if machine.backend == "cpu" else 1

    def compiled(group, compilations, packing):
        nonlocal lanes
        lanes = packing.lanes

    def finish(trial, outcome):
        finished.append(Finish(time.monotonic(), outcome.results[f"final_{trial.workload.objective}"]))

    run_trials(trials, available_cores(), started, compiled, finish, executor)
    return Finishes(workers * lanes, finished)


def train_in_loop(trial: Trial) -> tuple[list[float], float]:
    """Trains and evaluates a trial in the usual loop, compiled afresh.

    Returns:
      The training loss of every step, and the final validation error or loss.
    """
    import jax
    import optax

    from harness.training.optimizer import decays

    workload, settings = trial.workload, trial.hyperparameters
    splits = splits_of(workload, trial.seeds["split"])
    if trial.workload.name == "wide_resnet":
        workload = configure(workload, {"convolution": "xla"})  # in this loop it compiles faster, for equal steps
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    if trial.optimizer == "heavy_ball":
        rule = optax.sgd(rate, settings["momentum"])
    else:
        rule = optax.adam(rate, settings["beta1"], settings["beta2"], settings["epsilon"])
    if decay:
        rule = optax.chain(optax.add_decayed_weights(decay, decays), rule)

    def loss(parameters, state, batch, train):
        return workload.loss(parameters, state, batch, train, jax.random.key(0))

    @jax.jit
    def initial(key):
        parameters, state = workload.initial(key)
        return parameters, state, rule.init(parameters)

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(parameters, state, optimizer_state, batch):
        gradient = jax.value_and_grad(partial(loss, train=True), has_aux=True)
        (value, (_, state)), gradients = gradient(parameters, state, batch)
        updates, optimizer_state = rule.update(gradients, optimizer_state, parameters)
        return optax.apply_updates(parameters, updates), state, optimizer_state, value

    @jax.jit
    def evaluate(parameters, state, batch):
        return loss(parameters, state, batch, train=False)[1][0]

    jax.clear_caches()
    parameters, state, optimizer_state = initial(jax.random.key(trial.seeds["init"]))
    examples = len(splits.train["label"])
    ones = np.ones(trial.batch_size, np.float32)
    losses = []
    for rows in step_indices(trial.seeds["order"], examples, trial.batch_size, 0, trial.steps):
        batch = {name: values[rows] for name, values in splits.train.items()} | {"weight": ones}
        parameters, state, optimizer_state, value = step(parameters, state, optimizer_state, batch)
        losses.append(float(value))

    total = weight = 0.0
    for rows, weights in zip(
        *padded_batches(len(splits.validation["label"]), trial.evaluation_batch_size), strict=True
    ):
        batch = {name: values[rows] for name, values in splits.validation.items()} | {"weight": weights}
        metrics = evaluate(parameters, state, batch)
        total += float(metrics[workload.objective]) * float(metrics["weight"])
        weight += float(metrics["weight"])
    return losses, total / weight


def run_loop(trials: list[Trial]) -> Finishes:
    """The usual loop, one trial after another on JAX's default threads."""
    return Finishes(1, [Finish(objective=train_in_loop(trial)[1], at=time.monotonic()) for trial in trials])


def run_optuna(trials: list[Trial]) -> Finishes:
    """The usual loop, driven by Optuna, which draws the learning rates."""
    import optuna

    finished = []

    def objective(suggested):
        trial = trials[suggested.number]
        rate = suggested.suggest_float("learning_rate", *RATES[trial.workload.name], log=True)
        settings = {**trial.hyperparameters, "learning_rate": rate}
        _, reached = train_in_loop(dataclasses.replace(trial, hyperparameters=settings))
        finished.append(Finish(time.monotonic(), reached))
        return reached

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).optimize(objective, n_trials=len(trials))
    return Finishes(1, finished)


def run_torch_threads(trials: list[Trial]) -> Finishes:
    """PyTorch on all cores, one trial after another."""
    return Finishes(1, [_torch_trial(available_cores(), trial) for trial in trials])


def run_torch_processes(trials: list[Trial]) -> Finishes:
    """PyTorch in a process per core, each on one thread."""
    os.environ.update(environment(None, 1))
    with ProcessPoolExecutor(available_cores(), get_context("spawn")) as pool:
        return Finishes(available_cores(), sorted(pool.map(partial(_torch_trial, 1), trials)))


def _torch_trial(threads: int, trial: Trial) -> Finish:
    from workloads.bench_peers_torch import train

    return Finish(objective=train(trial, threads)[1], at=time.monotonic())


class TrainingSpeed(NamedTuple):
    """Size of a measurement of ResNet-50.

    Attributes:
      batch: images per step.
      side: of the images.
      examples: images on the device.
      chunk: steps between two returns to the host, where there are chunks.
      chunks: that are timed.
    """

    batch: int
    side: int
    examples: int
    chunk: int
    chunks: int


RESNET50, RESNET50_DRY_RUN = TrainingSpeed(256, 224, 1024, 20, 5), TrainingSpeed(2, 32, 4, 2, 1)


def resnet50() -> dict[str, float | str]:
    """Measures how many images a second the harness's program trains ResNet-50 on, in bfloat16, data on the device."""
    import jax

    from harness.training.programs import Programs

    size = RESNET50_DRY_RUN if jax.default_backend() == "cpu" else RESNET50
    settings = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "warmup_steps": 0}
    workload = ResNet(50, stem="imagenet", side=size.side, compute_dtype="bfloat16")
    trial = Trial(
        workload=workload,
        batch_size=size.batch,
        steps=size.chunk,
        evaluation_steps=(),
        evaluation_batch_size=size.batch,
        optimizer="heavy_ball",
        schedule="constant",
        hyperparameters=settings,
        seeds=derive_seeds(0, 0, pilot=True),
    )
    programs = Programs(trial, lanes=1, chunk=size.chunk)
    examples = {
        "image": jax.random.normal(jax.random.key(0), (1, size.examples, size.side, size.side, 3)),
        "label": jax.random.randint(jax.random.key(1), (1, size.examples), 0, workload.classes),
    }
    seeds = np.zeros(1, np.uint32)
    hyperparameters = {name: np.array([settings[name]], np.float32) for name in ("momentum", "weight_decay")}
    rates = np.full((1, size.chunk), settings["learning_rate"], np.float32)

    def advance(state, start):
        indices = step_indices(0, size.examples, size.batch, start, start + size.chunk)[None]
        counts = np.int32(start), np.int32(size.chunk)
        return programs.train(state, seeds, seeds, hyperparameters, examples, indices, rates, *counts)

    state, curves = jax.block_until_ready(advance(programs.blank_state(), 0))
    begin = time.perf_counter()
    for number in range(1, size.chunks + 1):
        state, curves = advance(state, number * size.chunk)
    jax.block_until_ready((state, curves))
    seconds = time.perf_counter() - begin
    assert np.all(np.isfinite(curves["train_loss"]))
    images = size.chunks * size.chunk * size.batch
    return {"images_per_second": images / seconds, "device": jax.devices()[0].device_kind}


ARMS = {
    "harness": run_harness,
    "processes": partial(run_harness, executor="processes"),
    "lanes": partial(run_harness, executor="lanes"),
    "loop": run_loop,
    "optuna": run_optuna,
    "torch_threads": run_torch_threads,
    "torch_processes": run_torch_processes,
}


def main() -> None:
    """Runs what the command line names."""
    arm, *rest = sys.argv[1:]
    if arm == "resnet50":
        print(json.dumps(resnet50()))
    else:
        workload, count = rest
        print(json.dumps(ARMS[arm](study_trials(workload, int(count)))))


if __name__ == "__main__":
    from workloads.bench_peers_arms import main as importable  # so that workers find the classes by the module's name

    importable()
