"""Commands for the playbook's procedures."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import (
    Executor,
    Fresh,
    Jobs,
    Json,
    Out,
    Rates,
    RayAddress,
    Scale,
    Seed,
    Seeds,
    Settings,
    Workload,
    most_workers,
    overrides,
    typed,
)
from harness.cli.printing import print_findings


def instability(
    workload: Workload,
    rates: Rates = None,
    seeds: Seeds = 5,
    scale: Scale = "laptop",
    out: Out = Path("results"),
    seed: Seed = 0,
    jobs: Jobs = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    settings: Settings = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Find out whether instability holds the rate down, of which type it is, and what may mend it."""
    from harness.procedures.instability import instability as procedure

    _follow(procedure(rates, seeds), workload, scale, out, seed, jobs, executor, ray_address, settings, fresh, as_json)


def warmup(
    workload: Workload,
    factor: Annotated[float, typer.Option(help="Rate to make usable, over the unstable one.")] = 10.0,
    rates: Rates = None,
    seeds: Seeds = 5,
    scale: Scale = "laptop",
    out: Out = Path("results"),
    seed: Seed = 0,
    jobs: Jobs = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    settings: Settings = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Find the shortest warmup that makes ten times the unstable rate usable."""
    from harness.procedures.warmup import warmup as procedure

    _follow(
        procedure(rates, factor, seeds),
        workload,
        scale,
        out,
        seed,
        jobs,
        executor,
        ray_address,
        settings,
        fresh,
        as_json,
    )


def clip(
    workload: Workload,
    percentile: Annotated[float, typer.Option(help="Of the unclipped gradient norms.")] = 90.0,
    seeds: Seeds = 8,
    scale: Scale = "laptop",
    out: Out = Path("results"),
    seed: Seed = 0,
    jobs: Jobs = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    settings: Settings = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Find a clipping threshold from gradient norms, and what clipping by it changes."""
    from harness.procedures.clip import clip as procedure

    _follow(
        procedure(percentile, seeds), workload, scale, out, seed, jobs, executor, ray_address, settings, fresh, as_json
    )


def max_steps(
    workload: Workload,
    rates: Rates = None,
    fit: Annotated[float, typer.Option(help="Training loss that counts as a perfect fit.")] = 0.005,
    seeds: Seeds = 3,
    scale: Scale = "laptop",
    out: Out = Path("results"),
    seed: Seed = 0,
    jobs: Jobs = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    settings: Settings = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Find a first max_train_steps: how soon a constant rate fits the training set perfectly."""
    from harness.procedures.max_steps import max_steps as procedure

    _follow(
        procedure(rates, fit, seeds), workload, scale, out, seed, jobs, executor, ray_address, settings, fresh, as_json
    )


def next_round(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY.toml", show_default=False, help="Of a study that playbook tune finished.")
    ],
    steps: Annotated[int, typer.Option(help="Steps of the last round.", show_default=False)],
    rounds: Annotated[int, typer.Option(help="Rounds up to that length, growing by one factor.")] = 1,
    points: Annotated[int, typer.Option(help="How many of the best points the next round runs.")] = 3,
    out: Out = Path("results"),
    as_json: Json = False,
) -> None:
    """Write the specification of a longer round: what carries over, and what to tune again."""
    from harness.next_round import next_round as write

    result = write(study, steps, rounds, points, out, typed())
    if as_json:
        print(json.dumps(result, indent=1))
        return
    print_findings(result)
    print(f"\nrun it: playbook tune {shlex.quote(result['specification'])} --out {shlex.quote(str(out))}")


def batch_size(
    workload: Workload,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,N", help="Batch sizes; powers of two until memory or data end if left out.", show_default=False
        ),
    ] = None,
    memory_limit: Annotated[
        int | None,
        typer.Option(metavar="BYTES", help="What may be used; half of the machine's on CPU.", show_default=False),
    ] = None,
    steps: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Steps to a target: columns batch_size and steps.", show_default=False),
    ] = None,
    scale: Scale = "laptop",
    out: Out = Path("results"),
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Find which batch sizes fit, their throughput, and which to train with."""
    from harness import batch_size as driver
    from harness.report.batch_size import COLUMNS, rows

    def tell(one: Any) -> None:
        took = f"{1000 * one.seconds_per_step:.4g} ms a step" if one.fits else one.reason
        print(f"batch size {one.batch_size}: {took}", file=sys.stderr)

    result = driver.batch_size(
        workload,
        scale=scale,
        settings=overrides(settings),
        sizes=sizes,
        memory_limit=memory_limit,
        steps=steps,
        out=out,
        command=typed(),
        on_measured=tell,
    )
    if as_json:
        print(json.dumps(result, indent=1))
        return
    table = [COLUMNS, *rows(result["decision"])]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print_findings(result)
    print(f"\npage: {Path(result['folder']) / 'index.html'}")


def _follow(
    procedure: Any,
    workload: str,
    scale: str,
    out: Path,
    seed: int,
    jobs: int | None,
    executor: str | None,
    ray_address: str | None,
    settings: list[str] | None,
    fresh: bool,
    as_json: bool,
) -> None:
    from harness.follow import follow
    from harness.progress import TrialProgress

    with TrialProgress(procedure.name) as progress:
        result = follow(
            procedure,
            workload=workload,
            scale=scale,
            settings=overrides(settings),
            out=out,
            seed=seed,
            jobs=most_workers(jobs, ray_address),
            executor=executor,
            ray_address=ray_address,
            fresh=fresh,
            command=typed(),
            on_progress=progress.update,
            on_notice=progress.notice,
        )
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        counts = result["trials"]
        print(f"{counts['complete']} complete and {counts['infeasible']} infeasible trials")
        print_findings(result)
        print(f"\npage: {Path(result['folder']) / 'index.html'}")
    raise typer.Exit(0 if result["decided"] else 1)
