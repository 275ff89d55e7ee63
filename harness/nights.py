"""The nights of `playbook check`: which seeds it ran in a folder of results, and against which baselines.

A night that was cut off goes on at its seed as long as the code is the same; after a change of the code its trials
would be those of another specification, so the next night takes a new seed, and what the cut one finished still counts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records import InputError
from harness.studies.identity import source_hash

NIGHTS = "nights.json"
"""Of the folder of all results."""


class Nights:
    """The nights of a scale in a folder.

    Attributes:
      seed: of the night that runs.
    """

    def __init__(self, out: Path, scale: str, used: Iterable[int], seed: int | None):
        """Begins a night, or goes on with the last.

        Args:
          out: the folder of all results.
          scale: of the results.
          used: seeds that no night may have, those of baselines and of other results.
          seed: of the night; None for that of the last one where it was cut off, else for the next one, from 2 on.

        Raises:
          InputError: the file is damaged, or cannot be written.
        """
        self._path = out / NIGHTS
        self._all = _read(self._path)
        self._own = [night for night in self._all if night["scale"] == scale]
        identity = {"source": source_hash(), "jax": importlib.metadata.version("jax")}
        last = self._own[-1] if self._own else None
        if seed is None and last and not last["finished"] and identity.items() <= last.items():
            seed = last["seed"]
        elif seed is None:
            seed = 1 + max([1, *used, *(night["seed"] for night in self._own)])
        self.seed = seed
        known = next((night for night in self._own if night["seed"] == seed), None)
        self._night = known or {"scale": scale, "seed": seed, "baselines": {}}
        self._night |= {**identity, "finished": False}
        if known is None:
            self._all.append(self._night)
            self._own.append(self._night)
        self._write()

    def compared(self, experiment: str, fingerprints: Sequence[str]) -> list[int]:
        """Notes that this night has run an experiment, and against which baselines.

        Args:
          experiment: its name.
          fingerprints: of the recorded results.

        Returns:
          Seeds of the nights up to this one that ran it against the same, ascending: those that may be pooled.
        """
        self._night["baselines"][experiment] = list(fingerprints)
        self._write()
        same = (night["seed"] for night in self._own if night["baselines"].get(experiment) == list(fingerprints))
        return sorted(seed for seed in same if seed <= self.seed)

    def finish(self) -> None:
        """Notes that nothing of this night is missing."""
        self._night["finished"] = True
        self._write()

    def _write(self) -> None:
        partial = self._path.with_name(f".{NIGHTS}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self._all, indent=1) + "\n", "utf-8")
            partial.replace(self._path)
        except OSError as error:
            raise InputError(
                f"{self._path.parent} cannot be written ({error.strerror}); make room and repeat the command"
            ) from None


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        nights = json.loads(path.read_bytes())
        if all(_is_night(night) for night in nights):
            return nights
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    raise InputError(
        f"{path} is damaged: expected the nights that playbook check writes; restore it, or remove it so that older "
        "nights are not pooled"
    )


def _is_night(night: Mapping[str, Any]) -> bool:
    return isinstance(night["seed"], int) and isinstance(night["baselines"], dict) and {"scale", "finished"} <= {*night}
