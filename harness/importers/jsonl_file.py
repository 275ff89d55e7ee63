"""JSON lines: an object per trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.importers.assembly import Source
from harness.importers.columns import flatten
from harness.importers.files import text
from harness.records import InputError


def read(path: Path, study: str | None = None) -> Source:
    """Reads JSON lines: names to values; a list of numbers is a curve, nested objects' names are joined by dots.

    Args:
      path: of the file.
      study: name of the study to keep, of a table with a column of studies.

    Returns:
      The columns, in the order first seen; a value is missing where it is null or its name is left out.

    Raises:
      InputError: not UTF-8, a line that is no JSON object or has a name twice.
    """
    rows = [flatten(row) for row in objects(path)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Source(trials=None, columns={name: [row.get(name) for row in rows] for name in names}, study=study)


def objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines.

    Raises:
      InputError: not UTF-8, or a line that is no JSON object or has a name twice.
    """
    decode = json.JSONDecoder(object_pairs_hook=_once).decode
    rows = []
    # Not splitlines, which also cuts at separators that JSON strings may hold.
    for number, line in enumerate(text(path).split("\n"), 1):
        if not (line := line.strip()):
            continue
        try:
            row = decode(line)
        except InputError as error:
            raise InputError(f"line {number}: {error}") from None
        except (ValueError, RecursionError) as error:  # no JSON; numbers or nesting too long for Python
            raise InputError(f"line {number} is not JSON ({error}); write one object a line") from None
        if not isinstance(row, dict):
            raise InputError(f"line {number} is a {type(row).__name__}, not a JSON object; write one object a line")
        rows.append(row)
    return rows


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        name = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise InputError(f"name {name!r} is there twice; keep one")
    return row
