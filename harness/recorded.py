"""Reads the package `baselines`: results that were recorded, by the device that they come from."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Sequence
from typing import Any

ACCELERATOR = re.compile("NVIDIA|Tesla|GeForce|Quadro|TPU|AMD Instinct|AMD Radeon")
"""What names of accelerators begin with."""


def device_folder(device: str) -> str:
    """Folder of a device's baselines: `laptop` for a CPU, else the accelerator's name, `h200` for `NVIDIA H200`."""
    if not ACCELERATOR.match(device):
        return "laptop"
    return re.sub("[^a-z0-9]+", "-", device.removeprefix("NVIDIA ").lower()).strip("-")


def recorded_flips(experiment: str, scale: str, device: str | None) -> dict[str, Any]:
    """What `flips.json` of a recorded result holds, see `harness.flips`; of the lowest seed, empty where there is none.

    Args:
      experiment: its name.
      scale: of the result.
      device: that the reader's trials ran on, None where there were none; maps of another kind are not shown.
    """
    return _of_lowest_seed(device_folder(device or ""), experiment, scale, "flips.json")


def expected_seconds(experiments: Sequence[str], scale: str) -> dict[str, float]:
    """How long each of some experiments took where it was recorded, on a laptop; the mean where it was not.

    Args:
      experiments: their names.
      scale: of the results.
    """
    found = {name: _of_lowest_seed("laptop", name, scale, "json").get("seconds") for name in experiments}
    known = [seconds for seconds in found.values() if seconds is not None]
    usual = sum(known) / len(known) if known else 1.0
    return {name: usual if seconds is None else seconds for name, seconds in found.items()}


def _of_lowest_seed(device: str, experiment: str, scale: str, ending: str) -> dict[str, Any]:
    folder = importlib.resources.files("baselines") / device / experiment
    found = re.compile(rf"{scale}-seed(\d+)\.{re.escape(ending)}").fullmatch
    seeds = [int(name[1]) for path in (folder.iterdir() if folder.is_dir() else ()) if (name := found(path.name))]
    return json.loads((folder / f"{scale}-seed{min(seeds)}.{ending}").read_text("utf-8")) if seeds else {}
