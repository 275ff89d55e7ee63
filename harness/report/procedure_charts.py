"""The charts of the procedures: rate sweeps, losses, steps to a fit, gradient norms over time and as a histogram,
curvature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.analysis.axes import Axis
from harness.analysis.full_fit import pass_means
from harness.procedures.clip import PARTS, running_thresholds
from harness.procedures.procedure import of
from harness.records import TrialRecord
from harness.report.chart import Chart, Line, Point, across, label, on, padded, path, ticks, up
from harness.report.diagnosis import Section

CURVE_POINTS = 400
"""Stretches of an axis of which the highest point of a curve is drawn, so that no spike is lost."""

DRAWN = 4
"""Runs of a setting that are drawn; more only hide each other."""

BINS = 40

MOST_RISE = 30
"""Over the largest first loss, at which charts of losses are cut: one that diverges would flatten the rest."""


class _Series(NamedTuple):
    """A line to be drawn; `kind` is its style, `name` stands in the legend."""

    kind: str
    name: str
    x: np.ndarray
    y: np.ndarray


def clip_sections(decision: Mapping[str, Any], records: Sequence[TrialRecord]) -> list[Section]:
    """The charts of `playbook clip`."""
    unclipped, clipped = of(records, "unclipped"), of(records, "clipped")
    limit, percentile = decision["clip_threshold"], decision["percentile"]
    norms = [record.curves["gradient_norm"] for record in unclipped]
    longest = max(map(len, norms))
    series = [_run(norm, "thin", "unclipped runs") for norm in norms[:DRAWN]]
    first = running_thresholds(norms[0], percentile)
    series.append(_run(first, "curve0", "percentile of the norms so far, first run"))
    series.append(_Series("dashed", "threshold", np.array([1, longest]), np.full(2, limit)))
    over_time = _lines("gradient norm over time", "step", "gradient norm, log", series, log=True)
    shares = decision["clipped_share"]["by_part"]
    middles = (np.arange(PARTS) + 0.5) / PARTS * max(len(r.curves["clipped"]) for r in clipped)
    known = [(x, y) for x, y in zip(middles, shares, strict=True) if y is not None]
    by_part = _lines(
        "share clipped by tenth of training",
        "step",
        "share of steps",
        [_Series("curve1", "clipped runs", *map(np.array, zip(*known, strict=True)))],
        y_axis=Axis(0.0, 1.0),
    )
    losses = [_run(r.curves["train_loss"], "curve0", "without clipping") for r in unclipped[:DRAWN]]
    losses += [_run(r.curves["train_loss"], "curve1", "with clipping") for r in clipped[:DRAWN]]
    return [
        Section(
            "Gradient norms",
            "Of the unclipped runs, up to four drawn; all of them in the histogram.",
            [over_time, _histogram(np.concatenate(norms), limit)],
        ),
        Section(
            "What clipping changes",
            "Runs of the same seeds, up to four of each drawn.",
            [_losses("training loss", losses), by_part],
        ),
    ]


def warmup_sections(decision: Mapping[str, Any], records: Sequence[TrialRecord]) -> list[Section]:
    """The charts of `playbook warmup`."""
    sections = [_sweep_section(decision, records, decision["unstable_base_learning_rate"])]
    tried = of(records, "warmups")
    if tried:
        kept = sorted({int(r.hyperparameters["warmup_steps"]) for r in tried})
        shown = kept if len(kept) <= 5 else [kept[round(i * (len(kept) - 1) / 4)] for i in range(5)]
        series = [
            _run(record.curves["train_loss"], f"curve{i}", f"{steps} steps")
            for i, steps in enumerate(shown)
            for record in [r for r in tried if r.hyperparameters["warmup_steps"] == steps][:DRAWN]
        ]
        name = f"warmups to rate {decision['base_learning_rate']:g}"
        chart = _losses(name, series, log_x=True)
        sections.append(Section("Warmups", "Each followed by steps at the peak; up to four runs of each.", [chart]))
    prepended = of(records, "prepended")
    if prepended:
        names = f"rate {decision['best_stable_rate']:g}", f"rate {decision['base_learning_rate']:g} after warmup"
        series = [_run(r.curves["train_loss"], "curve0", names[0]) for r in of(records, "baseline")[:DRAWN]]
        last = max(run.hyperparameters["warmup_steps"] for run in prepended)
        longest = [run for run in prepended if run.hyperparameters["warmup_steps"] == last]
        series += [_run(r.curves["train_loss"], "curve1", names[1]) for r in longest[:DRAWN]]
        chart = _losses("training loss", series)
        sections.append(
            Section(
                "Against the baseline", "The whole training on fresh seeds, up to four runs of each drawn.", [chart]
            )
        )
    return sections


def instability_sections(decision: Mapping[str, Any], records: Sequence[TrialRecord]) -> list[Section]:
    """The charts of `playbook instability`."""
    probe = of(records, "probe")
    rate = decision["probe"]["learning_rate"]
    losses = [_run(r.curves["train_loss"], f"curve{i}", f"run {i + 1}") for i, r in enumerate(probe[:DRAWN])]
    norms = [_run(r.curves["gradient_norm"], f"curve{i}", f"run {i + 1}") for i, r in enumerate(probe[:DRAWN])]
    typical = decision["norms"]["typical"]
    if typical:
        ends = np.array([1, max(len(r.curves["gradient_norm"]) for r in probe)])
        norms.append(_Series("dashed", "typical at the best rate", ends, np.full(2, typical)))
    charts = [
        _losses("training loss", losses, log_x=True),
        _lines("gradient norm", "step, log", "gradient norm, log", norms, log=True, log_x=True),
    ]
    sections = [
        _sweep_section(decision, records, decision["lowest_unstable_rate_above"]),
        Section("Twice the best rate", f"Every step of runs at {rate:g}, up to four drawn.", charts),
    ]
    curvature = decision["curvature"]
    if curvature is not None and any(curvature["values"]):
        steps = np.array(curvature["steps"], np.float64) + 1
        series = [
            _Series("curve1", curvature["measure"], steps, _numbers(curvature["values"])),
            _Series("dashed", "stability threshold", steps, _numbers(curvature["threshold"])),
        ]
        chart = _lines(curvature["measure"], "step + 1, log", "largest eigenvalue, log", series, log=True, log_x=True)
        sections.append(
            Section("Curvature", "Median of the runs. It explains and does not judge: networks train past it.", [chart])
        )
    return sections


def max_steps_sections(decision: Mapping[str, Any], records: Sequence[TrialRecord]) -> list[Section]:
    """The charts of `playbook max-steps`."""
    swept, best, window = decision["sweep"], decision["learning_rate"], decision["window"]
    x_axis = Axis(swept[0]["rate"], swept[-1]["rate"], "log")
    y_axis = _axis(np.array([window, decision["steps"]], np.float64), True)
    chart = Chart("steps to a fit", "learning rate, log", "steps, log", "steps until each run fits the training set")
    chart.x_ticks, chart.y_ticks = ticks(x_axis, across), ticks(y_axis, up)
    for rate in swept:
        x = float(across(on(x_axis, [rate["rate"]])[0]))
        for steps in rate["steps"]:
            kind = "best" if rate["rate"] == best else "trial"
            chart.points.append(Point(x, float(up(on(y_axis, [steps])[0])), kind, f"rate {rate['rate']:g}: {steps}"))
        if missed := rate["runs"] - rate["fitted"]:
            text = f"rate {rate['rate']:g}: {missed} of {rate['runs']} do not fit, {rate['infeasible']} infeasible"
            chart.points.append(Point(x, float(up(1.0)), "infeasible", text))
    around = [rate["rate"] for rate in swept]
    first = min(max(around.index(best) - 1, 0), max(len(around) - DRAWN, 0))
    series = []
    for i, rate in enumerate(around[first : first + DRAWN]):
        for record in [r for r in of(records, "sweep") if r.hyperparameters["learning_rate"] == rate][:2]:
            means = pass_means(record.curves["train_loss"], window)
            at = np.arange(window, window + len(means))
            series.append(_Series(f"curve{i}", f"rate {rate:g}", at, means))
    series.append(_Series("dashed", "fit", np.array([window, decision["steps"]]), np.full(2, decision["fit"])))
    return [
        Section(
            "The sweep",
            "Each run; those of the chosen rate larger, a cross at the top where runs do not fit. Beside it the mean "
            "training loss of the last pass over the training set, of two runs of rates around the chosen one.",
            [chart, _losses("training loss of the last pass", series)],
        )
    ]


def _sweep_section(decision: Mapping[str, Any], records: Sequence[TrialRecord], unstable: float | None) -> Section:
    swept = decision["sweep"]
    best = decision.get("best_rate", decision.get("best_stable_rate"))
    finite = [rate["objective"] for rate in swept if rate["objective"] is not None]
    y_axis = padded(min(finite), max(finite)) if finite else Axis(0.0, 1.0)
    x_axis = Axis(swept[0]["rate"], swept[-1]["rate"], "log")
    chart = Chart("objective against rate", "learning rate", "best objective", "mean objective of each rate")
    chart.x_ticks, chart.y_ticks = ticks(x_axis, across), ticks(y_axis, up)
    for rate in swept:
        x = float(across(on(x_axis, [rate["rate"]])[0]))
        value = y_axis.high if rate["objective"] is None else rate["objective"]
        kind = "infeasible" if rate["is_unstable"] else "best" if rate["rate"] == best else "trial"
        text = f"rate {rate['rate']:g}: {rate['unstable']} of {rate['seeds']} unstable, {rate['infeasible']} infeasible"
        text += "" if rate["objective"] is None else f", mean {label(float(f'{value:.4g}'))}"
        chart.points.append(Point(x, float(up(on(y_axis, [value])[0])), kind, text))
    above = [rate["rate"] for rate in swept if rate["rate"] > best][: DRAWN - 1]
    if unstable is not None and unstable not in above:
        above.append(unstable)
    series = [
        _run(record.curves["train_loss"], f"curve{i}", f"rate {rate:g}")
        for i, rate in enumerate([best, *above])
        for record in [r for r in of(records, "sweep") if r.hyperparameters["learning_rate"] == rate][:2]
    ]
    losses = _losses("training loss above the best rate", series, log_x=True)
    return Section(
        "Rates",
        "Mean of the best evaluations of each rate; the best larger, unstable rates as crosses, infeasible ones at the "
        "top. Beside it the losses of two runs of the best rate and of those above it.",
        [chart, losses],
    )


def _run(curve: np.ndarray, kind: str, name: str) -> _Series:
    return _Series(kind, name, np.arange(1, len(curve) + 1), np.asarray(curve, np.float64))


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _lines(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[_Series],
    log: bool = False,
    log_x: bool = False,
    y_axis: Axis | None = None,
) -> Chart:
    """Lines over steps; what is not finite, or on a log axis not positive, is left out."""
    usable = [(np.isfinite(one.y) & ((one.y > 0) | (not log))) for one in series]
    values = np.concatenate([one.y[keep] for one, keep in zip(series, usable, strict=True)])
    steps = np.concatenate([one.x[keep] for one, keep in zip(series, usable, strict=True)])
    chart = Chart(title, x_label, y_label, f"{title}: {', '.join(dict.fromkeys(one.name for one in series))}")
    if not len(values):
        return chart
    y_axis = y_axis or _axis(values, log)
    x_axis = _axis(steps, log_x)
    chart.x_ticks, chart.y_ticks = ticks(x_axis, across), ticks(y_axis, up)
    for one, keep in zip(series, usable, strict=True):
        if keep.any():
            at, y = _thinned(on(x_axis, one.x[keep]), one.y[keep])
            chart.lines.append(Line(path(across(at), up(on(y_axis, y))), one.kind, one.name))
    return chart


def _losses(title: str, series: Sequence[_Series], log_x: bool = False) -> Chart:
    """Training losses on a logarithmic axis that ends at `MOST_RISE` times where they start."""
    values = np.concatenate([one.y[np.isfinite(one.y) & (one.y > 0)] for one in series])
    starts = [one.y[0] for one in series if len(one.y) and np.isfinite(one.y[0])]
    if starts and max(starts) > 0:
        values = np.minimum(values, MOST_RISE * max(starts))
    axis = _axis(values, True) if len(values) else None
    return _lines(title, "step, log" if log_x else "step", "training loss, log", series, True, log_x, axis)


def _axis(values: np.ndarray, log: bool) -> Axis:
    low, high = float(values.min()), float(values.max())
    if not log:
        return padded(low, high)
    return Axis(low, high, "log") if high > 1.2 * low else Axis(low / 1.5, high * 1.5, "log")


def _thinned(at: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of points at ascending positions in [0, 1], the highest of each stretch of the axis."""
    starts = np.flatnonzero(np.diff((at * CURVE_POINTS).astype(int), prepend=-1))
    parts = np.split(np.arange(len(y)), starts[1:])
    kept = np.array([part[np.argmax(y[part])] for part in parts])
    return at[kept], y[kept]


def _histogram(norms: np.ndarray, limit: float) -> Chart:
    """Counts of the positive finite norms in bins of equal width on a logarithmic scale, with the threshold."""
    norms = np.asarray(norms, np.float64)
    norms = norms[np.isfinite(norms) & (norms > 0)]
    axis = _axis(np.append(norms, limit), True)
    counts, edges = np.histogram(np.log(norms), BINS, (np.log(axis.low), np.log(axis.high)))
    y_axis = Axis(0.0, float(counts.max()))
    chart = Chart("histogram of all steps", "gradient norm, log", "steps", "histogram of gradient norms")
    chart.x_ticks, chart.y_ticks = ticks(axis, across), ticks(y_axis, up)
    places, floor = across(np.linspace(0, 1, len(edges))), float(up(0.0))
    for count, left, right in zip(counts.tolist(), places, places[1:], strict=False):
        top = float(up(on(y_axis, [count])[0]))
        chart.bands.append((float(left), round(float(right - left), 1), top, round(floor - top, 1)))
    x = across(on(axis, [limit, limit]))
    chart.lines.append(Line(path(x, up(np.array([0.0, 1.0]))), "dashed", f"threshold {label(float(f'{limit:.4g}'))}"))
    return chart
