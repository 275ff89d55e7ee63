"""Where a result comes from: what stands under `provenance` in every `result.json`."""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "flax", "optax", "numpy", "scipy")


def provenance(command: str, device: str | None, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Describes the origin of a result as JSON-ready data.

    Args:
      command: that repeats the run.
      device: that the trials ran on.
      identity: of the studies, see `harness.studies.identity`.
    """
    return {
        "command": command,
        "commit": _commit(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": device,
        "source": identity["source"],
        "data": identity["data"],
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The checkout's commit, marked `-dirty` where it was changed; None where this is not a checkout of ours."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # fails for an installed wheel inside somebody's checkout
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
