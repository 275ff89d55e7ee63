"""Runs one's own study: specification in, trials, summary and a row of `studies.csv` out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.axes import Axis
from harness.diagnose import write as diagnosis
from harness.provenance import provenance
from harness.records import InputError, TrialTable
from harness.report.study_log import check_log, log_study
from harness.report.study_summary import Setting, summary, trial_table
from harness.search.bayesian import BayesianSearch, import_optuna
from harness.search.samplers import sample
from harness.search.study_spec import StudySpec, study_from_toml
from harness.standing import note_answer, question, standing
from harness.studies.fingerprint import fingerprint
from harness.studies.identity import data_hashes, identity
from harness.studies.missing import check_batches, how_it_was_run, run_missing
from harness.studies.policy import check_executor
from harness.studies.store import DATABASE, Store, locked_folder, move_aside
from harness.studies.study import PlannedTrial
from harness.train import plan
from harness.training.trial import derive_seeds

PROBES = 256
"""Points that stand for those of the search when a specification is checked: a Bayesian one's are not known before, and
a long sequence takes its time."""

_FILES = ("trials.parquet", "study.toml", "reading/index.html")

Round = tuple[list[Mapping[str, Any]], list[PlannedTrial]]
"""Points and their trials, point by point."""


def tune(
    path: Path,
    out: Path,
    jobs: int,
    executor: str | None,
    fresh: bool,
    command: str,
    on_progress: Callable[[int, int, int], None] = lambda done, infeasible, total: None,
    on_notice: Callable[[str], None] = lambda line: None,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Runs what is missing of a study and writes its result folder, `OUT/tune/<name>/`.

    A specification that asks for more trials than before extends the study; whatever else decides its trials must be
    the same.

    Args:
      path: of the specification, see `harness.search.study_spec`.
      out: the folder of all results.
      jobs: number of worker processes, at least 1.
      executor: one of `harness.studies.policy.EXECUTORS`, or None for the policy's.
      fresh: move older results of the folder aside.
      command: that repeats this run, for provenance and `studies.csv`.
      on_progress: called with trials done, infeasible ones among them, and trials in all.
      on_notice: called with a line for the user.
      ray_address: of a cluster for the executor `ray`, None for one on this machine.

    Returns:
      What `result.json` holds, and `folder`.

    Raises:
      InputError: bad input, see the message.
    """
    spec = study_from_toml(path)
    text = path.read_bytes()  # before anybody edits it
    check_executor(executor, ray_address)
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: expected at least 1")
    folder = out / "tune" / spec.name
    asked = question(specification=text.decode(), executor=executor, optuna=_optuna(spec))
    if not fresh and (stands := standing(folder, asked, _data(spec), _FILES)) is not None:
        trials = stands["trials"]
        on_progress(sum(trials.values()), trials["infeasible"], sum(trials.values()))
        log_study(out, _row(spec, stands, command))
        return {**stands, "folder": str(folder)}
    try:
        known = _planned(spec, _probes(spec) if spec.parallel else _sequence(spec))
        checked = known[1]
        wanted = _identity(spec, checked)
        if fresh or not (folder / DATABASE).exists():  # otherwise its batches were checked
            check_batches(checked)
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}") from None
    check_log(out)
    objective = spec.objective or f"best_{checked[0].trial.workload.objective}"

    with locked_folder(folder):
        if fresh and (aside := move_aside(folder)) is not None:
            on_notice(f"older results moved to {aside}")
        store = Store(folder, wanted)
        try:
            _check_extends(store, spec, folder)
            total = len(checked) if spec.parallel is None else spec.trials * spec.replicates
            for done in _bayesian_rounds(spec, store, objective) if spec.parallel else [known]:
                run_missing(
                    store,
                    done[1],
                    jobs,
                    executor,
                    lambda n, infeasible, _: on_progress(n, infeasible, total),
                    ray_address,
                )
            settings = _settings(*done, store, objective)
            run = how_it_was_run(store)
        finally:
            store.close()
        records = [record for setting in settings for record in setting.runs]
        result = {
            "study": spec.name,
            "notes": spec.notes,
            "workload": spec.workload,
            "scale": spec.scale,
            "sampler": spec.sampler,
            "seed": spec.seed,
            "objective": objective,
            **summary(spec, settings),
            "reading": _reading(spec, trial_table(spec, settings), folder / "reading"),
            "fingerprint": fingerprint(records),
            "seconds": run["seconds"],
            "provenance": {
                **provenance(command, run["device"], wanted),
                "packing": run["packing"],
                "compilations": run["compilations"],
            },
        }
        try:
            _write(folder, text, records, result)
            note_answer(folder, asked)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be written ({error.strerror}); make room and repeat the command"
            ) from None
        log_study(out, _row(spec, result, command))
    return {**result, "folder": str(folder)}


