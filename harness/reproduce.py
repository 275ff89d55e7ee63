"""Runs an experiment to its verdicts: result folder in, `result.json`, figure, page and trial table out."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.experiments.experiment import SCALES, Experiment
from harness.experiments.verdict import judge
from harness.provenance import provenance
from harness.recorded import own_flips, recorded_flips
from harness.records import InputError, TrialRecord, Verdict, did_you_mean
from harness.standing import note_answer, question, standing
from harness.studies.fingerprint import fingerprint
from harness.studies.identity import data_hashes
from harness.studies.policy import check_executor
from harness.studies.rounds import Rounds, run_rounds
from harness.studies.shared_trials import neighbours
from harness.studies.store import locked_folder, move_aside
from harness.studies.study import PlannedTrial, Study
from workloads.workload import ConfigurationError, DataError, Workload, configure

PROGRAM_FAILED = 70
"""Exit status of a failure that no input is to blame for; Python's own, 1, would read as `contradicted`."""

_FILES = ("trials.parquet", "figure.png", "figure.svg", "figure.pdf", "index.html")


def reproduce(
    experiment: Experiment,
    scale: str,
    out: Path,
    seed: int,
    jobs: int,
    executor: str | None,
    control: bool,
    overrides: Mapping[str, str],
    fresh: bool,
    command: str,
    on_progress: Callable[[int, int, int], None] = lambda done, infeasible, total: None,
    on_notice: Callable[[str], None] = lambda line: None,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Runs what is missing of an experiment, round by round, judges it and writes its result folder.

    Args:
      experiment: what to run.
      scale: one of `harness.experiments.experiment.SCALES`.
      out: the folder of all results.
      seed: of the experiment, at least 0.
      jobs: number of worker processes, at least 1.
      executor: one of `harness.studies.policy.EXECUTORS`, or None for the policy's.
      control: run it with its cause removed.
      overrides: workload field to value.
      fresh: move older results of the folder aside.
      command: that repeats this run, for the provenance.
      on_progress: called with trials done, infeasible ones among them, and trials in all, of the rounds so far.
      on_notice: called with a line for the user.
      ray_address: of a cluster for the executor `ray`, None for one on this machine.

    Returns:
      What `result.json` holds, and `folder`.

    Raises:
      InputError: bad input, see the message.
    """
    check_asked(scale, seed, jobs, executor, ray_address)
    folder = out / experiment.name / f"{scale}-seed{seed}{'-control' if control else ''}"
    studies = _studies(lambda: experiment.studies(scale, control, overrides))
    data = data_hashes(_trained(studies))
    asked = question(
        experiment=experiment.name,
        scale=scale,
        seed=seed,
        control=control,
        overrides=dict(overrides),
        executor=executor,
        studies=repr(studies),
        flips=own_flips(folder),
    )
    if not fresh and (stands := standing(folder, asked, data, _FILES)) is not None:
        trials = stands["trials"]
        on_progress(sum(trials.values()), trials["infeasible"], sum(trials.values()))
        return {**stands, "folder": str(folder)}
    rounds = _rounds(experiment, studies, scale, seed, control, overrides)
    first = next(rounds)
    with locked_folder(folder):
        if fresh and (aside := move_aside(folder)) is not None:
            on_notice(f"older results moved to {aside}")
        # Who asks for a fresh run does not trust what is there.
        beside = () if fresh else neighbours(folder)
        done = run_rounds(first, rounds, folder, jobs, executor, on_progress, ray_address, beside)
        records = done.records
        verdicts = judge(experiment.judge(records, scale, control)) if scale != "smoke" else []
        result = _result(experiment, scale, seed, control, overrides, records, verdicts)
        result["seconds"] = done.run["seconds"]
        result["provenance"] = {
            **provenance(command, done.run["device"], done.identity),
            "packing": done.run["packing"],
            "compilations": done.run["compilations"],
            "shared": done.run["shared"],
        }
        plain = not control and not overrides and experiment.flips
        flips = _flips(folder, result) if plain else {}
        try:
            _write(folder, experiment, records, verdicts, result, flips)
            note_answer(folder, asked)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be written ({error.strerror}); make room and repeat the command"
            ) from None
    return {**result, "folder": str(folder)}


def attempt(experiment: Experiment, **asked: Any) -> dict[str, Any]:
    """Reproduces one of several experiments, which must go on without it where it cannot be run.

    Args:
      experiment: what to run.
      **asked: what else `reproduce` takes.

    Returns:
      What `reproduce` returns, or `experiment`, `error` (one line) and `status`: 2 for bad input, or `PROGRAM_FAILED`,
      then with the traceback in `traceback`.
    """
    try:
        return reproduce(experiment, **asked)
    except InputError as error:
        return {"experiment": experiment.name, "error": " ".join(str(error).split()), "status": 2}
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        failed = {"experiment": experiment.name, "error": line, "status": PROGRAM_FAILED}
        return {**failed, "traceback": traceback.format_exc()}


def check_asked(scale: str, seed: int, jobs: int, executor: str | None, ray_address: str | None) -> None:
    """Refuses what no experiment could be run with; the arguments are those of `reproduce`.

    Raises:
      InputError: see the message.
    """
    if scale not in SCALES:
        raise InputError(f"unknown scale {scale!r}{did_you_mean(scale, SCALES)}; known: {', '.join(SCALES)}")
    check_executor(executor, ray_address)
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: expected at least 1")
    if seed < 0:
        raise InputError(f"--seed {seed}: expected at least 0")


def exit_status(result: Mapping[str, Any]) -> int:
    """Exit status of a result: 0 reproduced or not judged, 1 some contradicted, 3 some inconclusive.

    A control gives 1 where its main claim is reproduced, else 0.
    """
    verdicts = [claim["verdict"] for claim in result["claims"]]
    if result["control"]:
        return int(verdicts[:1] == ["reproduced"])
    return 1 if "contradicted" in verdicts else 3 if "inconclusive" in verdicts else 0


def _rounds(
    experiment: Experiment,
    studies: Sequence[Study],
    scale: str,
    seed: int,
    control: bool,
    overrides: Mapping[str, str],
) -> Rounds:
    """The rounds of an experiment, see `harness.studies.rounds`; the studies are those of the first."""
    records = yield _plan(studies, seed)
    for follow_up in experiment.follow_ups:
        records = yield _plan(_studies(partial(follow_up, records, scale, control, overrides)), seed)


def _studies(build: Callable[[], list[Study]]) -> list[Study]:
    """The studies of a round, whose data are there.

    Raises:
      InputError: a configuration that does not exist, or data that are missing.
    """
    try:
        studies = build()
        data_hashes(_trained(studies))
        return studies
    except (ConfigurationError, DataError) as error:
        raise InputError(str(error)) from None


def _trained(studies: Sequence[Study]) -> list[Workload]:
    return [configure(study.workload, arm.workload) for study in studies for arm in study.arms]


def _plan(studies: Sequence[Study], seed: int) -> list[PlannedTrial]:
    return [place for study in studies for place in study.plan(seed)]


def _result(
    experiment: Experiment,
    scale: str,
    seed: int,
    control: bool,
    overrides: Mapping[str, str],
    records: Sequence[TrialRecord],
    verdicts: Sequence[Verdict],
) -> dict[str, Any]:
    statuses = {record.address: record.status for record in records}
    return {
        "experiment": experiment.name,
        "scale": scale,
        "seed": seed,
        "control": control,
        "overrides": dict(overrides),
        "judged": bool(verdicts),
        "claims": [
            {
                "id": verdict.claim.id,
                "text": verdict.claim.text,
                "verdict": verdict.verdict,
                "reason": verdict.reason,
                "effect": verdict.effect,
                # JSON has no infinity: an open limit is null.
                "interval": [limit if math.isfinite(limit) else None for limit in verdict.interval],
                "level": verdict.level,
                "n": verdict.n,
                "rule": verdict.claim.rule,
            }
            for verdict in verdicts
        ],
        "trials": {
            "complete": sum(status == "complete" for status in statuses.values()),
            "infeasible": sum(status == "infeasible" for status in statuses.values()),
        },
        "fingerprint": fingerprint(records),
    }


def _write(
    folder: Path,
    experiment: Experiment,
    records: Sequence[TrialRecord],
    verdicts: Sequence[Verdict],
    result: Mapping[str, Any],
    flips: Mapping[str, Any],
) -> None:
    from harness.figures.style import save
    from harness.report.page import experiment_page
    from harness.report.trial_table import write_parquet

    write_parquet(records, folder / "trials.parquet")
    save(lambda: experiment.draw(records, verdicts, result["scale"]), folder)
    page = experiment_page(experiment, records, result, (folder / "figure.svg").read_text("utf-8"), flips)
    (folder / "index.html").write_text(page, "utf-8")
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def _flips(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The flip maps of a result folder, else those recorded of its experiment; empty where there are none."""
    return own_flips(folder) or recorded_flips(result["experiment"], result["scale"], result["provenance"]["device"])
