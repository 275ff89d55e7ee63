"""Reads the package `baselines`: results that were recorded, by the device that they come from."""

from __future__ import annotations

import importlib.resources
import json
import re
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
    folder = importlib.resources.files("baselines") / device_folder(device or "") / experiment
    found = re.compile(rf"{scale}-seed(\d+)\.flips\.json").fullmatch
    seeds = [int(name[1]) for path in (folder.iterdir() if folder.is_dir() else ()) if (name := found(path.name))]
    return json.loads((folder / f"{scale}-seed{min(seeds)}.flips.json").read_text("utf-8")) if seeds else {}
