"""Is the search space wide enough: do the best trials crowd at a side of it (playbook L407, L421-441)?

For each side of each numeric hyperparameter three questions are put against "it does nothing", in which case the best
trials lie wherever trials lie, however those were sampled:

* Do the best m of the n feasible trials crowd at that side? X of them lie in the outermost part of the feasible trials;
  under the null X is hypergeometric (Fisher's exact test).
* Do infeasible trials lie at that side? A one-sided rank-sum test of positions.
* Are the trials at that side worse than those further in? A one-sided rank-sum test of the objective, the outermost
  part against the rest of its half, infeasible trials worst of all.

The test of crowding looks at feasible trials alone, so it stays exact where infeasible ones are placed by a wall.

Fixed on simulated searches (errors quadratic in the position u of one hyperparameter, or of 1, 2, 4 and 6, with normal
noise; uniform samples of 20 to 1,000 trials; the other hyperparameters with optimum .5), not on real studies. With m =
n / 5 and an outermost fifth, an optimum outside of the range (u = 1.5, noise sd .1) is flagged in 93% of searches of 20
trials and over 99% from 50 on, one at .5 never. A tenth for both finds 67% at 20 trials, since three trials at an edge
are few; a quarter flags an optimum at .7 in up to 22%. The cap of 20 is for large studies: with 6 hyperparameters and
1,000 trials, an optimum just at the edge is found in 99% of searches against 73%, since the best 200 are spread by the
other hyperparameters.

Measured where hyperparameters do nothing (2,000 simulated studies of 20, 50 or 100 trials a row, level 5%): a side is
called open or a wall in 1.1 to 1.9% of studies with one range and 1.1 to 2.2% with four, with normal or bimodal errors
and with infeasible trials anywhere or beyond a wall; closed in 3.4 to 4.2%, the last case apart, where it is right.
Where the optimum lies beyond a wall at .7 or .9 of the range, the wall is found in 83 and 61% of 200 searches of 20
trials, in 99% and more from 50 on; one at .95 in 28, 73 and 95% of searches of 20, 50 and 100, else called open. The
wall rule was settled on these same simulations: counting further out than the median of the best, instead of every one,
found a wall at .9 in half of the searches of 50 trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from harness.analysis.axes import Axis, numeric_column, positions, scores, value_at
from harness.analysis.rank_tests import holm, hypergeometric_upper, rank_sum_tails
from harness.records import InputError, TrialTable

BEST_SHARE = 0.2
"""Share of the feasible trials that are called the best; at least `FEWEST_BEST`, at most `MOST_BEST`."""

FEWEST_BEST = 5
"""All of 5 best of 20 in a fifth has a chance of 1 / 15,504, four of 5 one of .005: enough for Holm over 5 ranges."""

MOST_BEST = 20
"""Beyond, more trials would not be the best any more: they are spread by the other hyperparameters."""

EDGE_SHARE = 0.2
"""What is the outermost part of a range: this share of the trials or of their extent, whichever holds more trials.

