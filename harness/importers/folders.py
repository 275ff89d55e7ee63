"""Folders with a folder per trial: finding them, reading them, and leaving out what cannot be read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.importers.arrow import floats, is_number, present
from harness.importers.assembly import Source, pick
from harness.importers.columns import curve, flatten, settings_columns
from harness.importers.files import text
from harness.importers.names import role
from harness.records import Curve, InputError

STATUS = "status of the trial"  # a name that no hyperparameter has
DEPTH = 6  # folders below the one given in which trials are looked for


class Unreadable(Exception):
    """A trial that cannot be read; it is skipped and the line counted."""


def the_folder(
    path: Path, wanted: str | None, kind: str, is_trial: Callable[[Path], bool], skipped: list[str]
) -> tuple[Path, list[Path]]:
    """The one folder of trials that a path leads to.

    Args:
      path: a folder at or above it.
      wanted: which of several, as its path below `path`.
      kind: what such a folder is, for messages.
      is_trial: whether a folder is one of a trial.
      skipped: receives a line for each folder that leads out of `path` or cannot be read.

    Returns:
      The folder, and those of its trials in natural order.

    Raises:
      InputError: there is none, or several and none is `wanted`.
    """
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise InputError(f"{what}; give a folder of trials")
    found = {folder.relative_to(path).as_posix(): (folder, trials) for folder, trials in walk(path, is_trial, skipped)}
    if not found and is_trial(path):
        raise InputError("is the folder of one trial; give the folder above it")
    if not found:
        seen = f" ({len(skipped)} left out, such as: {skipped[0]})" if skipped else ""
        raise InputError(f"leads to no folder of trials{seen}; give one that does")
    return found[pick(kind, wanted, list(found))]


def read_trials(
    root: Path,
    trials: Sequence[Path],
    read_trial: Callable[[Path, Path], tuple[dict[str, Any], str | None, dict[str, Curve]]],
    skipped: list[str],
) -> Source:
    """Reads trials and leaves out, with a line, those that cannot be read.

    Args:
      root: the folder given, out of which no trial may lead.
      trials: their folders.
      read_trial: takes a folder and `root`; gives settings, status or None, and curves; or raises Unreadable.
      skipped: as `the_folder` left it.

    Returns:
      The trials that can be read, and the lines of the others.

    Raises:
      InputError: none can be read.
    """
    names, settings, statuses, measured = [], [], [], []
    for folder in trials:
        try:
            setting, status, found = read_trial(folder, root)
            settings.append(flatten(setting))
        except (Unreadable, InputError) as error:
            skipped.append(f"trial {folder.name!r} cannot be read: {error}")
            continue
        names.append(os.fsencode(folder.name).decode(errors="replace"))  # a name may be no text
        statuses.append(status)
        measured.append(found)
    if not names:
        raise InputError(f"none of its {len(trials)} trials can be read; the first: {skipped[0]}")
    columns = settings_columns(settings)
    roles = {name: "seed" if role(name) == "seed" else "hyperparameter" for name in columns}
    if any(status is not None for status in statuses):
        columns[STATUS], roles[STATUS] = statuses, "status"
    curves = {
        name: [found.get(name) for found in measured] for name in dict.fromkeys(n for found in measured for n in found)
    }
    return Source(trials=names, columns=columns, roles=roles, curves=curves, skipped=skipped)


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      Unreadable: it holds none.
    """
    try:
        found = json.loads(text(path))
    except InputError as error:
        raise Unreadable(f"{path.name} {error}") from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path.name} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise Unreadable(f"{path.name} holds no JSON object")
    return found


def _natural(name: str) -> list:
    """Key that sorts `trial_2` before `trial_10`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d{1,18}|\D+", name)]


def _folders(path: Path, root: Path, skipped: list[str]) -> list[Path]:
    """The folders in a folder, in natural order; those that lead out of `root` are skipped with a line."""
    found = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.is_dir():
                    continue
                if entry.is_symlink() and not _inside(Path(entry.path), root):
                    skipped.append(f"{entry.name!r} leads out of the folder; left out")
                    continue
                found.append(Path(entry.path))
    except OSError as error:
        skipped.append(f"{path.name!r} cannot be read ({error.strerror}); left out")
    return sorted(found, key=lambda one: _natural(one.name))


def walk(path: Path, is_trial: Callable[[Path], bool], skipped: list[str]) -> Iterator[tuple[Path, list[Path]]]:
    """Finds folders of trials; it looks into no trial.

    Args:
      path: where to begin.
      is_trial: whether a folder is one of a trial.
      skipped: receives a line for each folder that leads out of `path` or cannot be read.

    Yields:
      A folder at or below `path`, and those of its trials in natural order.
    """

    def below(folder: Path, depth: int) -> Iterator[tuple[Path, list[Path]]]:
        inner = _folders(folder, path, skipped)
        if trials := [one for one in inner if is_trial(one)]:
            yield folder, trials
        elif depth < DEPTH:
            for one in inner:
                if not one.is_symlink():  # what it leads to is found by its own path
                    yield from below(one, depth + 1)

    yield from below(path, 0)


def member(folder: Path, name: str, root: Path) -> Path:
    """A file of a trial.

    Raises:
      Unreadable: it is missing, or leads out of `root`.
    """
    path = folder / name
    if not path.is_file():
        raise Unreadable(f"{name} is missing")
    if path.is_symlink() and not _inside(path, root):
        raise Unreadable(f"{name} leads out of the folder")
    return path


def _inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # dangling, or a loop
        return False


def measurements(path: Path, steps: tuple[str, ...], unwanted: frozenset[str]) -> dict[str, Curve]:
    """The curves of a trial: a CSV file with a row per evaluation.

    Args:
      path: of the file.
      steps: names that the column of steps may have.
      unwanted: columns that are no metrics.

    Returns:
      Name to curve, of the columns of numbers; an empty cell was not measured, and is no point of its curve.

    Raises:
      Unreadable: it is not CSV, holds no row or no steps.
    """
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    try:
        table = pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(use_threads=False),
            convert_options=pa_csv.ConvertOptions(null_values=[""]),
        )
        columns = table.column_names  # which Arrow decodes only now
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path.name} is not CSV ({' '.join(str(error).split())[:100]})") from None
    if len(set(columns)) < len(columns):
        raise Unreadable(f"{path.name} has a column twice")
    at = next((name for name in steps if name in columns), None)
    if at is None:
        raise Unreadable(f"{path.name} has no column {steps[0]!r}")
    if table.num_rows == 0:
        raise Unreadable(f"{path.name} has no row")
    if not is_number(table.schema.field(at).type):
        raise Unreadable(f"column {at!r} of {path.name} does not hold numbers alone")
    at_steps = floats(table.column(at).combine_chunks())
    curves = {}
    for name in columns:
        if name == at or name in unwanted or not is_number(table.schema.field(name).type):
            continue
        column = table.column(name).combine_chunks()
        measured = present(column) if column.null_count else slice(None)
        curves[name] = curve(at_steps[measured], floats(column)[measured])
    return curves
