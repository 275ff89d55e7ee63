"""What the harness adds to a training step: a trial of it against a bare loop of the same jitted step.

    NPROC=1 pytest workloads/bench_overhead.py --benchmark-only

`NPROC=1` keeps JAX on one thread, as the harness's workers are. The harness's arm is a whole `run_trial` without
evaluations, compiled before: initialisation, data order and logging of every step included. The bare arm calls the
harness's own step, jitted alone, in a Python loop: it starts from a state, has data order and rates at hand, logs
nothing and waits for the device once, at its end. Rounds of both take turns; the time of the benchmark is the
harness's, and `extra_info` has the medians and the overhead, their ratio less 1.

`test_logging` has the same trial against one that records nothing but what it has to know whether it diverged: what is
left is what logging loss, gradient norm and objective of every step costs, at most 3% of a step by the project's aims.
`test_curvature` measures the sharpness once and counts what it costs: products of the Hessian and a vector, and how
many gradients on the same batch would have taken as long.
"""

import dataclasses
import statistics
import time

import jax
import numpy as np
import pytest

from harness.studies.policy import policy
from harness.training.batches import step_indices
from harness.training.optimizer import ADAM_RULES
from harness.training.programs import _COMPILER_OPTIONS, Programs
from harness.training.run import compile_programs, run_pack, run_trial
from workloads.bench_peers_arms import study_trials

STEPS = {"wide_resnet": 384, "transformer": 192}
ROUNDS = 5


@pytest.mark.parametrize("workload", STEPS)
def test_overhead(benchmark, workload):
    trial = dataclasses.replace(study_trials(workload, 1)[0], steps=STEPS[workload], evaluation_steps=())
    programs = Programs(trial, lanes=1, chunk=policy(workload, jax.default_backend()).chunk)
    compile_programs(programs, trial)
    bare_loop = _bare_loop(programs, trial)
    bare = []

    def harness():
        outcome = run_trial(programs, trial)
        assert len(outcome.curves["train_loss"]) == trial.steps

    bare_loop()  # which compiles
    # the setup of a round is not timed, so that rounds of the arms take turns
    benchmark.pedantic(harness, setup=lambda: bare.append(bare_loop()), warmup_rounds=1, rounds=ROUNDS)
    harness_seconds, bare_seconds = benchmark.stats.stats.median, statistics.median(bare[1:])
    benchmark.extra_info.update(
        steps=trial.steps,
        harness_ms_per_step=1000 * harness_seconds / trial.steps,
        bare_ms_per_step=1000 * bare_seconds / trial.steps,
        overhead=harness_seconds / bare_seconds - 1,
    )


@pytest.mark.parametrize("workload", STEPS)
def test_logging(benchmark, workload):
    trial = dataclasses.replace(study_trials(workload, 1)[0], steps=STEPS[workload], evaluation_steps=())
    chunk = policy(workload, jax.default_backend()).chunk
    logging, silent = (Programs(trial, lanes=1, chunk=chunk) for _ in range(2))
    silent.curves = ("train_objective",)
    for programs in (logging, silent):
        compile_programs(programs, trial)
    without = []

    def silently():
        begin = time.perf_counter()
        outcome = run_trial(silent, trial)
        without.append(time.perf_counter() - begin)
        assert "gradient_norm" not in outcome.curves

    benchmark.pedantic(run_trial, (logging, trial), setup=silently, warmup_rounds=1, rounds=4 * ROUNDS)
    # Of neighbours in time, since the machine's speed drifts by more than what is measured.
    ratios = [logged / unlogged for logged, unlogged in zip(benchmark.stats.stats.data, without[1:], strict=True)]
    benchmark.extra_info.update(
        steps=trial.steps,
        logging_ms_per_step=1000 * benchmark.stats.stats.median / trial.steps,
        silent_ms_per_step=1000 * statistics.median(without[1:]) / trial.steps,
        overhead=statistics.median(ratios) - 1,
        overhead_quartiles=[quartile - 1 for quartile in statistics.quantiles(ratios)[::2]],
    )


@pytest.mark.parametrize("workload", STEPS)
def test_curvature(benchmark, workload):
    trial = dataclasses.replace(study_trials(workload, 1)[0], evaluation_steps=(), curvature_examples=64)
    programs = Programs(trial, lanes=1)
    compile_programs(programs, trial)
    multiply, products, arguments = programs.hessian_product, [], None

    def counted(*given):
        nonlocal arguments
        begin, arguments = time.perf_counter(), given
        found = jax.block_until_ready(multiply(*given))
        products.append(time.perf_counter() - begin)
        return found

    programs.hessian_product = counted
    benchmark.pedantic(run_pack, (programs, [trial]), {"steps_limit": 0}, rounds=1)
    parameters, model_state, batch, hyperparameters, _ = arguments
    batch = {**batch, "weight": np.ones(trial.curvature_examples, np.float32)}

    @jax.jit
    def gradient(parameters, batch):
        def objective(parameters):
            return programs._objective(parameters, model_state, batch, hyperparameters, jax.random.key(0))[0]

        return jax.grad(objective)(parameters)

    gradients = []
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(gradient(parameters, batch))
        gradients.append(time.perf_counter() - begin)
    of_one = statistics.median(gradients[1:])
    benchmark.extra_info.update(
        products=len(products),
        gradients_per_product=statistics.median(products) / of_one,
        gradients=sum(products) / of_one,
        eigenvalues=1 + (trial.optimizer in ADAM_RULES),
    )


def _bare_loop(programs, trial):
    """Gives a function that takes the steps of a trial and returns the seconds that they took."""
    options = _COMPILER_OPTIONS.get(jax.default_backend())
    step = jax.jit(programs._step, donate_argnums=0, compiler_options=options)
    initial = jax.jit(programs._initial, compiler_options=options)(np.uint32(trial.seeds["init"]))
    examples = jax.device_put(dict(trial.workload.data(trial.seeds["split"]).train))
    indices = step_indices(trial.seeds["order"], len(examples["label"]), trial.batch_size, 0, trial.steps)
    settings = trial.hyperparameters
    rate = np.float32(settings["learning_rate"])
    traced = {name: np.float32(settings[name]) for name in settings if name not in ("learning_rate", "warmup_steps")}
    dropout = np.uint32(trial.seeds["dropout"])

    def run():
        state = jax.block_until_ready(jax.tree.map(jax.numpy.copy, initial))
        begin = time.perf_counter()
        for number, rows in enumerate(indices):
            state, _ = step(state, dropout, traced, examples, rows, rate, np.int32(number))
        jax.block_until_ready(state)
        return time.perf_counter() - begin

    return run
