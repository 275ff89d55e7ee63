"""What the training curves of trials tell (playbook L459-486): overfitting, noise, too many or too few steps, bugs.

Every curve is cut into up to `BLOCKS` blocks of equal length (to a point), whose means carry the shape. Every check
compares a difference of these means with its noise, and with the curve's fall: from the mean of the first block to the
lowest mean. The noise of a block mean is the larger of two robust estimates, which neither a trend nor a slow bend
inflates:

* from neighbouring points, the median of |y[i] - 2 y[i + 1] + y[i + 2]| / (.6745 sqrt(6)), over the square root of the
  points in a block: right where the noise of points is independent;
* the same of neighbouring block means: right where it is not, as for a loss that wanders.

Position on a curve is counted in points, so points should be evenly spaced in steps. Points that are not finite are
dropped.

Measured on 1,000 simulated curves a row (exponential falls with noise of a hundredth, independent or correlated by .6
or .9; 10 to 1,000 points): curves that saturate, improve or overfit get their label in 89 to 100% (improving: 64% of
curves of 20 points) and a wrong one in up to 4%, most with strong correlation. Independent noise without any fall gets
each label but `noisy`, which is right there, in under 1% from 50 points on; with 10 or 20 points up to 4%. Noise that
wanders over a tenth of the curve or more cannot be told from a shape: on a flat curve of 100 points with correlation
.9, 10% are called overfitting and 22% saturated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.records import Curve, InputError

BLOCKS = 20
"""Blocks of a curve: a twentieth of training is the finest shape that the checks name."""

MIN_POINTS = 10
"""Points below which a curve has no shape to check; its checks are None."""


@dataclass(frozen=True)
class Thresholds:
    """When a curve gets which label; every share is of the curve's fall, every noise that of one block mean.

    Attributes:
      noise: differences of block means under so many noises are no differences. The lowest of 20 means of pure noise
        lies 1.9 noises low, and the difference of two has 1.4, so 5 keeps labels rare on noise alone.
      overfit: rise of the validation from its lowest block to the last two from which overfitting is a problem: a
        tenth of all that training gained is lost again.
      late_noise: standard deviation between neighbouring points, in the last quarter, from which a trial ends "lucky"
        or "unlucky": a twentieth of the fall, where the caller has no difference that matters.
      improving: fall over the last quarter, halves compared, from which more steps would bring more: one part in 100.
      saturated: what is left to gain from a block on, under which training is done: one part in 50.
      early: share of training before which that has to be, for fewer steps to do.
      period_p: chance on noise of calling a curve periodic, over all frequencies. Small, since a table has many trials.
    """

    noise: float = 5.0
    overfit: float = 0.1
    late_noise: float = 0.05
    improving: float = 0.01
    saturated: float = 0.02
    early: float = 0.5
    period_p: float = 1e-3


class CurveChecks(NamedTuple):
    """The checks of one trial, with their evidence in the units of the curve.

    Attributes:
      overfitting: validation fell by more than its noise, then rises from its lowest block by `overfit` of the fall and
        by more than its noise, while training still falls (or was not given).
      rise: mean of the last two validation blocks less the lowest.
      noisy: points vary late in training by more than `late_noise` of the fall, or than the difference that matters.
      late_sd: standard deviation between neighbouring points in the last quarter, trend removed.
      improving: validation still falls at the end.
      late_fall: mean of the last quarter's first half less its second.
      saturated: nothing more was gained well before the end.
      saturated_at: share of training, 0 to 1, after which under `saturated` of the fall was left to gain.
      rising: training loss (validation, where there is none) ends above its start: usually a bug in the pipeline.
      periodic: training (or validation) repeats itself, as with data that is not shuffled.
      period: its period in points; NaN where it is not periodic.
      best_step: step of the best validation point.
      best_at: the same as a share of the points, 0 to 1.
      fall: mean of the first validation block less the lowest; 0 where that is the first.
      noise: noise of a validation block mean.
    """

    overfitting: bool
    rise: float
    noisy: bool
    late_sd: float
    improving: bool
    late_fall: float
    saturated: bool
    saturated_at: float
    rising: bool
    periodic: bool
    period: float
    best_step: float
    best_at: float
    fall: float
    noise: float


def check_curves(
    validation: Sequence[Curve | None],
    training: Sequence[Curve | None] | None = None,
    *,
    goal: str = "min",
    training_goal: str = "min",
    difference: float | None = None,
    thresholds: Thresholds | None = None,
) -> tuple[CurveChecks | None, ...]:
    """Checks the training curves of trials.

    Args:
      validation: one curve per trial, or None.
      training: the training curves of the same trials.
      goal: `min` or `max`, of the validation curves.
      training_goal: the same of the training curves.
      difference: difference between trials that matters, in units of the validation; noise late in training is held
        against it, where given, instead of the fall.
      thresholds: when a curve gets which label.

    Returns:
      One per trial; None where the validation has under `MIN_POINTS` finite points.

    Raises:
      InputError: a goal that is none, or training curves that are not one per trial.
    """
    for name, value in (("goal", goal), ("training_goal", training_goal)):
        if value not in ("min", "max"):
            raise InputError(f"{name} {value!r} is not a goal; give 'min' or 'max'")
    if training is not None and len(training) != len(validation):
        raise InputError(f"{len(training)} training curves for {len(validation)} trials; give one or None per trial")
    limits = thresholds or Thresholds()
    count = len(validation)
    main = _measure(validation, goal, limits)
    other = _measure(training, training_goal, limits) if training is not None else [None] * count
    return tuple(None if main[i] is None else _judge(main[i], other[i], difference, limits) for i in range(count))


class _Shape(NamedTuple):
    """Numbers of one curve, lower is better: block means (b,), then scalars as in `CurveChecks`."""

    means: np.ndarray
    noise: float
    late_sd: float
    late_fall: float
    late_noise: float
    period: float
    best_step: float
    best_at: float


def _judge(main: _Shape, training: _Shape | None, difference: float | None, limits: Thresholds) -> CurveChecks:
    """Puts the labels on one trial."""
    means, source = main.means, training or main
    lowest = int(np.argmin(means))
    fall, rise = float(means[0] - means[lowest]), float(means[-2:].mean() - means[lowest])
    learned = fall > limits.noise * main.noise
    overfitting = learned and rise > max(limits.noise * main.noise, limits.overfit * fall)
    if overfitting and training is not None:
        before = training.means[min(round((lowest + 0.5) / len(means) * len(training.means)), len(training.means) - 1)]
        overfitting = bool(training.means[-2:].mean() < before)
    improving = main.late_fall > max(limits.noise * main.late_noise, limits.improving * fall)
    # From which block on no later one is better by more than what still counts as a gain.
    reached = means - np.minimum.accumulate(means[::-1])[::-1] <= max(
        limits.saturated * fall, limits.noise * main.noise
    )
    saturated_at = float(np.argmax(reached) / len(means))
    return CurveChecks(
        overfitting=bool(overfitting),
        rise=rise,
        noisy=bool(main.late_sd > (limits.late_noise * fall if difference is None else difference)),
        late_sd=main.late_sd,
        improving=bool(improving),
        late_fall=main.late_fall,
        saturated=bool(saturated_at <= limits.early and not improving and learned),
        saturated_at=saturated_at,
        rising=bool(source.means[-2:].mean() - source.means[0] > limits.noise * source.noise),
        periodic=bool(np.isfinite(source.period)),
        period=source.period,
        best_step=main.best_step,
        best_at=main.best_at,
        fall=fall,
        noise=main.noise,
    )


def _measure(curves: Sequence[Curve | None], goal: str, limits: Thresholds) -> list[_Shape | None]:
    """Shapes of curves, computed for all curves of one length at once."""
    shapes: list[_Shape | None] = [None] * len(curves)
    groups: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for i, curve in enumerate(curves):
        if curve is None:
            continue
        values, steps = np.asarray(curve.values, np.float64), np.asarray(curve.steps, np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            values, steps = values[finite], steps[finite]
        if len(values) >= MIN_POINTS:
            groups.setdefault(len(values), []).append((i, values, steps))
    for members in groups.values():
        y = np.stack([values for _, values, _ in members])
        for (i, _, steps), shape in zip(members, _shapes(y if goal == "min" else -y, limits), strict=True):
            shapes[i] = shape._replace(best_step=float(steps[round(shape.best_step)]))
    return shapes


def _shapes(y: np.ndarray, limits: Thresholds) -> list[_Shape]:
    """Shapes of curves (n, m), lower is better; `best_step` is still an index."""
    n, m = y.shape
    blocks = min(BLOCKS, m)
    starts = np.arange(blocks) * m // blocks
    means = np.add.reduceat(y, starts, axis=1) / np.diff(np.append(starts, m))
    width = m / blocks
    noise = np.maximum(_noise(y) / np.sqrt(width), _noise(means))
    quarter = y[:, m - max(m // 4, 4) :]
    half = quarter.shape[1] // 2
    late_sd = _noise(quarter)
    late_fall = quarter[:, :half].mean(axis=1) - quarter[:, -half:].mean(axis=1)
    # A half of the last quarter holds 2.5 of 20 blocks; both estimates of noise shrink with its root.
    late_noise = np.maximum(late_sd / np.sqrt(half), _noise(means) * np.sqrt(width / half))
    best = np.argmin(y, axis=1)
    columns = (noise, late_sd, late_fall, late_noise, _periods(y, limits.period_p), best, best / (m - 1))
    return [_Shape(means[i], *(float(column[i]) for column in columns)) for i in range(n)]


def _noise(y: np.ndarray) -> np.ndarray:
    """Robust standard deviation (n,) of independent noise on curves (n, m), by second differences."""
    second = np.abs(y[:, :-2] - 2 * y[:, 1:-1] + y[:, 2:])
    return np.median(second, axis=1) / (0.6744898 * np.sqrt(6))


_PERIODIC_POINTS = 64  # fewer hold too few cycles
_CYCLES = 4  # a period has to come back this often
_NEIGHBOURS = 8  # frequencies on either side that a peak is compared with


def _periods(y: np.ndarray, p: float) -> np.ndarray:
    """Period in points (n,), NaN where there is none, by peaks of the periodogram over their neighbourhood.

    Of the last three quarters of the curve, differenced, so that neither trend nor slow wandering makes a peak. Under
    noise of a smooth spectrum an ordinate over the mean of its 2 h neighbours is above x with chance (1 + x / h)^(-h):
    the F distribution with 2 and 2 h degrees of freedom, half of what 2 h independent ordinates have, since the window
    of Hann joins neighbours; Bonferroni over the frequencies.
    """
    n, m = y.shape
    if m < _PERIODIC_POINTS:
        return np.full(n, np.nan)
    change = np.diff(y[:, m // 4 :], axis=1)
    power = (
        np.abs(np.fft.rfft((change - change.mean(axis=1, keepdims=True)) * np.hanning(change.shape[1]), axis=1)) ** 2
    )
    return _peaks(power, change.shape[1], p)


def _peaks(power: np.ndarray, points: int, p: float) -> np.ndarray:
    """Period (n,) of the tallest peak of periodograms (n, f), NaN where none is above chance p."""
    h, gap = _NEIGHBOURS, 2  # the window of Hann leaks a peak into its 2 neighbours
    first, last = max(_CYCLES, h + gap), power.shape[1] - h - gap
    if last <= first:
        return np.full(len(power), np.nan)
    total = np.cumsum(np.pad(power, ((0, 0), (1, 0))), axis=1)
    at = np.arange(first, last)
    around = total[:, at - gap] - total[:, at - gap - h] + total[:, at + gap + 1 + h] - total[:, at + gap + 1]
    ratio = power[:, at] / np.maximum(around / (2 * h), np.finfo(float).tiny)
    tallest = np.argmax(ratio, axis=1)
    chance = len(at) * (1 + ratio[np.arange(len(power)), tallest] / h) ** -h
    return np.where(chance <= p, points / at[tallest], np.nan)
