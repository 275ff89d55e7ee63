"""The figure of `round-transfer`: rates in both rounds, regret by tier, ways to lengthen, and the other parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.experiments.round_transfer import (
    DELTA,
    LOOSE,
    choices,
    excess,
    extensions,
    losses,
    regrets,
    schedule_regrets,
)
from harness.experiments.transfer_settings import (
    DEPTH,
    FAMILIES,
    LONG,
    NORMALIZATION,
    OPTIMIZER,
    PARTS,
    SCHEDULE,
    SETTINGS,
    SHORT,
    WARMUP,
    candidates,
    lengths,
)
from harness.experiments.verdict import sign_flip_interval
from harness.figures.differences import draw_differences
from harness.figures.rate_sweep import RateSeries, draw_rate_sweep
from harness.figures.style import COLOURS, MARKERS, panels
from harness.records import TrialRecord
from harness.studies.transfer import tier

_LABELS = {"linear": "linear", "square_root": "square root", "cosine": "cosine"}


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the six panels, of a control the three of the schedule.

    Args:
      records: of all rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    control = not any(record.study.startswith(OPTIMIZER) for record in records)
    steps = lengths(scale, control)
    title = f"round-transfer at scale {scale}" + (", control: rounds of equal length" if control else "")
    figure, axes = panels(3 if control else 6, title, columns=3)
    for panel, round_ in zip(axes, (SHORT, LONG), strict=False):
        draw_rate_sweep(panel, _sweeps(records, round_, scale, control), "final validation loss (nats)", "diverged")
        which = "first" if round_ == SHORT else "second"
        name = f"{which} round" if control else f"{round_} round"
        panel.set(xlabel="base learning rate", title=f"{name}, {steps[round_]:,} steps\n(mean, best and worst seed)")
        bottom, top = panel.get_ylim()
        panel.set_ylim(bottom, bottom * (top / bottom) ** 1.5)  # room for the legend
        panel.legend(loc="upper right", ncols=2)
    _draw_regret(axes[2], records, scale, control)
    if control:
        return figure
    _draw_extensions(axes[3], records, scale)
    _draw_warmup(axes[4], records, scale)
    _draw_both_rounds(axes[5], records, scale)
    return figure


def _sweeps(records: Sequence[TrialRecord], round_: str, scale: str, control: bool) -> list[RateSeries]:
    """Loss against base rate, for each way of each family a line."""
    found, chance = losses(records, SCHEDULE, round_, scale), _chance(records, scale)
    lines: dict[str, list[tuple[float, np.ndarray]]] = {}
    for name, candidate in candidates(SCHEDULE, round_, scale, control).items():
        shape = name.rsplit(" ", 1)[0]
        lines.setdefault(shape, []).append((candidate.hyperparameters["learning_rate"], found[name]))
    return [
        RateSeries(
            label=_shape_label(shape),
            rates=[rate for rate, _ in points],
            errors=[own for _, own in points],
            unstable=[bool(np.any(own == chance)) for _, own in points],
            colour=COLOURS[FAMILIES.index(shape.split()[0]) + 3 * ("extended" in shape)],
            marker=MARKERS[FAMILIES.index(shape.split()[0]) + 3 * ("extended" in shape)],
        )
        for shape, points in lines.items()
    ]


def _shape_label(shape: str) -> str:
    family, *extended = shape.split()
    return _LABELS[family] + (", constant phase extended" if extended else "")


def _chance(records: Sequence[TrialRecord], scale: str) -> float:
    """The loss that stands for a diverged trial; infinite where none diverged."""
    from workloads.workload import workload_scale

    diverged = any(record.status != "complete" for record in records)
    return float(np.log(workload_scale("transformer", scale).workload.classes)) if diverged else np.inf


def _draw_regret(axes: Axes, records: Sequence[TrialRecord], scale: str, control: bool) -> None:
    """Regret of what the short round chose, by fresh seed or by tuning, with the mean and its 95% interval."""
    rows = [
        (SCHEDULE, f"{'second: ' if rank else ''}{_schedule_label(name)}", values)
        for rank, ways in enumerate(schedule_regrets(records, scale, control))
        for name, values in ways.items()
    ]
    for part in () if control else [part for part in PARTS if part != SCHEDULE]:
        values = regrets(records, part, scale)
        under = np.count_nonzero(values < (LOOSE if part == OPTIMIZER else DELTA))
        rows.append((part, f"{under} of {len(values)} under", values))
    for place, (part, _, values) in enumerate(rows):
        colour = COLOURS[list(PARTS).index(part)]
        height = -place + np.linspace(-0.3, 0.3, len(values))
        axes.plot(values, height, "o", color=colour, markersize=3, alpha=0.5)
        low, high = np.clip(sign_flip_interval(values, 0.95), values.min(), values.max())
        axes.plot([low, high], [-place] * 2, color="black", linewidth=1.5)
        axes.plot(values.mean(), -place, "D", color="black", markersize=5)
    axes.set_yticks([-place for place in range(len(rows))], [_row_label(part, label) for part, label, _ in rows])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(DELTA, color="black", linewidth=0.8, linestyle="--", label="threshold")
    if not control:
        axes.axvline(LOOSE, color="black", linewidth=0.8, linestyle=":", label="that of the optimizer")
    axes.set(xlabel="regret (trial standard deviations)")
    chosen = "the first round chose against the second's" if control else "the short round chose against the long one's"
    dots = "one dot a fresh seed" if control else "one dot a fresh seed, from the optimizer on a tuning"
    axes.set_title(f"what {chosen} own\n({dots};\nmean, 95% interval)")
    axes.grid(axis="y", alpha=0)
    axes.legend(loc="lower right")


def _schedule_label(name: str) -> str:
    shape, rate = name.rsplit(" ", 1)
    family, *extended = shape.split()
    return f"{_LABELS[family]} {rate}" + (", extended" if extended else "")


def _row_label(part: str, label: str) -> str:
    return f"{part} ({tier(PARTS[part])})\n{label}"


def _draw_extensions(axes: Axes, records: Sequence[TrialRecord], scale: str) -> None:
    """Extended minus stretched on fresh seeds."""
    groups = {}
    for family, pairs in extensions(records, scale).items():
        for when, pair in zip(("short round's\nrate", "own rates"), pairs, strict=True):
            groups[f"{_LABELS[family]},\n{when}"] = excess(records, SCHEDULE, *pair, scale)
    title = "constant phase extended against decay stretched\n(one dot a fresh seed; bar: mean)"
    draw_differences(axes, groups, "extended minus stretched\n(trial standard deviations)", title, {"threshold": DELTA})


def _draw_warmup(axes: Axes, records: Sequence[TrialRecord], scale: str) -> None:
    """Loss against warmup length in both rounds, and how many tunings choose it."""
    chosen = choices(records, WARMUP, scale)
    for round_, colour, marker in ((SHORT, COLOURS[1], "s"), (LONG, COLOURS[0], "o")):
        found = losses(records, WARMUP, round_, scale)
        warmups = [float(name.split()[0]) for name in found]
        for warmup, own in zip(warmups, found.values(), strict=True):
            axes.plot([warmup] * len(own), own, marker, color=colour, markersize=3, alpha=0.4)
        medians = [np.median(own) for own in found.values()]
        axes.plot(warmups, medians, marker + "-", color=colour, label=f"{round_} round, median")
    fields = ", ".join(f"{name}={value}" for name, value in SETTINGS[scale].warmup_fields.items())
    counts = [[sum(getattr(pair, round_) == name for pair in chosen) for round_ in (SHORT, LONG)] for name in found]
    axes.set(xscale="log", ylabel="final validation loss (nats)")
    axes.set_xlabel("warmup (steps), total steps fixed\nbelow: how many short, long rounds choose it")
    axes.set_title(f"warmup length, {fields}\n(faint: seeds of {len(chosen)} tunings)")
    axes.set_xticks(warmups, [f"{warmup:g}\n{own[0]}, {own[1]}" for warmup, own in zip(warmups, counts, strict=True)])
    axes.minorticks_off()
    axes.legend()


def _draw_both_rounds(axes: Axes, records: Sequence[TrialRecord], scale: str) -> None:
    """Median loss in the long round against that in the short, of architectures and optimizer settings."""
    labels: dict[tuple[float, float], list[str]] = {}
    below = set()  # where only depths lie: their names would run into those of normalizations beside them
    for part, colour, marker in (
        (OPTIMIZER, COLOURS[0], "o"),
        (NORMALIZATION, COLOURS[1], "s"),
        (DEPTH, COLOURS[2], "^"),
    ):
        short, long = (
            {name: float(np.median(own)) for name, own in losses(records, part, round_, scale).items()}
            for round_ in (SHORT, LONG)
        )
        axes.plot(short.values(), [long[name] for name in short], marker, color=colour, label=part)
        for name in short if part != OPTIMIZER else ():
            place = (short[name], long[name])
            if part == DEPTH and place not in labels:
                below.add(place)
            labels.setdefault(place, []).append(name)
    for place, names in labels.items():
        axes.annotate(", ".join(names), place, (5, -9 if place in below else 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="loss in the short round (nats)", ylabel="loss in the long round (nats)")
    axes.set_title("architectures and optimizer settings in both rounds\n(median over the seeds that choose)")
    axes.margins(0.15)
    axes.legend(loc="lower right")
