"""Bayesian search: points that depend on what the trials before them gave, proposed by Optuna."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.records import InputError
from harness.search.space import Hyperparameter, Space


class BayesianSearch:
    """Proposes points by the tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS 24, section 4).

    Points and answers go in rounds: `ask` for some points, run them in any order, `tell` what they gave. Seed, size of
    the rounds and answers decide every point, so a study is resumed by asking and telling once more.

    Infeasible trials are told as complete ones that violate a constraint, with the worst value so far: told as failed
    they are forgotten, and proposed again and again.
    """

    def __init__(self, space: Space, seed: int):
        """Begins a search.

        Args:
          space: where the points lie.
          seed: at least 0.

        Raises:
          InputError: Optuna is not installed.
        """
        optuna = import_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it reports every trial otherwise
        # Optuna takes 32 bits.
        sampler = optuna.samplers.TPESampler(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
        self._space = space
        self._study = optuna.create_study(sampler=sampler)
        self._asked: list = []
        self._worst: float | None = None

    def ask(self, count: int) -> list[dict[str, float | int | str | bool]]:
        """Proposes the points of the next round; the last round must have been told.

        Args:
          count: of points, at least 1.

        Returns:
          Points as `harness.search.samplers.sample` gives them.
        """
        if self._asked:
            raise RuntimeError("the last round was not told")
        self._asked = [self._study.ask() for _ in range(count)]
        return [self._point(trial) for trial in self._asked]

    def tell(self, values: Sequence[float | None]) -> None:
        """Says what the points of the round gave.

        Args:
          values: to be minimised, one finite number a point in the order of `ask`; None where it was infeasible.
        """
        feasible = [value for value in values if value is not None]
        self._worst = max([*feasible, *([] if self._worst is None else [self._worst])], default=None)
        for trial, value in zip(self._asked, values, strict=True):
            trial.set_constraint("feasible", float(value is None))
            # Before any trial was feasible there is nothing to compare with, and any number does.
            self._study.tell(trial, value if value is not None else (self._worst or 0.0))
        self._asked = []

    def _point(self, trial) -> dict[str, float | int | str | bool]:
        # Parents first: what does not apply is not asked for.
        drawn: dict[str, float | int | str | bool] = {}
        for name in self._space.parents_first:
            if self._space.applies(name, drawn):
                drawn[name] = _suggest(trial, self._space[name])
            elif self._space[name].values:
                drawn[name] = self._space[name].values[0]  # which conditions may name; left out of the point
        return {name: drawn[name] for name in self._space if name in drawn and self._space.applies(name, drawn)}


def _suggest(trial, axis: Hyperparameter) -> float | int | str | bool:
    """A value of an axis; ranges are searched in the unit interval, which knows every scale."""
    if axis.values is not None:
        return trial.suggest_categorical(axis.name, axis.values)
    return axis.from_unit(trial.suggest_float(axis.name, 0.0, 1.0))


def import_optuna():
    """Imports Optuna.

    Raises:
      InputError: it is missing, or too old to be told of constraints.
    """
    try:
        import optuna
    except ImportError:
        found = "is not installed"
    else:
        if hasattr(optuna.Trial, "set_constraint"):
            return optuna
        found = f"{optuna.__version__} is too old"
    raise InputError(
        f"sampler 'bayesian' needs optuna, which {found}; install it with: pip install 'playbook-bench[bo]'"
    )
