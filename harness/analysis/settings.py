"""Which trials of a table ran the same setting."""

from __future__ import annotations

import dataclasses

import numpy as np

from harness.analysis.axes import scores
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


def by_setting(table: TrialTable) -> tuple[TrialTable, np.ndarray]:
    """One row per setting, as the tests of what a hyperparameter does want it.

    Runs of one setting share all their hyperparameters, so that they are no independent evidence on any: with 5 seeds
    per setting, tests on runs call a hyperparameter without effect one that matters in nearly every study.

    Args:
      table: finished trials, (n,).

    Returns:
      The table of the settings in the order of their first runs, (m,): the objective is the mean over the runs, and a
      setting is infeasible where one of its runs is; without seeds and curves. And the index in `table` of each
      setting's best run, int64 (m,).
    """
    codes, score = setting_codes(table), scores(table)
    first = np.unique(codes, return_index=True)[1]
    if len(first) == len(codes):
        return table, np.arange(len(codes))
    order = np.argsort(first)
    best = np.lexsort((score, codes))[np.cumsum(np.bincount(codes)) - np.bincount(codes)]
    failed = np.bincount(codes, np.isinf(score)) > 0
    # Divided first, so that no sum overflows.
    mean = np.bincount(codes, np.where(np.isinf(score), 0.0, table.objective) / np.bincount(codes)[codes])
    first, best, failed, mean = first[order], best[order], failed[order], mean[order]
    settings = dataclasses.replace(
        table,
        trials=tuple(table.trials[i] for i in best),
        hyperparameters={name: values[first] for name, values in table.hyperparameters.items()},
        objective=np.where(failed, np.nan, mean),
        infeasible=failed,
        seeds={},
        curves={},
    )
    return settings, best
