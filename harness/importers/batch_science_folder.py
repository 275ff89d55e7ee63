"""batch_science, the data of Shallue et al. (arXiv:1811.03600): `study.json`, `*/{metadata.json,measurements.csv}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.importers.assembly import Source
from harness.importers.folders import Unreadable, json_object, measurements, member, read_trials, the_folder
from harness.records import Curve

STUDY, SETTINGS, MEASUREMENTS = "study.json", "metadata.json", "measurements.csv"
_SCALES = {"LOG_SCALE": "log", "REVERSE_LOG_SCALE": "reverse_log", "LINEAR_SCALE": "linear", "": "linear"}


def read(path: Path, study: str | None = None) -> Source:
    """Reads the trials of one study, which is one batch size of a workload.

    Args:
      path: a folder at any level that leads to exactly one study.
      study: which of several, as the path below `path` that the error message lists.

    Returns:
      The trials in natural order of their folders' names, with the ranges of `study.json`.

    Raises:
      InputError: no study or several, or none of the trials can be read.
    """
    skipped: list[str] = []
    folder, trials = the_folder(path, study, "study", is_trial, skipped)
    source = read_trials(path, trials, _trial, skipped)
    try:
        source.ranges = _ranges(json_object(member(folder, STUDY, path)))
    except Unreadable as error:
        source.warnings.append(f"the ranges of the hyperparameters are not known: {error}")
    return source


def is_trial(folder: Path) -> bool:
    """Whether a folder has the settings of a trial."""
    return (folder / SETTINGS).exists() or (folder / MEASUREMENTS).exists()


def _trial(folder: Path, root: Path) -> tuple[dict[str, Any], str | None, dict[str, Curve]]:
    metadata = json_object(member(folder, SETTINGS, root))
    settings, status = metadata.get("parameters"), metadata.get("status")
    if not isinstance(settings, dict) or not isinstance(status, str):
        raise Unreadable(f"{SETTINGS} has no parameters or no status")
    try:
        curves = measurements(member(folder, MEASUREMENTS, root), ("step", "global_step"), frozenset())
    except Unreadable:
        if status != "INFEASIBLE":  # which may have diverged before its first evaluation
            raise
        curves = {}
    return settings, status, curves


def _ranges(study: dict[str, Any]) -> dict[str, tuple[float, float, str]]:
    """Ranges of the hyperparameters that have one; discrete ones have points instead."""
    found = {}
    configs = study.get("parameter_configs")
    for name, config in configs.items() if isinstance(configs, dict) else ():
        try:
            low, high, scale = float(config["min_value"]), float(config["max_value"]), _SCALES[config.get("scale", "")]
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        found[name] = (low, high, scale)
    return found
