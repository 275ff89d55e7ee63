"""Runs a pack of trials from their specifications to their curves."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from harness.training.checkpoints import Checkpoints
from harness.training.curvature import adam_preconditioner, largest_eigenvalue
from harness.training.feeds import Piece, feed_of
from harness.training.gradient_noise import gradient_noise
from harness.training.optimizer import ADAM_RULES
from harness.training.programs import Programs, TrainingState
from harness.training.schedule import learning_rates
from harness.training.trial import OF_THE_RATE, Trial

TRACED_INPUT, TRACED_DISPATCH, TRACED_WAIT = "playbook.input", "playbook.dispatch", "playbook.wait"
"""What a profile calls the three things that the host does between evaluations: preparing the next examples, handing
steps to the device (with their number, `steps`), and waiting for their curves."""


MEASUREMENTS = {"curvature": ("sharpness", "preconditioned_sharpness"), "noise": ("gradient_square", "gradient_trace")}
"""What is measured at chosen steps, to the two values that it gives."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    Attributes:
      status: `complete` or `infeasible`.
      reason: why it is infeasible, otherwise None.
      results: name to number: `sharpness` at initialisation (NaN where not measured); `final_error` and `final_loss` of
        the last evaluation; `best_error`, `best_loss` and `best_step` of the best evaluation, selected in retrospect by
        the workload's objective; with clipping `clipped_share`.
      curves: name to float32 array: those of `Programs.curves` and `learning_rate` per step, `evaluation_step`,
        `evaluation_error` and `evaluation_loss` per evaluation; where asked for, `sharpness_step`, `sharpness` and for
        `adam`, `nadam` and `adamw` `preconditioned_sharpness` per measurement, NaN where the iteration failed;
        `noise_step`, `gradient_square` and `gradient_trace` per measurement, see `harness.training.gradient_noise`;
        `evaluation_error_by_batch` and `evaluation_loss_by_batch`, of every batch of one evaluation after the other;
        and `prediction`, the label predicted for every validation example (or token) after the last step.
      timings: `trial_seconds`, all of it, and `seconds_per_step`, the median over the calls of the training program but
        the first, which warms up, and the last, which has no examples of another to wait for (where there are more).
    """

    status: str
    reason: str | None
    results: Mapping[str, float]
    curves: Mapping[str, np.ndarray]
    timings: Mapping[str, float]


def compile_programs(programs: Programs, trial: Trial) -> None:
    """Compiles what the trial's group needs, by a run of no steps."""
    run_pack(programs, [_shortest(trial)], steps_limit=0)


def _shortest(trial: Trial) -> Trial:
    noise_steps = (0,) if trial.noise_steps else ()
    return dataclasses.replace(trial, evaluation_steps=(0,), curvature_steps=(0,), noise_steps=noise_steps)


def run_trial(programs: Programs, trial: Trial, checkpoints: Checkpoints | None = None, **named: Any) -> Outcome:
    """Runs a pack of one trial; see `run_pack`."""
    return run_pack(programs, [trial], checkpoints=checkpoints, **named)[0]


