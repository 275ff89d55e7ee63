"""Which trials of a table ran the same setting."""

from __future__ import annotations

import numpy as np

from harness.records import TrialTable


def setting_codes(table: TrialTable) -> np.ndarray:
    """Numbers the settings: trials whose hyperparameters are all equal share a number.

    Args:
      table: finished trials; a hyperparameter that applies to neither of two trials is equal in both.

    Returns:
      int64 (n,), from 0; all 0 where the table has no hyperparameters.
    """
    codes = np.zeros(len(table.trials), np.int64)
    for values in table.hyperparameters.values():
        if values.dtype == object:
            known: dict = {}
            column = np.array([known.setdefault((type(v), v), len(known)) for v in values.tolist()], np.int64)
        else:
            column = np.unique(values, return_inverse=True)[1]  # NaN equals NaN here
        # Renumbered at every column, so that products of many columns never overflow.
        codes = np.unique(codes * (column.max(initial=0) + 1) + column, return_inverse=True)[1]
    return codes
