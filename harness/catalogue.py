"""Runs several experiments, one after the other; one that cannot be run takes nothing from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.experiments.experiment import Experiment
from harness.reproduce import PROGRAM_FAILED, attempt, check_asked, exit_status


def reproduce_several(
    wanted: Sequence[Experiment],
    on_begin: Callable[[str], None],
    on_end: Callable[[Mapping[str, Any]], None],
    **asked: Any,
) -> list[dict[str, Any]]:
    """Runs what is missing of several experiments and judges them.

    What would stop every one of them stops the command before anything runs. An experiment that alone cannot be run,
    such as for missing data, a package that is not installed or a fault of the program, is passed over and named.

    Args:
      wanted: the experiments, in this order.
      on_begin: called with the name of the experiment that is run next.
      on_end: called with each outcome.
      **asked: what else `harness.reproduce.reproduce` takes.

    Returns:
      What `harness.reproduce.attempt` returns, per experiment.

    Raises:
      InputError: bad scale, seed, number of jobs or executor.
    """
    check_asked(**{name: asked[name] for name in ("scale", "seed", "jobs", "executor", "ray_address")})
    outcomes = []
    for one in wanted:
        on_begin(one.name)
        outcome = attempt(one, **asked)
        on_end(outcome)
        outcomes.append(outcome)
    return outcomes


def exit_status_of_all(outcomes: Iterable[Mapping[str, Any]]) -> int:
    """Exit status of several outcomes, the first of these that some experiment has.

    70 (the program failed) and 2 (it could not be run) come before 1 (a claim is contradicted), 3 (inconclusive) and 0,
    which say something of the whole catalogue and may do so only where all of it was run.
    """
    found = {outcome["status"] if "error" in outcome else exit_status(outcome) for outcome in outcomes}
    return next(status for status in (PROGRAM_FAILED, 2, 1, 3, 0) if status in found)
