"""Runs what a store lacks of planned trials, so that a killed or extended study goes on from what is finished."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import InputError
from harness.studies.identity import source_hash
from harness.studies.pack_checkpoints import forget, pack_folder
from harness.studies.packing import Packing
from harness.studies.processes import run_trials
from harness.studies.shared_trials import Wanted, packings_here, take
from harness.studies.study import PlannedTrial
from harness.training.batches import check_batch_size
from workloads.workload import DataError, Stream

if TYPE_CHECKING:
    from harness.studies.machine import Machine
    from harness.studies.store import Store
    from harness.training.run import Outcome
    from harness.training.trial import Trial


def run_missing(
    store: Store,
    planned: Sequence[PlannedTrial],
    jobs: int,
    executor: str | None,
    on_progress: Callable[[int, int, int], None] = lambda done, infeasible, total: None,
    ray_address: str | None = None,
    neighbours: Sequence[Path] = (),
) -> None:
    """Runs the planned trials that are not finished, and stores them with how they were run.

    Where nothing is missing JAX is not loaded. More trials of a compile group that was begun are packed as its first.

    Args:
      store: of the trials.
      planned: all of them, finished ones too, later rounds behind earlier ones.
      jobs: number of worker processes, at least 1.
      executor: one of `harness.studies.policy.EXECUTORS`, or None for the policy's.
      on_progress: called with trials done, infeasible ones among them, and trials in all.
      ray_address: of a cluster for the executor `ray`, None for one on this machine.
      neighbours: result folders whose finished trials are taken where they are equal, see
        `harness.studies.shared_trials`.

    Raises:
      InputError: the store's results come from another executor or device, or see `harness.studies.processes`.
      EnvironmentFailure: see `harness.studies.processes`.
    """
    # Replicates of what is timed alone are run by turns, so that arms share what slows the machine down for a while.
    turns = sorted(planned, key=lambda place: place.replicate if place.trial.alone else -1)
    trials = {place.trial.address(): place.trial for place in turns}
    finished = store.finished() & trials.keys()
    infeasible = store.infeasible() & trials.keys()
    packings = _packings(store)
    free = {trial.compile_group() for trial in trials.values() if not trial.alone and trial.devices == 1}
    for group, packing in packings.items():
        # Ray runs any packing, and the bits are those of the kind of machine.
        if group in free and executor not in (None, "ray", packing.executor):
            raise InputError(
                f"results here come from the executor {packing.executor!r}, not {executor!r}, and bits may differ; "
                f"leave --executor out, --fresh moves them aside, or choose another --out"
            )
    on_progress(len(finished), len(infeasible), len(trials))
    if finished.issuperset(trials):
        return
    spent = float(store.fact("seconds") or 0)
    compilations = json.loads(store.fact("compilations") or "{}")
    begin = time.monotonic()

    def on_started(machine: Machine) -> None:
        before = store.fact("device")
        if before is not None and before != machine.device:
            raise InputError(
                f"results here come from {before}, this machine is {machine.device}, and their bits may differ; "
                "--fresh moves them aside, or choose another --out"
            )
        store.record_fact("device", machine.device)

    def take_from_neighbours(machine: Machine) -> set[str]:
        free_trials = [trial for trial in trials.values() if not trial.alone]
        missing = [trial for trial in free_trials if trial.address() not in finished]
        if not neighbours or not missing:
            return finished
        ways = packings_here(free_trials, machine.backend, executor, packings)
        wanted = Wanted(source_hash(), importlib.metadata.version("jax"), machine.device)
        if not (taken := take(store, missing, ways, wanted, neighbours)):
            return finished
        shared = json.loads(store.fact("shared") or "{}")
        for name, addresses in taken.items():
            shared[name] = shared.get(name, 0) + len(addresses)
            finished.update(addresses)
            for address in addresses:  # it may have been begun here before a kill
                forget(pack_folder(store.folder.absolute(), (address,)))
            groups = {trials[address].compile_group() for address in addresses}
            packings.update((group, ways[group]) for group in groups)
        infeasible.update(store.infeasible() & trials.keys())
        store.record_fact("shared", json.dumps(shared))
        store.record_fact("packings", json.dumps(packings))
        store.record_fact("seconds", repr(spent + time.monotonic() - begin))
        on_progress(len(finished), len(infeasible), len(trials))
        return finished

    def on_compiled(group: str, count: int, packing: Packing) -> None:
        packings[group] = packing
        store.record_fact("packings", json.dumps(packings))
        compilations[group] = compilations.get(group, 0) + count
        store.record_fact("compilations", json.dumps(compilations))

    def on_finished(trial: Trial, outcome: Outcome) -> None:
        address = trial.address()
        store.add(
            address,
            trial.specification(),
            outcome.status,
            outcome.reason,
            outcome.results,
            outcome.curves,
            outcome.timings,
        )
        store.record_fact("seconds", repr(spent + time.monotonic() - begin))
        finished.add(address)
        if outcome.status == "infeasible":
            infeasible.add(address)
        on_progress(len(finished), len(infeasible), len(trials))

    run_trials(
        list(trials.values()),
        jobs,
        on_started,
        on_compiled,
        on_finished,
        executor=executor,
        finished=frozenset(finished),
        packings=packings,
        ray_address=ray_address,
        folder=store.folder,
        found_elsewhere=take_from_neighbours,
    )


def check_batches(planned: Sequence[PlannedTrial]) -> None:
    """Refuses batches larger than the training set, and missing data, before there is a folder.

    Raises:
      InputError: see there.
    """
    largest = {}
    for place in planned:
        trial = place.trial
        key = json.dumps(trial.workload.data_hashes(), sort_keys=True)
        if key not in largest or trial.batch_size > largest[key].batch_size:
            largest[key] = trial
    for trial in largest.values():
        try:
            train = trial.workload.data(trial.seeds["split"]).train
        except DataError as error:
            raise InputError(str(error)) from None
        examples = train.records if isinstance(train, Stream) else next(iter(train.values()))
        check_batch_size(trial.batch_size, len(examples))


def how_it_was_run(store: Store) -> dict[str, Any]:
    """Describes how the finished trials of a store were run, as JSON-ready data.

    Returns:
      `seconds` (wall time summed over resumes), `device`, `packing` (compile group to executor, lanes and chunk),
      `compilations` (compile group to their number) and `shared` (other result folder to the number of trials that were
      taken from it, not trained here).
    """
    return {
        "seconds": round(float(store.fact("seconds") or 0), 1),
        "device": store.fact("device"),
        "packing": {
            group: {"executor": packing.executor, "lanes": packing.lanes, "chunk": packing.chunk}
            for group, packing in _packings(store).items()
        },
        "compilations": json.loads(store.fact("compilations") or "{}"),
        "shared": json.loads(store.fact("shared") or "{}"),
    }


def _packings(store: Store) -> dict[str, Packing]:
    """How the compile groups that were begun are packed."""
    recorded = json.loads(store.fact("packings") or "{}")
    return {
        group: Packing(executor, lanes, chunk, tuple(tuple(addresses) for addresses in packs))
        for group, (executor, lanes, chunk, packs) in recorded.items()
    }
