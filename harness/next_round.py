"""Writes the specification of the next round of one's own study; see `harness.procedures.next_round`."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.diagnose import json_ready
from harness.procedures.next_round import Chosen, findings_of, ladder, name_of_round, transfer
from harness.records import InputError
from harness.search.samplers import MAX_SEED
from harness.search.space import Hyperparameter
from harness.search.study_spec import StudySpec, study_from_toml
from harness.search.study_toml import study_toml

POINTS = 3
"""Points of the next round: "very few" long runs (L632)."""

_FILES = ("study.toml", "trials.parquet", "result.json")


def next_round(path: Path, steps: int, rounds: int, points: int, out: Path, command: str) -> dict[str, Any]:
    """Writes `OUT/next-round/<study>/<next study>.toml` from `OUT/tune/<study>/`, and `result.json` beside it.

    Args:
      path: of the finished study's specification.
      steps: of the last round.
      rounds: to come, up to that length.
      points: of the finished study that the next round runs, the best ones.
      out: the folder of all results.
      command: that repeats this, for `result.json`.

    Returns:
      What `result.json` holds, and `folder`.

    Raises:
      InputError: bad input, see the message.
    """
    spec = study_from_toml(path)
    if points < 1:
        raise InputError(f"--points {points}: expected at least 1")
    if "steps" in _tuned(spec):
        raise InputError(f"{str(path)!r}: steps is tuned, expected one length for all trials; put it into [set]")
    rows, objective = _finished(spec, path, out / "tune" / spec.name)
    length = int(rows[0]["steps"])
    lengths = ladder(length, steps, rounds)
    feasible = _settings(spec, rows, objective)
    if len(feasible) < points:
        count = len(feasible) or "none"
        raise InputError(
            f"--points {points}: expected at most the study's feasible settings, of which there are {count}"
        )
    chosen = feasible[:points]
    name, round_number = name_of_round(spec.name)
    tuned = _tuned(spec)
    taken = [row["trial_seconds"] for row in rows if row.get("trial_seconds") is not None]
    seconds = float(np.mean(taken)) * points * spec.replicates * lengths[0] / length if taken else None
    findings = list(findings_of(chosen, len(feasible), length, lengths, tuned, seconds))
    folder = out / "next-round" / spec.name
    text = _specification(spec, name, chosen, length, lengths[0], findings)
    result = json_ready(
        {
            "study": spec.name,
            "next": name,
            "round": round_number,
            "steps_before": length,
            "steps": lengths[0],
            "ladder": lengths,
            "points": [
                {"value": one.value, "setting": one.lengthened(length, lengths[0]), "schedule": one.schedule}
                for one in chosen
            ],
            "transfer": transfer(tuned),
            "seconds": seconds,
            "specification": str(folder / f"{name}.toml"),
            "findings": [dataclasses.asdict(finding) for finding in findings],
            "command": command,
        }
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.toml").write_text(text, "utf-8")
        (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another --out") from None
    return {**result, "folder": str(folder)}


def _tuned(spec: StudySpec) -> list[str]:
    """Hyperparameters that have a range or more than one value in the study."""
    values: dict[str, list[Any]] = {}
    for axis in spec.space.hyperparameters:
        values.setdefault(axis.hyperparameter, []).extend(axis.values or (axis.low, axis.high))
    return [name for name, found in values.items() if len(set(found)) > 1]


def _finished(spec: StudySpec, path: Path, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of the study's trials, and the name of its objective."""
    for name in _FILES:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing; finish the study first: playbook tune {path}")
    if study_from_toml(folder / "study.toml").identity() != spec.identity():
        raise InputError(
            f"{folder} holds another study than {str(path)!r}; give {folder / 'study.toml'}, or another --out"
        )
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        objective = json.loads((folder / "result.json").read_text("utf-8"))["objective"]
        rows = pq.read_table(folder / "trials.parquet").to_pylist()
        return [row for row in rows if row["status"] and row["steps"]], objective
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"results in {folder} cannot be read ({reason}); repeat playbook tune {path}") from None


def _settings(spec: StudySpec, rows: Sequence[Mapping[str, Any]], objective: str) -> list[Chosen]:
    """The settings of which no run is infeasible, best first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps(_point(spec, row), sort_keys=True), []).append(row)
    found = []
    for runs in groups.values():
        values = [run[objective] if run["status"] == "complete" else math.nan for run in runs]
        if np.isfinite(values).all():
            first = runs[0]
            losses = [np.asarray(run["curve.train_loss"], np.float64) for run in runs]
            found.append(
                Chosen(
                    value=float(np.mean(values)),
                    point=_point(spec, first),
                    schedule=first["schedule"],
                    constant_steps=int(first.get("constant_steps") or 0),
                    train_loss=float(np.median([loss[-max(1, len(loss) // 10) :].mean() for loss in losses])),
                )
            )
    return sorted(found, key=lambda one: one.value)


def _point(spec: StudySpec, row: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameter to value of a trial, those of the space that apply to it, as the specification has them."""
    by_axis: dict[str, Any] = {}
    for name in spec.space.parents_first:
        if spec.space.applies(name, {**dict.fromkeys(spec.space), **by_axis}):
            axis = spec.space[name]
            cell = row[axis.hyperparameter if axis.hyperparameter in row else f"workload.{axis.hyperparameter}"]
            by_axis[name] = _as_specified(axis, cell)
    return spec.space.values_set({name: by_axis[name] for name in spec.space if name in by_axis})


def _as_specified(axis: Hyperparameter, cell: Any) -> Any:
    if axis.values is None:
        return int(cell) if axis.integer else float(cell)
    text = _plain_text(cell)
    return next((value for value in axis.values if value == cell or _plain_text(value) == text), cell)


def _plain_text(value: Any) -> str:
    """A value as a table has it and as `--set` takes it, made alike: '[1, 2, 1]' and '1,2,1'."""
    return str(value).strip("[]").replace(" ", "").replace('"', "").lower()


def _specification(
    spec: StudySpec, name: str, chosen: Sequence[Chosen], length: int, longer: int, findings: Sequence[Any]
) -> str:
    points = [one.lengthened(length, longer) for one in chosen]
    settings = {k: v for k, v in spec.settings.items() if k not in ("steps", "constant_steps")}
    settings = {"steps": longer, **settings}
    common = {point.get("constant_steps") for point in points}
    if len(common) == 1:
        if constant := common.pop():
            settings["constant_steps"] = constant
        points = [{k: v for k, v in point.items() if k != "constant_steps"} for point in points]
    else:
        points = [{**point, "constant_steps": point.get("constant_steps", 0)} for point in points]
    points = [{k: v for k, v in point.items() if k != "steps"} for point in points]
    head = {
        "name": name,
        "notes": f"the best {len(chosen)} of {spec.name} for {longer} steps rather than {length}",
        "workload": spec.workload,
        "scale": spec.scale,
        "seed": (spec.seed + 1) % (MAX_SEED + 1),
        "replicates": spec.replicates,
        **({"objective": spec.objective} if spec.objective else {}),
    }
    said = [f"{one.check}: {one.evidence}" + (f" -> {one.advice}" if one.advice else "") for one in findings]
    comment = "\n".join(textwrap.fill(line, 116, subsequent_indent="  ") for line in said)
    return study_toml(head, settings, points, comment)
