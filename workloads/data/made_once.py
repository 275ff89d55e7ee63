"""Folders that are made once, which may take minutes, and kept under `$XDG_CACHE_HOME/playbook-bench`."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from workloads.workload import DataError


def made_once(kind: str, name: str, make: Callable[[Path], None]) -> Path:
    """Finds a folder of the cache, and makes it where it is missing.

    It is put in place by a rename, so that no process sees half of it; of two that make it at once, one wins.

    Args:
      kind: subfolder of the cache.
      name: of the folder; depends on all that its content depends on.
      make: fills an empty folder.

    Raises:
      DataError: the cache cannot be written; and from `make`.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "playbook-bench" / kind / name
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
            half_made = Path(temporary) / name
            half_made.mkdir()
            make(half_made)
            if not folder.is_dir():
                half_made.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            mend = "free space there, or set XDG_CACHE_HOME to a folder that can be written"
            raise DataError(f"{folder} cannot be written ({error.strerror or error}); {mend}") from None
    return folder
