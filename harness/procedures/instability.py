"""Whether a workload's rate is held down by instability, of which type that is, and what may mend it.

The playbook (L942-975): sweep the learning rate and find the best, lr*; look at the training losses above lr*; where
they rise and do not come back, mending the instability should train better. Log the gradient norm, since outliers may
cause it. Usual evaluations miss early instability: train for about 500 steps at twice the best rate and look at every
step. Early instability is best mended by warmup, early and mid-training ones by clipping; then another optimizer, the
architecture and its initialisation; a lower rate is the last resort.

The largest eigenvalue of the Hessian (for Adam's rules the preconditioned one) stands beside the optimizer's stability
threshold. It explains and does not judge: networks train past it and fail below it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.analysis.findings import Finding, number
from harness.analysis.instability import LASTING_RISE, UNSTABLE_SHARE, Instability
from harness.analysis.intervals import clopper_pearson
from harness.analysis.stability_threshold import RULES, stability_threshold
from harness.procedures.labels import STUCK, label, median_loss
from harness.procedures.procedure import Decision, Procedure, check_seeds, of, runs
from harness.procedures.sweep import SEEDS, STUDY, Rate, best, lowest_unstable, read_sweep, share, sweep, sweep_rates
from harness.records import TrialRecord
from harness.studies.rounds import Rounds
from harness.training.trial import Trial

PROBE_STEPS, PROBE_FACTOR = 500, 2.0
"""Steps of the probe after warmup, and its rate over the best (L953)."""

NEAR = 4.0
"""An unstable rate no further above the best one than this is near: the best rate lies at the edge of stability, as in
figure 7a."""

OUTLIER = 10.0
"""A gradient norm of so many times the typical one is an outlier: normal noise in the logarithm, of a factor of 1.65
either way, comes so far in 1 of 500,000 steps."""

JUST_BEFORE = 10
"""Last steps before a rise in mid-training, its first one included, among which its cause is looked for."""

CURVATURE_STEPS = (0, 3, 10, 30, 100, 300)
"""Steps of the probe after which the curvature is measured, and its end: the first matter most."""

CURVATURE_EXAMPLES = 64

_WHAT_HAPPENS = {
    "initialisation": "becomes unstable at initialisation",
    "early": "becomes unstable early",
    "mid-training": "becomes unstable in mid-training",
    STUCK: "gets stuck without a rise of its loss",
}

_MENDS = {
    "warmup": "warm the rate up: playbook warmup",
    "clipping": "clip gradients: playbook clip",
    "optimizer": "try another optimizer: Adam can handle instabilities that momentum cannot",
    "architecture": "residual connections and normalisation where there are none, x + Norm(f(x)) rather than "
    "Norm(x + f(x)), residual branches that start at 0",
    "rate": "lower the rate, as a last resort",
}


def instability(rates: str | None = None, seeds: int = SEEDS) -> Procedure:
    """The procedure that looks for instability.

    Args:
      rates: of the sweep, as `harness.procedures.sweep.sweep_rates` reads them.
      seeds: runs of every rate and of the probe, at least 2.

    Raises:
      InputError: a value out of its range.
    """
    check_seeds(seeds)

    def rounds(trial: Trial, seed: int) -> Rounds:
        records = yield sweep(trial, seed, sweep_rates(rates, trial.hyperparameters["learning_rate"]), seeds)
        swept = read_sweep(records, trial.workload.objective)
        rate = PROBE_FACTOR * best(swept).rate
        end = PROBE_STEPS + int(trial.hyperparameters["warmup_steps"])
        records = yield runs(
            "probe",
            trial,
            seed,
            range(seeds),
            {"learning_rate": rate},
            steps=PROBE_STEPS,
            schedule="constant",
            curvature_examples=min(CURVATURE_EXAMPLES, trial.batch_size),
            curvature_steps=(*CURVATURE_STEPS, end),
        )
        return decide(swept, of(records, STUDY), of(records, "probe"), trial.total_steps)

    return Procedure("instability", {"rates": rates, "seeds": seeds}, rounds)


@dataclasses.dataclass(frozen=True)
class Outlier:
    """The largest gradient norm of a run up to where its loss began to rise, or of all its steps.

    Attributes:
      ratio: over the typical norm; infinite where one was not finite.
      step: counted from 1.
    """

    ratio: float
    step: int


def largest_norm(norms: np.ndarray, loss: np.ndarray, typical: float, found: Instability) -> Outlier:
    """Finds the largest norm that may have caused an instability: up to the first step of the rise, itself included.

    In mid-training it is that of the last steps, over the median of the run's own norms before them: the large norms of
    the start were survived. Otherwise it is that of all steps up to the rise, or of all steps where there is none, over
    what is typical.

    Args:
      norms: of a run, (steps,).
      loss: of the same run, (steps,) nats.
      typical: median norm at the best rate.
      found: what the run's loss shows.
    """
    norms = np.asarray(norms, np.float64)
    norms = np.where(np.isfinite(norms), norms, np.inf)
    end = len(norms)
    if found.step is not None:
        calm = found.step - 1
        risen = np.flatnonzero(~(loss[calm:] < loss[calm] + LASTING_RISE))
        end = calm + int(risen[0]) + 1 if len(risen) else end
    start = max(0, end - JUST_BEFORE) if found.type == "mid-training" else 0
    typical = float(np.median(norms[:start])) if start else typical
    largest = start + int(np.argmax(norms[start:end]))
    return Outlier(float(norms[largest] / typical) if typical > 0 else float("inf"), largest + 1)


def mends(kind: str, outliers: bool) -> list[str]:
    """What may mend an instability, first what the playbook finds best.

    Args:
      kind: `initialisation`, `early`, `mid-training` or `stuck`.
      outliers: whether gradient norms stand out.

    Returns:
      Names: `warmup`, `clipping`, `optimizer`, `architecture`, `rate`.
    """
    # Without outlying norms clipping has nothing to take hold of, and a longer warmup can mend what clipping cannot.
    clipping_first = kind == "mid-training" and outliers
    return [
        *(("clipping", "warmup") if clipping_first else ("warmup", "clipping")),
        "optimizer",
        "architecture",
        "rate",
    ]


def decide(
    swept: Sequence[Rate], sweep_records: Sequence[TrialRecord], probe: Sequence[TrialRecord], training_steps: int
) -> Decision:
    """Says whether instability holds the rate down, of which type it is, and what to try first.

    The type is that of most unstable runs of the probe, or where the probe is stable, of the lowest unstable rate above
    the best one.

    Args:
      swept: the rates.
      sweep_records: their runs.
      probe: runs at `PROBE_FACTOR` times the best rate.
      training_steps: of the whole training.
    """
    top = best(swept)
    above = lowest_unstable(swept, above=top.rate)
    at_best = [record for record in sweep_records if record.hyperparameters["learning_rate"] == top.rate]
    reference = median_loss(at_best)
    labels = [label(record, training_steps, reference) for record in probe]
    unstable = [one for one in labels if one.type != "stable"]
    in_probe = len(unstable) > UNSTABLE_SHARE * len(probe)
    kind = _most([one.type for one in unstable]) if in_probe else _most_of(above)
    typical = float(np.nanmedian(np.concatenate([record.curves["gradient_norm"] for record in at_best])))
    judged = list(zip(probe, labels, strict=True))
    if not in_probe and above is not None:
        records = [r for r in sweep_records if r.hyperparameters["learning_rate"] == above.rate]
        judged = [(record, label(record, training_steps, reference)) for record in records]
    largest = [largest_norm(r.curves["gradient_norm"], r.curves["train_loss"], typical, one) for r, one in judged]
    outlying = sum(one.ratio > OUTLIER for one in largest)
    outliers = outlying > UNSTABLE_SHARE * len(largest)
    limited = in_probe or (above is not None and above.rate <= NEAR * (1 + 1e-9) * top.rate)
    first = mends(kind, outliers) if kind else []
    curvature = _curvature(probe)
    values: dict[str, Any] = {
        "best_rate": top.rate,
        "lowest_unstable_rate_above": above and above.rate,
        "type": kind,
        "limited": limited,
        "sweep": [rate.describe() for rate in swept],
        "probe": {
            "learning_rate": float(probe[0].hyperparameters["learning_rate"]),
            "steps": PROBE_STEPS,
            "runs": len(probe),
            "unstable": len(unstable),
            "interval": list(clopper_pearson(len(unstable), len(probe))),
            "labels": [dataclasses.asdict(one) for one in labels],
        },
        "norms": {
            "typical": typical,
            "largest": [dataclasses.asdict(one) for one in largest],
            "outlying": outlying,
            "runs": len(largest),
        },
        "curvature": curvature,
        "mends": first if limited else [],
    }
    found = [
        *_of_sweep(swept, top, above),
        _of_probe(values, unstable, in_probe),
        *_of_type(values, kind, in_probe, above),
        *_of_norms(values, kind, outliers),
        *_of_curvature(curvature),
    ]
    return Decision.of(True, values, found)


def _most(kinds: Sequence[str]) -> str | None:
    return Counter(kinds).most_common(1)[0][0] if kinds else None


def _most_of(rate: Rate | None) -> str | None:
    return max(rate.types, key=rate.types.get) if rate is not None else None


def _curvature(probe: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """Sharpness of the probe, median over its runs at each step, and the threshold at that step's rate."""
    settings = probe[0].hyperparameters
    optimizer = settings["optimizer"]
    curves = [record.curves for record in probe]
    if optimizer not in RULES or "sharpness_step" not in curves[0]:
        return None
    name = "preconditioned_sharpness" if "preconditioned_sharpness" in curves[0] else "sharpness"
    longest = max(curves, key=lambda one: len(one["sharpness_step"]))
    steps = longest["sharpness_step"].astype(int)
    rows = np.full((len(curves), len(steps)), np.nan)
    for row, one in zip(rows, curves, strict=True):
        row[: len(one[name])] = one[name]
    measured = [float(np.median(c[np.isfinite(c)])) if np.isfinite(c).any() else float("nan") for c in rows.T]
    rates = longest["learning_rate"][np.minimum(steps, len(longest["learning_rate"]) - 1)]
    momentum = 0.0 if optimizer == "sgd" else settings["momentum" if "momentum" in settings else "beta1"]
    return {
        "measure": name.replace("_", " "),
        "steps": steps.tolist(),
        "values": measured,
        "threshold": stability_threshold(optimizer, rates, float(momentum)).tolist(),
        "runs": len(probe),
    }


