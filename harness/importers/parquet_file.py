"""Parquet: a row per trial; also the trial tables that `playbook reproduce` and `playbook train` write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from harness.importers.arrow import floats, is_number, present
from harness.importers.assembly import Source
from harness.importers.csv_file import check_columns
from harness.importers.files import head
from harness.importers.names import role
from harness.records import COLUMN_CLASSES, InputError


def read(path: Path, study: str | None = None) -> Source:
    """Reads a Parquet file: list columns are curves, columns of other types than numbers, texts and booleans left out.

    Args:
      path: of the file.
      study: name of the study to keep, of a table with a column of studies.

    Returns:
      The columns, with the roles that the metadata of our own tables give.

    Raises:
      InputError: the file cannot be read or is no Parquet file, or a column is there twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    head(path)
    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"is no whole Parquet file ({reason}); write it again") from None
    check_columns(table.column_names)
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
        check_columns(table.column_names)
    columns, left_out = {}, []
    for name in table.column_names:
        cells = _cells(name, table.column(name))
        if cells is None:
            left_out.append(name)
        else:
            columns[name] = cells
    warnings = [f"columns of no type that is read here: {', '.join(map(repr, left_out))}"] if left_out else []
    return Source(trials=None, columns=columns, study=study, roles=_roles(table, columns), warnings=warnings)


def _cells(name: str, column) -> Any:
    import pyarrow as pa

    kind = column.type
    types = pa.types
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    try:
        if types.is_floating(kind) or types.is_decimal(kind):
            return floats(_whole(column))
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            return _lists(column)
        if any(test(kind) for test in (types.is_integer, types.is_boolean, types.is_null)):
            return column.to_pylist()
        if types.is_string(kind) or types.is_large_string(kind):
            return column.to_pylist()
    except UnicodeDecodeError:
        raise InputError(f"column {name!r} is not UTF-8; write it again") from None
    return None


def _whole(column):
    """One Arrow array out of a chunked one, which may have no chunk."""
    joined = column.combine_chunks()
    return joined.combine_chunks() if hasattr(joined, "chunks") and joined.num_chunks == 1 else joined


def _lists(column) -> list[np.ndarray | None] | None:
    if not is_number(column.type.value_type):
        return None
    cells: list[np.ndarray | None] = []
    for chunk in column.chunks:
        values = floats(chunk.flatten())
        missing = (~present(chunk)).tolist()
        # flatten leaves out what a missing cell spans, so that lengths alone say where each begins.
        ends = np.cumsum(np.nan_to_num(floats(chunk.value_lengths()))).astype(int).tolist()
        starts = [0, *ends[:-1]]
        cells += [None if m else values[s:e] for m, s, e in zip(missing, starts, ends, strict=True)]
    return cells


def _roles(table, columns: dict[str, Any]) -> dict[str, str]:
    metadata = (table.schema.metadata or {}).get(b"column_classes")
    if metadata is None:
        return {}
    try:
        classes = json.loads(metadata)
        roles = {name: kind for name, kind in classes.items() if name in columns and kind in COLUMN_CLASSES}
    except (ValueError, AttributeError, TypeError):
        raise InputError("its metadata column_classes is no JSON table; write it again") from None
    # study, address and status have a role of their own beside their class.
    return roles | {
        name: own for name in ("study", "address", "status", "reason") if (own := role(name)) and name in roles
    }
