"""The trial table of a result folder, for readers' own tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import TrialRecord


def write_parquet(records: Sequence[TrialRecord], path: Path) -> None:
    """Writes a row per trial, curves as lists of float32; the column classes stand in the schema's metadata.

    Args:
      records: the rows.
      path: of the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    classes: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for record in records:
        row = {}
        for name, kind, value in record.columns():
            classes[name] = kind
            row[name] = value
        rows.append(row)
    arrays = []
    for name in classes:
        column = [row.get(name) for row in rows]
        is_curve = any(isinstance(value, np.ndarray) for value in column)
        arrays.append(pa.array(column, type=pa.list_(pa.float32()) if is_curve else None))
    table = pa.Table.from_arrays(arrays, names=list(classes))
    pq.write_table(table.replace_schema_metadata({"column_classes": json.dumps(classes)}), path)
