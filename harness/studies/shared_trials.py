"""Finished trials of other result folders, taken where training them here would give the same bits."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.studies.packing import Packing, pack
from harness.studies.policy import policy
from harness.studies.store import DATABASE, Row, Store, check_last_page
from harness.training.trial import Trial, canonical_json

_TRIAL = "address, specification, status, reason, results, timings"
_CURVE = "address, name, points"


class Unusable(Exception):
    """Another folder's store cannot be read now, or not be trusted; its trials are trained here instead."""


class Wanted(NamedTuple):
    """What another folder has to have in common with this one.

    Attributes:
      source: see `harness.studies.identity`.
      jax: its version.
      device: kind of the device, or the CPU's model.
    """

    source: str
    jax: str
    device: str


def neighbours(folder: Path) -> list[Path]:
    """Result folders beside one that may hold trials of its own: other experiments of its scale and seed, and controls.

    Folders that `--fresh` has moved aside are none.

    Args:
      folder: `OUT/<experiment>/<scale>-seed<N>`, with or without `-control` behind it.

    Returns:
      Those that have a store, by name.
    """
    name = folder.name.removesuffix("-control")
    databases = [path for kind in (name, f"{name}-control") for path in folder.parents[1].glob(f"*/{kind}/{DATABASE}")]
    return sorted(path.parent for path in databases if path.parent != folder)


