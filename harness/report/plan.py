"""The page of `playbook plan`: its checklist, the chance against runs, and against trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.analysis.axes import Axis
from harness.analysis.planning import chance_to_draw, expected_chance
from harness.report.chart import Chart, Line, across, on, path, ticks, up
from harness.report.diagnosis import Section

POINTS = 40
"""Of a curve."""


def plan_page(source: str, plan: Any, result: Mapping[str, Any]) -> str:
    """Renders `index.html`.

    Args:
      source: what the pilot is called.
      plan: a `harness.plan.Plan`.
      result: what `playbook plan --json` prints.

    Returns:
      HTML that needs no other file.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("harness.report"), autoescape=True, trim_blocks=True)
    return environment.get_template("plan.html.j2").render(source=source, result=result, sections=_sections(plan))


def _sections(plan: Any) -> list[Section]:
    curves, most = [], 0
    for (kind, (pilot, runs)), style in zip(plan.kinds.items(), ("curve1", "curve0"), strict=False):
        counts = _counts(2, 3 * runs.needed)
        curves.append((style, kind, counts, [expected_chance(int(n), plan.effect, pilot) for n in counts]))
        most = max(most, int(counts[-1]))
    charts = [_chart("runs of each of two settings", "runs of each, log", curves, plan.power, 2, most)]
    if plan.trials is not None and plan.trials.needed:
        counts = _counts(1, 3 * plan.trials.needed)
        chances = [chance_to_draw(int(n), plan.trials.near, plan.trials.pilot) for n in counts]
        drawn = [("curve1", "search", counts, chances)]
        charts.append(_chart("trials of a search", "trials, log", drawn, plan.power, 1, int(counts[-1])))
    return [
        Section(
            "How many?",
            "Chance to find the effect, averaged over what the spread may be after this pilot, against runs; chance to "
            "come as near to the pilot's best, against trials. Dashed: the chance that was asked for.",
            charts,
        )
    ]


def _counts(least: int, most: int) -> np.ndarray:
    return np.unique(np.geomspace(least, max(most, least + 1), POINTS).round().astype(int))


def _chart(title: str, x_label: str, curves: list, power: float, least: int, most: int) -> Chart:
    chart = Chart(title, x_label, "chance", f"chance against {title}")
    x_axis, y_axis = Axis(float(least), float(most), "log"), Axis(0.0, 1.0)
    chart.x_ticks, chart.y_ticks = ticks(x_axis, across), ticks(y_axis, up)
    for style, name, counts, chances in curves:
        chart.lines.append(Line(path(across(on(x_axis, counts)), up(on(y_axis, chances))), style, name))
    ends = across(np.array([0.0, 1.0]))
    chart.lines.append(Line(path(ends, up(np.full(2, power))), "dashed", f"{power:.0%}"))
    return chart
