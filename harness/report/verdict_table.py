"""The verdicts of several experiments as a table for the terminal, and what they come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.experiments.verdict import ALPHA
from harness.report.gallery import duration
from harness.report.page import format_number

_COLOURS = {"reproduced": "green", "contradicted": "red", "inconclusive": "yellow"}

_LINE = 1000
"""Columns where nobody looks but a program: a claim then has a line of its own, whatever its length."""


def print_summary(outcomes: Sequence[Mapping[str, Any]]) -> None:
    """Prints table and totals on standard output.

    The columns of a terminal of 80 hold every claim in one line; in a narrower one names are folded. In a pipe nothing
    is, nor coloured.

    Args:
      outcomes: of `harness.catalogue.reproduce_several`.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _LINE
    console.print(verdict_table(outcomes))
    for line in totals(outcomes):
        console.print(Text(line))


def verdict_table(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    """A line per claim under the name and the time of its experiment: claim, verdict, effect with interval."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("experiment, claim", overflow="fold")
    table.add_column("time, verdict", no_wrap=True)
    table.add_column(Text("effect [interval]"), overflow="fold")
    for outcome in outcomes:
        name = Text(outcome["experiment"], "bold")
        if "error" in outcome:
            table.add_row(name, Text("not run", "red"))
            continue
        table.add_row(name, duration(outcome["seconds"]), "" if outcome["judged"] else "not judged")
        for claim in outcome["claims"]:
            low, high = map(format_number, claim["interval"])
            verdict = Text(claim["verdict"], _COLOURS[claim["verdict"]])
            table.add_row(f" {claim['id']}", verdict, Text(f"{format_number(claim['effect'])} [{low}, {high}]"))
    return table


def totals(outcomes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines on all verdicts: their counts, the time, the false ones to expect, and what was not run.

    Holm's correction keeps the chance of any false verdict of an experiment at `harness.experiments.verdict.ALPHA`, so
    that the expected number of experiments that hold one is at most so many times theirs.
    """
    results = [outcome for outcome in outcomes if "error" not in outcome]
    judged = [result for result in results if result["judged"]]
    counts = Counter(claim["verdict"] for result in judged for claim in result["claims"])
    shared = sum(sum(result["provenance"].get("shared", {}).values()) for result in results)
    trials = sum(sum(result["trials"].values()) for result in results)
    lines = [
        "",
        f"{len(results)} of {len(outcomes)} experiments in {duration(sum(result['seconds'] for result in results))}, "
        f"{trials} trials" + (f", {shared} of them shared" if shared else ""),
    ]
    if judged:
        lines.append(f"{counts.total()} claims: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in _COLOURS))
        lines.append(
            f"false verdicts to expect: in at most {format_number(ALPHA * len(judged))} of {len(judged)} experiments, "
            "nominally"
        )
    if results:
        folder = Path(results[0]["folder"])
        lines.append(f"pages: {folder.parents[1] / '<experiment>' / folder.name / 'index.html'}")
    lines += [f"not run: {outcome['experiment']}: {outcome['error']}" for outcome in outcomes if "error" in outcome]
    return lines


def in_short(outcome: Mapping[str, Any]) -> str:
    """One line on one outcome: its experiment, counts of verdicts and time, or why it was not run."""
    if "error" in outcome:
        return f"{outcome['experiment']}: not run: {outcome['error']}"
    counts = Counter(claim["verdict"] for claim in outcome["claims"])
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _COLOURS if counts[verdict]) or "not judged"
    return f"{outcome['experiment']}: {told}, {duration(outcome['seconds'])}"
