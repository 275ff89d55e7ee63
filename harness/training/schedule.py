"""Learning-rate schedules, as the array of a whole trial's rates."""

import numpy as np


def learning_rates(schedule: str, base: float, warmup_steps: int, steps: int, constant_steps: int = 0) -> np.ndarray:
    """Computes every step's learning rate.

    The warmup is prepended, as the playbook has it (10,000 + 1,000 = 11,000 steps): it ramps linearly from 0 to the
    base rate and the schedule then starts from its beginning. (`optax.warmup_cosine_decay_schedule` counts the warmup
    inside the decay instead.)

    Args:
      schedule: `constant`, `linear` (to 0 at the end), `cosine` (half a period, to 0 at the end) or `square_root` (in
        inverse proportion to the square root of time, to a tenth at the end).
      base: the rate at the end of warmup.
      warmup_steps: length of the ramp; its first step has rate 0.
      steps: length of the schedule after it.
      constant_steps: how many of them, at most all, keep the base rate before the decay begins, which the rest are for.

    Returns:
      float32 (warmup_steps + steps,).
    """
    ramp = np.arange(warmup_steps) / max(warmup_steps, 1)
    length = steps - constant_steps
    progress = np.arange(length) / max(length, 1)
    decay = {
        "constant": np.ones(length),
        "linear": 1 - progress,
        "cosine": (1 + np.cos(np.pi * progress)) / 2,
        "square_root": 1 / np.sqrt(1 + 99 * progress),
    }
    return (base * np.concatenate([ramp, np.ones(constant_steps), decay[schedule]])).astype(np.float32)
