"""The page of a procedure: its decision with the evidence, charts and provenance, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.records import TrialRecord
from harness.report.procedure_charts import (
    clip_sections,
    instability_sections,
    max_steps_sections,
    warmup_sections,
)

_PAGES = {
    "clip": ("Clipping threshold", clip_sections),
    "warmup": ("Warmup search", warmup_sections),
    "max-steps": ("First max_train_steps", max_steps_sections),
    "instability": ("Instability check", instability_sections),
}


def procedure_page(result: Mapping[str, Any], records: Sequence[TrialRecord]) -> str:
    """Renders `index.html`.

    Args:
      result: what `result.json` holds.
      records: of all rounds.

    Returns:
      HTML that needs no other file.
    """
    from jinja2 import Environment, PackageLoader

    title, sections = _PAGES[result["procedure"]]
    environment = Environment(loader=PackageLoader("harness.report"), autoescape=True, trim_blocks=True)
    return environment.get_template("procedure.html.j2").render(
        title=title, result=result, sections=sections(result["decision"], records)
    )
