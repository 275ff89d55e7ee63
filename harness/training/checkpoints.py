"""Checkpoints of one trial, through Orbax: the last, to go on from, and the best, selected in retrospect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from harness.training.devices import everywhere
from harness.training.programs import TrainingState


class Saved(NamedTuple):
    """What a trial goes on from.

    Attributes:
      step: steps done.
      state: the training state.
      curves: name to float32 (1, step).
      evaluations: step, error and loss of each, and where asked for those of every batch, float32 (evaluations, rows,
        1).
      measurements: of each kind (`harness.training.run.MEASUREMENTS`) the step and two values of each measurement of
        the trial, NaN where it is still to come, float32 (measurements, 3, 1).
    """

    step: int
    state: TrainingState
    curves: Mapping[str, np.ndarray]
    evaluations: np.ndarray
    measurements: Mapping[str, np.ndarray]


class Checkpoints:
    """The last and the best few checkpoints of one trial, in a folder of its own.

    They are written in the background; a kill in mid-save leaves a temporary folder that is ignored.
    """

    def __init__(self, folder: Path, objective: str, best: int = 1, mesh: Mesh | None = None):
        """Opens the folder, or makes it.

        Args:
          folder: of this trial and no other.
          objective: `error` or `loss`: what of an evaluation makes it the best; of equal ones the first is.
          best: how many of the best to keep.
          mesh: of the devices that hold the state; its hosts share the folder, and the first writes.
        """
        self._mesh = mesh
        self._objective = 1 + ("error", "loss").index(objective)
        # Orbax ranks from worst to best; its simpler best_fn with max_to_keep would delete the newest.
        ranked = BestN(get_metric_fn=lambda m: (m["objective"], m["step"]), reverse=True, n=best)
        options = ocp.CheckpointManagerOptions(preservation_policy=AnyPreservationPolicy([LatestN(1), ranked]))
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(
        self,
        step: int,
        state: TrainingState,
        curves: Mapping[str, np.ndarray],
        evaluations: np.ndarray,
        measurements: Mapping[str, np.ndarray],
    ) -> None:
        """Saves what a trial has done after an evaluation; the arguments are `Saved`'s."""
        measured = float(evaluations[-1, self._objective, 0])
        metrics = {"objective": measured if np.isfinite(measured) else float("inf"), "step": step}
        history = {"curves": dict(curves), "evaluations": evaluations, "measurements": dict(measurements)}
        items = {"state": ocp.args.StandardSave(state), "history": ocp.args.StandardSave(history)}
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)

    def restore(self, like: TrainingState, step: int | None = None) -> Saved | None:
        """Reads a checkpoint, bit for bit.

        Args:
          like: a state of the same shapes.
          step: which one; None for the last.

        Returns:
          The checkpoint, or None where there is none yet.
        """
        step = self._manager.latest_step() if step is None else step
        if step is None:
            return None
        where = everywhere(self._mesh) or SingleDeviceSharding(jax.devices()[0])  # wherever it was saved
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), like)
        items = {"state": ocp.args.StandardRestore(shapes), "history": ocp.args.StandardRestore()}
        found = self._manager.restore(step, args=ocp.args.Composite(**items))
        history = jax.tree.map(np.asarray, found["history"])
        return Saved(step, found["state"], history["curves"], history["evaluations"], history["measurements"])

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are kept, in order."""
        return sorted(self._manager.all_steps())

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()
