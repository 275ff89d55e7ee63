"""Results that stand: asked again of the same code, data and versions, a finished folder is read, not made anew."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import baselines
import harness
import workloads
from harness.provenance import PACKAGES
from harness.studies.store import DATABASE, Store, locked_folder

_FACT = "answered"
"""Of a store: the question that its folder answers, and with how many trials."""


def question(**asked: Any) -> str:
    """sha256 of what a result follows from: what is asked, the code, recorded and published points, and versions.

    Args:
      **asked: as JSON-ready data.
    """
    digest = hashlib.sha256()
    for package in (harness, workloads, baselines):
        root = Path(package.__path__[0])
        for path in sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            digest.update(f"{package.__name__}/{path.relative_to(root).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    versions = {name: importlib.metadata.version(name) for name in (*PACKAGES, "matplotlib")}
    asked = {**asked, "versions": versions, "python": platform.python_version()}
    digest.update(json.dumps(asked, sort_keys=True).encode())
    return digest.hexdigest()


def standing(folder: Path, question: str, data: Mapping[str, str], files: Sequence[str]) -> dict[str, Any] | None:
    """Reads the result of a folder that answers a question; None where it does not, or lacks some of its files.

    Args:
      folder: the result folder.
      question: see the function of that name.
      data: hashes of the data sets, by name; a result that took others too, in a later round, is looked at anew.
      files: that a finished folder has, beside `result.json` and the store.

    Raises:
      InputError: another driver holds the folder, or its store is corrupt.
    """
    database = folder / DATABASE
    if not database.exists() or database.stat().st_size == 0:
        return None
    with locked_folder(folder):
        store = Store(folder)
        try:
            if store.fact(_FACT) != _answer(store, question):
                return None
        finally:
            store.close()
        if not all((folder / name).exists() for name in files):
            return None
        try:
            result = json.loads((folder / "result.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return result if result["provenance"]["data"] == data else None


def note_answer(folder: Path, question: str) -> None:
    """Notes that a folder, which this driver holds and has just written, answers a question."""
    store = Store(folder)
    try:
        store.record_fact(_FACT, _answer(store, question))
    finally:
        store.close()


def _answer(store: Store, question: str) -> str:
    return f"{question} with {len(store.finished())} trials"
