"""AlgoPerf's log folders: `<submission>/study_*/<workload>/trial_*/{hparams.json,eval_measurements.csv}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.importers.assembly import Source
from harness.importers.folders import json_object, measurements, member, read_trials, the_folder
from harness.records import Curve

SETTINGS, MEASUREMENTS = "hparams.json", "eval_measurements.csv"
_UNWANTED = frozenset(f"accumulated_{what}_time" for what in ("eval", "logging", "submission")) | {
    "total_duration",
    "preemption_count",
    "score",
    *(f"{split}/num_examples" for split in ("train", "validation", "test")),
}


def read(path: Path, study: str | None = None) -> Source:
    """Reads the trials of one workload; every column of the evaluations but times and counts is a curve.

    Args:
      path: a folder at any level that leads to exactly one workload's trials.
      study: which of several, as the path below `path` that the error message lists.

    Returns:
      The trials in natural order of their folders' names.

    Raises:
      InputError: no folder of trials or several, or none of the trials can be read.
    """
    skipped: list[str] = []
    _, trials = the_folder(path, study, "workload", is_trial, skipped)
    return read_trials(path, trials, _trial, skipped)


def is_trial(folder: Path) -> bool:
    """Whether a folder is named as a trial."""
    return folder.name.startswith("trial_")


def _trial(folder: Path, root: Path) -> tuple[dict[str, Any], str | None, dict[str, Curve]]:
    settings = json_object(member(folder, SETTINGS, root))
    return settings, None, measurements(member(folder, MEASUREMENTS, root), ("global_step",), _UNWANTED)
