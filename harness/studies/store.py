"""The store of a result folder: `study.sqlite`, a row per trial, written by the driver alone."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.records import InputError, TrialRecord
from harness.studies.identity import difference
from harness.studies.study import PlannedTrial

DATABASE = "study.sqlite"
LOCK = "driver.lock"

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (
  address TEXT PRIMARY KEY, specification TEXT NOT NULL, status TEXT NOT NULL, reason TEXT,
  results TEXT NOT NULL, timings TEXT NOT NULL
);
CREATE TABLE curves (
  address TEXT NOT NULL REFERENCES trials, name TEXT NOT NULL, points BLOB NOT NULL, PRIMARY KEY (address, name)
);
"""


@contextmanager
def locked_folder(folder: Path):
    """Creates a result folder and holds it for this driver while the block runs.

    The lock is the kernel's, so it ends with the process however that ends; the file names its host and pid.

    Raises:
      InputError: another driver holds the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"output folder {folder} cannot be written ({error.strerror}); choose another --out") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 1000).decode(errors="replace").strip() or "another process"
            raise InputError(f"{folder} is held by {holder}; wait for it to end, or choose another --out") from None
        try:
            os.ftruncate(handle, 0)
            os.write(handle, f"{socket.gethostname()} pid {os.getpid()}\n".encode())
        except OSError as error:
            raise InputError(
                f"output folder {folder} cannot be written ({error.strerror}); choose another --out"
            ) from None
        yield
    finally:
        os.close(handle)


def move_aside(folder: Path) -> Path | None:
    """Moves everything in a result folder but its lock to a dated folder beside it; None where there was nothing."""
    contents = [path for path in folder.iterdir() if path.name != LOCK]
    if not contents:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    aside = folder.with_name(f"{folder.name}.{stamp}")
    aside.mkdir()
    for path in contents:
        path.rename(aside / path.name)
    return aside


class Row(NamedTuple):
    """A finished trial as it is stored.

    Attributes:
      trial: of the table `trials`, by its columns.
      curves: of the table `curves`, one for each of its curves.
    """

    trial: Sequence[Any]
    curves: Sequence[Sequence[Any]]


def check_last_page(path: Path, database: sqlite3.Connection) -> None:
    """Refuses a database that ends in the middle of a page: SQLite reads what is missing of the last one as zeros.

    Raises:
      sqlite3.DatabaseError: it does.
    """
    if path.stat().st_size % database.execute("PRAGMA page_size").fetchone()[0]:
        raise sqlite3.DatabaseError("it ends in the middle of a page")


class Store:
    """Finished trials of a result folder; use it inside `locked_folder`.

    Attributes:
      folder: the result folder.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any] | None = None):
        """Opens or creates the database.

        Args:
          folder: the result folder.
          identity: of the planned studies of the first round, see `harness.studies.identity`; None takes a database
            that exists as it is.

        Raises:
          InputError: the database is corrupt or belongs to studies of another identity; it is left as it is.
        """
        self.folder = folder
        self._path = folder / DATABASE
        try:
            self._database = sqlite3.connect(self._path, isolation_level=None)
            self._open(identity)
        except sqlite3.OperationalError as error:
            raise InputError(f"{self._path} cannot be opened or written ({error}); choose another --out") from None
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{self._path} is corrupt ({error}); it is left in place, --fresh moves it aside and starts anew"
            ) from None

    def _open(self, identity: Mapping[str, Any] | None) -> None:
        problem = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem.splitlines()[-1])
        tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        # Nothing is written before this is known to be the right database.
        if tables:
            self._check(tables, identity)
        self._choose_journal()
        if not tables:
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    self._database.execute(statement)
                self._database.execute("INSERT INTO facts VALUES ('identity', ?)", (json.dumps(identity),))

    def _check(self, tables: set[str], identity: Mapping[str, Any] | None) -> None:
        if not {"facts", "trials", "curves"} <= tables:
            raise sqlite3.DatabaseError("it holds other tables")
        try:
            found = json.loads(self.fact("identity") or "null")
        except json.JSONDecodeError as error:
            raise sqlite3.DatabaseError(f"its identity is unreadable: {error}") from None
        if found is None:
            raise sqlite3.DatabaseError("it has lost what says which studies it is of")
        if identity is not None:
            self._compare(found, identity)
        # A killed driver's log holds what may be missing.
        log = self._path.with_name(f"{DATABASE}-wal")
        if not (log.exists() and log.stat().st_size > 0):
            check_last_page(self._path, self._database)

    def begin_round(self, number: int, identity: Mapping[str, Any]) -> None:
        """Notes what a round after the first is, or checks it where it was begun before.

        Args:
          number: of the round, from 2.
          identity: of its planned studies, see `harness.studies.identity`.

        Raises:
          InputError: it was begun with another identity, such as from other code or data.
        """
        name = f"identity of round {number}"
        found = self.fact(name)
        if found is None:
            self.record_fact(name, json.dumps(identity))
        else:
            self._compare(json.loads(found), identity)

    def _compare(self, found: Any, identity: Mapping[str, Any]) -> None:
        changed = difference(found, json.loads(json.dumps(identity)))
        if changed is not None:
            raise InputError(
                f"{self._path.parent} holds results of another specification: {changed}; "
                "--fresh moves it aside, or choose another --out"
            )

    def _choose_journal(self) -> None:
        # Write-ahead logging wants shared memory, which network file systems may lack.
        try:
            mode = self._database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError:
            mode = "none"
        if mode != "wal":
            self._database.execute("PRAGMA journal_mode=TRUNCATE")
        self._database.execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def fact(self, name: str) -> str | None:
        """A recorded fact about the study, such as its device; None where it was not recorded."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def record_fact(self, name: str, value: str) -> None:
        """Records a fact, replacing its old value."""
        with self._written():
            self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def finished(self) -> set[str]:
        """Addresses of the finished trials."""
        return {address for (address,) in self._database.execute("SELECT address FROM trials")}

    def infeasible(self) -> set[str]:
        """Addresses of the infeasible trials."""
        query = "SELECT address FROM trials WHERE status = 'infeasible'"
        return {address for (address,) in self._database.execute(query)}

    def add(
        self,
        address: str,
        specification: Mapping[str, Any],
        status: str,
        reason: str | None,
        results: Mapping[str, float],
        curves: Mapping[str, np.ndarray],
        timings: Mapping[str, float],
    ) -> None:
        """Stores a finished trial, all of it or nothing; the arguments are those of `TrialRecord`.

        Raises:
          InputError: the disk is full or failing; the trials stored before are kept.
        """
        row = (address, json.dumps(specification), status, reason, json.dumps(results), json.dumps(timings))
        blobs = [(address, name, np.asarray(curve, "<f4").tobytes()) for name, curve in curves.items()]
        self.add_rows([Row(row, blobs)])

    def add_rows(self, rows: Iterable[Row]) -> set[str]:
        """Stores finished trials as they are stored elsewhere, all of them or, where `rows` raises, none.

        Args:
          rows: read while they are stored, since there may be many.

        Returns:
          Their addresses.

        Raises:
          InputError: see `add`.
        """
        addresses = set()
        with self._written(), self._transaction():
            for trial, curves in rows:
                self._database.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", trial)
                self._database.executemany("INSERT INTO curves VALUES (?, ?, ?) ON CONFLICT DO NOTHING", curves)
                addresses.add(trial[0])
        return addresses

    def records(self, planned: Sequence[PlannedTrial]) -> list[TrialRecord]:
        """The finished trials in the order of the plan; a trial that several studies share stands in each."""
        curves: dict[str, dict[str, np.ndarray]] = {}
        for address, name, points in self._database.execute("SELECT address, name, points FROM curves"):
            curves.setdefault(address, {})[name] = np.frombuffer(points, "<f4")
        rows = {row[0]: row[1:] for row in self._database.execute("SELECT * FROM trials")}
        records = []
        for place in planned:
            address = place.trial.address()
            if address not in rows:
                continue
            specification, status, reason, results, timings = rows[address]
            fields = json.loads(specification)
            records.append(
                TrialRecord(
                    study=place.study,
                    arm=place.arm,
                    replicate=place.replicate,
                    address=address,
                    hyperparameters=_flat(fields),
                    seeds=fields["seeds"],
                    status=status,
                    reason=reason,
                    results=json.loads(results),
                    curves=curves.get(address, {}),
                    timings=json.loads(timings),
                )
            )
        return records

    @contextmanager
    def _transaction(self):
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _written(self):
        try:
            yield
        except sqlite3.Error as error:
            raise InputError(
                f"{self._path} cannot be written ({error}); make room and repeat the command, finished trials are kept"
            ) from None


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's specification as columns: everything but its seeds, nested fields under dotted names."""
    columns: dict[str, Any] = {f"workload.{name}": value for name, value in fields["workload"].items()}
    columns.update(fields["hyperparameters"])
    columns.update((n, v) for n, v in fields.items() if n not in ("workload", "hyperparameters", "seeds"))
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in columns.items()}
