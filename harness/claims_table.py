"""Writes the tables of claims into README.md and docs/claims.md of a checkout, from the recorded results.

    python -m harness.claims_table

What stands between the two markers of a file is generated from `baselines/laptop/<experiment>/laptop-seed0.json` and
the catalogue; the rest is written by hand. A test compares, so that a baseline cannot change without its tables.
"""

from __future__ import annotations

import collections
import importlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.experiments.experiment import Experiment, experiments
from harness.records import InputError
from harness.report.page import format_number

BEGIN, END = "<!-- claims: written by python -m harness.claims_table -->", "<!-- end of claims -->"
"""Markers, each on a line of its own."""

SIGNS = {"reproduced": "✓", "contradicted": "✗", "inconclusive": "?"}
"""Of a verdict where there is no room for the word."""

CHANGED = {
    "study-variance": "the rule of `variance.more-trials-narrower` and its number of studies, after seeds 0 and 1; "
    "seed 2 confirms both claims",
    "variance-sources": "the task of `sources.significance-is-not-enough`, after seed 0; seeds 1 and 2 confirm it",
    "stride-instability": "the numbers of seeds of `stride.harmless-at-low-lr` and `stride.warmup-fixes`, after "
    "seeds 0 and 1; seed 2 confirms all claims",
    "weight-decay-isolation": "the rule of `isolation.interior-optimum`, made stricter, and that of the control, after "
    "seed 0; seeds 2 to 4 confirm the claim; the rule of the two claims of a fair baseline, after seeds 0 to 3; "
    "seed 4, fresh, says what seed 0 does",
    "round-transfer": "the rules of `transfer.warmup-carries`, `transfer.architecture-likely` and "
    "`transfer.optimizer-somewhat`, made stricter, after seeds 0 and 1 under the first ones; seed 2 says what seed 1 "
    "does, seed 0 but for `transfer.extend-constant-phase`, undecided there",
    "feasible-batch-sizes": "the rule of `throughput.saturates`, made stricter, after seeds 0 and 1, which "
    "are judged by it now; seed 2 leaves it undecided, as seed 1 does",
    "step-variance": "the rule of the control, whose main claim no data could have reproduced",
    "batch-size-scaling": "the number of searches, after seed 1; seed 0 is fresh; and the rule of the control, whose "
    "main claim no data could have reproduced",
    "gradient-clipping": "what contradicts `clip.p90-works`, made stricter, after seeds 0 and 1; their verdicts stay",
    "instability-during-warmup": "the rule of `warmup.too-short-diverges`, made stricter, after seeds 0 and 1; the "
    "verdict of seed 0 stays",
    "unstable-learning-rates": "the rule of `unstable.loss-jumps`, made stricter, and what a loss that is not finite "
    "counts with, after seeds 0 and 1; the verdicts of seed 0 stay",
}
"""What was changed after results of some experiments had been seen, as their files tell, and which seeds are fresh."""

_STEM = "laptop-seed0"


def generated(root: Path) -> dict[Path, str]:
    """What the files should hold, by path.

    Args:
      root: of the checkout.

    Raises:
      InputError: a file or its markers are missing, a recorded result is damaged, or an experiment's docstring does not
        say its time.
    """
    catalogue = sorted(experiments().values(), key=_place)
    results = {one.name: _recorded(root, one.name) for one in catalogue}
    tables = {"README.md": _compact_table(catalogue, results), "docs/claims.md": _full_tables(catalogue, results)}
    return {root / name: _filled(root / name, table) for name, table in tables.items()}


def _place(one: Experiment) -> tuple[float, str]:
    """The figures in their order, then the others by name."""
    figure = re.match(r"figures? (\d+)", one.source)
    return (int(figure[1]) if figure else float("inf"), one.name)


