"""The curves of one training run: loss by step, and what was measured on validation examples."""

from matplotlib.figure import Figure

from harness.figures.style import COLOURS, panels, plain_log_ticks
from harness.records import TrialRecord


def draw_training_curves(record: TrialRecord, title: str) -> Figure:
    """Draws training loss, validation loss and error, gradient norm and learning rate of a trial.

    Args:
      record: the trial.
      title: of the figure.
    """
    figure, axes = panels(4, title)
    curves = record.curves
    axes[0].plot(
        range(1, len(curves["train_loss"]) + 1), curves["train_loss"], color=COLOURS[0], lw=0.7, label="training"
    )
    best = record.results["best_step"]
    for panel, name, unit in ((axes[0], "loss", "nats"), (axes[1], "error", "share of examples or tokens")):
        steps, measured = curves["evaluation_step"], curves[f"evaluation_{name}"]
        panel.plot(steps, measured, color=COLOURS[1], marker="o", ms=3, label="validation")
        if best == best:
            panel.plot(best, record.results[f"best_{name}"], "*", ms=12, color=COLOURS[2], label="best checkpoint")
        panel.set_ylabel(f"{name} ({unit})")
        panel.legend()
    for panel, name in ((axes[2], "gradient_norm"), (axes[3], "learning_rate")):
        panel.plot(range(1, len(curves[name]) + 1), curves[name], color=COLOURS[0], lw=0.7)
        panel.set_ylabel(name.replace("_", " ") + (" before clipping" if name == "gradient_norm" else ""))
    axes[2].set_yscale("log")
    plain_log_ticks(axes[2].yaxis)
    for panel in axes:
        panel.set_xlabel("step")
    return figure