def _reading(spec: StudySpec, table: TrialTable, folder: Path) -> dict[str, Any]:
    """The playbook's reading of the trials, whose columns are the axes of the space, with its page in the folder."""
    ranges = {
        axis.name: Axis(axis.low, axis.high, axis.scale)
        for axis in spec.space.hyperparameters
        if axis.values is None and axis.name in table.hyperparameters
    }
    reading = diagnosis(table, spec.name, folder, ranges)
    return {name: value for name, value in reading.items() if name != "folder"}


def _data(spec: StudySpec) -> dict[str, str]:
    """Hashes of the data sets by name; empty where not every place of the space can be planned."""
    try:
        return data_hashes(place.trial.workload for place in _planned(spec, _probes(spec))[1])
    except InputError:
        return {}


def _sequence(spec: StudySpec) -> list[dict[str, Any]]:
    return sample(spec.space, spec.sampler, spec.seed, spec.trials)


def _probes(spec: StudySpec) -> list[dict[str, Any]]:
    """Points all over the space, at the ends of half the ranges."""
    random = np.random.default_rng(0)
    rows = random.random((PROBES, len(spec.space)))
    rows = np.where(random.random(rows.shape) < 0.5, np.round(rows), rows)
    axes = spec.space.hyperparameters
    drawn = ({axis.name: axis.from_unit(u) for axis, u in zip(axes, row, strict=True)} for row in rows)
    return [spec.space.applicable(values) for values in drawn]


def _planned(spec: StudySpec, points: Sequence[Mapping[str, Any]]) -> Round:
    """Plans the trials of the points, each point once."""
    distinct = list({json.dumps(point, sort_keys=True): point for point in points}.values())
    planned = []
    for point in distinct:
        values = spec.space.values_set(point)
        texts = {name: _text(value) for name, value in {**spec.settings, **values}.items()}
        try:
            trial = plan(spec.workload, spec.scale, spec.seed, texts)
        except InputError as error:
            at = ", ".join(f"{name} = {value!r}" for name, value in values.items())
            raise InputError(f"{error}; at the setting {at}") from None
        for replicate in range(spec.replicates):
            own = dataclasses.replace(trial, seeds=derive_seeds(spec.seed, replicate))
            planned.append(PlannedTrial(spec.name, trial.workload.name, replicate, own))
    return distinct, planned


def _text(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)


def _identity(spec: StudySpec, planned: Sequence[PlannedTrial]) -> dict[str, Any]:
    """As `harness.studies.identity`, but of the sequence of trials, whatever their number."""
    found = {key: value for key, value in identity(planned).items() if key not in ("studies", "trials")}
    return {"study": spec.identity(), **found, **_optuna(spec)}


def _optuna(spec: StudySpec) -> dict[str, str]:
    """The version of Optuna, where the search needs it."""
    return {"optuna": import_optuna().__version__} if spec.parallel else {}


def _check_extends(store: Store, spec: StudySpec, folder: Path) -> None:
    """Refuses fewer trials than before, whose packs may hold trials that are not asked for any more."""
    before = int(store.fact("settings") or 0)
    if spec.trials < before:
        raise InputError(
            f"{folder} was begun with trials = {before}, now {spec.trials}; "
            "more of them extend a study, --fresh moves it aside"
        )
    store.record_fact("settings", str(spec.trials))


def _bayesian_rounds(spec: StudySpec, store: Store, objective: str) -> Iterator[Round]:
    """Plans round after round, each with those before it; it must be run before the next is asked for.

    What the store holds is asked and told again, so that a resumed study goes on as if it had never ended.
    """
    search = BayesianSearch(spec.space, spec.seed)
    points: list[Mapping[str, Any]] = []
    while len(points) < spec.trials:
        asked = search.ask(min(spec.parallel, spec.trials - len(points)))
        points += asked
        distinct, planned = _planned(spec, points)
        yield distinct, planned
        settings = _settings(distinct, planned, store, objective)
        found = {json.dumps(setting.point, sort_keys=True): setting.value() for setting in settings}
        search.tell([found[json.dumps(point, sort_keys=True)] for point in asked])


def _settings(
    points: Sequence[Mapping[str, Any]], planned: Sequence[PlannedTrial], store: Store, objective: str
) -> list[Setting]:
    """The points with their runs, all of which are finished."""
    records = store.records(planned)
    replicates = len(records) // len(points)
    return [Setting(point, records[i * replicates : (i + 1) * replicates], objective) for i, point in enumerate(points)]


def _write(folder: Path, text: bytes, records: Sequence, result: Mapping[str, Any]) -> None:
    from harness.report.trial_table import write_parquet

    write_parquet(records, folder / "trials.parquet")
    (folder / "study.toml").write_bytes(text)
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def _row(spec: StudySpec, result: Mapping[str, Any], command: str) -> dict[str, str]:
    best = result["best"]
    return {
        "name": spec.name,
        "configuration": f"tune/{spec.name}/study.toml",
        "notes": spec.notes,
        "trials": str(sum(result["trials"].values())),
        "infeasible share": f"{result['infeasible_share']:.3g}",
        "best validation result": "" if best is None else f"{result['objective']} {best['value']:.6g}",
        "command": command,
    }
