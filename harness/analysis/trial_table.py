"""Picking trials out of a trial table, and pairing them by replicate."""

from collections.abc import Callable, Sequence

import numpy as np

from harness.records import TrialRecord


def at(records: Sequence[TrialRecord], arm: str, **hyperparameters: float) -> dict[int, TrialRecord]:
    """Finds the trials of an arm at a setting.

    Args:
      records: a trial table, of one or several studies.
      arm: name of the arm.
      **hyperparameters: name to exact value.

    Returns:
      Replicate to trial, in ascending order; where studies share a trial it stands once.
    """
    found = {
        record.replicate: record
        for record in records
        if record.arm == arm and all(record.hyperparameters[name] == value for name, value in hyperparameters.items())
    }
    return dict(sorted(found.items()))


def values(records: Sequence[TrialRecord], arm: str, column: str) -> list:
    """The distinct values of a hyperparameter within an arm, in ascending order."""
    return sorted({record.hyperparameters[column] for record in records if record.arm == arm})


def paired_differences(
    candidate: dict[int, TrialRecord], reference: dict[int, TrialRecord], measure: Callable[[TrialRecord], float]
) -> np.ndarray:
    """Candidate minus reference of a measure, over the replicates that both have, float64 (n,)."""
    shared = sorted(candidate.keys() & reference.keys())
    return np.array([measure(candidate[r]) - measure(reference[r]) for r in shared])


def final_error(record: TrialRecord, classes: int) -> float:
    """The error of the last evaluation; an infeasible trial counts with chance error, 1 - 1 / classes."""
    return record.results["final_error"] if record.status == "complete" else 1 - 1 / classes
