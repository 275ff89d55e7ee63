"""The command line: `playbook`, or `python -m harness`."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from harness.records import InputError, did_you_mean

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Runs the experiments behind the Deep Learning Tuning Playbook and judges its claims.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]

# What several commands take.
_Workload = Annotated[
    str, typer.Argument(metavar="WORKLOAD", show_default=False, help="A workload's name, or module:NAME.")
]
_Scale = Annotated[str, typer.Option(help="smoke, laptop, accelerator or paper.")]
_Out = Annotated[Path, typer.Option(help="Folder of all results.")]
_Jobs = Annotated[
    int | None,
    typer.Option(help="Worker processes; one per CPU core, or as many as a cluster has room for, if left out."),
]
_Executor = Annotated[
    str | None, typer.Option(help="processes, lanes or ray; by workload and backend if left out.", show_default=False)
]
_RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto", help="A Ray cluster that runs; one on this machine if left out.", show_default=False
    ),
]
_Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="Override a field of the workload, a hyperparameter, steps, ..."),
]
_Fresh = Annotated[bool, typer.Option("--fresh", help="Move older results aside and start anew.")]
_Rates = Annotated[
    str | None,
    typer.Option(
        metavar="R,R,R", help="Rates of the sweep; around the workload's own if left out.", show_default=False
    ),
]
_Seeds = Annotated[int, typer.Option(help="Runs of each setting.")]
_Seed = Annotated[int, typer.Option(help="Seed of the procedure.")]


@app.command("list")
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


@app.command()
def reproduce(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Experiments, or `all`.", show_default=False)],
    scale: _Scale = "laptop",
    out: _Out = Path("results"),
    seed: Annotated[int, typer.Option(help="Seed of the experiment.")] = 0,
    jobs: _Jobs = None,
    executor: _Executor = None,
    ray_address: _RayAddress = None,
    control: Annotated[bool, typer.Option("--control", help="Run with the cause removed.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="K=V", help="Override a field of the workload.")
    ] = None,
    fresh: _Fresh = False,
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
        "jobs": _most_workers(jobs, ray_address),
        "executor": executor,
        "ray_address": ray_address,
        "control": control,
        "overrides": dict(_split_setting(setting) for setting in settings or []),
        "fresh": fresh,
        "command": shlex.join(["playbook", *sys.argv[1:]]),
    }
    if len(wanted) > 1:
        _reproduce_several(wanted, asked, as_json)
    with TrialProgress(wanted[0].name) as progress:
        result = driver.reproduce(wanted[0], **asked, on_progress=progress.update, on_notice=progress.notice)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _print_result(result)
    raise typer.Exit(driver.exit_status(result))


@app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Experiments; all if left out.", show_default=False)
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Folder of all baselines; the package's if left out.", show_default=False)
    ] = None,
    out: _Out = Path("results"),
    scale: _Scale = "laptop",
    seed: Annotated[
        int | None, typer.Option(help="Seed of the experiments; the next unused one if left out.", show_default=False)
    ] = None,
    benchmarks: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compare what pytest --benchmark-json wrote.")
    ] = None,
    jobs: _Jobs = None,
    executor: _Executor = None,
    ray_address: _RayAddress = None,
    as_json: Json = False,
) -> None:
    """Run experiments on a fresh seed and name what drifted from the baselines."""
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
        jobs=_most_workers(jobs, ray_address),
        executor=executor,
        ray_address=ray_address,
        command=shlex.join(["playbook", *sys.argv[1:]]),
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
        print(f"{len(found['drifts'])} drifts, {len(found['metrics'])} metrics compared at seed {found['seed']}")
    raise typer.Exit(1 if found["drifts"] else 0)


@app.command()
def figures(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...|all]", help="Experiments; all that OUT holds if left out.")
    ] = None,
    style: Annotated[str, typer.Option(help="paper or slides.")] = "paper",
    formats: Annotated[str, typer.Option("--format", metavar="F,F,F", help="Some of pdf, svg and png.")] = "pdf",
    scale: _Scale = "laptop",
    out: _Out = Path("results"),
    seed: Annotated[int, typer.Option(help="Seed of the experiment.")] = 0,
    control: Annotated[bool, typer.Option("--control", help="Draw the run with the cause removed.")] = False,
) -> None:
    """Draw figures for papers and slides again from finished results."""
    from harness.redraw import redraw

    redraw(names or [], scale, seed, control, out, style, formats, on_file=print)


@app.command("flips")
def flip_maps(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Experiments, or `all`.", show_default=False)],
    scale: _Scale = "laptop",
    out: _Out = Path("results"),
    seed: Annotated[int, typer.Option(help="Seed of the experiment.")] = 0,
    jobs: _Jobs = None,
    executor: _Executor = None,
    ray_address: _RayAddress = None,
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
                jobs=_most_workers(jobs, ray_address),
                executor=executor,
                ray_address=ray_address,
                overrides={},
                fresh=False,
                command=shlex.join(["playbook", *sys.argv[1:]]),
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


@app.command()
def train(
    workload: _Workload,
    scale: _Scale = "laptop",
    out: _Out = Path("results"),
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    settings: _Settings = None,
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
    fresh: _Fresh = False,
    as_json: Json = False,
) -> None:
    """Train a workload once, with checkpoints; an interrupted run goes on from its last."""
    from harness import train as driver

    trial = driver.plan(workload, scale, seed, dict(_split_setting(setting) for setting in settings or []), predictions)
    folder = out / "train" / trial.workload.name / f"{scale}-seed{seed}"
    if profile:
        _print_profile(driver.profile(trial, folder, hosts, workers), folder, as_json)
        return
    result = driver.train(
        trial,
        folder=folder,
        best=best,
        fresh=fresh,
        command=shlex.join(["playbook", *sys.argv[1:]]),
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


@app.command()
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
        print(_printable(f"best {result['objective']} {best['objective']:.6g}, trial {best['trial']}"))
    _print_findings(result)
    print(f"\npage: {Path(result['folder']) / 'index.html'}")


@app.command()
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
    _print_findings(result)
    print(f"\npage: {Path(result['folder']) / 'index.html'}")


@app.command()
def tune(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.toml", show_default=False, help="What the study is.")],
    out: _Out = Path("results"),
    jobs: _Jobs = None,
    executor: _Executor = None,
    ray_address: _RayAddress = None,
    fresh: _Fresh = False,
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
            jobs=_most_workers(jobs, ray_address),
            executor=executor,
            ray_address=ray_address,
            fresh=fresh,
            command=shlex.join(["playbook", *sys.argv[1:]]),
            on_progress=progress.update,
            on_notice=progress.notice,
        )
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        print(describe(result))
        _print_findings(result["reading"])
        print(f"\npage: {Path(result['folder']) / 'reading' / 'index.html'}")
    raise typer.Exit(0 if result["best"] else 1)


@app.command()
def instability(
    workload: _Workload,
    rates: _Rates = None,
    seeds: _Seeds = 5,
    scale: _Scale = "laptop",
    out: _Out = Path("results"),
    seed: _Seed = 0,
    jobs: _Jobs = None,
    executor: _Executor = None,
    ray_address: _RayAddress = None,
    settings: _Settings = None,
    fresh: _Fresh = False,
    as_json: Json = False,
) -> None:
    """Find out whether instability holds the rate down, of which type it is, and what may mend it."""
    from harness.procedures.instability import instability as procedure

    _follow(procedure(rates, seeds), workload, scale, out, seed, jobs, executor, ray_address, settings, fresh, as_json)


@app.command()
def warmup(
    workload: _Workload,
    factor: Annotated[float, typer.Option(help="Rate to make usable, over the unstable one.")] = 10.0,
    rates: _Rates = None,
    seeds: _Seeds = 5,
    scale: _Scale = "laptop",
    out: _Out = Path("results"),
    seed: _Seed = 0,
    jobs: _Jobs = None,
    executor: _Executor = None,
    ray_address: _RayAddress = None,
    settings: _Settings = None,
    fresh: _Fresh = False,
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


@app.command()
def clip(
    workload: _Workload,
    percentile: Annotated[float, typer.Option(help="Of the unclipped gradient norms.")] = 90.0,
    seeds: _Seeds = 8,
    scale: _Scale = "laptop",
    out: _Out = Path("results"),
    seed: _Seed = 0,
    jobs: _Jobs = None,
    executor: _Executor = None,
    ray_address: _RayAddress = None,
    settings: _Settings = None,
    fresh: _Fresh = False,
    as_json: Json = False,
) -> None:
    """Find a clipping threshold from gradient norms, and what clipping by it changes."""
    from harness.procedures.clip import clip as procedure

    _follow(
        procedure(percentile, seeds), workload, scale, out, seed, jobs, executor, ray_address, settings, fresh, as_json
    )


@app.command("max-steps")
def max_steps(
    workload: _Workload,
    rates: _Rates = None,
    fit: Annotated[float, typer.Option(help="Training loss that counts as a perfect fit.")] = 0.005,
    seeds: _Seeds = 3,
    scale: _Scale = "laptop",
    out: _Out = Path("results"),
    seed: _Seed = 0,
    jobs: _Jobs = None,
    executor: _Executor = None,
    ray_address: _RayAddress = None,
    settings: _Settings = None,
    fresh: _Fresh = False,
    as_json: Json = False,
) -> None:
    """Find a first max_train_steps: how soon a constant rate fits the training set perfectly."""
    from harness.procedures.max_steps import max_steps as procedure

    _follow(
        procedure(rates, fit, seeds), workload, scale, out, seed, jobs, executor, ray_address, settings, fresh, as_json
    )


@app.command("next-round")
def next_round(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY.toml", show_default=False, help="Of a study that playbook tune finished.")
    ],
    steps: Annotated[int, typer.Option(help="Steps of the last round.", show_default=False)],
    rounds: Annotated[int, typer.Option(help="Rounds up to that length, growing by one factor.")] = 1,
    points: Annotated[int, typer.Option(help="How many of the best points the next round runs.")] = 3,
    out: _Out = Path("results"),
    as_json: Json = False,
) -> None:
    """Write the specification of a longer round: what carries over, and what to tune again."""
    from harness.next_round import next_round as write

    result = write(study, steps, rounds, points, out, shlex.join(["playbook", *sys.argv[1:]]))
    if as_json:
        print(json.dumps(result, indent=1))
        return
    _print_findings(result)
    print(f"\nrun it: playbook tune {shlex.quote(result['specification'])} --out {shlex.quote(str(out))}")


@app.command("batch-size")
def batch_size(
    workload: _Workload,
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
    scale: _Scale = "laptop",
    out: _Out = Path("results"),
    settings: _Settings = None,
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
        settings=dict(_split_setting(setting) for setting in settings or []),
        sizes=sizes,
        memory_limit=memory_limit,
        steps=steps,
        out=out,
        command=shlex.join(["playbook", *sys.argv[1:]]),
        on_measured=tell,
    )
    if as_json:
        print(json.dumps(result, indent=1))
        return
    table = [COLUMNS, *rows(result["decision"])]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    _print_findings(result)
    print(f"\npage: {Path(result['folder']) / 'index.html'}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show devices, versions and data, and what their lack rules out."""
    from harness.doctor import describe, examine

    findings = examine()
    print(json.dumps(findings, indent=1) if as_json else describe(findings))


