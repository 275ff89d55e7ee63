"""PD1, the tuning data of HyperBO (Wang et al., arXiv:2109.08215): JSON lines, several studies in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.importers.assembly import Source, pick
from harness.importers.columns import curve, settings_columns
from harness.importers.jsonl_file import objects
from harness.importers.names import is_metric, role
from harness.records import Curve, InputError

_PREFIX = "hps."


def read(path: Path, study: str | None = None) -> Source:
    """Reads one study; its hyperparameters are the columns `hps.*` that vary.

    Args:
      path: of the file.
      study: a study group, such as `imagenet_resnet50,imagenet,resnet,resnet50,512`; or dataset, model and batch size
        with commas between, where the file has no groups.

    Returns:
      The trials in the order of the file; a curve per metric, with `global_step` as its steps.

    Raises:
      InputError: as JSON lines, or a line is no trial of PD1, or the study is unknown or ambiguous.
    """
    rows = objects(path)
    if not rows:
        raise InputError("holds no trial; give a table with a row per trial")
    for number, row in enumerate(rows, 1):
        if not is_pd1(row):
            raise InputError(
                f"trial {number} has no status or no hyperparameter {_PREFIX}*; read it with --format jsonl"
            )
    groups = [_group(row) for row in rows]
    wanted = pick("study", study, list(dict.fromkeys(groups)))
    rows = [row for row, group in zip(rows, groups, strict=True) if group == wanted]
    columns = settings_columns([{n: v for n, v in row.items() if n.startswith(_PREFIX)} for row in rows])
    roles = {name: "seed" if role(name) == "seed" else "hyperparameter" for name in columns}
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        if is_metric(name) and name not in columns and not any(isinstance(row.get(name), list) for row in rows):
            columns[name], roles[name] = [row.get(name) for row in rows], "result"
    columns["status"], roles["status"] = [row["status"] for row in rows], "status"
    warnings: list[str] = []
    return Source(
        trials=[_trial_name(row, number) for number, row in enumerate(rows, 1)],
        columns=columns,
        roles=roles,
        curves=_curves(rows, names, warnings),
        warnings=warnings,
    )


def is_pd1(row: dict[str, Any]) -> bool:
    """Whether an object of JSON lines looks like a trial of PD1."""
    return "status" in row and any(name.startswith(_PREFIX) for name in row)


def _group(row: dict[str, Any]) -> str:
    if isinstance(group := row.get("study_group"), str):
        return group
    return ",".join(str(row.get(name)) for name in ("dataset", "model", "hps.batch_size"))


def _trial_name(row: dict[str, Any], number: int) -> str:
    return str(row.get("trial_dir") or number)


def _curves(rows: list[dict[str, Any]], names: list[str], warnings: list[str]) -> dict[str, list[Curve | None]]:
    """Curves of the metrics; one that does not match its trial's steps is left out with a warning."""
    curves: dict[str, list[Curve | None]] = {}
    wrong = 0
    for name in names:
        if not is_metric(name) or not any(isinstance(row.get(name), list) for row in rows):
            continue
        found = []
        for row in rows:
            steps, values = _numbers(row.get("global_step")), _numbers(row.get(name))
            fits = steps is not None and values is not None and len(steps) == len(values)
            wrong += not fits and row.get(name) is not None
            found.append(curve(steps, values) if fits else None)
        curves[name] = found
    if wrong:
        warnings.append(f"{wrong} curves have other than a number for each global_step and were left out")
    return curves


def _numbers(values: Any) -> np.ndarray | None:
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.ndim == 1 else None