def run_pack(
    programs: Programs,
    trials: Sequence[Trial],
    steps_limit: int | None = None,
    checkpoints: Checkpoints | None = None,
    on_evaluation: Callable[[int, np.ndarray], None] = lambda step, metrics: None,
    workers: int = 0,
) -> list[Outcome]:
    """Trains, evaluates and measures a pack of trials side by side.

    Only an objective that is not finite stops a trial; that makes it infeasible.

    Args:
      programs: of the trials' compile group.
      trials: of one compile group and of equal steps, evaluation steps, curvature steps and noise steps, at most as
        many as the programs have lanes; lanes left over repeat the last trial.
      steps_limit: train at most so many steps, for a run that only compiles; None trains all.
      checkpoints: where a single trial saves its state at every evaluation, and where it goes on from; None for
        neither.
      on_evaluation: called after each evaluation with steps done, and validation error and loss, float32 (2, trials).
      workers: processes that read and decode where the data are streams; 0 for threads.

    Returns:
      An outcome for each trial.

    Raises:
      DataError: the data are missing or not the expected ones.
    """
    begin = time.perf_counter()
    pack = _Pack(programs, trials, workers)
    first = trials[0]
    total = first.total_steps if steps_limit is None else steps_limit
    evaluation_steps = {step for step in first.evaluation_steps if step <= total}
    measured = {"curvature": first.curvature_steps}
    if first.noise_steps:
        measured["noise"] = first.noise_steps

    state = programs.blank_state()
    saved = checkpoints.restore(state) if checkpoints else None
    if saved is not None:
        done, state, curves, evaluations = saved.step, saved.state, saved.curves, saved.evaluations
        measurements = saved.measurements
    else:
        done = 0
        state, recorded = pack.advance(state, pack.prepare(0, 0))
        curves = {name: np.zeros((len(trials), 0), np.float32) for name in recorded}
        measurements = {
            kind: np.full((len(steps), 3, len(trials)), np.nan, np.float32) for kind, steps in measured.items()
        }
        pack.measure(state, 0, measurements)
        evaluations = np.zeros((0, pack.rows, len(trials)), np.float32)
        if 0 in evaluation_steps:
            evaluations = np.append(evaluations, pack.evaluate(state, 0), 0)

    multiples = range(pack.chunk, total, pack.chunk)
    wanted = {step for steps in measured.values() for step in steps if step <= total}
    stops = sorted(step for step in {*multiples, *evaluation_steps, *wanted, total} if step > done)
    segments = list(itertools.pairwise([done, *stops]))
    prepared = pack.prepare(*segments[0]) if segments else None
    paces = []
    for number, (start, stop) in enumerate(segments, 1):
        called = time.perf_counter()
        with jax.profiler.TraceAnnotation(TRACED_DISPATCH, steps=stop - start):
            state, recorded = pack.advance(state, prepared)
        if first.waits:
            recorded = _arrived(recorded)
        if number < len(segments):  # while the device is at work, unless that was waited for
            with jax.profiler.TraceAnnotation(TRACED_INPUT):
                prepared = pack.prepare(*segments[number])
        if not first.waits:
            recorded = _arrived(recorded)
        paces.append((time.perf_counter() - called) / (stop - start))
        recorded = {name: curve[: len(trials), : stop - start] for name, curve in recorded.items()}
        for name, curve in recorded.items():
            curves[name] = np.append(curves[name], curve, 1)
        if not np.any(np.all(np.isfinite(curves["train_objective"]), axis=1)):
            break
        pack.measure(state, stop, measurements)
        if stop in evaluation_steps:
            evaluations = np.append(evaluations, pack.evaluate(state, stop), 0)
            if checkpoints:
                checkpoints.save(stop, state, curves, evaluations, measurements)
            on_evaluation(stop, evaluations[-1, 1:3])

    predictions = pack.predictions(state) if first.predictions and steps_limit is None else None
    timings = {"trial_seconds": time.perf_counter() - begin, "seconds_per_step": _typical(paces)}
    timings = {name: seconds / len(trials) for name, seconds in timings.items()}
    return [
        _outcome(
            trial,
            {name: curve[lane] for name, curve in curves.items()},
            evaluations[:, :, lane],
            {kind: values[:, :, lane] for kind, values in measurements.items()},
            None if predictions is None else predictions[lane],
            timings,
        )
        for lane, trial in enumerate(trials)
    ]


