"""The trial table of a result folder, for readers' own tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.records import InputError, TrialRecord

if TYPE_CHECKING:
    import pyarrow as pa

OWN = ("study", "arm", "address", "replicate", "status", "reason")
"""Columns that are attributes of a record; the others stand in one of its mappings."""


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


def read_parquet(path: Path) -> list[TrialRecord]:
    """Reads what `write_parquet` wrote.

    Raises:
      InputError: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
        classes = json.loads(table.schema.metadata[b"column_classes"])
        columns = {
            name: _curves(table[name]) if pa.types.is_list(table[name].type) else table[name].to_pylist()
            for name in classes
        }
        return list(as_records(columns, classes))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run its command again") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} is damaged: expected the trial table of a result folder; remove it and run its command again"
        ) from None


def as_records(columns: Mapping[str, Sequence[Any]], classes: Mapping[str, str]) -> Iterator[TrialRecord]:
    """Yields a record per row; what is None in a row, its record does not have.

    Args:
      columns: those of `TrialRecord.columns`, in any order.
      classes: column to class, of all of them.

    Raises:
      KeyError: a column of every record is missing.
    """
    for number in range(len(columns["address"])):
        own = {name: columns[name][number] for name in OWN}
        parts: dict[str, dict[str, Any]] = {"hyperparameter": {}, "seed": {}, "result": {}, "curve": {}, "timing": {}}
        for name, kind in classes.items():
            value = columns[name][number]
            if name in OWN or value is None:
                continue
            if isinstance(value, np.ndarray):
                parts["curve"][name.removeprefix("curve.")] = value
            else:
                parts[kind][name.removeprefix("seed.") if kind == "seed" else name] = value
        yield TrialRecord(
            **own,
            hyperparameters=parts["hyperparameter"],
            seeds=parts["seed"],
            results=parts["result"],
            curves=parts["curve"],
            timings=parts["timing"],
        )


def _curves(column: pa.ChunkedArray) -> list[np.ndarray | None]:
    return [None if curve.values is None else curve.values.to_numpy(zero_copy_only=False) for curve in column]