@app.command()
def record(
    out: _Out = Path("results"),
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

    for path in recorder.record(out, benchmarks, device, baseline):
        print(path)


@app.command()
def report(out: _Out = Path("results")) -> None:
    """Write one page of every experiment's results: figures, verdicts, flip maps, trials."""
    from harness.gallery import gallery

    print(f"page: {gallery(out)}")


@app.command()
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
            settings=dict(_split_setting(setting) for setting in settings or []),
            out=out,
            seed=seed,
            jobs=_most_workers(jobs, ray_address),
            executor=executor,
            ray_address=ray_address,
            fresh=fresh,
            command=shlex.join(["playbook", *sys.argv[1:]]),
            on_progress=progress.update,
            on_notice=progress.notice,
        )
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        counts = result["trials"]
        print(f"{counts['complete']} complete and {counts['infeasible']} infeasible trials")
        _print_findings(result)
        print(f"\npage: {Path(result['folder']) / 'index.html'}")
    raise typer.Exit(0 if result["decided"] else 1)


def _most_workers(jobs: int | None, ray_address: str | None) -> int:
    """So many as asked for, else one per CPU core of this machine, or all that a cluster has room for."""
    from harness.studies.processes import available_cores

    return jobs if jobs is not None else available_cores() if ray_address is None else sys.maxsize