def _arrived(recorded: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The curves of a call, waited for."""
    with jax.profiler.TraceAnnotation(TRACED_WAIT):
        return {name: np.asarray(curve) for name, curve in recorded.items()}


def _typical(paces: Sequence[float]) -> float:
    """The median of seconds per step of calls, see `Outcome.timings`; NaN where there was none."""
    return float(np.median(paces[1:-1] or paces)) if paces else float("nan")


def _outcome(
    trial: Trial,
    curves: Mapping[str, np.ndarray],
    evaluations: np.ndarray,
    measurements: Mapping[str, np.ndarray],
    predictions: np.ndarray | None,
    timings: Mapping[str, float],
) -> Outcome:
    """Cuts a lane's records off where its objective was no longer finite, and selects in retrospect."""
    finite = np.isfinite(curves["train_objective"])
    reason = None
    if not np.all(finite):
        bad = int(np.argmin(finite)) + 1
        reason = f"the training loss was not finite at step {bad}"
        curves = {name: curve[:bad] for name, curve in curves.items()}
        evaluations = evaluations[evaluations[:, 0] < bad]
        measurements = {kind: values[values[:, 0] < bad] for kind, values in measurements.items()}
    results = {"sharpness": float("nan")}
    curvature = measurements["curvature"]
    if len(curvature) and curvature[0, 0] == 0:
        results["sharpness"] = float(curvature[0, 1])
    final, best = np.full(3, np.nan), np.full(3, np.nan)
    if len(evaluations) and reason is None:
        final = evaluations[-1, :3]
        measured = evaluations[:, ("error", "loss").index(trial.workload.objective) + 1]
        if not np.all(np.isnan(measured)):
            best = evaluations[np.nanargmin(measured), :3]
    results.update(final_error=float(final[1]), final_loss=float(final[2]))
    results.update(best_step=float(best[0]), best_error=float(best[1]), best_loss=float(best[2]))
    if "clipped" in curves:
        results["clipped_share"] = float(np.mean(curves["clipped"])) if len(curves["clipped"]) else float("nan")
    rates = _rates(trial)[: len(curves["train_objective"])]
    names = ("evaluation_step", "evaluation_error", "evaluation_loss")
    by_batch = evaluations[:, 3:]
    curves = {**curves, "learning_rate": rates, **dict(zip(names, evaluations[:, :3].T, strict=True))}
    if trial.evaluation_by_batch:
        curves["evaluation_error_by_batch"], curves["evaluation_loss_by_batch"] = (
            np.ravel(half) for half in np.split(by_batch, 2, axis=1)
        )
    measured = {kind: values[np.isfinite(values[:, 0])].T for kind, values in measurements.items()}
    if trial.curvature_examples:
        own = dict(zip(("sharpness_step", *MEASUREMENTS["curvature"]), measured["curvature"], strict=True))
        if trial.optimizer not in ADAM_RULES:
            del own["preconditioned_sharpness"]
        curves.update(own)
    if trial.noise_steps:
        curves.update(zip(("noise_step", *MEASUREMENTS["noise"]), measured["noise"], strict=True))
    if predictions is not None and reason is None:
        curves["prediction"] = predictions
    return Outcome(
        status="complete" if reason is None else "infeasible",
        reason=reason,
        results=results,
        curves=curves,
        timings=timings,
    )


class _Pack:
    """The data and the settings of a pack, stacked for its programs.

    Attributes:
      chunk: most steps of one call of the training program.
      rows: values of an evaluation: step, error and loss, and where asked for these of every batch.
    """

    def __init__(self, programs: Programs, trials: Sequence[Trial], workers: int):
        self._programs = programs
        self._trials = trials
        self._lanes = [*trials, *[trials[-1]] * (programs.lanes - len(trials))]
        self._feed = feed_of(self._lanes, programs.chunk, programs.mesh, workers)
        self.chunk = self._feed.chunk
        self.rows = 3 + (2 * self._feed.evaluation_batches if trials[0].evaluation_by_batch else 0)
        self._hyperparameters = {
            name: np.array([trial.hyperparameters[name] for trial in self._lanes], np.float32)
            for name in trials[0].hyperparameters
            if name not in OF_THE_RATE
        }
        self._rates = np.stack([_rates(trial) for trial in self._lanes])
        self._init = np.array([trial.seeds["init"] for trial in self._lanes], np.uint32)
        self._dropout = np.array([trial.seeds["dropout"] for trial in self._lanes], np.uint32)

    def prepare(self, start: int, stop: int) -> tuple[Piece, np.ndarray, np.int32, np.int32]:
        """Examples, rates, start and count of the steps from `start` to `stop`, for `advance`."""
        rates = np.zeros((len(self._lanes), self.chunk), np.float32)
        rates[:, : stop - start] = self._rates[:, start:stop]
        return self._feed.training(start, stop), rates, np.int32(start), np.int32(stop - start)

    def advance(self, state: TrainingState, prepared: tuple) -> tuple[TrainingState, dict[str, jax.Array]]:
        """Trains the prepared steps, see `Programs.train`; does not wait for them."""
        piece, rates, start, count = prepared
        return self._programs.train(
            state,
            self._init,
            self._dropout,
            self._hyperparameters,
            piece.examples,
            piece.indices,
            rates,
            start,
            count,
        )

    def evaluate(self, state: TrainingState, step: int) -> np.ndarray:
        """Step, validation error and loss, and what more is asked for, float32 (1, rows, trials)."""
        found = [
            self._programs.evaluate(state.evaluated, state.model_state, *piece) for piece in self._feed.evaluation()
        ]
        batches = [one.pop("by_batch") for one in found if "by_batch" in one]
        metrics = {name: np.stack([np.asarray(one[name]) for one in found]) for name in found[0]}
        shares = metrics["weight"] / np.sum(metrics["weight"], 0)  # 1 where there is one piece
        rows = [np.full(len(self._lanes), step), *(np.sum(metrics[name] * shares, 0) for name in ("error", "loss"))]
        if batches:
            for name in ("error", "loss"):
                rows += list(
                    np.concatenate([np.asarray(one[name]) for one in batches])[: self._feed.evaluation_batches]
                )
        return np.stack([np.asarray(row, np.float32)[: len(self._trials)] for row in rows])[None]

    def predictions(self, state: TrainingState) -> np.ndarray:
        """Predicted labels of the validation examples, float32 (trials, examples x tokens)."""
        found = [
            self._programs.predict(state.evaluated, state.model_state, *piece) for piece in self._feed.evaluation()
        ]
        by_lane = np.moveaxis(np.concatenate([np.asarray(labels) for labels in found]), 1, 0)[: len(self._trials)]
        by_example = by_lane.reshape(len(by_lane), -1, *by_lane.shape[3:])[:, : self._feed.held_out]
        return by_example.reshape(len(by_lane), -1).astype(np.float32)

    def measure(self, state: TrainingState, step: int, measurements: Mapping[str, np.ndarray]) -> None:
        """Fills in what is to be measured after that step: step and two values of each trial, NaN if not asked for."""
        first = self._trials[0]
        for kind, steps, of_lane in (
            ("curvature", first.curvature_steps, self._curvature),
            ("noise", first.noise_steps, self._noise),
        ):
            if step in steps:
                rows = [(step, *of_lane(state, lane, step)) for lane in range(len(self._trials))]
                measurements[kind][steps.index(step)] = np.array(rows, np.float32).T

    def _noise(self, state: TrainingState, lane: int, step: int) -> tuple[float, float]:
        trial = self._trials[lane]
        hyperparameters = {name: values[lane] for name, values in self._hyperparameters.items()}
        own = jax.tree.map(lambda leaf: leaf[lane], (state.parameters, state.model_state))
        drawn = self._feed.drawn(lane, np.random.default_rng([trial.seeds["order"], step]))
        return gradient_noise(
            (self._programs.gradient(*own, batch, hyperparameters) for batch in drawn), trial.batch_size
        )

    def _curvature(self, state: TrainingState, lane: int, step: int) -> tuple[float, float]:
        del step
        trial = self._trials[lane]
        if not trial.curvature_examples:
            return float("nan"), float("nan")
        batch = self._feed.first(lane, trial.curvature_examples)
        hyperparameters = {name: values[lane] for name, values in self._hyperparameters.items()}
        own = (state.parameters, state.model_state, state.optimizer_state)
        parameters, model_state, optimizer_state = jax.tree.map(lambda leaf: np.asarray(leaf)[lane], own)
        size = sum(leaf.size for leaf in jax.tree.leaves(parameters))

        def both(vector: np.ndarray) -> tuple[jax.Array, jax.Array]:
            return self._programs.hessian_product(parameters, model_state, batch, hyperparameters, vector)

        sharpness = largest_eigenvalue(lambda vector: both(vector)[1], size, trial.seeds["init"])
        if trial.optimizer not in ADAM_RULES:
            return sharpness, float("nan")
        gradient = np.asarray(both(np.zeros(size, np.float32))[0], np.float64)
        moments = optimizer_state[0]
        second_moment = ravel_pytree(moments.nu)[0]
        root = np.sqrt(adam_preconditioner(second_moment, int(moments.count), gradient, hyperparameters))

        def preconditioned(vector: np.ndarray) -> np.ndarray:
            with np.errstate(all="ignore"):  # what is not finite makes the eigenvalue NaN
                return np.asarray(both((vector / root).astype(np.float32))[1]) / root

        return sharpness, largest_eigenvalue(preconditioned, size, trial.seeds["init"])


def _rates(trial: Trial) -> np.ndarray:
    hyperparameters = trial.hyperparameters
    warmup, constant = (int(hyperparameters.get(name, 0)) for name in ("warmup_steps", "constant_steps"))
    return learning_rates(trial.schedule, hyperparameters["learning_rate"], warmup, trial.steps, constant)
