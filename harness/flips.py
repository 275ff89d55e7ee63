"""Flip maps: how the verdicts of an experiment change with model size, steps, data size and batch size.

A laptop's verdict is of one setting. Every reader asks whether it would hold for theirs; the map answers for what is
near: each axis halved and doubled, one at a time, judged by the same rules on the same seeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.experiments.experiment import Experiment
from harness.experiments.variation import CannotVaryError, Variation, grid, varied
from harness.recorded import FLIPS
from harness.records import InputError
from harness.reproduce import reproduce


def flips(
    experiment: Experiment,
    scale: str,
    out: Path,
    seed: int,
    on_variation: Callable[[str], None] = lambda name: None,
    **named: Any,
) -> dict[str, Any]:
    """Runs what is missing of an experiment and its variations, and draws the maps into the experiment's page.

    Variations lie below `OUT/flips/<variation>/`, result folders like any other, so that a killed run goes on from what
    is finished. `flips.json` is written after each, and says of the others that they were not run yet.

    Args:
      experiment: what to run.
      scale: one of `harness.experiments.experiment.SCALES`.
      out: the folder of all results.
      seed: of the experiment.
      on_variation: called with the name of what is run next, empty for the chosen setting.
      **named: what else `harness.reproduce.reproduce` takes.

    Returns:
      What `flips.json` holds, and `folder`: `claims` of the chosen setting (as in `result.json`), and `cells`, each
      with `axis`, `factor`, and either `claims` or `unavailable`, the reason why there is no such cell.

    Raises:
      InputError: bad input, see the message; what went wrong in a variation, such as a full disk, makes no cell.
    """
    on_variation("")
    chosen = reproduce(experiment, scale, out, seed, control=False, **named)
    folder = Path(chosen["folder"])
    not_run = f"not run yet; playbook flips {experiment.name} goes on"
    cells = {variation: {**variation._asdict(), "unavailable": not_run} for variation in grid(experiment.flips)}
    content = {
        "experiment": experiment.name,
        "scale": scale,
        "seed": seed,
        "device": chosen["provenance"]["device"],
        "claims": _claims(chosen),
    }
    for variation in sorted(cells, key=lambda variation: variation.factor):  # what is halved takes the least time
        on_variation(variation.name)
        cells[variation] = _cell(experiment, variation, scale, out, seed, named)
        _write(folder, {**content, "cells": list(cells.values())})
    # Trains nothing more, and draws the page anew.
    reproduce(experiment, scale, out, seed, control=False, **{**named, "fresh": False})
    return {**content, "cells": list(cells.values()), "folder": str(folder)}


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    try:
        (folder / FLIPS).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); make room and repeat the command") from None


def _cell(
    experiment: Experiment, variation: Variation, scale: str, out: Path, seed: int, named: Mapping[str, Any]
) -> dict[str, Any]:
    place = variation._asdict()
    try:
        result = reproduce(
            varied(experiment, variation), scale, out / "flips" / variation.name, seed, control=False, **named
        )
    except CannotVaryError as error:
        return {**place, "unavailable": str(error)}
    return {**place, "claims": _claims(result)}


def _claims(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    kept = ("id", "verdict", "reason", "effect", "interval", "n")
    return [{name: claim[name] for name in kept} for claim in result["claims"]]