def _recorded(root: Path, name: str) -> dict[str, Any] | None:
    path = root / "baselines" / "laptop" / name / f"{_STEM}.json"
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text("utf-8"))
        result["claims"], result["provenance"]["device"], result["trials"]["complete"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged: expected a recorded result.json; restore it") from None
    return result


def _module(name: str) -> str:
    return name.replace("-", "_")


def _time(name: str) -> str:
    """How long an experiment takes on two idle cores, as the first lines of its module say."""
    text = importlib.import_module(f"harness.experiments.{_module(name)}").__doc__ or ""
    found = re.search(rf"playbook reproduce {name} +about (\d+ minutes?) on 2 CPU cores", text)
    if not found:
        raise InputError(
            f"harness/experiments/{_module(name)}.py does not say its time: expected the line "
            f"'playbook reproduce {name}    about N minutes on 2 CPU cores' in its docstring"
        )
    return found[1]


def _counts(results: Mapping[str, dict[str, Any] | None]) -> str:
    verdicts = collections.Counter(claim["verdict"] for found in results.values() if found for claim in found["claims"])
    told = ", ".join(f"{verdicts[verdict]} {sign} {verdict}" for verdict, sign in SIGNS.items())
    return f"{verdicts.total()} claims of {len(results)} experiments: {told}."


def _compact_table(catalogue: list[Experiment], results: Mapping[str, dict[str, Any] | None]) -> str:
    """A row per experiment, its claims with signs and without the part of their names before the dot."""
    rows = [_counts(results), "", "| experiment | what it is about | source | time | claims |", "|---|---|---|---|---|"]
    for one in catalogue:
        claims = (results[one.name] or {"claims": []})["claims"]
        told = ", ".join(_short(claim) for claim in claims)
        minutes = _time(one.name).split()[0]
        rows.append(
            f"| [`{one.name}`](docs/claims.md#{one.name}) | {_escaped(one.title)} | {_escaped(one.source)} "
            f"| {minutes}\u00a0min | {told or 'not recorded yet'} |"
        )
    return "\n".join(rows)


def _short(claim: Mapping[str, Any]) -> str:
    text = f"{SIGNS[claim['verdict']]}\u00a0{claim['id'].partition('.')[2]}"
    return f"**{text}**" if claim["verdict"] == "contradicted" else text  # which nobody should overlook


def _full_tables(catalogue: list[Experiment], results: Mapping[str, dict[str, Any] | None]) -> str:
    """A section per experiment: its figure, a row per claim, the rules."""
    parts = [
        _counts(results),
        "Rules, tasks and numbers of seeds were fixed before the run, but for what was changed after results had been "
        "seen:",
        "\n".join(f"- [`{name}`](#{name}): {told}." for name, told in CHANGED.items()),
    ]
    for one in catalogue:
        about = (
            f"{_escaped(one.title)}. Source: {_escaped(one.source)}. About {_time(one.name)} on 2 CPU cores. What "
            f"differs from the published setting, and what was found: "
            f"[`{_module(one.name)}.py`](../harness/experiments/{_module(one.name)}.py)."
        )
        parts += [f"## {one.name}", about]
        found = results[one.name]
        if found is None:
            parts.append("Not recorded yet.")
            continue
        counts = found["trials"]
        parts += [
            f"![{_escaped(one.figure)}](../baselines/laptop/{one.name}/{_STEM}.png)",
            f"Recorded on {_escaped(found['provenance']['device'])}: {counts['complete']} complete and "
            f"{counts['infeasible']} infeasible trials.",
            "\n".join(
                ["| claim | what it says | verdict | effect | interval | n |", "|---|---|---|---|---|---|"]
                + [_row(claim) for claim in found["claims"]]
            ),
            "\n".join(f"- `{claim['id']}`: {_escaped(claim['rule'])}" for claim in found["claims"]),
        ]
    return "\n\n".join(parts)


def _row(claim: Mapping[str, Any]) -> str:
    verdict = f"{SIGNS[claim['verdict']]} {claim['verdict']}" + (f" ({claim['reason']})" if claim["reason"] else "")
    low, high = map(format_number, claim["interval"])
    return (
        f"| `{claim['id']}` | {_escaped(claim['text'])} | {verdict} | {format_number(claim['effect'])} "
        f"| [{low}, {high}] at {100 * claim['level']:.3g}% | {claim['n']} |"
    )


def _escaped(text: str) -> str:
    """Plain text as Markdown, also within a table's cell or square brackets."""
    return re.sub(r"([\\|*<>\[\]])", r"\\\1", " ".join(text.split()))


def _filled(path: Path, table: str) -> str:
    """The file with the table between its markers."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); python -m harness.claims_table works in a checkout alone"
        ) from None
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end:
        raise InputError(f"{path} lacks its markers: expected the lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n{table}\n\n{end}{after}"


def main() -> None:
    """Writes the files; bad input is one line on standard error and exit status 2."""
    try:
        for path, text in generated(Path(__file__).parents[1]).items():
            path.write_text(text, "utf-8")
    except InputError as error:
        print(f"harness.claims_table: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
