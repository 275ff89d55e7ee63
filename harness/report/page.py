"""The page of a result folder: figure, verdicts, trials, provenance, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.experiments.experiment import Experiment
from harness.records import TrialRecord

MOST_SETTINGS = 12
"""Settings of an arm that have a row each on a page."""


def experiment_page(
    experiment: Experiment,
    records: Sequence[TrialRecord],
    result: Mapping[str, Any],
    figure_svg: str,
    flips: Mapping[str, Any],
) -> str:
    """Renders `index.html`.

    Args:
      experiment: what was run.
      records: its trial table.
      result: what `result.json` holds.
      figure_svg: the figure, set into the page.
      flips: what `flips.json` holds, see `harness.flips`, of this folder or a recorded one; empty where there is none.

    Returns:
      HTML that needs no other file.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("harness.report"), autoescape=True, trim_blocks=True)
    environment.filters["number"] = format_number
    return environment.get_template("experiment.html.j2").render(
        experiment=experiment,
        result=result,
        name=f"{experiment.name}, {run_name(result)}",
        alternative=alternative(experiment, result["claims"]),
        summary=_summary(records),
        flips=flips,
        maps=flip_maps(flips) if flips else [],
        # Our own drawing; everything else on the page is escaped.
        figure=Markup(figure_svg[figure_svg.index("<svg") :]),
    )


def run_name(result: Mapping[str, Any]) -> str:
    """As the folder of a result is called: `laptop-seed0`, `-control` behind it for a control."""
    return f"{result['scale']}-seed{result['seed']}{'-control' if result['control'] else ''}"


def alternative(experiment: Experiment, claims: Sequence[Mapping[str, Any]]) -> str:
    """What a figure shows, in words, for who cannot see it.

    Args:
      experiment: whose figure it is.
      claims: as in `result.json`.
    """
    told = "; ".join(f"{claim['text']} {claim['verdict']}" for claim in claims) or "nothing is judged"
    return f"{experiment.title}. {experiment.figure} Claims: {told}."


def flip_maps(flips: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lays out a map per claim: an axis a row, its cells in ascending order of the factor, the chosen setting as 1.

    Args:
      flips: what `flips.json` holds.

    Returns:
      `id`, `factors` and `rows` of each claim; a row has `axis` and `cells`, a claim with its verdict each, or
      `unavailable`.
    """
    factors = sorted({1.0, *(cell["factor"] for cell in flips["cells"])})
    axes = dict.fromkeys(cell["axis"] for cell in flips["cells"])
    maps = []
    for claim in flips["claims"]:
        rows = []
        for axis in axes:
            found = {cell["factor"]: _of_claim(cell, claim["id"]) for cell in flips["cells"] if cell["axis"] == axis}
            found[1.0] = claim
            rows.append({"axis": axis, "cells": [found.get(factor, {"unavailable": "no cell"}) for factor in factors]})
        maps.append({"id": claim["id"], "factors": factors, "rows": rows})
    return maps


def _of_claim(cell: Mapping[str, Any], claim: str) -> Mapping[str, Any]:
    judged = next((found for found in cell.get("claims", ()) if found["id"] == claim), None)
    return judged or {"unavailable": cell.get("unavailable", "not judged")}


def format_number(value: float | None) -> str:
    """Three significant digits; what is missing, open or not a number is `n/a`."""
    return "n/a" if value is None or not np.isfinite(value) else f"{value:.3g}"


def _summary(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """One row per arm and setting, or per arm where it has many: trials, infeasible ones, mean and spread of errors."""
    arms: dict[str, list[TrialRecord]] = {}
    for record in records:
        arms.setdefault(record.arm, []).append(record)
    rows = []
    for arm, members in sorted(arms.items()):
        names = [name for name, value in members[0].hyperparameters.items() if _varies(members, name, value)]
        groups: dict[tuple, list[TrialRecord]] = {}
        for record in members:
            groups.setdefault(tuple(record.hyperparameters.get(name) for name in names), []).append(record)
        if len(groups) > MOST_SETTINGS:
            rows.append(_row(arm, f"{len(groups)} settings of {', '.join(names)}", members))
            continue
        for setting, trials in sorted(groups.items(), key=lambda item: [(str(type(v)), v) for v in item[0]]):
            text = ", ".join(f"{name} {_value(value)}" for name, value in zip(names, setting, strict=True))
            rows.append(_row(arm, text or "one setting", trials))
    return rows


def _varies(records: Sequence[TrialRecord], name: str, value: Any) -> bool:
    return any(record.hyperparameters.get(name) != value for record in records)


def _value(value: Any) -> str:
    return format_number(value) if isinstance(value, float) else str(value)


def _row(arm: str, setting: str, trials: Sequence[TrialRecord]) -> dict[str, Any]:
    errors = [trial.results["final_error"] for trial in trials if trial.status == "complete"]
    return {
        "arm": arm,
        "setting": setting,
        "trials": len(trials),
        "infeasible": len(trials) - len(errors),
        "mean": float(np.mean(errors)) if errors else float("nan"),
        "deviation": float(np.std(errors, ddof=1)) if len(errors) > 1 else float("nan"),
    }