def packings_here(
    trials: Sequence[Trial], backend: str, executor: str | None, begun: Mapping[str, Packing]
) -> dict[str, Packing]:
    """How compile groups are run here by processes, as `harness.studies.processes` would pack them.

    Args:
      trials: all that are planned but those that are timed alone.
      backend: `cpu`, `gpu` or `tpu`.
      executor: one of `harness.studies.policy.EXECUTORS`, or None for the policy's.
      begun: of the groups that were begun, which keep them.

    Returns:
      Compile group to packing; without the groups that lanes run.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.compile_group(), []).append(trial)
    found = {}
    for group, members in groups.items():
        first = members[0]
        chosen = policy(first.workload.name, backend)
        asked = chosen.executor if executor in (None, "ray") else executor
        by = "processes" if first.devices > 1 else asked
        packing = begun.get(group) or pack(members, by, 1, first.steps_per_call or chosen.chunk)
        if packing.executor == "processes":
            found[group] = packing
    return found


def take(
    store: Store, missing: Sequence[Trial], ways: Mapping[str, Packing], wanted: Wanted, folders: Sequence[Path]
) -> dict[str, set[str]]:
    """Copies finished trials of other folders into a store.

    Taken are trials of equal address, code, data, jax, kind of machine and chunk that ran in processes both there and
    here: the bits of lanes depend on what else is in the pack, those of a process on nothing else. A folder whose store
    is corrupt, of other code or being written at this moment is passed over without a word, since its trials are then
    trained here. No folder is locked or written: a driver may be at work in it.

    Args:
      store: that lacks them.
      missing: the trials, none of which is timed alone: another run's timings are none of this one.
      ways: compile group to how processes run it here, see `packings_here`; trials of other groups are not taken.
      wanted: what the other folders have to have in common with this one.
      folders: to look into, in this order.

    Returns:
      Folder, as `<experiment>/<scale>-seed<N>`, to the addresses of the trials taken from it.

    Raises:
      InputError: this folder cannot be written.
    """
    left = {trial.address(): trial for trial in missing if trial.compile_group() in ways}
    taken = {}
    for folder in folders:
        if not left:
            break
        try:
            addresses = store.add_rows(_rows(folder / DATABASE, left, ways, wanted))
        except Unusable:
            continue
        if addresses:
            taken[f"{folder.parent.name}/{folder.name}"] = addresses
        left = {address: trial for address, trial in left.items() if address not in addresses}
    return taken


def _rows(path: Path, left: Mapping[str, Trial], ways: Mapping[str, Packing], wanted: Wanted) -> Iterator[Row]:
    """Rows of another store, read without a trace.

    Raises:
      Unusable: after some rows, too, which then are not to be trusted.
    """
    try:
        # A driver at work has both; SQLite would create what is missing, for a reader as well.
        log, index = (path.with_name(f"{DATABASE}-{kind}") for kind in ("wal", "shm"))
        at_work = log.exists()
        if at_work and not index.exists():
            raise Unusable(f"{log} has no index")
        # Of a killed driver on a file system without shared memory; it undoes what is half written.
        journal = path.with_name(f"{DATABASE}-journal")
        if journal.exists() and journal.stat().st_size > 0:
            raise Unusable(f"{journal} is to be rolled back")
        before = _state(path)
        mode = "mode=ro" if at_work else "immutable=1"
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=0)) as database:
            found = {address for (address,) in database.execute("SELECT address FROM trials")} & left.keys()
            if not found:
                return
            if not (usable := _usable(database, found, left, ways, wanted)):
                return
            if database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise Unusable(f"{path} is corrupt")
            if not at_work:
                check_last_page(path, database)
            for address in usable:
                row = Row(
                    database.execute(f"SELECT {_TRIAL} FROM trials WHERE address = ?", (address,)).fetchone(),
                    database.execute(f"SELECT {_CURVE} FROM curves WHERE address = ?", (address,)).fetchall(),
                )
                _check(row)
                yield row
        # Reading what is immutable takes no lock, so that a driver may have begun to write meanwhile.
        if not at_work and (log.exists() or _state(path) != before):
            raise Unusable(f"{path} was written meanwhile")
    except (sqlite3.Error, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unusable(f"{path}: {error}") from None


def _usable(
    database: sqlite3.Connection,
    found: Collection[str],
    left: Mapping[str, Trial],
    ways: Mapping[str, Packing],
    wanted: Wanted,
) -> list[str]:
    """Those of the found addresses, in the order wanted, whose bits are those of a trial that is run here."""
    facts = dict(database.execute("SELECT name, value FROM facts WHERE name = 'device' OR name = 'packings'"))
    query = "SELECT value FROM facts WHERE name = 'identity' OR name LIKE 'identity of round %'"
    identities = [json.loads(value) for (value,) in database.execute(query)]
    if not identities or facts.get("device") != wanted.device:
        return []
    if any((each["source"], each["jax"]) != (wanted.source, wanted.jax) for each in identities):
        return []
    data: dict[str, set[str]] = {}
    for each in identities:
        for name, content in each["data"].items():
            data.setdefault(name, set()).add(content)
    packings = json.loads(facts.get("packings", "{}"))
    same_way = {
        group: packings[group][:3] == [own.executor, own.lanes, own.chunk]
        for group, own in ways.items()
        if group in packings
    }
    same_data: dict[Any, bool] = {}
    usable = []
    for address, trial in left.items():
        if address not in found or not same_way.get(trial.compile_group(), False):
            continue
        if trial.workload not in same_data:
            hashes = trial.workload.data_hashes()
            same_data[trial.workload] = all(data.get(name) == {content} for name, content in hashes.items())
        if same_data[trial.workload]:
            usable.append(address)
    return usable


def _check(row: Row) -> None:
    """Refuses a row that no driver of ours has stored.

    Raises:
      ValueError: its address is not that of its specification, or some of its content is unreadable.
      TypeError: some of its content is missing.
    """
    address, specification, status, _, results, timings = row.trial
    if hashlib.sha256(canonical_json(json.loads(specification)).encode()).hexdigest() != address:
        raise ValueError(f"the trial {address} is not what its address says")
    if status not in ("complete", "infeasible"):
        raise ValueError(f"the trial {address} has status {status!r}")
    for content in (results, timings):
        json.loads(content)
    for _, _, points in row.curves:
        np.frombuffer(points, "<f4")


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