def _of_sweep(swept: Sequence[Rate], top: Rate, above: Rate | None) -> Iterator[Finding]:
    low, high = swept[0].rate, swept[-1].rate
    evidence = f"of {len(swept)} rates from {low:g} to {high:g} the best is {top.rate:g} ({number(top.objective)})"
    if top.is_unstable:
        yield Finding("best rate", "warning", f"{evidence}, though {share(top)} are unstable there", "")
    elif top.rate == high:
        yield Finding("best rate", "warning", f"{evidence}, the highest", f"sweep higher rates than {high:g}")
    elif top.rate == low:
        yield Finding("best rate", "warning", f"{evidence}, the lowest", f"sweep lower rates than {low:g}")
    else:
        yield Finding("best rate", "note", evidence, "")
    if above is None:
        if top.rate != high:
            yield Finding(
                "rates above", "good", f"no rate up to {high:g} is unstable in more than half of its runs", ""
            )
        return
    ratio = above.rate / top.rate
    evidence = f"{above.rate:g}, {ratio:.3g} times the best rate, is unstable: {share(above)}"
    if ratio <= NEAR * (1 + 1e-9):
        yield Finding("rates above", "warning", f"{evidence}; the best rate lies at the edge of stability", "")
    else:
        yield Finding("rates above", "note", f"{evidence}; every rate between is stable", "")


