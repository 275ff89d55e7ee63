"""Study throughput: the harness against the usual loop, Optuna driving that loop, and eager PyTorch.

    pytest workloads/bench_peers.py --benchmark-only -m 'not accelerator'

All arms train the same trials, 100 steps of the laptop's Wide ResNet with the stride bug or 300 of a character
Transformer with 6 layers of width 64, and evaluate each at its end:

- `loop`: one after another on JAX's default threads, each compiled afresh, the loss fetched at every step.
- `optuna`: the same, Optuna drawing the learning rates; skipped where it is not installed.
- `torch_threads`, `torch_processes`: eager PyTorch, one trial after another on all cores, and a process of one thread
  per core; skipped where it is not installed. `test_peers.py` shows that the networks are the same.
- `harness`: this harness by its policy, compiling from an empty cache.

Each arm is a process, and `trials_per_hour` is that of the whole command, whose start counts once, however many trials
follow. So there is `steady_trials_per_hour` too: with k trials under way at once (1, the cores, or the lanes of all
workers), the trials from the (k+1)-th to the last over the time between the k-th and the last finish. Compiling counts
in it only where every trial compiles. `steps_per_second` are training steps at the steady rate, evaluations included.

    pytest workloads/bench_peers.py --benchmark-only -m accelerator

compares, on an accelerator, trials in lanes with one at a time, and the speed of training ResNet-50 with compiled
PyTorch's, in bfloat16, at batch 256 and 224x224 synthetic images; on CPU it is a dry run at a tiny size.
"""

import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys

import pytest

from harness.studies.processes import available_cores
from workloads.bench_peers_arms import study_trials

# Arm to (trials, whether per core, rounds). Trials and rounds are few where an arm is slow.
STUDIES = {
    "wide_resnet": {
        "loop": (6, False, 1),
        "optuna": (6, False, 1),
        "torch_threads": (6, False, 1),
        "torch_processes": (6, True, 1),
        "harness": (20, True, 1),
    },
    "transformer": {
        "loop": (6, False, 1),
        "optuna": (6, False, 1),
        "torch_threads": (6, False, 1),
        "torch_processes": (6, True, 1),
        "harness": (12, True, 1),
    },
}

LANES_TRIALS = {"processes": 40, "lanes": 768}
"""Trials of the arms on an accelerator; 768 are three packs."""

DRY_RUN_TRIALS = 2

NEEDS = {"optuna": "optuna", "torch_threads": "torch", "torch_processes": "torch"}

_measured: dict[str, dict[str, dict[str, float]]] = {}
"""Study to arm to what was measured, in the order of the tests."""


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Prints what was measured, when the last test is done."""
    yield
    if _measured:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print("\n\n" + "\n".join(_table()))


def _table():
    yield f"{'':12} {'':16} {'whole':>9} {'steady':>9} {'steps':>7} {'steady':>8} {'mean of':>9}"
    yield f"{'study':12} {'arm':16} {'trials/h':>9} {'trials/h':>9} {'/s':>7} {'/ loop':>8} {'objective':>9}"
    for study, arms in _measured.items():
        for arm, numbers in arms.items():
            if study == "resnet50":
                yield f"{study:12} {arm:16} {numbers['images_per_second']:.1f} images/s on {numbers['device']}"
                continue
            ratio = _ratio(arms, arm, "loop", "steady_trials_per_hour")
            yield (
                f"{study:12} {arm:16} {numbers['trials_per_hour']:9.0f} {numbers['steady_trials_per_hour']:9.0f} "
                f"{numbers['steps_per_second']:7.1f} {ratio:8.2f} {numbers['mean_objective']:9.3f}"
            )


def _ratio(arms, arm, other, rate):
    return arms[arm][rate] / arms[other][rate] if other in arms else float("nan")


@pytest.mark.parametrize(("study", "arm"), [(study, arm) for study, arms in STUDIES.items() for arm in arms])
def test_study_throughput(benchmark, tmp_path, study, arm):
    trials, per_core, rounds = STUDIES[study][arm]
    _measure(benchmark, tmp_path, study, study, arm, trials * (available_cores() if per_core else 1), rounds)


@pytest.mark.accelerator
@pytest.mark.parametrize("arm", LANES_TRIALS)
def test_lanes(benchmark, tmp_path, arm):
    trials = DRY_RUN_TRIALS if _on_cpu() else LANES_TRIALS[arm]
    _measure(benchmark, tmp_path, "lanes", "wide_resnet", arm, trials, rounds=1)


@pytest.mark.accelerator
@pytest.mark.parametrize("arm", ["torch", "harness"])
def test_resnet50_training(benchmark, tmp_path, arm):
    if arm == "torch":
        _need("torch")
        if not _on_cpu() and _output("-c", "import torch; print(torch.cuda.is_available())") == "False":
            pytest.skip("the installed torch has no CUDA")
    command = {"torch": ["workloads.bench_peers_torch"], "harness": ["workloads.bench_peers_arms", "resnet50"]}[arm]
    [measured] = _time(benchmark, tmp_path, command, rounds=1)
    speeds = _measured.setdefault("resnet50", {})
    speeds[arm] = measured
    benchmark.extra_info.update(measured)
    if arm == "harness" and "torch" in speeds:
        benchmark.extra_info["ratio_to_torch"] = _ratio(speeds, "harness", "torch", "images_per_second")


def _measure(benchmark, tmp_path, study, workload, arm, trials, rounds):
    """Times an arm on the trials of a workload's study, for the table's row of `study` and `arm`."""
    if arm in NEEDS:
        _need(NEEDS[arm])
    command = ["workloads.bench_peers_arms", arm, workload, str(trials)]
    steady, objectives = [], []
    for at_once, finishes in _time(benchmark, tmp_path, command, rounds):
        assert len(finishes) == trials
        ends = [end for end, _ in finishes]
        rest = trials - at_once
        steady.append(3600 * rest / (ends[-1] - ends[at_once - 1]) if rest > 0 else float("nan"))
        objectives += [objective for _, objective in finishes]
    arms = _measured.setdefault(study, {})
    arms[arm] = {
        "trials_per_hour": trials * 3600 / benchmark.stats.stats.median,
        "steady_trials_per_hour": statistics.median(steady),
        "steps_per_second": statistics.median(steady) * study_trials(workload, 1)[0].steps / 3600,
        "mean_objective": statistics.mean(objectives),
    }
    numbers = {"trials": trials, "cores": available_cores(), **arms[arm]}
    for other in arms:
        if other != arm:
            numbers[f"ratio_to_{other}"] = _ratio(arms, arm, other, "trials_per_hour")
            numbers[f"steady_ratio_to_{other}"] = _ratio(arms, arm, other, "steady_trials_per_hour")
    # JSON has no NaN, which a steady rate of too few trials is
    benchmark.extra_info.update({name: number for name, number in numbers.items() if number == number})


def _need(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def _time(benchmark, tmp_path, command, rounds):
    """Times a module's command, each round with an empty cache, and gives what it printed, a value a round."""
    printed = []

    def run():
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / f"cache{len(printed)}")}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        printed.append(json.loads(_output("-m", *command, environment=environment).splitlines()[-1]))

    benchmark.pedantic(run, rounds=rounds)
    return printed


def _output(*arguments, environment=None):
    """What a process of Python prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout.strip()


@functools.lru_cache(maxsize=1)
def _on_cpu():
    """Asked of another process: this one must not take hold of an accelerator."""
    return _output("-c", "import jax; print(jax.default_backend())") == "cpu"
