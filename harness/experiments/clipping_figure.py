"""The figure of `gradient-clipping`: gradient norms with thresholds, losses, a bad batch, and SGD's equivalent rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.trial_table import at
from harness.experiments.gradient_clipping import SETTINGS, clip_factor, equivalents, final_loss, thresholds
from harness.figures.loss_curves import LossSeries, draw_loss_curves
from harness.figures.published import published
from harness.figures.rate_sweep import RateSeries, draw_rate_sweep
from harness.figures.style import COLOURS, PUBLISHED_ALPHA, panels, plain_log_ticks
from harness.records import TrialRecord

_DRAWN_CURVES = 3
"""Seeds whose curves are drawn; more only hide each other."""


_PROBED = "clipped at the 90th percentile"


def draw(records: Sequence[TrialRecord], scale: str) -> Figure:
    """Draws the four panels, of a control the first two.

    Args:
      records: of both rounds.
      scale: one of `harness.experiments.experiment.SCALES`.
    """
    settings = SETTINGS[scale]
    control = not any(record.arm == "sgd" for record in records)
    title = f"gradient-clipping at scale {scale}"
    title += ", control: no extra norms" if control else "; faint and dashed: published (ResNet-200, ImageNet)"
    figure, axes = panels(2 if control else 4, title)
    rate = settings.deep.learning_rate
    unclipped = _curves(records, "train_loss", "unclipped", "unclipped", COLOURS[1], learning_rate=rate)
    clipped = _curves(records, "train_loss", "clipped", _PROBED, COLOURS[0])
    lower = [
        _curves(records, "train_loss", "unclipped", f"unclipped, rate {low:g}", colour, learning_rate=low)
        for low, colour in zip(settings.lower_rates, COLOURS[2:], strict=False)
    ]
    _norms(axes[0], records, rate, control)
    draw_loss_curves(
        axes[1], [unclipped, clipped, *(() if control else lower)], f"training loss at rate {rate:g}\n(single seeds)"
    )
    if not control:
        bad = [
            _curves(records, "train_loss", arm, label, colour)
            for arm, label, colour in (
                ("bad_batch", "unclipped", COLOURS[1]),
                ("bad_batch_warmup", f"unclipped, {settings.warmup_steps} steps of warmup", COLOURS[2]),
                ("bad_batch_clipped", _PROBED, COLOURS[0]),
            )
        ]
        draw_loss_curves(axes[2], bad, f"a bad batch {settings.bad_step} steps after warmup\n(single seeds)")
        axes[2].set_xscale("linear")
        _equivalent_rates(axes[3], records, scale)
    for panel in axes[1:3]:
        panel.set_ylabel("training loss (nats)")
    for panel in axes:
        handles, labels = panel.get_legend_handles_labels()
        shown = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label != "unstable"]
        # In the last panel, between the vertical lines and the points at the right.
        place = {"loc": "upper right", "bbox_to_anchor": (0.93, 1.0)} if panel is axes[-1] and not control else {}
        panel.legend(*zip(*shown, strict=True), **place)
    return figure


def _curves(
    records: Sequence[TrialRecord], curve: str, arm: str, label: str, colour: str, **hyperparameters: float
) -> LossSeries:
    trials = list(at(records, arm, **hyperparameters).values())[:_DRAWN_CURVES]
    curves = [trial.curves[curve] for trial in trials]
    return LossSeries(label, [np.arange(1, len(one) + 1) for one in curves], curves, colour)


def _norms(axes: Axes, records: Sequence[TrialRecord], rate: float, control: bool) -> None:
    """Figure 9: norms before clipping, and the thresholds."""
    groups = [
        _curves(records, "gradient_norm", "unclipped", "unclipped", COLOURS[1], learning_rate=rate),
        _curves(records, "gradient_norm", "clipped", f"{_PROBED} (norm before)", COLOURS[0]),
    ]
    if not control:
        rows = published("fig9_grad_norm")
        steps, norms = (np.array([float(row[name]) for row in rows]) for name in ("step", "grad_norm"))
        groups.insert(0, LossSeries("published", [steps], [norms], "black", published=True))
        for row in published("fig9_thresholds"):
            label = f"published threshold, {row['name'].replace('_', ' ')}"
            style = {"better": "--", "too_aggressive": ":"}[row["name"]]
            axes.axhline(
                float(row["clip_threshold"]), color="black", linestyle=style, alpha=PUBLISHED_ALPHA, label=label
            )
    draw_loss_curves(axes, groups, "gradient norm before clipping\n(single seeds)")
    found = thresholds(records)["clipped"]
    axes.axhline(found, color=COLOURS[0], linestyle="--", label=f"90th percentile of the probe run, {found:.2g}")
    axes.set_ylabel("global gradient norm")


def _equivalent_rates(axes: Axes, records: Sequence[TrialRecord], scale: str) -> None:
    """Final losses of SGD, and the rate that clipping at nearly every step amounts to."""
    nominal = SETTINGS[scale].sgd.learning_rate
    rates = [share * nominal for share in SETTINGS[scale].lower]
    clipped = list(at(records, "sgd_clipped").values())

    def series(label: str, at_rates: Sequence[float], losses: Sequence[np.ndarray], colour: str, marker: str):
        return RateSeries(label, at_rates, losses, [False] * len(at_rates), colour, marker)

    unclipped = [np.array([final_loss(trial) for trial in at(records, "sgd", learning_rate=r).values()]) for r in rates]
    tight = [np.array([final_loss(trial) for trial in clipped])]
    draw_rate_sweep(
        axes,
        [
            series("SGD, unclipped", rates, unclipped, COLOURS[1], "o"),
            series(f"SGD, clipped at {thresholds(records)['sgd_clipped']:.2g}", [nominal], tight, COLOURS[0], "s"),
        ],
        "final training loss (nats)",
    )
    found = [rate for rate in equivalents(records, scale).values() if np.isfinite(rate)]
    marks = [("predicted", np.mean([nominal * clip_factor(t) for t in clipped]), ":")]
    if found:
        marks.append(("equivalent rate", float(np.exp(np.mean(np.log(found)))), "-"))
    for label, rate, style in marks:
        axes.axvline(rate, color=COLOURS[0], linestyle=style, linewidth=1, label=f"{label}, {rate:.2g}")
    share = np.mean([trial.results["clipped_share"] for trial in clipped])
    axes.set_title(
        f"SGD clipped in {share:.0%} of its steps (mean, best and worst seed)\npredicted: rate times mean clip factor"
    )
    plain_log_ticks(axes.xaxis, axes.yaxis)
