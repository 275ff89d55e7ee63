"""Reading a trial table from whatever tool wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from harness.importers import (
    algoperf_folder,
    batch_science_folder,
    csv_file,
    jsonl_file,
    optuna_storage,
    parquet_file,
    pd1_file,
)
from harness.importers.assembly import Source, assemble
from harness.importers.files import head
from harness.importers.folders import walk
from harness.records import InputError, TrialTable, did_you_mean

_READERS: dict[str, Callable[[Path, str | None], Source]] = {
    "csv": csv_file.read,
    "parquet": parquet_file.read,
    "jsonl": jsonl_file.read,
    "optuna": optuna_storage.read,
    "algoperf": algoperf_folder.read,
    "batch-science": batch_science_folder.read,
    "pd1": pd1_file.read,
}
FORMATS = tuple(_READERS)
_MAGIC = {b"SQLite format 3\0": "optuna", b"PAR1": "parquet"}
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def read(
    path: str | Path, format: str | None = None, objective: str | None = None, goal: str | None = None
) -> TrialTable:
    """Reads a trial table.

    Args:
      path: of a file or folder; with `#NAME` behind it, that of the study NAME in a file or folder of several.
      format: one of `FORMATS`; guessed if None.
      objective: which column or curve is the objective; guessed if None, and the guess said in `warnings`.
      goal: `min` or `max`; by the source or the objective's name if None.

    Returns:
      The table; see `harness.importers.assembly.assemble` for what counts as infeasible and as a hyperparameter.

    Raises:
      InputError: for whatever is no trial table; the message names the path.
    """
    if format is not None and format not in _READERS:
        raise InputError(f"format {format!r} is not one of {', '.join(FORMATS)}{did_you_mean(format, FORMATS)}")
    place, study = _split(path)
    try:
        return assemble(_READERS[format or _guess(place)](place, study), objective, goal)
    except InputError as error:
        raise InputError(f"{str(place)!r}: {error}") from None


def guess_format(path: str | Path) -> str:
    """Guesses the format of a file by its first bytes and its name, that of a folder by what lies in it.

    Args:
      path: as for `read`.

    Returns:
      One of `FORMATS`.

    Raises:
      InputError: there is nothing at the path, or nothing known; the message names the path.
    """
    place, _ = _split(path)
    try:
        return _guess(place)
    except InputError as error:
        raise InputError(f"{str(place)!r}: {error}") from None


def _guess(path: Path) -> str:
    if path.is_dir():
        return _guess_folder(path)
    start = head(path)
    for magic, format in _MAGIC.items():
        if start.startswith(magic):
            return format
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return "pd1" if _begins_as_pd1(path) else "jsonl"
    if (format := _SUFFIXES.get(path.suffix.lower())) is not None:
        return format
    raise InputError(f"is of no known format; name it with --format {'|'.join(FORMATS)}")


def _begins_as_pd1(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            row = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(row, dict) and pd1_file.is_pd1(row)


def _guess_folder(path: Path) -> str:
    if (path / "trials.parquet").is_file():
        raise InputError("is a folder of results; give the trials.parquet in it")
    for format, reader in (("algoperf", algoperf_folder), ("batch-science", batch_science_folder)):
        if next(walk(path, reader.is_trial, []), None):
            return format
    raise InputError("leads to no trials of AlgoPerf or batch_science; give a file, or name the format with --format")


def _split(path: str | Path) -> tuple[Path, str | None]:
    """Path and study of `PATH#NAME`; a path that exists as it is names no study."""
    whole = str(path)
    try:
        if Path(whole).exists():
            return Path(whole), None
        for index in (index for index, letter in enumerate(whole) if letter == "#"):
            if index and Path(whole[:index]).exists():
                return Path(whole[:index]), whole[index + 1 :]
    except (OSError, ValueError) as error:  # too long, or a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{whole[:100]!r}: cannot be read ({reason}); give the path of a trial table") from None
    return Path(whole), None
