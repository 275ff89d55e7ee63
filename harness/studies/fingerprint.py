"""One hash for everything that a set of finished trials found."""

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.records import TrialRecord

_NAN = np.float32("nan").tobytes()


def fingerprint(records: Sequence[TrialRecord]) -> str:
    """Hashes a trial table in canonical row and column order.

    Floats are taken as float32 with one NaN, timings are left out, and rows are ordered by study, arm, replicate and
    address, so that the hash depends on neither the order nor the number of processes.

    Args:
      records: the rows, in any order.

    Returns:
      sha256, in hexadecimal.
    """
    digest = hashlib.sha256()
    for record in sorted(records, key=lambda r: (r.study, r.arm, r.replicate, r.address)):
        for column, kind, value in record.columns():
            if kind != "timing":
                name, content = column.encode(), _content(value)
                digest.update(struct.pack("<QQ", len(name), len(content)) + name + content)
    return digest.hexdigest()


def _content(value: Any) -> bytes:
    if isinstance(value, float | np.ndarray):
        floats = np.atleast_1d(np.asarray(value)).astype("<f4")
        floats[np.isnan(floats)] = np.frombuffer(_NAN, np.float32)[0]
        return b"f" + floats.tobytes()
    return b"t" + repr(value).encode()
