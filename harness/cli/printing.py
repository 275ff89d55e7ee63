"""What several commands print for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def print_findings(reading: dict) -> None:
    """A checklist: severity, check, evidence, advice."""
    for finding in reading["findings"]:
        print(f"\n{finding['severity']}: {finding['check']}\n  {printable(finding['evidence'])}")
        if finding["advice"]:
            print(f"  {printable(finding['advice'])}")


def printable(text: str) -> str:
    """Text without what steers a terminal, which names in a table may hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def print_profile(found: Any, folder: Path, as_json: bool) -> None:
    """Where the time of training steps goes, a `harness.training.profile` of a trial in `folder`, or None."""
    if found is None:  # of several hosts the first speaks
        return
    if as_json:
        print(json.dumps(found._asdict(), indent=1))
        return
    print(f"input {found.input:.1%}  compute {found.compute:.1%}  host {found.host:.1%}  of {found.seconds:.2f} s")
    print(f"{found.steps} steps, {found.steps / found.seconds:.1f} a second")
    print(found.advice)
    print(f"trace: {folder / 'profile'}")


def print_result(result: dict) -> None:
    """What `result.json` holds: a line a claim, trials, fingerprint, page."""
    from harness.report.page import format_number

    for claim in result["claims"]:
        verdict = claim["verdict"] + (f" ({claim['reason']})" if claim["reason"] else "")
        low, high = map(format_number, claim["interval"])
        evidence = f"effect {format_number(claim['effect'])}, interval [{low}, {high}], n {claim['n']}"
        print(f"{claim['id']:28} {verdict:24} {evidence}")
    if not result["judged"]:
        print(f"{result['experiment']}: scale {result['scale']} judges nothing")
    counts = result["trials"]
    print(f"{counts['complete']} complete and {counts['infeasible']} infeasible trials")
    for folder, count in result["provenance"].get("shared", {}).items():
        print(f"{count} of them were trained for {folder}")
    print(f"fingerprint: {result['fingerprint']}")
    print(f"page: {Path(result['folder']) / 'index.html'}")
