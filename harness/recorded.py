"""Reads the package `baselines`: results that were recorded, by the device that they come from; and flip maps."""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records import InputError, TrialRecord
from harness.report.recorded_table import FILE, unpacked

ACCELERATOR = re.compile("NVIDIA|Tesla|GeForce|Quadro|TPU|AMD Instinct|AMD Radeon")
"""What names of accelerators begin with."""

FLIPS = "flips.json"
"""Of a result folder: what `harness.flips` found."""

_VERDICTS = ("reproduced", "contradicted", "inconclusive")


def device_folder(device: str) -> str:
    """Folder of a device's baselines: `laptop` for a CPU, else the accelerator's name, `h200` for `NVIDIA H200`."""
    if not ACCELERATOR.match(device):
        return "laptop"
    return re.sub("[^a-z0-9]+", "-", device.removeprefix("NVIDIA ").lower()).strip("-")


def own_flips(folder: Path) -> dict[str, Any]:
    """The flip maps of a result folder, empty where it has none.

    A file that cannot be read is no reason to fail: `playbook flips` writes it anew from its results.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        own = json.loads((folder / FLIPS).read_bytes())
        if _are_flips(own):
            return own
    return {}


def has_verdict(claim: Mapping[str, Any]) -> bool:
    """Whether a claim of `result.json` or `flips.json` has what the pages show of it, of the right kinds.

    Raises:
      KeyError, TypeError: it lacks something, or is no mapping.
    """
    return (
        isinstance(claim["id"], str)
        and claim["verdict"] in _VERDICTS
        and all(isinstance(claim[key], int | float) for key in ("effect", "n"))
        and len(claim["interval"]) == 2
        and all(limit is None or isinstance(limit, int | float) for limit in claim["interval"])
    )


def _are_flips(content: Mapping[str, Any]) -> bool:
    cells = content["cells"]
    return (
        isinstance(content["claims"], list)
        and all(isinstance(cell["axis"], str) and cell["factor"] > 0 for cell in cells)
        and all(isinstance(cell.get("unavailable", ""), str) for cell in cells)
        and all(has_verdict(claim) for found in (content, *cells) for claim in found.get("claims", ()))
    )


def recorded_flips(experiment: str, scale: str, device: str | None) -> dict[str, Any]:
    """What `flips.json` of a recorded result holds, see `harness.flips`; of the lowest seed, empty where there is none.

    Args:
      experiment: its name.
      scale: of the result.
      device: that the reader's trials ran on, None where there were none; maps of another kind are not shown.

    Raises:
      InputError: the file is damaged.
    """
    return _of_lowest_seed(device_folder(device or ""), experiment, scale, FLIPS, _are_flips)


def expected_seconds(experiments: Sequence[str], scale: str) -> dict[str, float]:
    """How long each of some experiments took where it was recorded, on a laptop; the mean where it was not.

    Args:
      experiments: their names.
      scale: of the results.

    Raises:
      InputError: a file is damaged.
    """
    found = {name: _of_lowest_seed("laptop", name, scale, "json", _is_timed).get("seconds") for name in experiments}
    known = [seconds for seconds in found.values() if seconds is not None]
    usual = sum(known) / len(known) if known else 1.0
    return {name: usual if seconds is None else seconds for name, seconds in found.items()}


def _is_timed(result: Mapping[str, Any]) -> bool:
    return isinstance(result.get("seconds", 0.0), int | float)


def _of_lowest_seed(
    device: str, experiment: str, scale: str, ending: str, sound: Callable[[Mapping[str, Any]], bool]
) -> dict[str, Any]:
    folder = importlib.resources.files("baselines") / device / experiment
    found = re.compile(rf"{scale}-seed(\d+)\.{re.escape(ending)}").fullmatch
    seeds = [int(name[1]) for path in (folder.iterdir() if folder.is_dir() else ()) if (name := found(path.name))]
    if not seeds:
        return {}
    path = folder / f"{scale}-seed{min(seeds)}.{ending}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        content = json.loads(path.read_bytes())
        if sound(content):
            return content
    raise InputError(
        f"recorded {path} is damaged: expected JSON as playbook record keeps it; restore the file, "
        "or install the package again"
    )


def recorded_trials(
    experiment: str, scale: str, device: str | None, baseline: Path | None = None
) -> dict[int, list[TrialRecord]]:
    """The trials of recorded results by the seed of the experiment, ascending, controls left out.

    They are as the run gave them, in the order of its plan, but for what is not kept: curves, and timings of trials
    that shared the machine.

    Args:
      experiment: its name.
      scale: of the results.
      device: that the reader's trials ran on, None where there were none.
      baseline: the folder of all baselines; None for that of the package `baselines`.

    Returns:
      Empty where nothing is recorded.

    Raises:
      InputError: the file is damaged, or its trials are not those of the results beside it.
    """
    folder = (baseline or Path(str(importlib.resources.files("baselines")))) / device_folder(device or "")
    found = unpacked(folder / FILE, lambda place: place[:2] == (experiment, scale) and not place.control)
    for place, recorded in found.items():
        path = folder / experiment / f"{scale}-seed{place.seed}.json"
        # A trial that several studies share stands in each.
        different = len({record.address for record in recorded.records})
        try:
            result = json.loads(path.read_bytes())
            belongs = result["fingerprint"] == recorded.fingerprint and different == sum(result["trials"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            belongs = False
        if not belongs:
            raise InputError(
                f"recorded trials {folder / FILE} of {experiment} at seed {place.seed} are not those of {path}: "
                "expected its fingerprint and number of trials; restore both files, or record the result again"
            )
    return {place.seed: list(recorded.records) for place, recorded in found.items()}
