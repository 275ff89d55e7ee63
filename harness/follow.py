"""Follows one of the playbook's procedures on a workload: rounds of trials in, `result.json`, page and trials out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.diagnose import json_ready
from harness.procedures.procedure import Decision, Procedure
from harness.provenance import provenance
from harness.records import InputError, TrialRecord
from harness.studies.fingerprint import fingerprint
from harness.studies.missing import check_batches
from harness.studies.policy import check_executor
from harness.studies.rounds import run_rounds
from harness.studies.store import DATABASE, locked_folder, move_aside
from harness.train import plan


def follow(
    procedure: Procedure,
    workload: str,
    scale: str,
    settings: Mapping[str, str],
    out: Path,
    seed: int,
    jobs: int,
    executor: str | None,
    fresh: bool,
    command: str,
    on_progress: Callable[[int, int, int], None] = lambda done, infeasible, total: None,
    on_notice: Callable[[str], None] = lambda line: None,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Runs what is missing of a procedure and writes `OUT/<procedure>/<workload>/<scale>-seed<N>/`.

    Args:
      procedure: with its settings.
      workload: its name, or `module:NAME`.
      scale: one of the workload's.
      settings: fields of the workload, of its scale, or hyperparameters, to values as text.
      out: the folder of all results.
      seed: at least 0.
      jobs: number of worker processes, at least 1.
      executor: one of `harness.studies.policy.EXECUTORS`, or None for the policy's.
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
    check_executor(executor, ray_address)
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: expected at least 1")
    trial = plan(workload, scale, seed, settings)
    rounds = procedure.rounds(trial, seed)
    first = next(rounds)
    folder = out / procedure.name / trial.workload.name / f"{scale}-seed{seed}"
    if fresh or not (folder / DATABASE).exists():  # otherwise its batches were checked
        check_batches(first)
    with locked_folder(folder):
        if fresh and (aside := move_aside(folder)) is not None:
            on_notice(f"older results moved to {aside}")
        done = run_rounds(first, rounds, folder, jobs, executor, on_progress, ray_address)
        decision: Decision = done.found
        statuses = {record.address: record.status for record in done.records}
        result = json_ready(
            {
                "procedure": procedure.name,
                "workload": workload,
                "scale": scale,
                "seed": seed,
                "set": settings,
                "settings": procedure.settings,
                "decided": decision.decided,
                "decision": decision.values,
                "findings": [asdict(finding) for finding in decision.findings],
                "trials": {
                    status: sum(one == status for one in statuses.values()) for status in ("complete", "infeasible")
                },
                "fingerprint": fingerprint(done.records),
                "seconds": done.run["seconds"],
                "provenance": {
                    **provenance(command, done.run["device"], done.identity),
                    "packing": done.run["packing"],
                    "compilations": done.run["compilations"],
                },
            }
        )
        try:
            _write(folder, done.records, result)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be written ({error.strerror}); make room and repeat the command"
            ) from None
    return {**result, "folder": str(folder)}


def _write(folder: Path, records: Sequence[TrialRecord], result: Mapping[str, Any]) -> None:
    from harness.report.procedure import procedure_page
    from harness.report.trial_table import write_parquet

    write_parquet(records, folder / "trials.parquet")
    (folder / "index.html").write_text(procedure_page(result, records), "utf-8")
    (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
