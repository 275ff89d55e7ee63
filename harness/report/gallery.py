"""The gallery: one page of every result, with its figure, verdicts, flip maps and trials, and all claims in a table."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from harness.experiments.experiment import SCALES, Experiment
from harness.experiments.verdict import ALPHA
from harness.report.chart import Chart, Point, Tick, across, label, named, on, padded, ticks, up
from harness.report.page import alternative, flip_maps, format_number, run_name

MOST_TRIALS = 100
"""Trials of a result whose dots and curves are shown, so that the page of the whole catalogue stays under 15 MB."""

CURVE_POINTS = 40
"""Points of a trial's curve; a longer one is averaged over windows, so that no spike is skipped."""

LOG_SPAN = 4
"""Largest over smallest value from which on an axis is logarithmic: two doublings."""

COLOURS = 5
"""Arms with a colour of their own; further ones share grey."""

TEXT = 48
"""Letters of a hyperparameter's value, which may be a list."""

_BOOKKEEPING = ("evaluation_", "curvature_", "noise_steps", "predictions", "profiled", "alone")
"""How hyperparameters begin that say what is measured, not how is trained."""


class ShownTrial(NamedTuple):
    """A trial with a dot of its own.

    Attributes:
      arm: its arm.
      replicate: which repetition.
      hyperparameters: name to value, None where it does not apply.
      status: `complete` or `infeasible`.
      error: final validation error, None or NaN where there is none.
      loss: training loss of every step, float32 (steps,).
    """

    arm: str
    replicate: int
    hyperparameters: Mapping[str, Any]
    status: str
    error: float | None
    loss: np.ndarray


class Trained(NamedTuple):
    """What was trained for a result.

    Attributes:
      trials: rows of its trial table; arms that share a trial have a row each.
      arms: their names, as they come.
      workloads: as `resnet on mnist5k`, as they come.
      steps: smallest and largest number of training steps of a complete trial, warmup among them.
      seconds: of training, summed over trials.
      shown: at most `MOST_TRIALS`, evenly sampled.
    """

    trials: int
    arms: Sequence[str]
    workloads: Sequence[str]
    steps: tuple[int, int]
    seconds: float
    shown: Sequence[ShownTrial]


@dataclass(frozen=True)
class GalleryResult:
    """A result folder, read.

    Attributes:
      experiment: what was run.
      result: what `result.json` holds.
      figure_svg: what `figure.svg` holds.
      flips: what `flips.json` holds, empty where there is none.
      trained: its trials.
      link: to its own page, from the gallery.
    """

    experiment: Experiment
    result: Mapping[str, Any]
    figure_svg: str
    flips: Mapping[str, Any]
    trained: Trained
    link: str


