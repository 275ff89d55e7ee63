"""Commands for the experiments: what there is, running and judging it, keeping and showing the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from harness.cli.options import (
    Executor,
    Fresh,
    Jobs,
    Json,
    Out,
    RayAddress,
    Scale,
    most_workers,
    overrides,
    typed,
)
from harness.cli.printing import print_result


def list_experiments(as_json: Json = False) -> None:
    """List the experiments and their claims."""
    from harness.experiments.experiment import experiments

    found = experiments().values()
    if as_json:
        rows = [
            {
                "name": e.name,
                "title": e.title,
                "source": e.source,
                "claims": [{"id": c.id, "text": c.text, "rule": c.rule} for c in e.claims],
                "control": e.control,
            }
            for e in found
        ]
        print(json.dumps(rows, indent=1))
        return
    for e in found:
        print(f"{e.name}  {e.title} ({e.source})")
        for claim in e.claims:
            print(f"    {claim.id}  {claim.text}")


def reproduce(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Experiments, or `all`.", show_default=False)],
    scale: Scale = "laptop",
    out: Out = Path("results"),
    seed: Annotated[int, typer.Option(help="Seed of the experiment.")] = 0,
    jobs: Jobs = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    control: Annotated[bool, typer.Option("--control", help="Run with the cause removed.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="K=V", help="Override a field of the workload.")
    ] = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Run experiments and judge their claims; several end with a table of all verdicts.

    Exit status: 0 every claim reproduced, 1 some contradicted, 3 some
    inconclusive, 2 bad input. Of several experiments those that cannot be run
    are named in the end, and the others run all the same; then it is 2, or 70
    where the program failed.
    """
    from harness import reproduce as driver
    from harness.experiments.experiment import chosen
    from harness.progress import TrialProgress

    wanted = chosen(names)
    asked = {
        "scale": scale,
        "out": out,
        "seed": seed,
        "jobs": most_workers(jobs, ray_address),
        "executor": executor,
        "ray_address": ray_address,
        "control": control,
        "overrides": overrides(settings),
        "fresh": fresh,
        "command": typed(),
    }
    if len(wanted) > 1:
        _reproduce_several(wanted, asked, as_json)
    with TrialProgress(wanted[0].name) as progress:
        result = driver.reproduce(wanted[0], **asked, on_progress=progress.update, on_notice=progress.notice)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        print_result(result)
    raise typer.Exit(driver.exit_status(result))


