"""Options that several commands take, and how they are read."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.records import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]

# What several commands take.
Workload = Annotated[
    str, typer.Argument(metavar="WORKLOAD", show_default=False, help="A workload's name, or module:NAME.")
]
Scale = Annotated[str, typer.Option(help="smoke, laptop, accelerator or paper.")]
Out = Annotated[Path, typer.Option(help="Folder of all results.")]
Jobs = Annotated[
    int | None,
    typer.Option(help="Worker processes; one per CPU core, or as many as a cluster has room for, if left out."),
]
Executor = Annotated[
    str | None, typer.Option(help="processes, lanes or ray; by workload and backend if left out.", show_default=False)
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto", help="A Ray cluster that runs; one on this machine if left out.", show_default=False
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="Override a field of the workload, a hyperparameter, steps, ..."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Move older results aside and start anew.")]
Rates = Annotated[
    str | None,
    typer.Option(
        metavar="R,R,R", help="Rates of the sweep; around the workload's own if left out.", show_default=False
    ),
]
Seeds = Annotated[int, typer.Option(help="Runs of each setting.")]
Seed = Annotated[int, typer.Option(help="Seed of the procedure.")]


def typed() -> str:
    """The command as it was typed."""
    return shlex.join(["playbook", *sys.argv[1:]])


def most_workers(jobs: int | None, ray_address: str | None) -> int:
    """So many as asked for, else one per CPU core of this machine, or all that a cluster has room for."""
    from harness.studies.processes import available_cores

    return jobs if jobs is not None else available_cores() if ray_address is None else sys.maxsize


def overrides(settings: list[str] | None) -> dict[str, str]:
    """What `--set NAME=VALUE` asks for, by name.

    Raises:
      InputError: one is not of that form.
    """
    return dict(_split(setting) for setting in settings or [])


def _split(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals or not name:
        raise InputError(f"--set {setting!r}: expected NAME=VALUE, such as head=global_pool")
    return name, value