def gallery_page(results: Sequence[GalleryResult]) -> str:
    """Renders `index.html` of a folder of results.

    Args:
      results: at least one, in any order; those of figures stand first, an experiment's own by scale and seed, and its
        controls last.

    Returns:
      HTML that needs no other file.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("harness.report"), autoescape=True, trim_blocks=True)
    environment.filters["number"] = format_number
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    results = sorted(results, key=_order)
    entries = [_entry(result, f"f{i}-") for i, result in enumerate(results)]
    judged = [entry for entry in entries if entry["result"]["claims"] and entry["kind"] == "plain"]
    sources = list(dict.fromkeys(result.experiment.source for result in results))
    return environment.get_template("gallery.html.j2").render(
        experiments=_by_experiment(entries),
        judged=judged,
        controls=[entry for entry in entries if entry["kind"] == "control"],
        changed=[entry for entry in entries if entry["kind"] == "changed"],
        scales=list(dict.fromkeys(result.result["scale"] for result in results)),
        figures=[source for source in sources if _figure(source)],
        sections=[source for source in sources if not _figure(source)],
        counts=verdict_counts([entry["result"] for entry in judged]),
        alpha=ALPHA,
        most=MOST_TRIALS,
    )


def verdict_counts(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Verdicts per scale and seed, with how many experiments are expected to hold a false one, at most.

    The claims of an experiment are judged together by Holm's correction at `ALPHA` (harness.experiments.verdict), each
    with a share of it that grows as others are decided: nominally, at most that share of experiments holds any false
    verdict, `reproduced` of a claim that does not hold or `contradicted` of one that does. Over k experiments that is
    ALPHA * k, whatever their claims have in common. It is reached where every claim lies right at its threshold, and
    far from it where claims are clear. A limit is one-sided: half of ALPHA for either verdict, but for claims of
    sameness, two one-sided tests of which each has the whole of it, so that false `reproduced` ones among them are
    bounded by ALPHA * k alone.

    Args:
      results: what `result.json` holds, of results that were judged, without controls and what `--set` changed.

    Returns:
      `scale`, `seed`, `experiments`, `claims`, a count per verdict, and `false` and `false_side`, for each scale and
      seed in the order that they come.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for result in results:
        place = (result["scale"], result["seed"])
        empty = {"scale": place[0], "seed": place[1], "experiments": 0, "claims": 0}
        row = rows.setdefault(place, {**empty, "reproduced": 0, "contradicted": 0, "inconclusive": 0})
        row["experiments"] += 1
        for claim in result["claims"]:
            row["claims"] += 1
            row[claim["verdict"]] += 1
    ordered = sorted(rows.values(), key=lambda row: (SCALES.index(row["scale"]), row["seed"]))
    return [
        {**row, "false": ALPHA * row["experiments"], "false_side": ALPHA / 2 * row["experiments"]} for row in ordered
    ]


def embedded(svg: str, prefix: str) -> str:
    """Makes a figure fit to stand in one page with others.

    Every id and every reference to one gets a prefix, and the style, which would hold for the whole page, is bound to
    the figure. To save space, metadata and indents go, and coordinates are cut to hundredths of a point.

    Args:
      svg: written by Matplotlib.
      prefix: letters that no other figure of the page has.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"\n\s+", "\n", svg)
    svg = re.sub(r' [dxy]="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = svg.replace('<style type="text/css">*{', f'<style type="text/css">#{prefix}figure_1 *{{')
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


def thinned(loss: np.ndarray) -> list[float | None]:
    """A curve in at most `CURVE_POINTS` points: means over windows of equal length.

    Args:
      loss: of every step, float (steps,).

    Returns:
      The means, with four digits, None where one is not finite.
    """
    count = min(len(loss), CURVE_POINTS)
    ends = np.linspace(0, len(loss), count + 1).round().astype(int)
    windows = [loss[low:high].astype(np.float64) for low, high in itertools.pairwise(ends)]
    means = [float(window.mean()) for window in windows]
    return [float(f"{mean:.4g}") if np.isfinite(mean) else None for mean in means]


def trial_chart(shown: Sequence[ShownTrial]) -> Chart | None:
    """Final error against the learning rate, or the first hyperparameter that varies, or the replicate.

    Args:
      shown: the trials.

    Returns:
      The chart, a point per trial in their order, infeasible ones in a row at the top; None where none has an error.
    """
    errors = [trial.error for trial in shown if _complete(trial)]
    if not errors:
        return None
    x_name = _across(shown)
    y_axis = padded(min(errors), max(errors))
    chart = Chart("trials", x_name, "final error", f"final error of {len(shown)} trials against {x_name}")
    chart.y_ticks = ticks(y_axis, up)
    values = [trial.replicate if x_name == "replicate" else trial.hyperparameters[x_name] for trial in shown]
    x, chart.x_ticks = _places(values)
    arms = list(dict.fromkeys(trial.arm for trial in shown))
    for trial, value, at in zip(shown, values, x, strict=True):
        bad = not _complete(trial)
        y = 1.0 if bad else float(on(y_axis, [trial.error])[0])
        kind = "infeasible" if bad else f"arm{min(arms.index(trial.arm), COLOURS)}"
        outcome = "infeasible" if bad else f"final error {format_number(trial.error)}"
        chart.points.append(
            Point(float(across(at)), float(up(y)), kind, f"{trial.arm}, {x_name} {_text(value)}: {outcome}")
        )
    return chart


def _entry(found: GalleryResult, prefix: str) -> dict[str, Any]:
    """What the template needs of a result."""
    from markupsafe import Markup

    shown = found.trained.shown
    varying = _varying(shown)
    names = dict.fromkeys(name for trial in shown for name in trial.hyperparameters if not _is_bookkeeping(name))
    arms = list(dict.fromkeys(trial.arm for trial in shown))
    claims = found.result["claims"]
    # What --set changed is neither the experiment nor its control, and so stands in its own section alone.
    kind = "changed" if found.result.get("overrides") else "control" if found.result["control"] else "plain"
    verdicts = " ".join(sorted({claim["verdict"] for claim in claims})) or "not judged"
    run = run_name(found.result)
    return {
        "id": f"{found.experiment.name}.{run}",
        "run": run,
        "kind": kind,
        "name": f"{found.experiment.name}, {run}",
        "experiment": found.experiment,
        "result": found.result,
        "filtered": verdicts if kind == "plain" else kind,
        "link": found.link,
        # Our own drawing; everything else on the page is escaped.
        "figure": Markup(embedded(found.figure_svg, prefix)),
        "alternative": alternative(found.experiment, claims),
        "commit": short_commit(found.result["provenance"].get("commit")),
        "maps": flip_maps(found.flips) if found.flips else [],
        "flips": found.flips,
        "trained": found.trained,
        "seconds": duration(found.result["seconds"]),
        "trial_seconds": duration(found.trained.seconds),
        "chart": trial_chart(shown),
        "legend": [(f"arm{i}", arm) for i, arm in enumerate(arms[:COLOURS])]
        + ([(f"arm{COLOURS}", f"{len(arms) - COLOURS} further arms")] if len(arms) > COLOURS else []),
        "fixed": {name: _text(shown[0].hyperparameters.get(name)) for name in names if name not in varying},
        "trials": [_trial(trial, varying) for trial in shown],
    }


def short_commit(commit: str | None) -> str:
    """Twelve digits of a commit, and whether the checkout was changed."""
    digits, dirty, changed = (commit or "").partition("-")
    return f"commit {digits[:12]}{dirty}{changed}" if digits else "not a checkout"


def duration(seconds: float) -> str:
    """Seconds as people say them: 12 s, 3.4 min, 1.2 h."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def _trial(trial: ShownTrial, varying: Sequence[str]) -> dict[str, Any]:
    """What the page's script tells of a trial."""
    settings = [[name, _text(trial.hyperparameters.get(name))] for name in varying]
    return {
        "arm": trial.arm,
        "replicate": trial.replicate,
        "settings": [[name, value] for name, value in settings if value != "n/a"],
        "outcome": f"final error {label(trial.error, 4)}" if _complete(trial) else "infeasible",
        "steps": len(trial.loss),
        "loss": thinned(trial.loss),
    }


def _order(found: GalleryResult) -> tuple:
    source, result = found.experiment.source, found.result
    place = (0, int(_figure(source)[1]), "") if _figure(source) else (1, 0, source)
    return (*place, found.experiment.name, result["control"], SCALES.index(result["scale"]), result["seed"])


def _figure(source: str) -> re.Match[str] | None:
    """Whether an experiment's source is a figure of the playbook, and which; else it is a place in its text."""
    return re.match(r"figures? (\d+)", source)


def _by_experiment(entries: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(entry["experiment"].name, []).append(entry)
    return list(groups.values())


def _complete(trial: ShownTrial) -> bool:
    return trial.status == "complete" and trial.error is not None and bool(np.isfinite(trial.error))


def _is_bookkeeping(name: str) -> bool:
    return name.startswith(_BOOKKEEPING)


def _varying(shown: Sequence[ShownTrial]) -> list[str]:
    """Hyperparameters that vary among the trials, those of the workload last."""
    names = dict.fromkeys(name for trial in shown for name in trial.hyperparameters if not _is_bookkeeping(name))
    varying = [name for name in names if len({str(trial.hyperparameters.get(name)) for trial in shown}) > 1]
    return sorted(varying, key=lambda name: (name.startswith("workload."), name))


def _across(shown: Sequence[ShownTrial]) -> str:
    varying = _varying(shown)
    return "learning_rate" if "learning_rate" in varying else varying[0] if varying else "replicate"


def _places(values: Sequence[Any]) -> tuple[np.ndarray, list[Tick]]:
    """Positions of values in [0, 1], and ticks; numbers that span `LOG_SPAN` are on a log scale."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        axis = padded(float(low), float(high))
        if low > 0 and high >= LOG_SPAN * low:
            axis = axis._replace(scale="log")
        return on(axis, values), ticks(axis, across)
    texts = [_text(value) for value in values]
    at, marks = named(sorted(dict.fromkeys(texts)))
    return np.array([at[text] for text in texts]), marks if len(marks) <= 8 else []


def _text(value: Any) -> str:
    text = "n/a" if value is None else label(value, 4) if isinstance(value, float) else str(value)
    return text if len(text) <= TEXT else f"{text[: TEXT - 1]}…"