def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Experiments; all if left out.", show_default=False)
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Folder of all baselines; the package's if left out.", show_default=False)
    ] = None,
    out: Out = Path("results"),
    scale: Scale = "laptop",
    seed: Annotated[
        int | None, typer.Option(help="Seed of the experiments; the next unused one if left out.", show_default=False)
    ] = None,
    benchmarks: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compare what pytest --benchmark-json wrote.")
    ] = None,
    jobs: Jobs = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Run experiments on a fresh seed and name what drifted from the baselines.

    Exit status: 0 nothing drifted, 1 something did, 2 something could not be
    compared, 70 the program failed at an experiment.
    """
    from harness.check import check as driver
    from harness.experiments.experiment import chosen

    found = driver(
        chosen(names or ["all"]),
        scale,
        out,
        baseline,
        seed,
        benchmarks,
        on_experiment=lambda name: print(name, file=sys.stderr),
        on_failure=lambda traceback: print(traceback, file=sys.stderr),
        jobs=most_workers(jobs, ray_address),
        executor=executor,
        ray_address=ray_address,
        command=typed(),
    )
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        for line in found["drifts"]:
            print(f"drift  {line}")
        for line in found["notes"]:
            print(f"note   {line}")
        for name, reason in found["unchecked"].items():
            print(f"not checked  {name}: {reason}")
        compared = ", ".join(f"{len(found[what])} {what}" for what in ("verdicts", "metrics", "benchmarks"))
        print(
            f"{len(found['drifts'])} drifts of {compared} compared at seed {found['seed']}; "
            f"chance of a false alarm of any metric {found['alpha']:.0%}"
        )
    raise typer.Exit(found["status"])


def figures(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...|all]", help="Experiments; all that OUT holds if left out.")
    ] = None,
    style: Annotated[str, typer.Option(help="paper or slides.")] = "paper",
    formats: Annotated[str, typer.Option("--format", metavar="F,F,F", help="Some of pdf, svg and png.")] = "pdf",
    scale: Scale = "laptop",
    out: Out = Path("results"),
    seed: Annotated[int, typer.Option(help="Seed of the experiment.")] = 0,
    control: Annotated[bool, typer.Option("--control", help="Draw the run with the cause removed.")] = False,
) -> None:
    """Draw figures for papers and slides again from finished results."""
    from harness.redraw import redraw

    redraw(names or [], scale, seed, control, out, style, formats, on_file=print)


def flip_maps(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Experiments, or `all`.", show_default=False)],
    scale: Scale = "laptop",
    out: Out = Path("results"),
    seed: Annotated[int, typer.Option(help="Seed of the experiment.")] = 0,
    jobs: Jobs = None,
    executor: Executor = None,
    ray_address: RayAddress = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """See how verdicts change with model size, steps, data size and batch size."""
    from harness.experiments.experiment import chosen
    from harness.flips import flips
    from harness.progress import TrialProgress

    found = []
    for one in chosen(names):
        with TrialProgress(one.name) as progress:
            result = flips(
                one,
                scale,
                out,
                seed,
                on_variation=progress.notice,
                jobs=most_workers(jobs, ray_address),
                executor=executor,
                ray_address=ray_address,
                overrides={},
                fresh=fresh,
                on_notice=progress.notice,
                command=typed(),
                on_progress=progress.update,
            )
        found.append(result)
        if not as_json:
            for cell in result["cells"]:
                verdicts = [f"{claim['id']} {claim['verdict']}" for claim in cell.get("claims", ())]
                told = cell.get("unavailable") or ", ".join(verdicts) or "not judged"
                print(f"{cell['axis']} x{cell['factor']:g}: {told}")
            print(f"{result['folder']}/index.html")
    if as_json:
        print(json.dumps(found[0] if len(found) == 1 else found, indent=1))


def record(
    out: Out = Path("results"),
    benchmarks: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Record benchmarks of pytest --benchmark-json too.", show_default=False),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Name of the folder; laptop for a CPU, else the accelerator's, if left out.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Folder of all baselines; the package's if left out.", show_default=False)
    ] = None,
) -> None:
    """Keep results and benchmarks as baselines, smoke ones aside."""
    from harness import record as recorder

    for path in recorder.record(out, benchmarks, device, baseline, lambda line: print(line, file=sys.stderr)):
        print(path)


def report(out: Out = Path("results")) -> None:
    """Write one page of every experiment's results: figures, verdicts, flip maps, trials."""
    from harness.gallery import gallery

    print(f"page: {gallery(out)}")


def _reproduce_several(wanted: list[Any], asked: dict[str, Any], as_json: bool) -> NoReturn:
    from harness.catalogue import exit_status_of_all, reproduce_several
    from harness.progress import CatalogueProgress
    from harness.recorded import expected_seconds
    from harness.report.verdict_table import in_short, print_summary

    with CatalogueProgress(expected_seconds([one.name for one in wanted], asked["scale"])) as progress:

        def tell(outcome: Mapping[str, Any]) -> None:
            progress.notice(in_short(outcome))
            if "traceback" in outcome:
                progress.notice(outcome["traceback"])

        outcomes = reproduce_several(
            wanted, progress.begin, tell, **asked, on_progress=progress.update, on_notice=progress.notice
        )
    if as_json:
        print(json.dumps(outcomes, indent=1))
    else:
        print_summary(outcomes)
    raise typer.Exit(exit_status_of_all(outcomes))
