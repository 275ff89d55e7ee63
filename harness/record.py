"""Keeps results and benchmarks as baselines, which later runs are compared with.

A baseline lies where its result lay: `OUT/<experiment>/<scale>-seed<N>/result.json` becomes
`<device>/<experiment>/<scale>-seed<N>.json`, with the figure beside it, and `OUT/train/<workload>/...` likewise. The
trials of all experiments lie in one file, `<device>/trials.parquet`.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.recorded import ACCELERATOR, FLIPS, device_folder
from harness.records import InputError
from harness.report.recorded_table import FILE, Place, Recorded, packed, unpacked, without_curves
from harness.report.trial_table import read_parquet
from harness.studies.fingerprint import fingerprint

_RESULT_FOLDER = re.compile(r"(.+)-seed(\d+)(-control)?")


def record(
    out: Path,
    benchmarks: Path | None = None,
    device: str | None = None,
    baseline: Path | None = None,
    on_notice: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Writes results of every scale but smoke, and benchmarks, into the folder of the device that they come from.

    Nothing is written where anything cannot be read. Recorded flip maps of a result that is replaced by another one are
    removed, unless the new one has maps of its own.

    Args:
      out: the folder of all results.
      benchmarks: written by `pytest --benchmark-json`; they replace recorded ones of the same name.
      device: name of the folder; None for `laptop` where trials ran on a CPU, else the accelerator's name.
      baseline: the folder of all baselines; None for that of the package `baselines`.
      on_notice: called with a line for each file that is removed.

    Returns:
      What was written.

    Raises:
      InputError: bad input, see the message.
    """
    if device is not None and (device == "published" or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", device)):
        raise InputError(
            f"--device {device!r}: expected a folder's name of a-z, 0-9, dot and hyphen, such as h200; "
            "published holds the playbook's own numbers"
        )
    baseline = baseline or Path(str(importlib.resources.files("baselines")))
    contents: dict[Path, bytes] = {}
    stale: list[Path] = []
    trials: dict[Path, dict[Place, Recorded]] = {}
    for folder, (scale, seed, control) in _result_folders(out):
        content, result_fingerprint, trained_on = _read_result(folder / "result.json")
        of_device = baseline / (device or device_folder(trained_on))
        stem = of_device / folder.relative_to(out)
        contents[stem.with_name(f"{stem.name}.json")] = content
        if folder.parent.parent == out:  # an experiment's
            place = Place(folder.parent.name, scale, int(seed), control is not None)
            trials.setdefault(of_device / FILE, {})[place] = _read_trials(folder / FILE, result_fingerprint)
            contents[stem.with_name(f"{stem.name}.png")] = _read(folder / "figure.png")
            flips = stem.with_name(f"{stem.name}.flips.json")
            if (folder / FLIPS).exists():
                contents[flips] = _read(folder / FLIPS)
            elif flips.exists() and not _are_around(flips, content):
                stale.append(flips)
    for path, results in trials.items():
        contents[path] = packed({**unpacked(path), **results})
    if benchmarks is not None:
        rows, timed_on = _read_benchmarks(benchmarks)
        path = baseline / (device or device_folder(timed_on)) / "benchmarks.json"
        merged = {**_read_recorded_benchmarks(path), **rows}
        contents[path] = (json.dumps(dict(sorted(merged.items())), indent=1) + "\n").encode()
    if not contents:
        raise InputError(
            f"{out} holds no result to record, smoke ones aside; run playbook reproduce or train first, "
            "or name another folder with --out"
        )
    for path, content in contents.items():
        _write(path, content, baseline)
    for path in stale:
        on_notice(f"{path} removed: maps around another result; playbook flips makes new ones")
        path.unlink()
    return list(contents)


def _result_folders(out: Path) -> Iterator[tuple[Path, tuple[str, str, str | None]]]:
    """Yields folders, with the parts of their names: scale, seed, and that of a control."""
    for pattern in ("*/*/result.json", "train/*/*/result.json"):
        for path in sorted(out.glob(pattern)):
            name = _RESULT_FOLDER.fullmatch(path.parent.name)  # results that were moved aside have a longer one
            if name and name[1] != "smoke":
                yield path.parent, name.groups()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); run its command again") from None


def _are_around(flips: Path, result: bytes) -> bool:
    """Whether recorded flip maps have the result's claims in their middle."""
    try:
        found = {claim["id"]: claim for claim in json.loads(result)["claims"]}
        middle = json.loads(flips.read_bytes())["claims"]
        return all(claim == {name: found[claim["id"]][name] for name in claim} for claim in middle)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _read_result(path: Path) -> tuple[bytes, str, str]:
    """The file as it is, and the fingerprint and the device that it names."""
    content = _read(path)
    try:
        result = json.loads(content)
        found, device = result["fingerprint"], result["provenance"]["device"]
        overrides = dict(result.get("overrides", {}))
    except (ValueError, KeyError, TypeError):
        found = device = None
    if not isinstance(found, str) or not isinstance(device, str):
        raise InputError(
            f"{path} is damaged: expected JSON with fingerprint and provenance.device; run its command again, "
            "or remove its folder"
        )
    if overrides:
        changed = " ".join(f"--set {name}={value}" for name, value in overrides.items())
        raise InputError(
            f"{path} was made with {changed}: expected an experiment as it stands; run its command again without, "
            "or move its folder away"
        )
    return content, found, device


def _read_trials(path: Path, expected: str) -> Recorded:
    """The trials of a result, which must have its fingerprint."""
    records = read_parquet(path)
    if fingerprint(records) != expected:
        raise InputError(
            f"{path} does not hold the trials of result.json beside it: expected fingerprint {expected[:12]}; "
            "remove it and run its command again, which writes it anew"
        )
    return Recorded(expected, [without_curves(record) for record in records])


def _read_benchmarks(path: Path) -> tuple[dict[str, Any], str]:
    """A row per benchmark, by its full name, and the accelerator that one of them names, or an empty string."""
    try:
        content = json.loads(path.read_bytes())
        rows = {found["fullname"]: _benchmark_row(found, content["machine_info"]) for found in content["benchmarks"]}
    except OSError as error:
        raise InputError(f"--benchmarks {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        rows = {}
    if not rows:
        raise InputError(
            f"--benchmarks {path} holds no benchmark: expected a file that pytest --benchmark-only "
            f"--benchmark-json={path.name} writes"
        )
    devices = (str(row["extra_info"].get("device")) for row in rows.values())
    return rows, next(filter(ACCELERATOR.match, devices), "")


def _benchmark_row(found: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: found["stats"][name] for name in ("median", "q1", "q3", "rounds")},
        "extra_info": dict(found["extra_info"]),
        # Rows of several runs stand side by side, so each has its own.
        "machine": {
            "cpu": machine["cpu"].get("brand_raw"),
            "cores": machine["cpu"].get("count"),
            "python": machine["python_version"],
            "jax": machine.get("jax"),
        },
    }


def _read_recorded_benchmarks(path: Path) -> dict[str, Any]:
    try:
        recorded = json.loads(path.read_bytes())
        if isinstance(recorded, dict):
            return recorded
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        pass
    raise InputError(f"recorded benchmarks {path} are damaged: expected a JSON object; remove or restore the file")


def _write(path: Path, content: bytes, baseline: Path) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise InputError(
            f"baseline folder {baseline} cannot be written ({error.strerror}); choose another --baseline"
        ) from None
