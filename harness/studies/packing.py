"""Packs: trials of one compile group that run side by side in the lanes of one program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.training.trial import Trial


class Packing(NamedTuple):
    """How the trials of a compile group are run; recorded, since lanes of another program may round otherwise.

    Attributes:
      executor: `processes` or `lanes`.
      lanes: trials that the program takes.
      chunk: steps between two returns to the host.
      packs: addresses of the trials of each pack.
    """

    executor: str
    lanes: int
    chunk: int
    packs: tuple[tuple[str, ...], ...]


def alike(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Sorts trials of a compile group into those that can share a pack, each in the order given."""
    kinds: dict[tuple, list[Trial]] = {}
    for trial in trials:
        how = (trial.shuffled, trial.read_ahead, trial.waits, trial.profiled)
        when = (trial.total_steps, trial.evaluation_steps, trial.curvature_steps, trial.noise_steps)
        kind = (*when, trial.predictions, *how)
        kinds.setdefault(kind, []).append(trial)
    return list(kinds.values())


def pack(trials: Sequence[Trial], executor: str, lanes: int, chunk: int) -> Packing:
    """Packs trials of a compile group, a function of their order alone.

    Args:
      trials: all of the group, finished ones too.
      executor: `processes` or `lanes`.
      lanes: most trials of a pack.
      chunk: for the record.
    """
    packs = []
    for kind in alike(trials):
        addresses = [trial.address() for trial in kind]
        packs += [tuple(addresses[at : at + lanes]) for at in range(0, len(addresses), lanes)]
    return Packing(executor, lanes, chunk, tuple(packs))
