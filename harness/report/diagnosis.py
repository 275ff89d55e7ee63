"""The page of a study's reading: checklist, axis plots, isolation plots, best of k, curves, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.analysis.reading import Reading
from harness.report.chart import Chart
from harness.report.study_charts import (
    MOST_POINTS,
    SHOWN_WORST,
    axis_plot,
    best_of_plot,
    best_steps_plot,
    curve_plot,
    isolation_plot,
)

MOST_HYPERPARAMETERS = 30
"""Hyperparameters that are drawn, those with the clearest effect first: nobody looks at more."""


class Section(NamedTuple):
    """Charts under one heading."""

    title: str
    caption: str
    charts: list[Chart]


def diagnosis_page(source: str, reading: Reading, result: Mapping[str, Any]) -> str:
    """Renders `index.html`.

    Args:
      source: what was read.
      reading: of the study.
      result: what `playbook diagnose --json` prints.

    Returns:
      HTML that needs no other file.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("harness.report"), autoescape=True, trim_blocks=True)
    return environment.get_template("diagnosis.html.j2").render(
        source=source,
        result=result,
        objective=reading.table.objective_name,
        goal=reading.table.goal,
        sections=_sections(reading) if len(reading.order) else [],
    )


def _sections(reading: Reading) -> list[Section]:
    drawn = sorted(reading.isolations, key=lambda one: one.p)[:MOST_HYPERPARAMETERS]
    names = {one.hyperparameter for one in drawn}
    in_order = [one for one in reading.isolations if one.hyperparameter in names]
    left = len(reading.isolations) - len(drawn)
    more = f" {left} more hyperparameters, with less of an effect, are not drawn." if left else ""
    many = (
        f" Of the trials the best {MOST_POINTS // 2} are drawn, and as many others."
        if len(reading.table.trials) > MOST_POINTS
        else ""
    )
    curves, steps = curve_plot(reading), best_steps_plot(reading)
    return [
        Section(
            "Axis plots",
            f"Every trial; the best one larger, infeasible ones as crosses. Cut at the {SHOWN_WORST:.0%} quantile: "
            f"worse trials stand at the edge.{many}{more}",
            [axis_plot(reading, one.hyperparameter) for one in in_order],
        ),
        Section(
            "Isolation plots",
            "The best trial per value or bucket, the other hyperparameters optimised away (the mean of a setting that "
            "was run more than once); in grey, where that of as many random ones of the study lies with 95% chance.",
            [isolation_plot(reading, one) for one in in_order if one.best >= 0],
        ),
        Section(
            "Have we sampled enough?",
            "The best of k trials drawn from these: box from quartile to quartile, whiskers up to 1.5 box heights.",
            [best_of_plot(reading)],
        ),
        Section("Training curves", "Of the best trials; hover tells which.", [curves] if curves else []),
        Section(
            "Is max_train_steps right?",
            "The step of every feasible trial's best checkpoint. All in the first tenth: too many steps. All in the "
            "last quarter: longer training may pay.",
            [steps] if steps else [],
        ),
    ]
