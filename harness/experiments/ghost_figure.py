"""The figure of `ghost-batch-norm`: errors by device batch, paired differences, running averages, and rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.trial_table import final_error, paired_differences
from harness.experiments.ghost_batch_norm import SETTINGS, WHOLE, Settings, final_loss, found_at
from harness.figures.style import COLOURS, MARKERS, panels, shared_legend
from harness.records import TrialRecord
from workloads.workload import workload_scale

_DRAWN_CURVES = 3
"""Seeds whose rounding is drawn; more only hide each other."""


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the four panels, of a control the first two.

    Args:
      records: of all studies.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    settings = SETTINGS[scale]
    classes = workload_scale("wide_resnet", scale).workload.classes
    control = all(record.study == "control" for record in records)
    title = f"ghost-batch-norm at scale {scale}, batches of {settings.batch_size}"
    title += ", control: the virtual batch follows the device batch" if control else ""
    figure, axes = panels(2 if control else 4, title)
    _errors(axes[0], records, settings, classes, control)
    _differences(axes[1], records, settings, classes, control)
    if not control:
        _averages(axes[2], records, settings, classes)
        _rounding(axes[3], records, settings)
    shared_legend(figure, axes[:1] if control else (axes[0], axes[3]))
    return figure


def _errors(axes: Axes, records: Sequence[TrialRecord], settings: Settings, classes: int, control: bool) -> None:
    batch = settings.batch_size
    fixed = {batch // n: found_at(records, settings, settings.virtual, n) for n in settings.devices}
    if control:
        following = {batch // n: found_at(records, settings, batch // n, n) for n in settings.devices}
        lines = {"virtual batch = device batch": following}
    else:
        sizes = sorted({*settings.drawn, settings.local, settings.virtual})
        following = {size: found_at(records, settings, size) for size in sizes}
        following[batch] = found_at(records, settings, WHOLE)
        lines = {
            f"virtual batch {settings.virtual}": fixed,
            "virtual batch = device batch, computed on one": following,
        }
    seeds = [set(trials) for found in lines.values() for trials in found.values()]
    shared = sorted(set.intersection(*seeds))  # other seeds would move a point that has more of them
    for index, (label, found) in enumerate(lines.items()):
        errors = [[final_error(trials[r], classes) for r in shared] for trials in found.values()]
        x = np.array(list(found)) * (1.06 if index else 1.0)  # beside each other
        axes.plot(x, [np.mean(e) for e in errors], marker=MARKERS[index], color=COLOURS[index], label=label)
        for place, ours in zip(x, errors, strict=True):
            axes.plot(np.full(len(ours), place), ours, "_", color=COLOURS[index], alpha=0.5)
    axes.set(xscale="log", xlabel="examples per device", ylabel="validation error (share of examples)")
    axes.set_xticks([batch // n for n in settings.devices])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(f"error at a rate of {settings.short.learning_rate:g}\n(mean over seeds; a dash is a seed)")


def _differences(axes: Axes, records: Sequence[TrialRecord], settings: Settings, classes: int, control: bool) -> None:
    """What the claims on errors are judged by."""

    def of(virtual: int, devices: int = 1, full: bool = False) -> Mapping[int, TrialRecord]:
        return found_at(records, settings, virtual, devices, full)

    def virtual(devices: int) -> int:
        return settings.batch_size // devices if control else settings.virtual

    several, most = settings.devices[1:], settings.devices[-1]
    pairs = {f"{n} devices": (of(virtual(n), n), of(virtual(1))) for n in several}
    if not control:
        pairs[f"{most} devices,\nvirtual {settings.local}"] = of(settings.local, most), of(settings.local)
        pairs[f"virtual {settings.virtual}\n- whole"] = of(settings.virtual, full=True), of(WHOLE, full=True)
    for index, (candidate, reference) in enumerate(pairs.values()):
        found = paired_differences(candidate, reference, lambda record: final_error(record, classes))
        sideways = np.linspace(-0.15, 0.15, len(found)) if len(found) > 1 else np.zeros(len(found))
        axes.plot(index + sideways, found, "o", color=COLOURS[index % len(COLOURS)], markersize=4, alpha=0.7)
        axes.plot([index - 0.25, index + 0.25], [np.mean(found)] * 2, color="black", linewidth=1.5)
    axes.axhspan(-settings.delta, settings.delta, color="grey", alpha=0.15)
    axes.set_xticks(range(len(pairs)), list(pairs))
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_ylabel("difference in validation error")
    axes.set_title("paired differences, of devices from one device\n(a dot a seed, bar: mean; shaded: does not matter)")


def _averages(axes: Axes, records: Sequence[TrialRecord], settings: Settings, classes: int) -> None:
    local, most = settings.local, settings.devices[-1]
    one, many = (found_at(records, settings, local, n) for n in (1, most))
    shared = sorted(one.keys() & many.keys())
    x, y = (np.array([final_loss(trials[r], classes) for r in shared]) for trials in (one, many))
    ends = np.array([min(*x, *y), max(*x, *y)])
    axes.fill_between(
        ends, ends - settings.loss_delta, ends + settings.loss_delta, color="grey", alpha=0.3, linewidth=0
    )
    axes.plot(x, y, "o", color=COLOURS[3], markersize=5, alpha=0.8)
    axes.set(xlabel="validation loss on one device (nats)", ylabel=f"merged over {most} devices (nats)")
    axes.set_title(f"evaluated by running averages, virtual batch {local}\n(a dot a seed; shaded: does not matter)")


def _rounding(axes: Axes, records: Sequence[TrialRecord], settings: Settings) -> None:
    """How far the training loss of several devices is from that of one, which differs by rounding alone."""
    one = found_at(records, settings, settings.virtual)
    for index, devices in enumerate(settings.devices[1:]):
        many = found_at(records, settings, settings.virtual, devices)
        for number, replicate in enumerate(sorted(one.keys() & many.keys())[:_DRAWN_CURVES]):
            ours, theirs = (trials[replicate].curves["train_loss"].astype(float) for trials in (many, one))
            steps = np.arange(1, min(len(ours), len(theirs)) + 1)
            apart = np.abs(ours[: len(steps)] - theirs[: len(steps)])
            label = f"{devices} devices" if number == 0 else None
            seen = apart > 0  # a log axis has no place for equal bits
            axes.plot(steps[seen], apart[seen], color=COLOURS[index + 2], linewidth=1, alpha=0.8, label=label)
    axes.set(yscale="log", xlabel="step", ylabel="difference in training loss (nats)")
    axes.set_title(
        f"rounding, amplified by training: several devices and one\n(virtual batch {settings.virtual}; single seeds)"
    )