def _of_probe(values: dict[str, Any], unstable: Sequence[Instability], in_probe: bool) -> Finding:
    probe = values["probe"]
    low, high = probe["interval"]
    evidence = (
        f"{PROBE_STEPS} steps at {probe['learning_rate']:g}, twice the best rate, every step looked at: "
        f"{len(unstable)} of {probe['runs']} runs are unstable (95% interval of the share {low:.2f} to {high:.2f})"
    )
    if unstable:
        steps = sorted(one.step for one in unstable if one.step is not None)
        stuck = sum(one.type == STUCK for one in unstable)
        recovered = sum(bool(one.recovered) for one in unstable)
        if steps:
            evidence += f", from step {steps[0]}" + (f" to {steps[-1]}" if steps[-1] > steps[0] else "") + " on"
        evidence += f"; {recovered} of them recover" + (f", {stuck} are stuck without a rise" if stuck else "")
    else:
        evidence += (
            f"; the loss rises by at most {max(one['rise'] for one in probe['labels']):.2g} nats over its minimum"
        )
    if in_probe:
        return Finding("twice the best rate", "serious", evidence, "mending it should train better at a higher rate")
    return Finding("twice the best rate", "note" if unstable else "good", evidence, "")


def _of_type(values: dict[str, Any], kind: str | None, in_probe: bool, above: Rate | None) -> Iterator[Finding]:
    if kind is None:
        yield Finding("type", "good", "no instability was found", "")
        return
    where = "twice the best rate" if in_probe else f"{above.rate:g}"
    evidence = f"at {where} training {_WHAT_HAPPENS[kind]}"
    if not values["limited"]:
        yield Finding(
            "type", "note", f"{evidence}; every workload is unstable at some rate, and this one is far off", ""
        )
        return
    first, *others = (_MENDS[name] for name in values["mends"])
    yield Finding("type", "serious", evidence, f"first {first}; then {'; '.join(others)}")


