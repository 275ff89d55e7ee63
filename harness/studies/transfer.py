"""What carries over from a short training to a longer one (L643-672), and how a schedule is lengthened."""

from __future__ import annotations

from harness.records import InputError, did_you_mean
from harness.training.trial import OPTIMIZERS, SCHEDULES

TIERS = ("very likely", "likely", "might", "unlikely")
"""To transfer, as the playbook suspects and has them in this order (L643-656)."""

_OPTIMIZER = {"optimizer", "learning_rate", "batch_size", "averaging_decay"}.union(*OPTIMIZERS.values())
_REGULARISATION = {"weight_decay", "label_smoothing", "z_loss"}

KEPT = ("linear", "square_root")
"""Schedules whose decay keeps its length in a longer training (L671)."""


def tier(hyperparameter: str) -> str:
    """Which of `TIERS` a hyperparameter belongs to; what is not known is a field of the workload: architecture."""
    if hyperparameter in ("warmup_steps", "clip_threshold", "rezero") or "init" in hyperparameter:
        return "very likely"
    if hyperparameter in ("schedule", "constant_steps"):
        return "unlikely"
    if hyperparameter in _OPTIMIZER or is_regularisation(hyperparameter):
        return "might"
    return "likely"


def is_regularisation(hyperparameter: str) -> bool:
    """Whether a hyperparameter regularises or augments, by its name."""
    return hyperparameter in _REGULARISATION or "dropout" in hyperparameter or "augment" in hyperparameter


def constant_phase(schedule: str, steps: int, constant_steps: int, longer: int) -> int:
    """Steps at the base rate, after warmup, of the longer training.

    Args:
      schedule: one of `harness.training.trial.SCHEDULES`.
      steps: of the shorter training, after warmup.
      constant_steps: at the base rate in it.
      longer: steps of the longer one.

    Raises:
      InputError: an unknown schedule.
    """
    if schedule in KEPT:
        return constant_steps + longer - steps
    if schedule == "cosine":
        return round(constant_steps * longer / steps)
    if schedule == "constant":
        return 0
    known = ", ".join(SCHEDULES)
    raise InputError(f"unknown schedule {schedule!r}{did_you_mean(schedule, SCHEDULES)}; known: {known}")
