"""The page and the table of `playbook batch-size`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.analysis.axes import Axis
from harness.analysis.findings import number
from harness.report.chart import Chart, Line, Point, across, on, padded, path, ticks, up
from harness.report.diagnosis import Section

COLUMNS = ("batch size", "ms a step", "spread", "examples/s", "doubling", "input", "memory predicted", "measured", "")
"""Of the table: the gain of a doubling is throughput over that of half the size, `input` the share of the time that the
device waits for examples, memory is in MB."""


def rows(decision: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table of the batch sizes as text, a row each, in the order of `COLUMNS`."""
    return [_row(one) for one in decision["sizes"]]


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    memory = [_megabytes(one["predicted_bytes"]), _megabytes(one["measured_bytes"])]
    if not one["seconds"]:
        return (str(one["batch_size"]), *[""] * 5, *memory, one["reason"])
    low, high = (number(1000 * one["seconds"][end]) for end in (0, -1))
    gain = "" if one["gain"] is None else f"{one['gain']:.2f}x"
    speeds = (number(1000 * one["seconds_per_step"]), f"{low} to {high}", number(one["examples_per_second"]))
    return (str(one["batch_size"]), *speeds, gain, f"{one['input_share']:.0%}", *memory, "")


def _megabytes(count: float | None) -> str:
    return "" if count is None else f"{count / 1e6:,.0f}"


def batch_size_page(result: Mapping[str, Any]) -> str:
    """Renders `index.html`.

    Args:
      result: what `result.json` holds.

    Returns:
      HTML that needs no other file.
    """
    from jinja2 import Environment, PackageLoader

    decision = result["decision"]
    environment = Environment(loader=PackageLoader("harness.report"), autoescape=True, trim_blocks=True)
    return environment.get_template("batch_size.html.j2").render(
        title="Batch sizes", result=result, sections=_sections(decision), columns=COLUMNS, rows=rows(decision)
    )


def _sections(decision: Mapping[str, Any]) -> list[Section]:
    run = [one for one in decision["sizes"] if one["seconds"]]
    sizes = np.array([one["batch_size"] for one in run], np.float64)
    speed = np.array([one["examples_per_second"] for one in run])
    charts = [
        _chart("throughput", "examples a second, log", sizes, speed, speed[0] * sizes / sizes[0], "perfect doubling"),
        _chart("time per step", "seconds, log", sizes, sizes / speed, np.full(len(run), sizes[0] / speed[0]), "flat"),
    ]
    sections = [
        Section("Throughput", "Medians of the rounds. Dashed: a device that a larger batch does not fill.", charts)
    ]
    if decision["target"] is not None:
        rows = decision["target"]["sizes"]
        sizes = np.array([row["batch_size"] for row in rows], np.float64)
        charts = [
            _chart(name, f"{unit}, log", sizes, np.array([row[column] for row in rows]))
            for name, column, unit in (
                ("time to the target", "seconds", "seconds"),
                ("cost to the target", "device_seconds", "device-seconds"),
            )
        ]
        caption = "Time on this device; cost with the batch spread over devices at their best throughput."
        sections.append(Section("To the target", caption, charts))
    return sections


def _chart(
    name: str, y_label: str, sizes: np.ndarray, values: np.ndarray, dashed: np.ndarray | None = None, key: str = ""
) -> Chart:
    chart = Chart(name, "batch size, log", y_label, f"{name} against batch size")
    every = values if dashed is None else np.append(values, dashed)
    x_axis = Axis(sizes[0], sizes[-1], "log") if len(sizes) > 1 else padded(sizes[0], sizes[0])
    y_axis = Axis(every.min(), every.max(), "log") if every.max() > every.min() else padded(every.min(), every.max())
    chart.x_ticks, chart.y_ticks = ticks(x_axis, across), ticks(y_axis, up)
    x = across(on(x_axis, sizes))
    if dashed is not None:
        chart.lines.append(Line(path(x, up(on(y_axis, dashed))), "dashed", key))
    y = up(on(y_axis, values))
    chart.lines.append(Line(path(x, y), "curve1", "measured"))
    for size, value, at, height in zip(sizes, values, x, y, strict=True):
        chart.points.append(Point(float(at), float(height), "trial", f"batch size {size:g}: {number(value)}"))
    return chart
