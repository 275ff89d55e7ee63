"""Made-up trial records with the curves that procedures read."""

import numpy as np

from harness.records import TrialRecord


def falling(steps, start=2.3, end=0.3, pace=8.0):
    """A training loss that falls from start to end, with a little noise."""
    noise = 0.02 * np.random.default_rng(steps).standard_normal(steps)
    return end + (start - end) * np.exp(-pace * np.arange(steps) / steps) + noise


def exploding(steps, at, size=20.0):
    """A training loss that falls, then jumps at a step (from 0) and stays."""
    loss = falling(steps)
    loss[at:] += size
    return loss


def record(study, replicate, loss, norms=None, error=0.1, status="complete", clipped_share=None, **hyperparameters):
    """A record of the stand-in; evaluations are as `error` has it."""
    loss = np.asarray(loss, np.float32)
    norms = np.ones(len(loss)) if norms is None else np.asarray(norms)
    curves = {"train_loss": loss, "gradient_norm": norms.astype(np.float32)}
    results = {"best_error": error, "final_error": error}
    if "clip_threshold" in hyperparameters:
        curves["clipped"] = (norms >= hyperparameters["clip_threshold"]).astype(np.float32)
        results["clipped_share"] = float(curves["clipped"].mean()) if clipped_share is None else clipped_share
    settings = {"learning_rate": 0.1, "warmup_steps": 0, "steps": len(loss), "optimizer": "heavy_ball", "momentum": 0.9}
    return TrialRecord(
        study=study,
        arm="stand_in",
        replicate=replicate,
        address=f"{study}-{replicate}-{sorted(hyperparameters.items())}",
        hyperparameters={**settings, **hyperparameters},
        seeds={},
        status=status,
        reason=None if status == "complete" else "made up",
        results=results,
        curves=curves,
        timings={},
    )


def swept(unstable_from, rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0), best=0.1, seeds=5, steps=200, at=3):
    """Records of a sweep: rates from one on are unstable at a step, errors are lowest at the best rate."""
    return [
        record(
            "sweep",
            seed,
            exploding(steps, at) if rate >= unstable_from else falling(steps),
            error=0.1 + 0.05 * abs(np.log10(rate / best)) + 0.001 * seed,
            learning_rate=rate,
        )
        for rate in rates
        for seed in range(seeds)
    ]
