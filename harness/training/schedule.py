"""Learning-rate schedules, as the array of a whole trial's rates."""

import numpy as np


def learning_rates(schedule: str, base: float, warmup_steps: int, steps: int) -> np.ndarray:
    """Computes every step's learning rate.

    The warmup is prepended, as the playbook has it (10,000 + 1,000 = 11,000 steps): it ramps linearly from 0 to the
    base rate and the schedule then starts from its beginning. (`optax.warmup_cosine_decay_schedule` counts the warmup
    inside the decay instead.)

    Args:
      schedule: `constant`, `linear` (to 0 at the end) or `cosine` (half a period, to 0 at the end).
      base: the rate at the end of warmup.
      warmup_steps: length of the ramp; its first step has rate 0.
      steps: length of the schedule after it.

    Returns:
      float32 (warmup_steps + steps,).
    """
    ramp = np.arange(warmup_steps) / max(warmup_steps, 1)
    progress = np.arange(steps) / steps
    decay = {"constant": np.ones(steps), "linear": 1 - progress, "cosine": (1 + np.cos(np.pi * progress)) / 2}
    return (base * np.concatenate([ramp, decay[schedule]])).astype(np.float32)
