"""Checkpoints of packs that take long: a killed study, or one that lost a node, does not begin them again."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from harness.training.checkpoints import Checkpoints, Saved
    from harness.training.programs import TrainingState

FOLDER = "checkpoints"
"""Of a result folder, while packs run."""

SECONDS_BETWEEN = 60.0
"""Least time between two checkpoints of a pack: one takes the trial some 30 ms, and a shorter pack has none."""


def pack_folder(folder: Path, addresses: Iterable[str]) -> Path:
    """Where a pack's checkpoints lie.

    Args:
      folder: the result folder.
      addresses: of its trials, in order.
    """
    return folder / FOLDER / hashlib.sha256(" ".join(addresses).encode()).hexdigest()[:16]


def forget(folder: Path) -> None:
    """Removes the checkpoints of a pack that is finished."""
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # others are there
            folder.parent.rmdir()


class PackCheckpoints:
    """What `harness.training.run.run_pack` saves of a pack, and goes on from."""

    def __init__(self, folder: Path, mesh: Mesh | None = None):
        """Opens nothing yet.

        Args:
          folder: of this pack and no other.
          mesh: of the devices that hold the state.
        """
        self._folder = folder
        self._mesh = mesh
        self._opened: Checkpoints | None = None
        self._last = time.monotonic()

    def restore(self, like: TrainingState) -> Saved | None:
        """Reads the newest checkpoint that is whole, None where there is none; the pack then begins anew."""
        if not self._folder.is_dir():
            return None
        # Whatever Orbax makes of a damaged file: an older checkpoint, or none, leads to the same bits.
        with contextlib.suppress(Exception):
            for step in reversed(self._checkpoints().steps()):
                with contextlib.suppress(Exception):
                    return self._checkpoints().restore(like, step)
        self.close()
        shutil.rmtree(self._folder)
        return None

    def save(
        self,
        step: int,
        state: TrainingState,
        curves: Mapping[str, np.ndarray],
        evaluations: np.ndarray,
        measurements: Mapping[str, np.ndarray],
    ) -> None:
        """Saves, if the last time was long ago; the arguments are those of `harness.training.checkpoints.Saved`.

        Only below a result folder that is here: a machine of a cluster may not share the driver's disk.
        """
        if time.monotonic() - self._last >= SECONDS_BETWEEN and self._folder.parents[1].is_dir():
            self._checkpoints().save(step, state, curves, evaluations, measurements)
            self._last = time.monotonic()

    def close(self) -> None:
        """Waits until everything is written."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _checkpoints(self) -> Checkpoints:
        from harness.training.checkpoints import Checkpoints

        if self._opened is None:
            self._opened = Checkpoints(self._folder, "loss", mesh=self._mesh)
        return self._opened
