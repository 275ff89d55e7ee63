"""The charts of a study's reading: axis plots, isolation plots, best of k, curves of the best trials, best steps."""

from __future__ import annotations

import numpy as np

from harness.analysis.axes import Axis
from harness.analysis.best_steps import BINS, EARLY, LATE
from harness.analysis.isolation import Isolation
from harness.analysis.reading import Reading
from harness.report.chart import Box, Chart, Line, Point, Tick, across, label, named, on, padded, path, ticks, up

MOST_POINTS = 800
"""Trials of a chart: the best half of them, and others drawn from the rest, so that a page stays small."""

SHOWN_WORST = 0.9
"""Quantile of the feasible trials at which axis plots are cut: a few bad trials would flatten the rest."""

CURVE_POINTS = 300
"""Points of a curve that are drawn; a longer one is thinned."""

BOXES = 20

CURVES = 5
"""Best trials whose curves are drawn."""


def axis_plot(reading: Reading, name: str) -> Chart:
    """Every trial's objective against one hyperparameter (figure 1), infeasible ones in a row at the worse end."""
    table = reading.table
    shown, y_axis = _shown(reading), _objective_axis(reading)
    chart = Chart(name, name, table.objective_name, f"{table.objective_name} of every trial against {name}")
    chart.y_ticks = ticks(y_axis, up)
    values = table.hyperparameters[name]
    x = _places(chart, reading, name)
    worst = 1.0 if table.goal == "min" else 0.0
    best = int(reading.order[0])
    for i in shown.tolist():
        if not np.isfinite(x[i]):
            continue
        bad = bool(table.infeasible[i]) or not np.isfinite(table.objective[i])
        at = worst if bad else float(on(y_axis, [table.objective[i]])[0])
        kind = "infeasible" if bad else "best" if i == best else "trial"
        text = f"trial {table.trials[i]}: {name} {_text(values[i])}, " + (
            "infeasible" if bad else f"{table.objective_name} {label(float(table.objective[i]))}"
        )
        chart.points.append(Point(float(across(x[i])), float(up(at)), kind, text))
    return chart


def isolation_plot(reading: Reading, isolation: Isolation) -> Chart:
    """The best trial per value or bucket (figure 2), over what chance would give."""
    name, table = isolation.hyperparameter, reading.table
    found = [piece for piece in isolation.slices if piece.trial >= 0]
    ends = [end for piece in found for end in (*piece.null, piece.best) if np.isfinite(end)]
    y_axis = padded(min(ends), max(ends))
    what = "value" if isolation.exact else "bucket"
    chart = Chart(name, name, f"best {table.objective_name}", f"best {table.objective_name} per {what} of {name}")
    chart.y_ticks = ticks(y_axis, up)
    if isolation.exact:
        at, chart.x_ticks = _slice_places(reading, isolation)
        middles = [at[piece.value] for piece in found]
    else:
        axis = reading.axes.get(name) or _observed(reading, name)
        chart.x_ticks = ticks(axis, across)
        middles = on(axis, [piece.value for piece in found]).tolist()
    apart = np.diff(np.sort(across(np.array(middles))))
    width = max(1.0, min([150 / len(isolation.slices), *(0.9 * apart).tolist()]))
    worst = y_axis.high if table.goal == "min" else y_axis.low
    for piece, middle in zip(found, middles, strict=True):
        x = float(across(middle))
        low, high = (end if np.isfinite(end) else worst for end in piece.null)
        top, bottom = sorted(float(v) for v in up(on(y_axis, [low, high])))
        chart.bands.append((round(x - width / 2, 1), round(width, 1), top, round(bottom - top, 1)))
        where = _text(piece.value) if isolation.exact else f"{label(piece.low)} to {label(piece.high)}"
        text = (
            f"{name} {where}: best {label(piece.best)} (trial {table.trials[piece.trial]}) of {piece.trials} trials, "
            f"{piece.infeasible} infeasible{', worse than chance' if piece.worse else ''}"
        )
        kind = "worse" if piece.worse else "best" if piece is isolation.slices[isolation.best] else "trial"
        chart.points.append(Point(x, float(up(on(y_axis, [piece.best])[0])), kind, text))
    if not isinstance(found[0].value, str | bool):
        ys = up(on(y_axis, [piece.best for piece in found]))
        chart.lines.append(Line(path(across(np.array(middles)), ys), "thin", ""))
    return chart


