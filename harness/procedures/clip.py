"""The clipping threshold: gradient norms of unclipped runs, their 90th percentile, and what clipping by it changes.

The playbook (L1024-1046): log the unclipped gradient norm, plot it over the steps and as a histogram, choose the 90th
percentile as the threshold, and if instability remains a lower one; where more than half of the updates are clipped,
lower the learning rate instead. It leaves open whether an adaptive strategy is better. The one compared here is the
same percentile of the norms seen so far (AutoClip, Seetharaman et al. 2020, arXiv 2007.14469).

The threshold is not chosen by an outcome, so the unclipped runs that gave it are also those that the clipped ones, of
the same seeds, are compared with.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.analysis.clipping import AGGRESSIVE, PERCENTILE, share_clipped, threshold
from harness.analysis.findings import Finding, number
from harness.analysis.instability import UNSTABLE_SHARE
from harness.procedures.labels import count_failed
from harness.procedures.procedure import (
    PAIRS,
    Decision,
    Procedure,
    arm_mean,
    check_free,
    check_seeds,
    comparison,
    how_often_better,
    objective_values,
    of,
    runs,
)
from harness.records import InputError, TrialRecord
from harness.studies.rounds import Rounds
from harness.training.trial import Trial

PARTS = 10
"""Equal parts of training for which the clipped share is told: a threshold of all steps may clip one part alone."""


def clip(percentile: float = PERCENTILE, seeds: int = PAIRS) -> Procedure:
    """The procedure that finds a clipping threshold.

    Args:
      percentile: of the unclipped norms, in (0, 100).
      seeds: runs without and with clipping, at least 2.

    Raises:
      InputError: a value out of its range.
    """
    if not 0 < percentile < 100:
        raise InputError(f"--percentile {percentile:g}: expected more than 0 and less than 100, such as 90")
    check_seeds(seeds)

    def rounds(trial: Trial, seed: int) -> Rounds:
        check_free(trial, "clip_threshold")
        free = {name: value for name, value in trial.hyperparameters.items() if name != "clip_threshold"}
        trial = dataclasses.replace(trial, hyperparameters=free)
        records = yield runs("unclipped", trial, seed, range(seeds))
        norms = [record.curves["gradient_norm"] for record in records]
        found = threshold(norms, percentile)
        records = yield runs("clipped", trial, seed, range(seeds), {"clip_threshold": found})
        arms = of(records, "unclipped"), of(records, "clipped")
        return decide(*arms, percentile, trial.workload.objective, trial.total_steps)

    return Procedure("clip", {"percentile": percentile, "seeds": seeds}, rounds)


def running_thresholds(norms: np.ndarray, percentile: float) -> np.ndarray:
    """The percentile of the finite norms up to each step, that step's included.

    Args:
      norms: of one run, (steps,).
      percentile: in (0, 100).

    Returns:
      (steps,), linear between neighbours; infinite before there is a finite norm.
    """
    history: list[float] = []
    found = np.full(len(norms), np.inf)
    for step, norm in enumerate(np.asarray(norms, np.float64).tolist()):
        if np.isfinite(norm):
            bisect.insort(history, norm)
        if history:
            place = percentile / 100 * (len(history) - 1)
            low = int(place)
            high = min(low + 1, len(history) - 1)
            found[step] = history[low] + (place - low) * (history[high] - history[low])
    return found


def share_by_part(norms: Sequence[np.ndarray], limit: float) -> list[float | None]:
    """The clipped share in each of `PARTS` equal parts of training, over all runs; None where no run came so far."""
    longest = max(len(one) for one in norms)
    edges = np.linspace(0, longest, PARTS + 1).round().astype(int)
    parts = [np.concatenate([one[low:high] for one in norms]) for low, high in itertools.pairwise(edges)]
    return [share_clipped(part, limit) if len(part) else None for part in parts]


def decide(
    unclipped: Sequence[TrialRecord],
    clipped: Sequence[TrialRecord],
    percentile: float,
    objective: str,
    training_steps: int,
) -> Decision:
    """Says what the threshold is, how much it clips, and what that changes.

    Clipping is adopted by the two-threshold rule of `harness.analysis.comparison` on paired runs, of which an
    infeasible one is the worst.

    Args:
      unclipped: the runs that the threshold comes from.
      clipped: the runs with it, of the same seeds in the same order.
      percentile: of the threshold.
      objective: `error` or `loss`, of evaluations.
      training_steps: of the whole training.
    """
    norms = [record.curves["gradient_norm"] for record in unclipped]
    own = [float(threshold([one], percentile)) if np.isfinite(one).any() else None for one in norms]
    limit = float(clipped[0].hyperparameters["clip_threshold"])
    pooled = np.concatenate(norms)
    finite = pooled[np.isfinite(pooled)]
    adaptive = [running_thresholds(one, percentile) for one in norms]
    ends = [float(one[-1]) for one in adaptive if np.isfinite(one[-1])]
    shares = [record.results["clipped_share"] for record in clipped]
    unstable = [count_failed(arm, training_steps) for arm in (unclipped, clipped)]
    compared = comparison(objective_values(clipped, objective), objective_values(unclipped, objective), objective)
    found: dict[str, Any] = {
        "clip_threshold": limit,
        "percentile": percentile,
        "threshold_by_seed": own,
        "norms": {
            "steps": int(pooled.size),
            "not_finite": int(pooled.size - finite.size),
            "median": float(np.median(finite)),
            "largest": float(finite.max()),
        },
        "clipped_share": {
            "of_unclipped_runs": share_clipped(pooled, limit),
            "of_clipped_runs": float(np.mean(shares)),
            "by_seed": shares,
            "by_part": share_by_part([record.curves["gradient_norm"] for record in clipped], limit),
        },
        "adaptive": {
            "threshold_at_the_end": float(np.median(ends)) if ends else None,
            "smallest": min(float(one[np.isfinite(one)].min()) for one in adaptive if np.isfinite(one).any()),
            "largest": max(float(one[np.isfinite(one)].max()) for one in adaptive if np.isfinite(one).any()),
            "clipped_share": float(
                np.mean([share_clipped(one, limits) for one, limits in zip(norms, adaptive, strict=True)])
            ),
        },
        "unstable": {"without": unstable[0], "with": unstable[1], "runs": len(clipped)},
        "comparison": compared,
        "adopt": compared["verdict"] == "better",
    }
    return Decision.of(True, found, [*_of_norms(found, percentile), *_of_change(found, percentile)])


def _of_norms(found: dict[str, Any], percentile: float) -> Iterator[Finding]:
    norms, shares, adaptive = found["norms"], found["clipped_share"], found["adaptive"]
    own = [one for one in found["threshold_by_seed"] if one is not None]
    yield Finding(
        "threshold",
        "note",
        f"the {percentile:g}th percentile of {norms['steps']:,} gradient norms of {len(found['threshold_by_seed'])} "
        f"runs is {number(found['clip_threshold'])}, {number(min(own))} to {number(max(own))} run by run; the median "
        f"is {number(norms['median'])}, the largest {number(norms['largest'])}",
        f"use --set clip_threshold={number(found['clip_threshold'])}",
    )
    if norms["not_finite"]:
        yield Finding(
            "not finite",
            "warning",
            f"{norms['not_finite']} norms of unclipped steps are not finite and were left out",
            "a norm that is not a number cannot be clipped; a threshold from runs at a lower rate may be more typical",
        )
    measured = shares["of_clipped_runs"]
    parts = [part for part in shares["by_part"] if part is not None]
    evidence = (
        f"{measured:.0%} of the steps of the clipped runs are clipped ({min(shares['by_seed']):.0%} to "
        f"{max(shares['by_seed']):.0%} run by run; {shares['of_unclipped_runs']:.0%} of the unclipped runs' steps "
        f"would have been): {parts[0]:.0%} in the first tenth of training, {parts[-1]:.0%} in the last"
    )
    if measured > AGGRESSIVE:
        advice = f"over {AGGRESSIVE:.0%} is a strange way to lower the rate: lower it instead, or raise --percentile"
        yield Finding("share clipped", "warning", evidence, advice)
    else:
        yield Finding("share clipped", "note", evidence, "")
    yield Finding(
        "adaptive",
        "note",
        f"the same percentile of the norms so far ranges from {number(adaptive['smallest'])} to "
        f"{number(adaptive['largest'])} and ends at {number(adaptive['threshold_at_the_end'])}; it would have clipped "
        f"{adaptive['clipped_share']:.0%} of the unclipped runs' steps, the fixed one "
        f"{shares['of_unclipped_runs']:.0%}",
        "",
    )


def _of_change(found: dict[str, Any], percentile: float) -> Iterator[Finding]:
    unstable, compared = found["unstable"], found["comparison"]
    n = unstable["runs"]
    evidence = f"{unstable['without']} of {n} runs are unstable without clipping, {unstable['with']} with it"
    if unstable["with"] > UNSTABLE_SHARE * n:
        yield Finding(
            "instability",
            "serious",
            evidence,
            f"clip more strongly (--percentile {percentile / 2:g}), warm up (playbook warmup), or lower the rate",
        )
    elif unstable["without"] > UNSTABLE_SHARE * n:
        yield Finding("instability", "good", evidence, "")
    else:
        advice = "" if unstable["without"] else "clipping is not needed for stability at this rate"
        yield Finding("instability", "note", evidence, advice)
    evidence = (
        f"{compared['objective']} {arm_mean(compared['baseline'])} without and {arm_mean(compared['candidate'])} with "
        f"clipping; clipping is {how_often_better(compared)}"
    )
    severity, advice = {
        "better": ("good", "clip"),
        "worse": ("warning", "do not clip by this threshold"),
        "undecided": ("note", "no difference is shown at this number of seeds"),
    }[compared["verdict"]]
    yield Finding("what clipping changes", severity, evidence, advice)
