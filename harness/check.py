"""Runs experiments on fresh seeds and says what has drifted from the recorded baselines.

Three comparisons. Of every metric, fresh trials of the last nights against recorded ones (`harness.analysis.drift`),
with a stated chance of a false alarm over the whole suite. Of every claim, its verdict: a move between `reproduced` and
`contradicted` is drift, since both intervals would have to lie on opposite sides of the threshold; one from or to
`inconclusive` is told but is no drift, because a claim near its threshold moves so by chance, at a rate nobody knows.
Of every benchmark, its ratio to the peer of the same run, never absolute time.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis import drift
from harness.analysis.rank_tests import holm
from harness.experiments.experiment import Experiment
from harness.nights import Nights
from harness.recorded import device_folder, recorded_trials
from harness.records import InputError, TrialRecord
from harness.report.trial_table import read_parquet
from harness.reproduce import attempt, check_asked

CHECK = "check.json"
"""Of the folder of all results: what the last night found."""

METRICS = ("final_error", "final_loss")
"""Results that are compared; the best ones along a trial follow them, and each more costs power."""

BENCHMARK_FACTOR = 1.5
"""Change of a ratio to a peer that counts as drift: many benchmarks have one round, so there is no spread to test by,
and neighbours on a shared machine move such ratios by tenths."""


def check(
    chosen: Sequence[Experiment],
    scale: str,
    out: Path,
    baseline: Path | None = None,
    seed: int | None = None,
    benchmarks: Path | None = None,
    alpha: float = drift.ALPHA,
    nights: int = drift.NIGHTS,
    on_experiment: Callable[[str], None] = lambda name: None,
    on_failure: Callable[[str], None] = lambda traceback: None,
    **named: Any,
) -> dict[str, Any]:
    """Runs each experiment at a fresh seed, compares, and writes `OUT/check.json`.

    An experiment that cannot be run or compared takes nothing from the others.

    Args:
      chosen: the experiments.
      scale: one of `harness.experiments.experiment.SCALES`.
      out: the folder of all results, where earlier nights lie too.
      baseline: the folder of all baselines; None for that of the package `baselines`.
      seed: of the experiments; None for a fresh one, see `harness.nights`.
      benchmarks: written by `pytest --benchmark-json`; None for no comparison of benchmarks.
      alpha: chance of a false alarm of any metric in a night.
      nights: how many of the last seeds that ran here against the same baselines are pooled, this one included.
      on_experiment: called with the name of what is run next.
      on_failure: called with the traceback of an experiment that the program failed at.
      **named: what else `harness.reproduce.reproduce` takes.

    Returns:
      What `check.json` holds: `drifts`, a line each; `notes` likewise; `unchecked`, name to the reason why an
      experiment or the benchmarks could not be compared, though they should; `metrics`, `verdicts`, `benchmarks`, each
      a list of comparisons; `scale`, `seed`, `alpha`, `nights`; `status`, the exit status of the command: 1 where
      something drifted, else 70 where the program failed at an experiment, else 2 where something could not be
      compared, else 0.

    Raises:
      InputError: bad input, see the message.
    """
    if baseline is not None and not baseline.is_dir():
        raise InputError(f"--baseline {baseline}: expected a folder of baselines, as playbook record writes one")
    check_asked(scale, seed or 0, named["jobs"], named["executor"], named.get("ray_address"))
    fresh_rows = None if benchmarks is None else _benchmark_rows(benchmarks)
    place = baseline or Path(str(importlib.resources.files("baselines")))
    recorded_seeds = {one.name: _seeds(place.glob(f"*/{one.name}/*.json"), scale) for one in chosen}
    for name, seeds in recorded_seeds.items():
        if seed in seeds:
            raise InputError(
                f"--seed {seed}: expected one that is not recorded, but {name} is recorded at it; "
                "leave --seed out for a fresh one"
            )
    here = [_seeds((out / one.name).glob("*/*"), scale) for one in chosen]
    ran = Nights(out, scale, itertools.chain(*recorded_seeds.values(), *here), seed)
    found = _Found()
    status = 0
    for experiment in chosen:
        on_experiment(experiment.name)
        result = attempt(
            experiment, scale=scale, out=out, seed=ran.seed, control=False, overrides={}, fresh=False, **named
        )
        if "error" in result:
            found.unchecked[experiment.name] = result["error"]
            status = max(status, result["status"])
            if "traceback" in result:
                on_failure(result["traceback"])
            continue
        try:
            _compare(found, experiment, result, ran, out, baseline, nights)
        except InputError as error:
            found.unchecked[experiment.name] = str(error)
    for row, adjusted in zip(found.metrics, holm(np.array([row["p"] for row in found.metrics])), strict=True):
        row |= {"adjusted_p": float(adjusted), "drift": bool(adjusted <= alpha)}
    rows = []
    if fresh_rows is not None:
        rows, why_not = _compare_to_recorded(fresh_rows, place / device_folder(found.device) / "benchmarks.json")
        found.unchecked |= {"benchmarks": why_not} if why_not else {}
    drifts = [_line(row) for row in (*found.verdicts, *found.metrics, *rows) if row["drift"]]
    content = {
        "scale": scale,
        "seed": ran.seed,
        "alpha": alpha,
        "nights": nights,
        "drifts": drifts,
        "notes": [_line(row) for row in found.verdicts if row["recorded"] != row["fresh"] and not row["drift"]]
        + found.notes,
        "unchecked": found.unchecked,
        "verdicts": found.verdicts,
        "metrics": found.metrics,
        "benchmarks": rows,
        "status": 1 if drifts else max(status, 2) if found.unchecked else 0,
    }
    try:
        (out / CHECK).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); make room and repeat the command") from None
    ran.finish()
    return content


@dataclasses.dataclass
class _Found:
    """What the comparisons of a night give, see `check`; `device` is that of the last experiment."""

    metrics: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    verdicts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    unchecked: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    device: str = ""


def _compare(
    found: _Found,
    experiment: Experiment,
    result: Mapping[str, Any],
    ran: Nights,
    out: Path,
    baseline: Path | None,
    nights: int,
) -> None:
    """Compares an experiment that has run with its baselines."""
    name, scale, found.device = experiment.name, result["scale"], result["provenance"]["device"]
    place = (baseline or Path(str(importlib.resources.files("baselines")))) / device_folder(found.device)
    recorded = recorded_trials(name, scale, found.device, baseline)
    pooled = ran.compared(name, _fingerprints(place / name, scale))
    if not recorded:
        found.unchecked[name] = (
            f"no trials of scale {scale} are recorded for {device_folder(found.device)}; "
            f"playbook record --out {out} records this night's"
        )
        return
    verdicts, gone = _compare_verdicts(result, place)
    found.verdicts += verdicts
    found.notes += [f"{name}: {claim} is recorded, and judged no more" for claim in gone]
    units = drift.independent_units([one.seeds for trials in recorded.values() for one in trials])
    if len(set(units)) < drift.MIN_UNITS:
        found.notes.append(f"{name}: verdicts alone, as fewer than {drift.MIN_UNITS} independent units are recorded")
        return
    tables = {one: out / name / f"{scale}-seed{one}" / "trials.parquet" for one in pooled[-nights:]}
    compared = compare_trials(name, recorded, {one: read_parquet(path) for one, path in tables.items()})
    found.metrics += compared
    if not compared:
        found.unchecked[name] = (
            f"fewer than {drift.MIN_UNITS} units have settings in common with those recorded; record it anew"
        )


def compare_trials(
    experiment: str, recorded: Mapping[int, Sequence[TrialRecord]], fresh: Mapping[int, Sequence[TrialRecord]]
) -> list[dict[str, Any]]:
    """Compares the metrics of an experiment.

    Args:
      experiment: its name.
      recorded: seed of the experiment to trials.
      fresh: likewise.

    Returns:
      A row per metric, empty where too few units can be compared.
    """
    tables, is_fresh = outcome_tables(recorded, fresh)
    found = {metric: drift.compare(table, is_fresh) for metric, table in tables.items()}
    return [{"experiment": experiment, "metric": metric, **_plain(one)} for metric, one in found.items() if one]


def outcome_tables(
    recorded: Mapping[int, Sequence[TrialRecord]], fresh: Mapping[int, Sequence[TrialRecord]]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Lays the trials of an experiment out by independent unit and setting.

    Settings that a search or an earlier round chose by its own results differ between seeds of the experiment; only
    those that every seed has are kept.

    Args:
      recorded: seed of the experiment to trials, at least one.
      fresh: likewise, or empty.

    Returns:
      Metric to table, see `harness.analysis.drift.outcome_table`, and which of its units are fresh, bool (units,).
    """
    sides = [*recorded.values(), *fresh.values()]
    # A hyperparameter that came to the harness later is in the newer trials alone.
    names = sorted(set.intersection(*({name for one in side for name in one.hyperparameters} for side in sides)))
    keys = [[_setting(one, names) for one in side] for side in sides]
    common = set.intersection(*map(set, keys))
    trials = [
        (one, key, position >= len(recorded))
        for position, (side, of_side) in enumerate(zip(sides, keys, strict=True))
        for one, key in zip(side, of_side, strict=True)
    ]
    units = drift.independent_units([one.seeds for one, _, _ in trials])
    kept = [position for position, (_, key, _) in enumerate(trials) if key in common]
    trials = [trials[position] for position in kept]
    numbers, units = np.unique(units[kept], return_inverse=True)
    is_fresh = np.zeros(len(numbers), bool)
    is_fresh[units] = [new for _, _, new in trials]
    settings = [key for _, key, _ in trials]
    outcomes = {metric: np.array([_outcome(one, metric) for one, _, _ in trials]) for metric in METRICS}
    return {metric: drift.outcome_table(units, settings, values) for metric, values in outcomes.items()}, is_fresh