def _of_norms(values: dict[str, Any], kind: str | None, outliers: bool) -> Iterator[Finding]:
    norms = values["norms"]
    most = max(norms["largest"], key=lambda one: one["ratio"])
    before = " before the loss rises" if kind else ""
    evidence = (
        f"{norms['outlying']} of {norms['runs']} runs have a gradient norm over {OUTLIER:g} times the typical "
        f"one{before} (the median at the best rate is {number(norms['typical'])}); the largest is "
        f"{most['ratio']:.3g} times it, at step {most['step']}"
    )
    if outliers:
        yield Finding(
            "gradient norms", "warning" if kind else "note", evidence, "clipping has something to take hold of"
        )
    else:
        advice = "clipping may help all the same: it bounds what comes after, too" if kind else ""
        yield Finding("gradient norms", "note", evidence, advice)


def _of_curvature(curvature: dict[str, Any] | None) -> Iterator[Finding]:
    if curvature is None:
        return
    pairs = list(zip(curvature["steps"], curvature["values"], curvature["threshold"], strict=True))
    told = ", ".join(f"{number(value)} at step {step}" for step, value, _ in pairs if np.isfinite(value))
    over = sum(value > limit for _, value, limit in pairs)
    yield Finding(
        "curvature",
        "note",
        f"{curvature['measure']}, median of {curvature['runs']} runs: {told or 'no measurement converged'}; over the "
        f"optimizer's stability threshold, {number(pairs[-1][2])} at the peak rate, at {over} of {len(pairs)} steps",
        "it explains and does not judge: networks train past the threshold and fail below it",
    )