By extent, so that a sampler that itself went to the edge is not held against the edge; by trials, so that an edge with
few of them is not decided by two or three.
"""

CROWD_SHARE = 0.5
"""Share of the best trials at a side from which they crowd there: in large studies a lesser excess is significant, and
no reason to widen."""

WALL_SHARE = 0.5
"""Share of infeasible trials, of those further out than every one of the best, from which they are a wall."""

LEVEL = 0.05
"""Chance, over all sides together, of a crowd where hyperparameters do nothing; of `closed` and of walls likewise."""

MIN_TRIALS = 10
"""Feasible trials below which nothing can be decided: 5 best, all in the outermost 5 of 10, have a chance of .004."""


class Side(NamedTuple):
    """One side of the range of a hyperparameter.

    Attributes:
      hyperparameter: its name.
      side: `low` or `high`.
      verdict: `open` (the best trials crowd at it: widen the range), `wall` (they do, and further out most are
        infeasible: stability is the problem, not width), `closed` (trials at it are clearly worse) or `undecided`.
      trials: feasible trials that have the hyperparameter.
      best: how many of them are called the best.
      at_edge: feasible trials in the outermost part.
      best_at_edge: best trials in the outermost part; best * at_edge / trials are expected by chance.
      edge: value at which the outermost part of the feasible trials begins; NaN without trials.
      p_crowd: p-value of the crowd, Holm-adjusted over all sides.
      p_worse: p-value of worse trials at the side, likewise.
      p_infeasible: p-value of infeasible trials at the side, likewise.
      infeasible_beyond: infeasible trials further out than every one of the best.
      beyond: all trials there.
      unsampled: part of the range, 0 to 1, outside of the outermost trial.
    """

    hyperparameter: str
    side: str
    verdict: str
    trials: int
    best: int
    at_edge: int
    best_at_edge: int
    edge: float
    p_crowd: float
    p_worse: float
    p_infeasible: float
    infeasible_beyond: int
    beyond: int
    unsampled: float


def check_boundaries(
    table: TrialTable,
    axes: Mapping[str, Axis],
    *,
    level: float = LEVEL,
    best_share: float = BEST_SHARE,
    edge_share: float = EDGE_SHARE,
    crowd_share: float = CROWD_SHARE,
    wall_share: float = WALL_SHARE,
) -> tuple[Side, ...]:
    """Checks every side of every range.

    A side is `wall` or `open` where the best trials crowd at it: `p_crowd` is at most the level and they are at least
    `crowd_share` of the best. It is a wall where moreover `p_infeasible` is at most the level and at least `wall_share`
    of the trials further out than every one of the best are infeasible. It is `undecided` instead of `open` where more
    than `edge_share` of the range beyond the outermost trial was never sampled. Else it is `closed` where `p_worse` is
    at most the level.

    Trials to which a hyperparameter does not apply are left out of its check. Categories have no sides.

    Args:
      table: finished trials; one whose objective is not finite counts as infeasible.
      axes: name to range and scale of each numeric hyperparameter to check.
      level: see `LEVEL`.
      best_share: see `BEST_SHARE`.
      edge_share: see `EDGE_SHARE`.
      crowd_share: see `CROWD_SHARE`.
      wall_share: see `WALL_SHARE`.

    Returns:
      Two sides per axis, in the order of `axes`, low first.

    Raises:
      InputError: an axis without its column, a category with an axis, values that the scale does not have, or a share
        outside of (0, 1).
    """
    settings = {"level": level, "best_share": best_share, "edge_share": edge_share}
    for name, share in settings.items() | {("crowd_share", crowd_share), ("wall_share", wall_share)}:
        if not 0 < share < 1:
            raise InputError(f"{name} = {share} is not between 0 and 1; give a share such as 0.2")
    score = scores(table)
    sides = []
    for name, axis in axes.items():
        at = positions(name, numeric_column(table, name), axis)
        applies = np.isfinite(at)
        at, measured = at[applies], score[applies]
        for side, p in zip(("low", "high"), rank_sum_tails(at, np.isinf(measured)), strict=True):
            sides.append(_measure(name, side, axis, at, measured, p, best_share, edge_share))
    for p in ("p_crowd", "p_worse", "p_infeasible"):
        # Only sides that could be tested count among the comparisons.
        tested = [i for i, side in enumerate(sides) if not math.isnan(getattr(side, p))]
        adjusted = dict(zip(tested, holm(np.array([getattr(sides[i], p) for i in tested])).tolist(), strict=True))
        sides = [side._replace(**{p: adjusted.get(i, 1.0)}) for i, side in enumerate(sides)]
    return tuple(side._replace(verdict=_verdict(side, level, edge_share, crowd_share, wall_share)) for side in sides)


def _verdict(side: Side, level: float, edge_share: float, crowd_share: float, wall_share: float) -> str:
    """The rule of `check_boundaries`."""
    if side.p_crowd <= level and side.best_at_edge >= crowd_share * side.best:
        if side.p_infeasible <= level and side.infeasible_beyond >= wall_share * max(side.beyond, 1):
            return "wall"
        return "open" if side.unsampled <= edge_share else "undecided"
    return "closed" if side.p_worse <= level else "undecided"


def _measure(
    name: str,
    side: str,
    axis: Axis,
    at: np.ndarray,
    score: np.ndarray,
    p_infeasible: float,
    best_share: float,
    edge_share: float,
) -> Side:
    """Evidence on one side, with p-values of this side alone and NaN where nothing can be tested."""
    outwards = at if side == "high" else -at
    bad = np.isinf(score)
    feasible, measured = outwards[~bad], score[~bad]
    n, end = len(feasible), 1.0 if side == "high" else 0.0
    unsampled = float(np.clip((end if side == "high" else -end) - outwards.max(), 0, 1)) if len(at) else 1.0
    untested = float("nan")
    nothing = Side(name, side, "undecided", n, 0, 0, 0, untested, untested, untested, untested, 0, 0, unsampled)
    if n < MIN_TRIALS or feasible.min() == feasible.max() or measured.min() == measured.max():
        return nothing
    count = min(MOST_BEST, max(FEWEST_BEST, math.ceil(best_share * n)))
    best = measured <= np.partition(measured, count - 1)[count - 1]  # with ties
    edge = _edge(feasible, edge_share)
    crowd = int((best & (feasible >= edge)).sum())
    beyond = outwards > feasible[best].max()
    return nothing._replace(
        best=int(best.sum()),
        at_edge=int((feasible >= edge).sum()),
        best_at_edge=crowd,
        edge=value_at(float(edge if side == "high" else -edge), axis),
        p_crowd=hypergeometric_upper(crowd, n, int((feasible >= edge).sum()), int(best.sum())),
        p_worse=_p_worse(outwards, score, edge_share),
        p_infeasible=p_infeasible if bad.any() else untested,
        infeasible_beyond=int((beyond & bad).sum()),
        beyond=int(beyond.sum()),
    )


def _edge(outwards: np.ndarray, edge_share: float) -> float:
    """Where the outermost part of positions (n,) begins: of equal ones, as on a grid, all belong to it or none."""
    count = max(FEWEST_BEST, math.ceil(edge_share * len(outwards)))
    by_trials = np.partition(outwards, -count)[-count]
    further = outwards[outwards > by_trials]
    if len(further) >= FEWEST_BEST and (outwards >= by_trials).sum() > count:  # a grid's value that would overfill it
        by_trials = further.min()
    top, bottom = outwards.max(), outwards.min()
    return float(min(by_trials, top - edge_share * (top - bottom) + 1e-9))  # a grid's value at the border stays outside


def _p_worse(outwards: np.ndarray, score: np.ndarray, edge_share: float) -> float:
    """One-sided p of "trials in the outermost part are worse than the rest of their half"; NaN without a rest."""
    edge = _edge(outwards, edge_share)
    half = (outwards >= np.median(outwards)) | (outwards >= edge)
    at_edge = outwards[half] >= edge
    if at_edge.all():
        return float("nan")
    return rank_sum_tails(score[half], at_edge)[1]