def compare_benchmarks(recorded: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compares speeds relative to a peer of the same run, of benchmarks that both sides have.

    Args:
      recorded: full name to `extra_info`.
      fresh: likewise.

    Returns:
      A row per ratio, with `change`, the fresh speed over the recorded one; drift below 1 / `BENCHMARK_FACTOR`.
    """
    rows = []
    for name in sorted(recorded.keys() & fresh.keys()):
        old, new = _relative_speeds(name, recorded[name]), _relative_speeds(name, fresh[name])
        for ratio in sorted(old.keys() & new.keys()):
            change = new[ratio] / old[ratio]
            row = {"benchmark": name, "ratio": ratio, "recorded": old[ratio], "fresh": new[ratio]}
            rows.append({**row, "change": change, "drift": change < 1 / BENCHMARK_FACTOR})
    return rows


def _relative_speeds(name: str, numbers: Mapping[str, Any]) -> dict[str, float]:
    """Speed over that of each peer; peers among themselves are none of ours."""
    found = {key: value for key, value in numbers.items() if key.startswith("ratio_to_") and name.endswith("harness]")}
    if numbers.get("overhead", -1) > -1:
        found["speed without / with"] = 1 / (1 + numbers["overhead"])
    return {key: float(value) for key, value in found.items() if 0 < value < math.inf}


def _setting(record: TrialRecord, names: Iterable[str]) -> str:
    values = [record.hyperparameters.get(name) for name in names]
    return json.dumps([record.study, record.arm, *values], default=str)


def _outcome(record: TrialRecord, metric: str) -> float:
    value = record.results.get(metric)
    return math.inf if record.status != "complete" or value is None else float(value)


def _plain(found: drift.Drift) -> dict[str, Any]:
    row = {**found._asdict(), "interval": list(found.interval)}
    return row if math.isfinite(found.trial_sd) else {**row, "trial_sd": None}  # JSON has no NaN


def _seeds(paths: Iterable[Path], scale: str) -> list[int]:
    """Seeds, ascending, of results of a scale, whose name is that of the file or of its folder."""
    found = re.compile(rf"{re.escape(scale)}-seed(\d+)").fullmatch
    names = (path.stem if path.suffix == ".json" else path.parent.name for path in paths)
    return sorted({int(name[1]) for text in names if (name := found(text))})


def _fingerprints(folder: Path, scale: str) -> list[str]:
    """Of the recorded results of an experiment, by ascending seed."""
    paths = [folder / f"{scale}-seed{seed}.json" for seed in _seeds(folder.glob("*.json"), scale)]
    try:
        return [json.loads(path.read_bytes())["fingerprint"] for path in paths]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"recorded results in {folder} are damaged: expected a fingerprint; restore them") from None


def _compare_verdicts(result: Mapping[str, Any], folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Each claim's verdict against the recorded one of the lowest seed, and recorded claims that are judged no more."""
    experiment, scale = result["experiment"], result["scale"]
    seeds = _seeds((folder / experiment).glob("*.json"), scale)
    path = folder / experiment / f"{scale}-seed{seeds[0]}.json"
    try:
        recorded = {claim["id"]: claim for claim in json.loads(path.read_text("utf-8"))["claims"]}
        rows = [
            {
                "claim": claim["id"],
                "recorded": recorded[claim["id"]]["verdict"],
                "fresh": claim["verdict"],
                "recorded_effect": recorded[claim["id"]]["effect"],
                "effect": claim["effect"],
                "interval": claim["interval"],
                "drift": {recorded[claim["id"]]["verdict"], claim["verdict"]} == {"reproduced", "contradicted"},
            }
            for claim in result["claims"]
            if claim["id"] in recorded
        ]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"recorded result {path} is damaged: expected its claims; restore the file") from None
    return rows, sorted(recorded.keys() - {claim["id"] for claim in result["claims"]})


