"""Whether fresh runs still give what was recorded: one two-sample test per metric, and how far it has moved.

Trials that share a seed are not independent, so the units are groups of trials that do. A unit's score is the mean,
over its settings, of the rank that its trial has among all trials of that setting, fresh and recorded: a shift that the
trials of an experiment have in common shows with the power of all of them, while an outlier or a diverged trial counts
no more than a last place. Under "nothing has changed" the labels fresh and recorded can be exchanged, so the test
permutes them, among units with the same settings only. It is exact whatever the distribution, ties included, and
the recorded sample's own sampling error is part of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.analysis.intervals import LEVEL

ALPHA = 0.01
"""Chance of any false alarm in the whole suite in one night, at most 3.65 alarms a year on average. Nights that are
pooled with one another and compared with the same recorded runs share their luck: of 30 simulated years most have no
alarm, all have 1.2 nights in 0.8 episodes on average, and one, whose recorded runs are unusual, has 14 episodes."""

NIGHTS = 3
"""Nights that are pooled. Of regressions of one trial standard deviation in every trial of an experiment, whole runs of
three nights find 97% in a single metric, simulated against one recorded seed; eight units a night alone find fewer than
two thirds, since Holm's correction asks for p below 2e-4."""

MIN_UNITS = 8
"""Units on each side, of kinds that both sides have; so few can hardly give a p-value that survives Holm below this."""

SHRINKAGE = 4.0
"""Degrees of freedom by which a kind's variance is drawn to that of all kinds: many kinds have two to four units."""

PERMUTATIONS = 100_000
"""Draws behind a small p-value: its floor, 1e-5, lies 20 times under ALPHA over 50 metrics."""

SCREEN = 2.0
"""|z| up to which the normal approximation stands for the permutations: no p-value near .05 counts after Holm."""


class Drift(NamedTuple):
    """A metric of fresh units against recorded ones.

    Attributes:
      p: two-sided p-value, in (0, 1].
      shift: of fresh from recorded units, in the metric's units.
      interval: (lower, upper) limits of the shift.
      trial_sd: standard deviation of a recorded trial within its setting, in the metric's units; NaN where no setting
        was recorded with several units.
      recorded: number of recorded units that were compared.
      fresh: number of fresh units that were compared.
    """

    p: float
    shift: float
    interval: tuple[float, float]
    trial_sd: float
    recorded: int
    fresh: int


def independent_units(seeds: Sequence[Mapping[str, int]]) -> np.ndarray:
    """Groups trials so that no two groups share a seed, whatever its purpose.

    Args:
      seeds: of each of the n trials, purpose to seed.

    Returns:
      Number of each trial's group from 0, in order of first appearance, int (n,).
    """
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for trial, purposes in enumerate(seeds):
        root(trial)
        for seed in purposes.items():
            parent[root(seed)] = root(trial)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(root(trial), len(numbers)) for trial in range(len(seeds))], np.int64)


def outcome_table(units: np.ndarray, settings: Sequence[Hashable], values: np.ndarray) -> np.ndarray:
    """Lays trials out by unit and setting.

    Args:
      units: of each of the n trials, int (n,) from 0.
      settings: of each trial; repeated trials of a setting in one unit make further columns, in their order.
      values: float64 (n,), lower is better; NaN and infinity are diverged trials.

    Returns:
      float64 (units, columns): infinite where the trial diverged, NaN where the unit has no such trial.
    """
    columns: dict[Hashable, int] = {}
    seen: dict[Hashable, int] = {}
    places = []
    for unit, setting in zip(units.tolist(), settings, strict=True):
        seen[unit, setting] = occurrence = seen.get((unit, setting), -1) + 1
        places.append(columns.setdefault((setting, occurrence), len(columns)))
    table = np.full((int(units.max(initial=-1)) + 1, len(columns)), np.nan)
    table[units, places] = np.where(np.isfinite(values), values, np.inf)
    return table


def kinds(table: np.ndarray) -> np.ndarray:
    """Numbers units from 0 by which columns they have, int (units,): only units of one kind can be exchanged."""
    return np.unique(~np.isnan(table), axis=0, return_inverse=True)[1].reshape(-1)


def unit_scores(table: np.ndarray) -> np.ndarray:
    """Mean over a unit's columns of (rank - 1/2) / trials in the column, less 1/2.

    Args:
      table: float64 (..., units, columns), see `outcome_table`.

    Returns:
      float64 (..., units) in (-1/2, 1/2), 0 for a typical unit; ties have their mean rank.
    """
    order = np.argsort(table, axis=-2, kind="stable")
    ordered = np.take_along_axis(table, order, axis=-2)
    rows = np.arange(table.shape[-2])[:, None]
    edge = np.ones_like(ordered[..., :1, :], bool)
    differs = ordered[..., 1:, :] != ordered[..., :-1, :]
    first = np.maximum.accumulate(np.where(np.concatenate([edge, differs], -2), rows, 0), axis=-2)
    last = np.where(np.concatenate([differs, edge], -2), rows, len(rows))
    last = np.minimum.accumulate(last[..., ::-1, :], axis=-2)[..., ::-1, :]
    ranks = np.empty_like(table)  # less one half
    np.put_along_axis(ranks, order, (first + last + 1) / 2, axis=-2)
    present = ~np.isnan(table)
    score = np.where(present, ranks / np.maximum(present.sum(axis=-2, keepdims=True), 1) - 0.5, 0.0)
    return score.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)


