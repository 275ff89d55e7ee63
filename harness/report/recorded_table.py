"""The trials of a device's recorded results in one Parquet file: a row per trial, a row group per result."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.records import COLUMN_CLASSES, InputError, TrialRecord
from harness.report.trial_table import OWN, as_records

FILE = "trials.parquet"
"""Of a device's folder of baselines."""

_LARGEST_EXACT = 2**53  # of whole numbers, as float64
_COMPRESSION_LEVEL = 19  # 6% smaller than zstd's usual 3, and written seldom


class Place(NamedTuple):
    """Which result; the first columns of its rows.

    Attributes:
      experiment: its name.
      scale: of the result.
      seed: of the experiment.
      control: whether its cause was removed.
    """

    experiment: str
    scale: str
    seed: int
    control: bool


class Recorded(NamedTuple):
    """The trials of a recorded result.

    Attributes:
      fingerprint: of the result, curves included, which ties the rows to it.
      records: in the order of the plan.
    """

    fingerprint: str
    records: Sequence[TrialRecord]


def without_curves(record: TrialRecord) -> TrialRecord:
    """The part of a record that is kept: no curves, and timings only of a trial that had the machine alone.

    Of the others they tell what else the machine was doing; they would change the file at every run, and are of its
    largest columns.
    """
    timings = record.timings if record.hyperparameters.get("alone") else {}
    return dataclasses.replace(record, curves={}, timings=timings)


def packed(results: Mapping[Place, Recorded]) -> bytes:
    """The file: equal bytes for equal results, in whatever order they are given.

    Columns are the four of `Place`, then those of `TrialRecord.columns`; null where a trial has no such value. A column
    is a boolean, int64, string or float64 one (whole numbers too, where other trials have fractions). One whose values
    are of several kinds is a string column of JSON, and named in the metadata `json_columns`. The metadata
    `column_classes` hold the class of every column, and `results` hold place and fingerprint of every row group.

    Args:
      results: with the records as `without_curves` gives them.

    Raises:
      ValueError: a name stands for columns of two classes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups = [(place, results[place]) for place in sorted(results) if results[place].records]
    classes = _classes(record for _, recorded in groups for record in recorded.records)
    rows = [
        [place._asdict() | {name: value for name, _, value in record.columns()} for record in recorded.records]
        for place, recorded in groups
    ]
    fields, json_columns = [], []
    for name in classes:
        kind = _kind(value for group in rows for row in group if (value := row.get(name)) is not None)
        if kind == "json":
            json_columns.append(name)
        types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}
        fields.append(pa.field(name, types.get(kind, pa.string())))
    metadata = {
        "column_classes": classes,
        "json_columns": json_columns,
        "results": [place._asdict() | {"fingerprint": recorded.fingerprint} for place, recorded in groups],
    }
    schema = pa.schema(fields, {name: json.dumps(value) for name, value in metadata.items()})
    file = io.BytesIO()
    # Statistics of other columns, and dictionaries of numbers and addresses, cost more than they save.
    dictionaries = [field.name for field in fields if field.type == pa.string() and field.name != "address"]
    with pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        use_dictionary=dictionaries,
        write_statistics=list(Place._fields),
    ) as writer:
        for group in rows:
            arrays = []
            for field in fields:
                column = [row.get(field.name) for row in group]
                if field.name in json_columns:
                    column = [None if value is None else json.dumps(value) for value in column]
                arrays.append(pa.array(column, field.type))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=len(group))
    return file.getvalue()


def unpacked(path: Path, wanted: Callable[[Place], bool] = lambda place: True) -> dict[Place, Recorded]:
    """Reads results of a file that `packed` made; empty where there is none.

    Args:
      path: of the file.
      wanted: says of a result whether it is read.

    Raises:
      InputError: the file is damaged, or another one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        metadata = {name.decode(): json.loads(value) for name, value in file.schema_arrow.metadata.items()}
        classes = {name: kind for name, kind in metadata["column_classes"].items() if name not in Place._fields}
        places = {Place(*map(result.pop, Place._fields)): result for result in metadata["results"]}
        if len(places) != file.num_row_groups:
            raise ValueError(f"{file.num_row_groups} row groups of {len(places)} results")
        found = {}
        for number, (place, rest) in enumerate(places.items()):
            if wanted(place):
                columns = file.read_row_group(number, list(classes)).to_pydict()
                for name in metadata["json_columns"]:
                    columns[name] = [None if value is None else json.loads(value) for value in columns[name]]
                found[place] = Recorded(rest["fingerprint"], list(as_records(columns, classes)))
        return found
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"recorded trials {path} are damaged: expected a file that playbook record wrote; restore it, or remove it "
            "and record the results again"
        ) from None


def _classes(records: Iterable[TrialRecord]) -> dict[str, str]:
    """Column to class, in the order of the file."""
    places = {"experiment": "hyperparameter", "scale": "hyperparameter", "seed": "seed", "control": "hyperparameter"}
    found: dict[str, str] = {}
    for record in records:
        for name, kind, _ in record.columns():
            if name in places or found.setdefault(name, kind) != kind:
                raise ValueError(f"column {name!r} is of two classes; rename a hyperparameter, result or timing")
    names = sorted(found, key=lambda name: (COLUMN_CLASSES.index(found[name]), name not in OWN, name))
    return places | {name: found[name] for name in names}


def _kind(values: Iterable[Any]) -> str:
    """`bool`, `int`, `float` or `str`, or `json` where there are several of them."""
    kinds, exact = set(), True
    for value in values:
        kinds.add(type(value).__name__)
        exact = exact and (not isinstance(value, int) or abs(value) <= _LARGEST_EXACT)
    if kinds == {"int", "float"} and exact:
        return "float"
    return kinds.pop() if len(kinds) == 1 else "json" if kinds else "str"
