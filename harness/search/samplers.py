"""Samplers: points of a search space, each the next element of one sequence that the seed alone decides."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator

import numpy as np

from harness.records import InputError, did_you_mean
from harness.search.space import Space

SAMPLERS = ("halton", "sobol", "random", "grid")
MAX_TRIALS = 2**20  # far below the 2**30 points of scipy's Sobol sequence, and what fits into memory
MAX_SEED = 2**63 - 1  # what fits into a signed 64-bit column


def sample(
    space: Space, sampler: str, seed: int, trials: int, start: int = 0
) -> list[dict[str, float | int | str | bool]]:
    """Draws elements `start` to `start + trials` of the sequence of points that `sampler` and `seed` decide.

    More points extend the sequence and never resample it: however a study is cut into calls, it has the same points.

    `halton` and `sobol` are quasi-random search: scrambled sequences that fill the space evenly from the first point
    on. A Sobol sequence is balanced only after a power of two of points; scipy's warning of that is not shown, for a
    study may always be extended. `random` draws independent uniform points. `grid` is the Cartesian product of
    `values`, the first hyperparameter slowest; its seed has no effect.

    Every axis has its dimension of the sequence, whether it applies or not, and a point leaves out those that do not: a
    condition changes no other value. In a grid no point stands twice: axes that others depend on come first and change
    slowest, and the product is of the axes that apply.

    Args:
      space: where the points lie; for `grid`, every hyperparameter must have `values`.
      sampler: one of `SAMPLERS`.
      seed: 0 to `MAX_SEED`.
      trials: number of points, at least 1; `start + trials` is at most `MAX_TRIALS`.
      start: index of the first point, at least 0.

    Returns:
      One dict a trial, name of each axis that applies to a plain Python value, in the order of the space; see
      `Space.values_set`.

    Raises:
      InputError: unknown sampler, a number outside its bounds, or a space that the sampler cannot cover.
    """
    if sampler not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise InputError(f"sampler {sampler!r} is unknown; known samplers: {known}{did_you_mean(sampler, SAMPLERS)}")
    trials = check_integer("trials", trials, 1, MAX_TRIALS)
    start = check_integer("start", start, 0, MAX_TRIALS - trials)
    seed = check_integer("seed", seed, 0, MAX_SEED)
    if sampler == "grid":
        return _grid(space, trials, start)
    unit = {"halton": _halton, "sobol": _sobol, "random": _random}[sampler](len(space), seed, trials, start)
    axes = space.hyperparameters
    return [
        space.applicable({axis.name: axis.from_unit(u) for axis, u in zip(axes, row, strict=True)})
        for row in unit.tolist()
    ]


def _halton(dimensions: int, seed: int, trials: int, start: int) -> np.ndarray:
    """Scrambled Halton points, float64 (trials, dimensions)."""
    from scipy.stats import qmc  # takes over a second to import

    return qmc.Halton(dimensions, scramble=True, rng=seed).fast_forward(start).random(trials)


def _sobol(dimensions: int, seed: int, trials: int, start: int) -> np.ndarray:
    """Scrambled Sobol points, float64 (trials, dimensions)."""
    from scipy.stats import qmc  # takes over a second to import

    if dimensions > qmc.Sobol.MAXDIM:
        raise InputError(
            f"search space of {dimensions} hyperparameters: sampler 'sobol' takes at most {qmc.Sobol.MAXDIM}; "
            "use 'halton' or 'random'"
        )
    engine = qmc.Sobol(dimensions, scramble=True, rng=seed)
    # The first point alone: scipy warns when a first draw is not a power of two, and cannot fast-forward by 0.
    first = engine.random(1)
    if start == 0:
        return np.concatenate([first, engine.random(trials - 1)])
    return engine.fast_forward(start - 1).random(trials)


def _random(dimensions: int, seed: int, trials: int, start: int) -> np.ndarray:
    """Independent uniform points, float64 (trials, dimensions)."""
    # One step of the bit generator makes one double, so that advancing skips whole points.
    return np.random.Generator(np.random.PCG64(seed).advance(start * dimensions)).random((trials, dimensions))


def _grid(space: Space, trials: int, start: int) -> list[dict]:
    for axis in space.hyperparameters:
        if axis.values is None:
            raise InputError(
                f"hyperparameter {axis.name!r}: sampler 'grid' needs values, not low = {axis.low!r} and "
                f"high = {axis.high!r}; give values = [...] or use 'halton', 'sobol' or 'random'"
            )
    points = list(itertools.islice(_grid_points(space), start + trials))
    if len(points) < start + trials:
        raise InputError(
            f"trials = {start + trials} is more than the grid's {len(points)} points; ask for at most {len(points)}"
        )
    return points[start:]


def _grid_points(space: Space) -> Iterator[dict]:
    """The points of a grid, each once."""
    parents = space.parents
    for values in itertools.product(*(space[name].values for name in parents)):
        chosen = dict(zip(parents, values, strict=True))
        # Where a parent does not apply itself, its first value stands for all.
        if any(not space.applies(name, chosen) and chosen[name] != space[name].values[0] for name in parents):
            continue
        names = [name for name in space if space.applies(name, chosen)]
        for point in itertools.product(*([chosen[n]] if n in chosen else space[n].values for n in names)):
            yield dict(zip(names, point, strict=True))


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """Gives an integer from `low` to `high` as Python's; raises InputError, which names it, for anything else."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} = {value!r} is not an integer; give one from {low} to {high}") from None
    if not low <= number <= high:
        raise InputError(f"{name} = {number} is out of range; give an integer from {low} to {high}")
    return number