def shift_statistic(scores: np.ndarray, fresh: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Standardised sum of the fresh units' scores, a stratified linear rank statistic.

    Mean and variance are those of drawing without replacement (Lehmann 1975, Nonparametrics, appendix, section 4).

    Args:
      scores: float64 (..., units).
      fresh: bool (..., units).
      kind: int (units,), see `kinds`.

    Returns:
      z, (...,), positive where fresh units are worse; 0 where nothing can be compared.
    """
    total, variance = np.zeros(scores.shape[:-1]), np.zeros(scores.shape[:-1])
    for among, weight in _weighted_kinds(scores, kind):
        n, drawn = among.sum(), fresh[..., among].sum(-1)
        centred = scores[..., among] - scores[..., among].mean(-1, keepdims=True)
        spread = (centred**2).sum(-1) / (n - 1)
        total += weight * (centred * fresh[..., among]).sum(-1)
        variance += weight**2 * spread * drawn * (n - drawn) / n
    return total / np.sqrt(np.where(variance > 0, variance, 1))


def _weighted_kinds(scores: np.ndarray, kind: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields which units a kind has, and its weight, the inverse of its shrunk variance: the same for all labels."""
    among = [kind == one for one in np.unique(kind)]
    among = [one for one in among if one.sum() > 1]
    squares = [scores[..., one].var(-1) * one.sum() for one in among]
    df = [one.sum() - 1 for one in among]
    pooled = sum(squares) / max(sum(df), 1)
    for one, square, freedom in zip(among, squares, df, strict=True):
        spread = (square + SHRINKAGE * pooled) / (freedom + SHRINKAGE)
        yield one, np.where(spread > 1e-12, 1 / np.where(spread > 1e-12, spread, 1), 0)


def permutation_p(scores: np.ndarray, fresh: np.ndarray, kind: np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value of `shift_statistic`; where |z| exceeds `SCREEN` by seeded permutations within the kinds.

    The count has the observed labels among the draws, so that the test is exact (Phipson & Smyth 2010, Stat Appl Genet
    Mol Biol 9:39).

    Args:
      scores: float64 (units,).
      fresh: bool (units,).
      kind: int (units,).
      seed: of the permutations.

    Returns:
      Probability in (0, 1].
    """
    from scipy.special import ndtr

    z = abs(float(shift_statistic(scores, fresh, kind)))
    if z <= SCREEN:
        return float(2 * ndtr(-z))
    random = np.random.default_rng(seed)
    total, variance = np.zeros(PERMUTATIONS), 0.0
    for among, weight in _weighted_kinds(scores, kind):
        n, drawn = among.sum(), fresh[among].sum()
        centred = scores[among] - scores[among].mean()
        labels = random.permuted(np.broadcast_to(centred, (PERMUTATIONS, n)), axis=1)
        total += weight * labels[:, :drawn].sum(axis=1)
        variance += weight**2 * (centred**2).sum() / (n - 1) * drawn * (n - drawn) / n
    return float((1 + (np.abs(total) / np.sqrt(variance) >= z - 1e-9).sum()) / (1 + PERMUTATIONS))


def compare(table: np.ndarray, fresh: np.ndarray, level: float = LEVEL, seed: int = 0) -> Drift | None:
    """Compares fresh with recorded units of one metric.

    Shift and interval are those of the units' median distances from the medians of their columns, by least squares with
    one mean per kind and one shift for all: units of a kind with one on each side are pairs. They describe; the p-value
    decides.

    Args:
      table: float64 (units, columns), see `outcome_table`.
      fresh: bool (units,).
      level: two-sided confidence level of the interval.
      seed: of the permutations.

    Returns:
      The comparison, or None where the kinds that both sides have hold fewer than `MIN_UNITS` units on a side.
    """
    from scipy.special import stdtrit

    kind = kinds(table)
    both = np.isin(kind, kind[fresh]) & np.isin(kind, kind[~fresh])
    recorded, compared = int((both & ~fresh).sum()), int((both & fresh).sum())
    if min(recorded, compared) < MIN_UNITS:
        return None
    table, fresh, kind = table[both], fresh[both], kind[both]
    finite = np.where(np.isfinite(table), table, np.nan)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of columns and units that diverged
        residuals = finite - np.nanmedian(finite, axis=0)
        means = _within_fences(np.nanmedian(residuals, axis=1))
    side = fresh.astype(np.float64)
    for one in np.unique(kind):
        means[kind == one] -= means[kind == one].mean()
        side[kind == one] -= side[kind == one].mean()
    shift = float(side @ means / (side @ side))
    df = len(means) - len(np.unique(kind)) - 1
    error = np.sqrt(((means - shift * side) ** 2).sum() / df / (side @ side))
    reach = float(stdtrit(df, (1 + level) / 2) * error)
    p = permutation_p(unit_scores(table), fresh, kind, seed)
    return Drift(p, shift, (shift - reach, shift + reach), _trial_sd(residuals[~fresh]), recorded, compared)


def _within_fences(values: np.ndarray) -> np.ndarray:
    """Values cut to Tukey's far fences, three quartile distances beyond: a diverged loss can be 1e30, or NaN."""
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, [0.25, 0.75]) if len(known) else (0.0, 0.0)
    return np.clip(np.nan_to_num(values, nan=np.inf), low - 3 * (high - low), high + 3 * (high - low))


def _trial_sd(residuals: np.ndarray) -> float:
    """Standard deviation by the quartiles, 1.349 apart where normal, of columns with enough trials; or NaN."""
    counted = residuals[:, np.isfinite(residuals).sum(axis=0) >= MIN_UNITS // 2]
    if not counted.size:
        return float("nan")
    low, high = np.nanquantile(counted - np.nanmedian(counted, axis=0), [0.25, 0.75])
    return float((high - low) / 1.349)
