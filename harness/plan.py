"""Plans the next study from a pilot: runs and trials that a stated effect needs, with what they cost. No JAX."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.axes import scores
from harness.analysis.findings import SEVERITIES, Finding, number
from harness.analysis.planning import (
    ASSURANCE,
    MAX_TRIALS,
    MIN_TRIALS,
    POWER,
    Noise,
    Runs,
    Trials,
    check_effect,
    compared,
    noise,
    paired_noise,
    runs_needed,
    trials_needed,
)
from harness.analysis.sampling import Gain, check_sampling
from harness.analysis.settings import by_setting, setting_codes
from harness.diagnose import folder_name, json_ready
from harness.importers import importer
from harness.records import InputError, TrialTable
from harness.report.plan import plan_page

ARMS = 2
"""Settings that are compared, each the best of a search of its own."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a pilot says of the study to come.

    Attributes:
      table: the pilot.
      effect: difference that matters, in the units of the objective.
      power: chance to find it.
      kinds: of comparison, `unpaired` and where the pilot allows `paired`, to its noise and its runs.
      infeasible: share of infeasible runs among those of the settings whose spread was taken.
      trials: of a search; None where the pilot has too few settings.
      gain: of as many settings again; None where that is unknown.
      per_run: cost of a run, see `unit`; None where the pilot does not say.
      unit: `seconds` or `steps`.
    """

    table: TrialTable
    effect: float
    power: float
    kinds: dict[str, tuple[Noise, Runs]]
    infeasible: float
    trials: Trials | None
    gain: Gain | None
    per_run: float | None
    unit: str

    @property
    def cheapest(self) -> str:
        """The kind of comparison of the fewest runs."""
        return min(self.kinds, key=lambda kind: self.started(kind))

    def started(self, kind: str) -> int:
        """Runs of each setting that leave those needed, where the pilot's share of them is infeasible."""
        kept = 1 - self.infeasible
        return math.ceil(self.kinds[kind][1].needed / (kept**2 if kind == "paired" else kept) - 1e-9)

    @property
    def search(self) -> int:
        """Trials of a search of each arm; 0 where they are unknown."""
        return self.trials.needed or 0 if self.trials else 0