def _split_setting(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals or not name:
        raise InputError(f"--set {setting!r}: expected NAME=VALUE, such as head=global_pool")
    return name, value


def _print_findings(reading: dict) -> None:
    for finding in reading["findings"]:
        print(f"\n{finding['severity']}: {finding['check']}\n  {_printable(finding['evidence'])}")
        if finding["advice"]:
            print(f"  {_printable(finding['advice'])}")


def _printable(text: str) -> str:
    """Text without what steers a terminal, which names in a table may hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _print_profile(found: Any, folder: Path, as_json: bool) -> None:
    if found is None:  # of several hosts the first speaks
        return
    if as_json:
        print(json.dumps(found._asdict(), indent=1))
        return
    print(f"input {found.input:.1%}  compute {found.compute:.1%}  host {found.host:.1%}  of {found.seconds:.2f} s")
    print(f"{found.steps} steps, {found.steps / found.seconds:.1f} a second")
    print(found.advice)
    print(f"trace: {folder / 'profile'}")


def _print_result(result: dict) -> None:
    from harness.report.page import format_number

    for claim in result["claims"]:
        verdict = claim["verdict"] + (f" ({claim['reason']})" if claim["reason"] else "")
        low, high = map(format_number, claim["interval"])
        evidence = f"effect {format_number(claim['effect'])}, interval [{low}, {high}], n {claim['n']}"
        print(f"{claim['id']:28} {verdict:24} {evidence}")
    if not result["judged"]:
        print(f"{result['experiment']}: scale {result['scale']} judges nothing")
    counts = result["trials"]
    print(f"{counts['complete']} complete and {counts['infeasible']} infeasible trials")
    for folder, count in result["provenance"].get("shared", {}).items():
        print(f"{count} of them were trained for {folder}")
    print(f"fingerprint: {result['fingerprint']}")
    print(f"page: {Path(result['folder']) / 'index.html'}")


class _Terminated(SystemExit):
    """SIGTERM, as schedulers send it: ends like Ctrl-C, workers and all."""


def _terminate(*_: object) -> None:
    raise _Terminated(128 + signal.SIGTERM)


def main() -> None:
    """Runs the command; bad input is one line on standard error and exit status 2."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = app(standalone_mode=False)
        if status == 130:  # what later versions of Typer make of Ctrl-C
            raise KeyboardInterrupt
    except InputError as error:
        _fail(str(error))
    except _UsageError as error:
        _fail(_usage_line(error))
    except (KeyboardInterrupt, typer.Abort, _Terminated) as end:
        print("interrupted; finished trials are kept, the same command continues", file=sys.stderr)
        sys.exit(end.code if isinstance(end, _Terminated) else 130)
    except BrokenPipeError:
        # The reader of the pipe has gone; the interpreter must not fail on it at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception:
        # Python's own status for this, 1, would read as `contradicted`.
        traceback.print_exc()
        sys.exit(70)
    sys.exit(status or 0)


# Typer before 0.20 raises click's own exceptions, later ones those of a copy inside it.
_UsageError = typer.BadParameter.__base__


def _usage_line(error: Exception) -> str:
    line = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    commands = getattr(context.command, "commands", None) if context else None
    words = [part for word in sys.argv[1:] for part in word.split("=", 1)]
    given = next((word for word in words if not word.startswith("-")), None)
    if commands and given not in commands:
        near = "" if given is None or "Did you mean" in line else did_you_mean(given, commands)
        line += f"{near} Known: {', '.join(commands)}."
    options = getattr(getattr(error, "param", None), "opts", ())
    # Not every version of Typer names the value.
    line += "".join(f" Given: {after!r}." for word, after in itertools.pairwise(words) if word in options)
    return f"{line} See: {context.command_path if context else 'playbook'} --help"


def _fail(line: str) -> None:
    print(f"playbook: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(2)
