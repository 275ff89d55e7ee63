"""Runs one trial from its specification to its curves."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import jax
import numpy as np

from harness.training.batches import padded_batches, step_indices
from harness.training.curvature import largest_eigenvalue
from harness.training.programs import CHUNK, CURVES, Programs, TrainingState
from harness.training.schedule import learning_rates
from harness.training.trial import Trial


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    Attributes:
      status: `complete` or `infeasible`.
      reason: why it is infeasible, otherwise None.
      results: name to number: `sharpness` (NaN where not measured), `final_error`, `final_loss`.
      curves: name to float32 array: those of `CURVES` and `learning_rate` per step, `evaluation_step`,
        `evaluation_error` and `evaluation_loss` per evaluation.
      timings: name to seconds.
    """

    status: str
    reason: str | None
    results: Mapping[str, float]
    curves: Mapping[str, np.ndarray]
    timings: Mapping[str, float]


def compile_programs(programs: Programs, trial: Trial) -> None:
    """Compiles what the trial's group needs, by a run of no steps."""
    run_trial(programs, dataclasses.replace(trial, evaluation_steps=(0,)), steps_limit=0)


def run_trial(programs: Programs, trial: Trial, steps_limit: int | None = None) -> Outcome:
    """Trains, evaluates and measures one trial.

    Only a loss that is not finite stops it; that makes it infeasible.

    Args:
      programs: of the trial's compile group.
      trial: what to run.
      steps_limit: train at most so many steps, for a run that only compiles; None trains all.

    Raises:
      DataError: the data are missing or not the expected ones.
    """
    begin = time.perf_counter()
    data = trial.workload.data(trial.seeds["split"])
    hyperparameters = trial.hyperparameters
    rates = learning_rates(
        trial.schedule, hyperparameters["learning_rate"], int(hyperparameters["warmup_steps"]), trial.steps
    )
    total = len(rates) if steps_limit is None else steps_limit
    train_set = jax.device_put(dict(data.train))
    validation_set = jax.device_put(dict(data.validation))
    padded = padded_batches(len(next(iter(data.validation.values()))), trial.evaluation_batch_size)
    examples = len(next(iter(data.train.values())))
    traced = {name: np.float32(hyperparameters[name]) for name in ("momentum", "weight_decay")}

    def advance(state: TrainingState, start: int, stop: int):
        indices = np.zeros((CHUNK, trial.batch_size), np.int32)
        padded_rates = np.zeros(CHUNK, np.float32)
        indices[: stop - start] = step_indices(trial.seeds["order"], examples, trial.batch_size, start, stop)
        padded_rates[: stop - start] = rates[start:stop]
        return programs.train(
            state,
            np.uint32(trial.seeds["init"]),
            np.uint32(trial.seeds["dropout"]),
            traced,
            train_set,
            indices,
            padded_rates,
            np.int32(start),
            np.int32(stop - start),
        )

    state, _, _ = advance(programs.blank_state(), 0, 0)
    sharpness = float("nan")
    if trial.curvature_examples:
        sharpness = _sharpness(programs, trial, state, data.train, traced["weight_decay"])

    pieces: dict[str, list[np.ndarray]] = {name: [] for name in CURVES}
    evaluations: list[tuple[int, float, float]] = []
    done, reason = 0, None
    stops = sorted({*range(CHUNK, total, CHUNK), *(s for s in trial.evaluation_steps if s <= total), total})
    for stop in stops:
        if stop > done:
            state, curves, count = advance(state, done, stop)
            taken = int(count)
            for name in CURVES:
                pieces[name].append(np.asarray(curves[name])[:taken])
            done += taken
            if not np.isfinite(pieces["train_objective"][-1][-1]):
                reason = f"the training loss was not finite at step {done}"
                break
        if stop in trial.evaluation_steps:
            metrics = programs.evaluate(state.parameters, state.model_state, validation_set, *padded)
            evaluations.append((stop, float(metrics["error"]), float(metrics["loss"])))

    measured = np.asarray(evaluations, np.float32).reshape(-1, 3)
    finished = reason is None and len(measured) > 0
    return Outcome(
        status="complete" if reason is None else "infeasible",
        reason=reason,
        results={
            "sharpness": sharpness,
            "final_error": float(measured[-1, 1]) if finished else float("nan"),
            "final_loss": float(measured[-1, 2]) if finished else float("nan"),
        },
        curves={
            **{name: np.concatenate(parts) if parts else np.zeros(0, np.float32) for name, parts in pieces.items()},
            "learning_rate": rates[:done],
            "evaluation_step": measured[:, 0],
            "evaluation_error": measured[:, 1],
            "evaluation_loss": measured[:, 2],
        },
        timings={"trial_seconds": time.perf_counter() - begin},
    )


def _sharpness(
    programs: Programs, trial: Trial, state: TrainingState, train: Mapping[str, np.ndarray], weight_decay: np.float32
) -> float:
    chosen = step_indices(trial.seeds["order"], len(next(iter(train.values()))), trial.curvature_examples, 0, 1)[0]
    batch = {name: values[chosen] for name, values in train.items()}
    size = sum(leaf.size for leaf in jax.tree.leaves(state.parameters))

    def product(vector: np.ndarray) -> np.ndarray:
        return programs.hessian_product(state.parameters, state.model_state, batch, weight_decay, vector)

    return largest_eigenvalue(product, size, trial.seeds["init"])
