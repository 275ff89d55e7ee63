"""Commands for one's own training, trials and studies, and for the machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    Executor,
    Fresh,
    Jobs,
    Json,
    Out,
    RayAddress,
    Scale,
    Settings,
    Workload,
    most_workers,
    overrides,
    typed,
)
from harness.cli.printing import print_findings, print_profile, printable


def train(
    workload: Workload,
    scale: Scale = "laptop",
    out: Out = Path("results"),
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    settings: Settings = None,
    best: Annotated[int, typer.Option(help="How many of the best checkpoints to keep, beside the last.")] = 1,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Record the label predicted for every validation example.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Train nothing; say where the time of a few steps goes.")
    ] = False,
    hosts: Annotated[
        str | None,
        typer.Option(
            metavar="I/N@ADDRESS:PORT",
            show_default=False,
            help="This host's number of N, or auto.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that decode data sets on disk, 0 for threads.", show_default=False),
    ] = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Train a workload once, with checkpoints; an interrupted run goes on from its last."""
    from harness import train as driver

    trial = driver.plan(workload, scale, seed, overrides(settings), predictions)
    folder = out / "train" / trial.workload.name / f"{scale}-seed{seed}"
    if profile:
        print_profile(driver.profile(trial, folder, hosts, workers), folder, as_json)
        return
    result = driver.train(
        trial,
        folder=folder,
        best=best,
        fresh=fresh,
        command=typed(),
        on_evaluation=lambda step, error, loss: print(
            f"step {step:>6} of {trial.total_steps}  validation error {error:.4f}  loss {loss:.4f}", file=sys.stderr
        ),
        on_notice=lambda line: print(line, file=sys.stderr),
        hosts=hosts,
        workers=workers,
    )
    if result is None:
        raise typer.Exit(0)  # of several hosts the first speaks
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        if result["reason"]:
            print(f"infeasible: {result['reason']}")
        else:
            found = result["results"]
            print(
                f"best   error {found['best_error']:.4f}  loss {found['best_loss']:.4f}  step {found['best_step']:.0f}"
            )
            print(f"final  error {found['final_error']:.4f}  loss {found['final_loss']:.4f}")
        print(f"{result['seconds']} s, fingerprint: {result['fingerprint']}")
        print(f"results: {result['folder']}")
    raise typer.Exit(0 if result["status"] == "complete" else 1)


def diagnose(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", show_default=False, help="Trials: a file or folder, with #NAME one of several studies."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="csv, parquet, jsonl, optuna, algoperf, batch-science or pd1; guessed if left out.", show_default=False
        ),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What was to be optimised; guessed if left out.")
    ] = None,
    goal: Annotated[str | None, typer.Option(help="min or max; by the objective's name if left out.")] = None,
    space: Annotated[
        Path | None, typer.Option(metavar="SPACE.toml", help="Ranges and scales that were searched.")
    ] = None,
    without_replacement: Annotated[
        bool, typer.Option("--without-replacement", help="Draw the best of k trials without replacement.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page; results/diagnose/<table> if left out.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Read anybody's finished study as the playbook does: a checklist, worst first, and a page."""
    from harness.diagnose import diagnose as read

    result = read(table, format, objective, goal, space, not without_replacement, out)
    if as_json:
        print(json.dumps(result))
        return
    counts = result["trials"]
    print(f"{counts['complete']} complete and {counts['infeasible']} infeasible trials, {counts['skipped']} skipped")
    if result["best"]:
        best = result["best"]
        print(printable(f"best {result['objective']} {best['objective']:.6g}, trial {best['trial']}"))
    print_findings(result)
    print(f"\npage: {Path(result['folder']) / 'index.html'}")


def plan(
    table: Annotated[
        str, typer.Argument(metavar="TABLE", show_default=False, help="Trials of a pilot, as diagnose reads them.")
    ],
    effect: Annotated[
        float, typer.Option(help="Difference that matters, in the objective's units.", show_default=False)
    ],
    power: Annotated[float, typer.Option(help="Chance to find it.")] = 0.8,
    format: Annotated[str | None, typer.Option(help="As of diagnose.", show_default=False)] = None,
    objective: Annotated[str | None, typer.Option(metavar="COLUMN", help="Guessed if left out.")] = None,
    goal: Annotated[str | None, typer.Option(help="min or max; by the objective's name if left out.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page; results/plan/<table> if left out.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how many runs and trials a stated effect needs, from a pilot study, and what they cost."""
    from harness.plan import plan as make

    result = make(table, effect, power, format, objective, goal, out)
    if as_json:
        print(json.dumps(result))
        return
    print_findings(result)
    print(f"\npage: {Path(result['folder']) / 'index.html'}")


def tune(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.toml", show_default=False, help="What the study is.")],
    out: Out = Path("results"),
    jobs: Jobs = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Run a study of your own; the same command continues it, more trials extend it."""
    from harness import tune as driver
    from harness.progress import TrialProgress
    from harness.report.study_summary import describe

    with TrialProgress(spec.stem) as progress:
        result = driver.tune(
            spec,
            out=out,
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
        print(describe(result))
        print_findings(result["reading"])
        print(f"\npage: {Path(result['folder']) / 'reading' / 'index.html'}")
    raise typer.Exit(0 if result["best"] else 1)


def search(
    space: Annotated[Path, typer.Argument(metavar="SPACE.toml", show_default=False, help="The search space.")],
    trials: Annotated[int, typer.Option(help="How many points.")],
    seed: Annotated[int, typer.Option(help="Seed of the sampler.")] = 0,
    sampler: Annotated[str, typer.Option(help="halton, sobol, random or grid.")] = "halton",
) -> None:
    """Print points of a search space, one JSON object a line."""
    from harness.search.samplers import sample
    from harness.search.space import space_from_toml

    axes = space_from_toml(space)
    for point in sample(axes, sampler, seed, trials):
        print(json.dumps(axes.values_set(point)))


def doctor(as_json: Json = False) -> None:
    """Show devices, versions and data, and what their lack rules out."""
    from harness.doctor import describe, examine

    findings = examine()
    print(json.dumps(findings, indent=1) if as_json else describe(findings))
