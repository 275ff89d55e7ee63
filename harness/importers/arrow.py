"""Arrow's columns as NumPy arrays, by DLPack: `to_numpy` and `fill_null` of Arrow import pandas if it is installed."""

from __future__ import annotations

import math

import numpy as np


def is_number(kind) -> bool:
    """Whether an Arrow type is an integer or floating type."""
    import pyarrow.types as types

    return types.is_floating(kind) or types.is_integer(kind)


def present(column) -> np.ndarray:
    """Which values of an Arrow array are there, bool (n,)."""
    return np.from_dlpack(column.is_valid().cast("int8")).astype(bool)


def floats(column) -> np.ndarray:
    """An Arrow array of numbers as float64 (n,), NaN where a value is missing.

    Args:
      column: an Array, not a ChunkedArray.
    """
    values = np.from_dlpack(column.cast("float64").drop_null())
    if column.null_count == 0:
        return values
    filled = np.full(len(column), math.nan)
    filled[present(column)] = values
    return filled
