"""Rounds of trials in a result folder, each planned from what those before it gave."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.records import TrialRecord
from harness.studies.identity import identity
from harness.studies.missing import how_it_was_run, run_missing
from harness.studies.store import Store
from harness.studies.study import PlannedTrial

Rounds = Generator[Sequence[PlannedTrial], Sequence[TrialRecord], Any]
"""Yields the trials of a round, takes the records of all rounds so far, and returns what it makes of them.

It must be a function of its arguments and the records alone: a resumed run goes through it again.
"""


class Finished(NamedTuple):
    """What rounds gave.

    Attributes:
      found: what the generator returned.
      records: of all rounds, in the order of the plan.
      identity: of the first round, see `harness.studies.identity`, with the data of all.
      run: see `harness.studies.missing.how_it_was_run`.
    """

    found: Any
    records: list[TrialRecord]
    identity: dict[str, Any]
    run: dict[str, Any]


def run_rounds(
    first: Sequence[PlannedTrial],
    rounds: Rounds,
    folder: Path,
    jobs: int,
    executor: str | None,
    on_progress: Callable[[int, int, int], None] = lambda done, infeasible, total: None,
    ray_address: str | None = None,
    neighbours: Sequence[Path] = (),
) -> Finished:
    """Runs what a folder lacks of rounds of trials; a killed run goes on from what is finished.

    Args:
      first: the trials of the first round.
      rounds: already asked for them, so that bad input is found before there is a folder.
      folder: the result folder, which this driver holds, see `harness.studies.store.locked_folder`.
      jobs: number of worker processes, at least 1.
      executor: see `harness.studies.missing.run_missing`.
      on_progress: called with trials done, infeasible ones among them, and trials in all, of the rounds so far.
      ray_address: see `harness.studies.missing.run_missing`.
      neighbours: see `harness.studies.missing.run_missing`.

    Raises:
      InputError: the folder holds results of another specification, or see `harness.studies.missing.run_missing`.
    """
    planned, wanted, number = list(first), identity(first), 1
    store = Store(folder, wanted)
    try:
        while True:
            run_missing(store, planned, jobs, executor, on_progress, ray_address, neighbours)
            # From the store, so that a resumed run plans from the very same bits.
            records = store.records(planned)
            try:
                later = rounds.send(records)
            except StopIteration as end:
                return Finished(end.value, records, wanted, how_it_was_run(store))
            number += 1
            of_round = identity(later)
            store.begin_round(number, of_round)
            wanted = {**wanted, "data": {**wanted["data"], **of_round["data"]}}
            planned += later
    finally:
        store.close()
