"""`studies.csv`: one row for each of one's own studies, so that none is lost."""

from __future__ import annotations

import csv
import fcntl
import os
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

from harness.records import InputError

FILE = "studies.csv"
COLUMNS = (
    "name",
    "configuration",
    "notes",
    "trials",
    "infeasible share",
    "best validation result",
    "command",
)


def check_log(out: Path) -> None:
    """Raises InputError where the folder of all results holds another `studies.csv`."""
    _read(out / FILE)


def log_study(out: Path, row: Mapping[str, str]) -> None:
    """Adds the row of a study, or replaces the one of its name.

    Args:
      out: folder of all results.
      row: of each of `COLUMNS`.

    Raises:
      InputError: the file is none of ours, or cannot be written.
    """
    path = out / FILE
    # Spreadsheets run as a formula what begins with one of these; an apostrophe makes it text.
    safe = {name: f"'{text}" if text[:1] in "=+-@\t\r" and text else text for name, text in row.items()}
    try:
        with _alone(out):
            rows = {found["name"]: found for found in _read(path)}
            rows[safe["name"]] = safe
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", newline="", dir=out, prefix=f".{FILE}-", delete=False
            ) as file:
                try:
                    writer = csv.DictWriter(file, COLUMNS)
                    writer.writeheader()
                    writer.writerows(rows.values())
                    file.flush()
                    os.chmod(file.name, 0o644)  # which temporary files are not
                    os.replace(file.name, path)
                except BaseException:
                    os.unlink(file.name)
                    raise
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); make room and repeat the command") from None


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no table of studies ({error}); move it away, or choose another --out") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); choose another --out") from None
    if tuple(reader.fieldnames or COLUMNS) != COLUMNS or any(None in {*row, *row.values()} for row in rows):
        raise InputError(f"{path} has other columns than {', '.join(COLUMNS)}; move it away, or choose another --out")
    return rows


@contextmanager
def _alone(folder: Path):
    """Holds a lock on a folder while the block runs: studies that end together keep each other's rows."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
