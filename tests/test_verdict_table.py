import io
import re

import pytest
from rich.console import Console

from harness.report import verdict_table as module
from harness.report.verdict_table import in_short, print_summary, totals, verdict_table


def outcome(name, *claims, judged=True, seconds=61.4, shared=None):
    return {
        "experiment": name,
        "judged": judged,
        "seconds": seconds,
        "claims": [
            {"id": identifier, "verdict": verdict, "effect": effect, "interval": interval}
            for identifier, verdict, effect, interval in claims
        ],
        "trials": {"complete": 7, "infeasible": 1},
        "provenance": {"shared": shared or {}},
        "folder": f"results/{name}/laptop-seed0",
    }


LONGEST = "isolation.fair-baseline-unnormalised"  # of the catalogue
OUTCOMES = [
    outcome("weight-decay-isolation", (LONGEST, "reproduced", -0.0123, [-0.0269, 0.00177])),
    outcome(
        "stride-instability",
        ("stride.a", "contradicted", 2.0, [None, 3.0]),
        ("stride.b", "inconclusive", float("nan"), [None, None]),
        seconds=3600,
        shared={"weight-decay-isolation/laptop-seed0": 5},
    ),
    outcome("quick", judged=False),
    {"experiment": "search-algorithms", "error": "it needs Optuna; install it with: pip install 'x[bo]'", "status": 2},
]


def printed(width=None):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(verdict_table(OUTCOMES))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_table():
    assert printed(80) == [
        "experiment, claim                     time, verdict effect [interval]",
        "weight-decay-isolation                1.02 min",
        f" {LONGEST} reproduced    -0.0123 [-0.0269, 0.00177]",
        "stride-instability                    1 h",
        " stride.a                             contradicted  2 [n/a, 3]",
        " stride.b                             inconclusive  n/a [n/a, n/a]",
        "quick                                 1.02 min      not judged",
        "search-algorithms                     not run",
    ]


@pytest.mark.parametrize("width", [40, 60, 72])
def test_a_narrow_terminal_loses_nothing(width):
    lines = printed(width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    first = "".join(re.match(r"\S*", line.removeprefix(" "))[0] for line in lines[1:])
    assert LONGEST in first


def test_totals():
    assert totals(OUTCOMES) == [
        "",
        "3 of 4 experiments in 1.03 h, 24 trials, 5 of them shared",
        "3 claims: 1 reproduced, 1 contradicted, 1 inconclusive",
        "false verdicts to expect: in at most 0.1 of 2 experiments, nominally",
        "pages: results/<experiment>/laptop-seed0/index.html",
        "not run: search-algorithms: it needs Optuna; install it with: pip install 'x[bo]'",
    ]


def test_totals_of_nothing():
    assert totals(OUTCOMES[3:])[:2] == ["", "0 of 1 experiments in 0 s, 0 trials"]


def test_results_of_before_trials_were_shared():
    older = {**OUTCOMES[0], "provenance": {}}
    assert totals([older])[1] == "1 of 1 experiments in 1.02 min, 8 trials"


def test_a_pipe_has_a_line_per_claim_and_no_colours(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    print_summary(OUTCOMES)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert re.search(rf"^ {LONGEST} +reproduced +-0.0123 \[-0.0269, 0.00177\] *$", out, re.MULTILINE)
    assert re.search(r"^not run: search-algorithms: .*'x\[bo\]'$", out, re.MULTILINE)


def test_a_terminal_has_colours(monkeypatch, capsys):
    monkeypatch.setattr(
        module, "Console", lambda **named: Console(force_terminal=True, color_system="standard", **named)
    )
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_summary(OUTCOMES)
    out = capsys.readouterr().out
    assert "\x1b[32mreproduced" in out
    assert "\x1b[31mcontradicted" in out


def test_in_short():
    assert [in_short(each) for each in OUTCOMES] == [
        "weight-decay-isolation: 1 reproduced, 1.02 min",
        "stride-instability: 1 contradicted, 1 inconclusive, 1 h",
        "quick: not judged, 1.02 min",
        "search-algorithms: not run: it needs Optuna; install it with: pip install 'x[bo]'",
    ]