def best_of_plot(reading: Reading) -> Chart:
    """Boxes of the best of k trials (figure 3), at most `BOXES` of them."""
    found, name = reading.best_of, reading.table.objective_name
    keep = np.arange(0, len(found.ks), -(-len(found.ks) // BOXES))
    shown = [i for i in keep.tolist() if np.isfinite([found.low[i], found.high[i]]).all()]
    ends = [end for i in shown for end in (found.low[i], found.high[i])] or [0.0, 1.0]
    y_axis, x_axis = padded(min(ends), max(ends)), padded(1.0, float(found.ks[-1]))
    chart = Chart("best of k trials", "k, trials of a study", f"best {name}", "distribution of the best of k trials")
    chart.x_ticks = [tick for tick in ticks(x_axis, across) if float(tick.label).is_integer()]  # k is a count
    chart.y_ticks = ticks(y_axis, up)
    width = min(12.0, 180 / len(keep))
    for i in shown:
        q1, median, q3, low, high = (float(getattr(found, one)[i]) for one in ("q1", "median", "q3", "low", "high"))
        text = f"best of {found.ks[i]}: median {label(median)}, quartiles {label(q1)} to {label(q3)}"
        y = [float(up(on(y_axis, [one])[0])) for one in (q1, median, q3, low, high)]
        chart.boxes.append(Box(float(across(on(x_axis, [found.ks[i]])[0])), round(width, 1), *y, text))
    return chart


def curve_plot(reading: Reading) -> Chart | None:
    """Curves of the best trials; None where the table has none."""
    drawn = [curve for curve in reading.curves[:CURVES] if np.isfinite(curve.validation.values).sum() > 1]
    if not drawn:
        return None
    table = reading.table
    steps = np.concatenate([curve.validation.steps for curve in drawn])
    values = np.concatenate([curve.validation.values for curve in drawn])
    finite = values[np.isfinite(values)]
    # The start of training is far off what is to be seen.
    ends = np.quantile(finite, (0.0, 0.95) if table.goal == "min" else (0.05, 1.0))
    y_axis, x_axis = padded(*map(float, ends)), padded(float(steps.min()), float(steps.max()))
    chart = Chart(
        f"the {len(drawn)} best trials",
        "step",
        reading.validation_name,
        f"{reading.validation_name} of the best trials along training",
    )
    chart.x_ticks, chart.y_ticks = ticks(x_axis, across), ticks(y_axis, up)
    for rank, curve in enumerate(drawn):
        seen = np.flatnonzero(np.isfinite(curve.validation.values))
        seen = seen[np.unique(np.linspace(0, len(seen) - 1, min(len(seen), CURVE_POINTS)).round().astype(int))]
        x = across(on(x_axis, curve.validation.steps[seen]))
        y = up(on(y_axis, curve.validation.values[seen]))
        chart.lines.append(Line(path(x, y), f"curve{rank}", f"trial {table.trials[curve.trial]}"))
    return chart


def best_steps_plot(reading: Reading) -> Chart | None:
    """Histogram of the best steps along training, with the playbook's thresholds; None without any."""
    counts = reading.best_steps.histogram()
    if not counts.any():
        return None
    x_axis, y_axis = Axis(0.0, 1.0), Axis(0.0, float(counts.max()))
    chart = Chart("best steps", "best step, share of training", "trials", "histogram of the best steps along training")
    chart.x_ticks = ticks(x_axis, across)
    chart.y_ticks = [tick for tick in ticks(y_axis, up) if float(tick.label).is_integer()]  # of trials
    places, floor = across(np.linspace(0, 1, BINS + 1)), float(up(0.0))
    tops = up(on(y_axis, counts))
    for left, right, top in zip(places, places[1:], tops, strict=False):
        chart.bands.append((float(left), round(float(right - left), 1), float(top), round(floor - float(top), 1)))
    outline_x = np.concatenate([places[:1], np.repeat(places[1:-1], 2), places[-1:]])
    chart.lines.append(Line(path(outline_x, np.repeat(tops, 2)), "thin", ""))
    for share, text in ((EARLY, f"first {EARLY:.0%}"), (LATE, f"last {1 - LATE:.0%}")):
        x = across(np.full(2, share))
        chart.lines.append(Line(path(x, up(np.array([0.0, 1.0]))), "dashed", text))
    return chart


def _shown(reading: Reading) -> np.ndarray:
    n = len(reading.table.trials)
    if n <= MOST_POINTS:
        return np.arange(n)
    best = reading.order[: MOST_POINTS // 2]
    rest = np.setdiff1d(np.arange(n), best)
    return np.sort(np.append(best, np.random.default_rng(0).choice(rest, MOST_POINTS - len(best), replace=False)))


def _objective_axis(reading: Reading) -> Axis:
    objective = reading.table.objective[reading.order]
    limit = np.quantile(objective, SHOWN_WORST if reading.table.goal == "min" else 1 - SHOWN_WORST)
    return padded(*sorted((float(objective[0]), float(limit))))


def _observed(reading: Reading, name: str) -> Axis:
    values = reading.table.hyperparameters[name]
    finite = values[np.isfinite(values)]
    return padded(float(finite.min()), float(finite.max()))


def _places(chart: Chart, reading: Reading, name: str) -> np.ndarray:
    """Positions of the trials along the hyperparameter, NaN where it does not apply; sets the ticks."""
    values = reading.table.hyperparameters[name]
    if values.dtype == object:
        distinct = list(dict.fromkeys(value for value in values.tolist() if value is not None))
        at, chart.x_ticks = named(distinct)
        if len(distinct) > 8:
            chart.x_ticks = []
        return np.array([at.get(value, np.nan) for value in values.tolist()])
    axis = reading.axes.get(name) or _observed(reading, name)
    chart.x_ticks = ticks(axis, across)
    return on(axis, values)


def _slice_places(reading: Reading, isolation: Isolation) -> tuple[dict, list[Tick]]:
    values = [piece.value for piece in isolation.slices]
    axis = reading.axes.get(isolation.hyperparameter)
    if axis is None or isinstance(values[0], str | bool):
        at, marks = named(values)
        return dict(at), marks if len(values) <= 8 else []
    return dict(zip(values, on(axis, values).tolist(), strict=True)), ticks(axis, across)


def _text(value: object) -> str:
    return label(float(value)) if isinstance(value, float | np.floating) else str(value)
