"""CSV: a header and a row per trial."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from harness.importers.assembly import Source
from harness.importers.files import text
from harness.records import InputError


def read(path: Path, study: str | None = None) -> Source:
    """Reads a CSV file in UTF-8: cells apart by commas, quoted by double quotes.

    Args:
      path: of the file.
      study: name of the study to keep, of a table with a column of studies.

    Returns:
      The columns as text; among numbers, a cell is missing where it is empty, nan, null, none or na.

    Raises:
      InputError: not UTF-8, no row, a column without a name or twice, a row of another length than the header.
    """
    reader = csv.reader(io.StringIO(text(path), newline=""), strict=True, skipinitialspace=True)
    try:
        header = next(reader, [])
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise InputError(f"is not CSV: {error} in line {reader.line_num}; correct it") from None
    check_columns(header)
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise InputError("has cells apart by semicolons or tabs; write commas between them")
    width = len(header)
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise InputError(f"row {number} has {len(row)} cells and the header {width}; correct it")
    cells = zip(*rows, strict=True) if rows else ([] for _ in header)
    return Source(trials=None, columns=dict(zip(header, cells, strict=True)), text=True, study=study)


def check_columns(header: list[str]) -> None:
    """Raises InputError where a table has no columns, one twice, or one without a name that is not the first."""
    if not header:
        raise InputError("has no columns; give a table with a header and a row per trial")
    name, count = Counter(header).most_common(1)[0]
    if count > 1:
        raise InputError(f"column {name!r} is there {count} times; keep one, or rename the others")
    if "" in header[1:]:  # the first is the index that pandas writes
        raise InputError(f"column {header.index('', 1) + 1} has no name; give it one")
