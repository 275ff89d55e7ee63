"""The page of a result folder: figure, verdicts, trials, provenance, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.experiments.experiment import Experiment
from harness.records import TrialRecord


def experiment_page(
    experiment: Experiment, records: Sequence[TrialRecord], result: Mapping[str, Any], figure_svg: str
) -> str:
    """Renders `index.html`.

    Args:
      experiment: what was run.
      records: its trial table.
      result: what `result.json` holds.
      figure_svg: the figure, set into the page.

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
        summary=_summary(records),
        # Our own drawing; everything else on the page is escaped.
        figure=Markup(figure_svg[figure_svg.index("<svg") :]),
    )


def format_number(value: float | None) -> str:
    """Three significant digits; what is missing, open or not a number is `n/a`."""
    return "n/a" if value is None or not np.isfinite(value) else f"{value:.3g}"


def _summary(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """One row per arm and learning rate: seeds, infeasible ones, mean and standard deviation of the final error."""
    groups: dict[tuple[str, float], list[TrialRecord]] = {}
    for record in records:
        groups.setdefault((record.arm, record.hyperparameters["learning_rate"]), []).append(record)
    rows = []
    for (arm, rate), trials in sorted(groups.items()):
        errors = [trial.results["final_error"] for trial in trials if trial.status == "complete"]
        rows.append(
            {
                "arm": arm,
                "learning_rate": rate,
                "seeds": len(trials),
                "infeasible": len(trials) - len(errors),
                "mean": float(np.mean(errors)) if errors else float("nan"),
                "deviation": float(np.std(errors, ddof=1)) if len(errors) > 1 else float("nan"),
            }
        )
    return rows