def plan(
    path: str,
    effect: float,
    power: float = POWER,
    format: str | None = None,
    objective: str | None = None,
    goal: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Reads a pilot and writes `result.json` and `index.html`.

    Args:
      path: of the pilot's trials, see `harness.importers.importer.read`.
      effect: difference that matters, above 0, in the units of the objective.
      power: chance to find it, .5 to .99.
      format: as `harness.diagnose.diagnose`.
      objective: likewise.
      goal: likewise.
      out: folder of the page; `results/plan/<table>` if None.

    Returns:
      JSON-ready, see `describe`, and `folder`.

    Raises:
      InputError: bad input, see the message.
    """
    check_effect(effect, power)
    table = importer.read(path, format, objective, goal)
    try:
        made = make(table, effect, power)
    except InputError as error:
        raise InputError(f"{path!r}: {error}") from None
    folder = out or Path("results") / "plan" / folder_name(path)
    result = describe(made)
    page = plan_page(Path(path).name, made, result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(page, "utf-8")
        (folder / "result.json").write_text(json.dumps(result, allow_nan=False) + "\n", "utf-8")
    except OSError as error:
        raise InputError(f"output folder {folder} cannot be written ({error.strerror}); choose another --out") from None
    return {**result, "folder": str(folder)}


def make(table: TrialTable, effect: float, power: float) -> Plan:
    """Plans from a table that is at hand; arguments and errors as `plan`."""
    pilots = {"unpaired": noise(table), "paired": paired_noise(table)}
    if pilots["unpaired"] is None:
        count = len(table.trials)
        raise InputError(
            f"none of the settings of its {count} trials has two feasible runs, so that the spread between runs is "
            "unknown; run the best settings again with other seeds, five times or more"
        )
    # Differences that never vary are those of copied runs, or of rounded ones: the unpaired spread says more.
    kinds = {
        kind: (pilot, runs_needed(effect, pilot, power))
        for kind, pilot in pilots.items()
        if pilot is not None and (kind == "unpaired" or pilot.sd > 0)
    }
    settings, _ = by_setting(table)
    score = scores(settings)
    searched = len(score) >= MIN_TRIALS and bool(np.isfinite(score).any())
    codes = setting_codes(table)
    each = float(np.median(np.bincount(codes)))
    gain = None
    if searched:
        found = check_sampling(settings, [len(score)], trial_sd=kinds["unpaired"][0].sd / math.sqrt(each))
        gain = found.gains[0] if found.gains else None
    per_run, unit = cost(table)
    return Plan(
        table,
        effect,
        power,
        kinds,
        _infeasible(table, codes),
        trials_needed(score, effect, power) if searched else None,
        gain,
        per_run,
        unit,
    )


def cost(table: TrialTable) -> tuple[float | None, str]:
    """Mean cost of a run of the pilot, infeasible ones too: in seconds where the table has them, else in steps."""
    if table.seconds is not None and np.isfinite(table.seconds).any():
        return float(np.nanmean(table.seconds)), "seconds"
    last = [
        max(float(curve.steps[-1]) for curve in found)
        for curves in zip(*table.curves.values(), strict=True)
        if (found := [curve for curve in curves if curve is not None and len(curve.steps)])
    ]
    return (float(np.mean(last)) if last else None), "steps"


def _infeasible(table: TrialTable, codes: np.ndarray) -> float:
    runs = np.isin(codes, compared(table))
    return float(np.mean(~np.isfinite(scores(table)[runs])))


def describe(made: Plan) -> dict[str, Any]:
    """A plan as JSON-ready data.

    Returns:
      `objective`, `goal`, `effect`, `power`; `unpaired` and `paired`, each with `sd`, `interval`, `df`, `pilot_runs`,
      `pilot_settings`, `needed`, `started`, `chance`, `assured` and `as_if_known`, or null; `infeasible_share`;
      `trials` with `needed`, `near` and `pilot`, or null; `gain` of as many trials again; `cost` with `unit`,
      `per_run`, `search`, `comparison` and `total` of two arms; `findings`.
    """
    kinds: dict[str, Any] = dict.fromkeys(("unpaired", "paired"))
    for kind, (pilot, runs) in made.kinds.items():
        kinds[kind] = {
            "sd": pilot.sd,
            "interval": pilot.interval,
            "df": pilot.df,
            "pilot_runs": pilot.runs,
            "pilot_settings": pilot.settings,
            "started": made.started(kind),
            **dataclasses.asdict(runs),
        }
    comparison, search = ARMS * made.started(made.cheapest), ARMS * made.search
    price = {"search": search, "comparison": comparison, "total": search + comparison}
    return json_ready(
        {
            "objective": made.table.objective_name,
            "goal": made.table.goal,
            "effect": made.effect,
            "power": made.power,
            **kinds,
            "infeasible_share": made.infeasible,
            "trials": None if made.trials is None else dataclasses.asdict(made.trials),
            "gain": None if made.gain is None else made.gain._asdict(),
            "cost": {
                "unit": made.unit if made.per_run is not None else "runs",
                "per_run": made.per_run,
                **{name: runs * (made.per_run or 1.0) for name, runs in price.items()},
            },
            "findings": [dataclasses.asdict(finding) for finding in _findings(made)],
        }
    )


def _findings(made: Plan) -> list[Finding]:
    found = [*_of_runs(made), *_of_trials(made), *_of_cost(made), *_of_doubts(made)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _of_runs(made: Plan) -> Iterator[Finding]:
    for kind, (pilot, runs) in made.kinds.items():
        low, high = pilot.interval
        best = "the best setting" if pilot.settings == 1 else f"the best {pilot.settings} settings"
        who = "with the same seeds" if kind == "paired" else "with seeds of their own"
        what = "their differences spread" if kind == "paired" else "runs of one setting spread"
        assured = f"{runs.assured:,}" if runs.assured else "too many"
        evidence = (
            f"{runs.needed:,} runs of each of two settings, {who}, find a difference of {number(made.effect)} in "
            f"{made.table.objective_name} with a chance of {made.power:.0%}, on average over pilots like this one; "
            f"{assured} do in {ASSURANCE:.0%} of such pilots; {what} by {number(pilot.sd)} [{number(low)}, "
            f"{number(high)}] ({pilot.runs} runs of {best} that were run more than once), and "
            f"{runs.as_if_known:,} would do if that were known"
        )
        cheapest = kind == made.cheapest
        name = "paired runs" if kind == "paired" else "runs"
        wins = (
            "share the seeds: that takes fewer runs" if kind == "paired" else "sharing seeds does not take fewer runs"
        )
        advice = wins if cheapest and len(made.kinds) > 1 else ""
        if cheapest and runs.needed > 1.5 * runs.as_if_known:
            advice += ("; " if advice else "") + "more runs in the pilot would lower the number"
        yield Finding(name, "note", evidence, advice)


def _of_trials(made: Plan) -> Iterator[Finding]:
    trials, name = made.trials, made.table.objective_name
    if trials is None:
        yield Finding(
            "trials",
            "note",
            f"the pilot has fewer than {MIN_TRIALS} settings: it says nothing of how many a search needs",
            "",
        )
        return
    needed = f"{trials.needed:,}" if trials.needed else f"more than {MAX_TRIALS:,}"
    yield Finding(
        "trials",
        "note",
        f"a search of {needed} trials like the pilot's comes within {number(made.effect)} of the pilot's best {name} "
        f"with a chance of {made.power:.0%}: {trials.near} of its {trials.pilot} settings lie so near",
        "give each of the two its own search of so many trials, then run both winners again on fresh seeds",
    )
    if made.gain is None:
        return
    low, high = made.gain.interval
    evidence = (
        f"{made.gain.more} more trials would improve the pilot's best by {number(made.gain.gain)} [{number(low)}, "
        f"{number(high)}]"
    )
    if high < made.effect:
        yield Finding("pilot", "good", f"{evidence}, less than {number(made.effect)}: its best is near the optimum", "")
    else:
        yield Finding(
            "pilot",
            "warning" if low > made.effect else "note",
            f"{evidence}, {'more' if low > made.effect else 'which may be more'} than {number(made.effect)}: its best "
            "may not be near the optimum",
            "the number of trials is for reaching the pilot's best, not the optimum: search further, and plan again",
        )


def _of_cost(made: Plan) -> Iterator[Finding]:
    started = made.started(made.cheapest)
    runs = ARMS * (made.search + started)
    parts = f"{ARMS} x ({made.search:,} trials + {started:,} runs)" if made.search else f"{ARMS} x {started:,} runs"
    if made.per_run is None:
        yield Finding("cost", "note", f"{parts} = {runs:,} runs; the pilot says neither seconds nor steps of a run", "")
        return
    total = runs * made.per_run
    told = _time(total) if made.unit == "seconds" else f"{total:,.0f} steps"
    each = f"{number(made.per_run)} s" if made.unit == "seconds" else f"{made.per_run:,.0f} steps"
    source = "the pilot's runs took" if made.unit == "seconds" else "the pilot's curves count"
    yield Finding("cost", "note", f"{parts} = {runs:,} runs of {each}, which {source}: {told}", "")


def _of_doubts(made: Plan) -> Iterator[Finding]:
    pilot = made.kinds["unpaired"][0]
    if made.infeasible:
        yield Finding(
            "infeasible",
            "warning",
            f"{made.infeasible:.0%} of the runs of the settings whose spread was taken are infeasible: the promise "
            f"is for those that are not, so that {made.started(made.cheapest):,} runs of each are to be started",
            "where settings differ in how often they diverge, compare these shares, not the means alone",
        )
    yield Finding(
        "what a pilot cannot show",
        "note",
        f"outcomes rarer than 1 in {pilot.runs} may be missing from it; if some runs end far worse, the spread is "
        "larger than it says",
        "after half of the runs look at the spread again, not at the difference",
    )


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