def _benchmark_rows(path: Path) -> dict[str, Any]:
    """Full name of a benchmark to `extra_info`, numbers alone, and `machine`."""
    try:
        content = json.loads(path.read_bytes())
        cpu = content["machine_info"]["cpu"]
        machine = {"cpu": cpu.get("brand_raw"), "cores": cpu.get("count")}
        return {
            row["fullname"]: {"extra_info": _numbers(row["extra_info"]), "machine": machine}
            for row in content["benchmarks"]
        }
    except OSError as error:
        raise InputError(f"--benchmarks {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"--benchmarks {path}: expected a file that pytest --benchmark-json writes") from None


def _numbers(extra_info: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in extra_info.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _compare_to_recorded(fresh: Mapping[str, Any], path: Path) -> tuple[list[dict[str, Any]], str]:
    """Rows of `compare_benchmarks`, and why there are none: peers scale otherwise on another processor."""
    try:
        recorded = json.loads(path.read_bytes())
        numbers = {name: _numbers(row["extra_info"]) for name, row in recorded.items()}
        machines = {name: row["machine"] for name, row in recorded.items()}
        alike = [
            name
            for name in fresh.keys() & numbers.keys()
            if all(machines[name].get(key, value) == value for key, value in fresh[name]["machine"].items())
        ]
    except FileNotFoundError:
        return [], f"none are recorded in {path.parent}; playbook record --benchmarks records some"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"recorded benchmarks {path} are damaged: expected a JSON object; restore the file") from None
    rows = compare_benchmarks(
        {name: numbers[name] for name in alike}, {name: fresh[name]["extra_info"] for name in alike}
    )
    return rows, "" if rows else f"none of {path} was run on such a processor under such a name; record them anew"


def _line(row: Mapping[str, Any]) -> str:
    if "claim" in row:
        low, high = ("open" if limit is None else f"{limit:.4g}" for limit in row["interval"])
        return (
            f"{row['claim']}: {row['recorded']} -> {row['fresh']}, effect {row['recorded_effect']:.4g} -> "
            f"{row['effect']:.4g} [{low}, {high}]"
        )
    if "benchmark" in row:
        return f"{row['benchmark']}: {row['ratio']} {row['recorded']:.3g} -> {row['fresh']:.3g}, x{row['change']:.2f}"
    low, high = row["interval"]
    in_sds = f", {row['shift'] / row['trial_sd']:+.2f} trial standard deviations" if row["trial_sd"] else ""
    return (
        f"{row['experiment']}: {row['metric']} {row['shift']:+.4g} [{low:+.4g}, {high:+.4g}]{in_sds}, "
        f"adjusted p {row['adjusted_p']:.2g}, {row['fresh']} fresh units against {row['recorded']} recorded"
    )
