"""Late evaluations of one trial vary from step to step; four remedies lower that variance.

    playbook reproduce step-variance              about 1 minute on 2 CPU cores
    playbook reproduce step-variance --control    about 1 minute

The playbook says (L478-481): where the error varies strongly between late steps, a trial ends on a lucky or an unlucky
one, which spoils comparisons and the reproduction of the best trial; the likely causes are the variance of batches,
small validation sets and a rate that is too high late in training; the remedies are larger batches, more validation
data, decay of the learning rate and Polyak averaging. It has no figure. The figure to expect: a baseline whose error
jumps by points from one evaluation to the next, and four curves that are calmer.

The baseline has it all: a small batch, a constant rate, and a small part of the validation set. Each remedy changes
one of these and nothing else. That goes for the rate of the larger batch too, which is kept: a rate raised in
proportion to the batch leaves the noise of the iterates what it was (Smith et al. 2018, arXiv 1711.00489) and would be
two changes. It is trained beside them and drawn, not judged.

*What is measured.* The standard deviation of the validation error within one trial, over evaluations evenly spaced over
the last quarter of training, around its trend: a parabola fitted to them, with three degrees of freedom less. Its
base-2 logarithm is paired by seed; a difference of 1/2 is a halved variance. The small validation sets are disjoint
parts of the whole one, twenty at `laptop`, by whose mean logarithm a trial is measured, so that the whole set is
compared with them within the trial and with equal bias.

*What it misses.* A parabola takes some of a slow wandering for trend: of noise that is correlated over 10, 20 and 40
steps the standard deviation is underrated by .2, .4 and .7 in log2 against noise that is independent at every
evaluation (51 of them over 200 steps, simulated). Averaging and decay make an error wander more slowly. And the error
on more examples can hardly vary more, whatever happens. So a remedy has to do better than lower the variance by
something: it has to halve it (`HALVED`).

The control has nothing left to remedy: full-batch gradients, and the whole validation set. No larger batch and no more
data exist there, so that of the main claim's four parts two have no trials: the claim is judged on the other two, decay
and averaging, by the same rule, and would be reproduced if both halved the variance. (Before, the missing parts counted
as measured without effect, by which no data could have reproduced it.) It was written down beforehand that decay and
averaging then change nothing: no spread is above `negligible`, under which a spread counts as that.

Settings come from pilot seeds, which no verdict uses; see `Settings`.

What was found at seeds 0 and 1, log2 ratios of standard deviations: larger batch .89 and .80, more validation data .78
and .75, linear decay 1.36 and 1.33, averaging 1.06 and 1.05, all with their lower limit above .5. Twenty times the
examples would bring 2.2 if examples were independent: most of what the whole set still shows moves all of them
together, which no more data lowers. With its rate raised in proportion the larger batch varies as much as the baseline.
Control at seed 0: one late standard deviation of 24 is above the negligible, by a fiftieth, so that the log2 ratios are
.00 for decay and averaging and the main claim is contradicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.trial_table import at, paired_differences
from harness.experiments.experiment import Experiment
from harness.experiments.verdict import Judgement, every, larger, same
from harness.records import Claim, TrialRecord, Verdict
from harness.studies.study import Arm, Study
from workloads.workload import configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE, BATCH, SCALED, DECAY, AVERAGING = ("baseline", "larger_batch", "scaled_rate", "rate_decay", "averaging")
"""Arms. `scaled_rate` is the larger batch with its rate raised in proportion; in the control the baseline has
full-batch gradients and no arm has a larger batch."""

HALVED = 0.5
"""Log2 ratio of standard deviations, a halved variance, that every remedy has to exceed; see the docstring of this
file."""

TREND = 2
"""Degree of the polynomial that is taken for the trend of late evaluations."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots, on the pilot range of seed 0, 4 replicates of each, all 4,000 training examples. As it stands, log2
    ratios and their spread: larger batch .87 (.11), more validation data .90 (.10), linear decay 1.34 (.23), averaging
    .94 (.06), so that 12 seeds have a power over .95 at every step of Holm's correction for a mean of .8 with a spread
    of .2. A baseline of 16 left a batch of 64 at .51 (.17), and with the rate raised fourfold at -.06 (.22), so the
    baseline has 8. With 500 or 1,000 examples the larger batch fits them all, after which nothing varies; with a fifth
    of the labels replaced it learns those too and varies as much as the baseline: on few examples a larger batch is
    more epochs as well. An averaging decay of .9 does less than .95. The running statistics of the batch norms follow
    the iterates, not their average.
    Control, 2 replicates: late standard deviations of .0005 to .0010 on the whole validation set, where batches of 16
    of the same 500 examples leave .012 to .021.

    `accelerator` and `paper` are reasoned, not piloted. `negligible` is one example of the laptop's validation set.

    Attributes:
      fields: of the workload that are set.
      batch_size: of the baseline.
      larger: the larger batch.
      full: batch of the control, its whole training set.
      control_fields: of the workload that the control sets, so that such batches can be afforded.
      learning_rate: of every arm but `scaled_rate`.
      averaging_decay: of the Polyak average.
      steps: of a trial.
      gap: steps between two evaluations in the last quarter.
      part: examples of a small validation set.
      negligible: standard deviation of the error under which nothing is left to remedy.
      replicates: paired seeds.
      control_replicates: the same of the control.
      control_steps: steps of a trial of the control.
      control_gap: steps between two of its evaluations.
    """

    fields: Mapping[str, int | str]
    batch_size: int
    larger: int
    full: int
    control_fields: Mapping[str, int | str]
    learning_rate: float
    averaging_decay: float
    steps: int
    gap: int
    part: int
    negligible: float
    replicates: int
    control_replicates: int
    control_steps: int
    control_gap: int


_DIGITS = {"dataset": "mnist5k", "side": 8}

SETTINGS = {
    "smoke": Settings(
        fields=_DIGITS,
        batch_size=8,
        larger=16,
        full=64,
        control_fields={"training_examples": 64},
        learning_rate=0.1,
        averaging_decay=0.5,
        steps=20,
        gap=1,
        part=250,
        negligible=1e-3,
        replicates=2,
        control_replicates=2,
        control_steps=20,
        control_gap=1,
    ),
    "laptop": Settings(
        fields=_DIGITS,
        batch_size=8,
        larger=64,
        full=500,
        control_fields={"training_examples": 500},
        learning_rate=0.1,
        averaging_decay=0.95,
        steps=800,
        gap=4,
        part=50,
        negligible=1e-3,
        replicates=12,
        control_replicates=8,
        control_steps=240,
        control_gap=2,
    ),
    "accelerator": Settings(
        fields={},
        batch_size=32,
        larger=256,
        full=1000,
        control_fields={"training_examples": 1000},
        learning_rate=0.1,
        averaging_decay=0.99,
        steps=4000,
        gap=20,
        part=200,
        negligible=1e-3,
        replicates=12,
        control_replicates=8,
        control_steps=1000,
        control_gap=5,
    ),
    "paper": Settings(  # of ImageNet no full batch can be had; the control takes the largest in use
        fields={},
        batch_size=256,
        larger=2048,
        full=65_536,
        control_fields={},
        learning_rate=0.1,
        averaging_decay=0.999,
        steps=100_000,
        gap=500,
        part=5000,
        negligible=2e-4,
        replicates=8,
        control_replicates=8,
        control_steps=4000,
        control_gap=20,
    ),
}

_MEASURED = (
    "of the standard deviation of late validation errors around their trend, baseline over remedy, paired by seed"
)


def _claim(name: str, text: str) -> Claim:
    return Claim(f"variance.{name}", text, f"Lower limit of the mean log2 ratio {_MEASURED}, above {HALVED:g}.")


REMEDIES = Claim(
    "variance.remedies",
    "Larger batches, more validation data, decay of the rate and Polyak averaging each lower the variance between late "
    "evaluations.",
    f"For each, lower limit of the mean log2 ratio {_MEASURED}, above {HALVED:g}, a halved variance.",
)
LARGER_BATCH = _claim("larger-batch", "Larger batches at the same rate lower it (part of `variance.remedies`).")
MORE_DATA = _claim("more-validation-data", "More validation data lowers it (part of `variance.remedies`).")
RATE_DECAY = _claim("rate-decay", "Decay of the rate lowers it (part of `variance.remedies`).")
POLYAK = _claim("polyak-averaging", "Polyak averaging lowers it (part of `variance.remedies`).")
CONTROL = Claim(
    "variance.control-same",
    "With full-batch gradients and the whole validation set there is no variance that decay or averaging could lower.",
    f"For both, 90% interval of the mean log2 ratio {_MEASURED}, within plus or minus {HALVED:g}; a standard "
    "deviation that is negligible counts as the largest that is.",
)


def arms_of(settings: Settings, control: bool) -> list[Arm]:
    """The arms, the baseline first."""
    decay = Arm(DECAY, fields={"schedule": "linear"})
    averaging = Arm(AVERAGING, hyperparameters={"averaging_decay": settings.averaging_decay})
    if control:
        return [Arm(BASELINE), decay, averaging]
    raised = {"learning_rate": settings.learning_rate * settings.larger / settings.batch_size}
    larger_batch = {"batch_size": settings.larger}
    return [Arm(BASELINE), Arm(BATCH, fields=larger_batch), Arm(SCALED, {}, raised, larger_batch), decay, averaging]


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    settings, size = SETTINGS[scale], workload_scale("resnet", scale)
    fields = {**settings.fields, **(settings.control_fields if control else {})}
    steps, gap = (settings.control_steps, settings.control_gap) if control else (settings.steps, settings.gap)
    return [
        Study(
            name="control" if control else "remedies",
            workload=configure(configure(size.workload, fields), overrides),
            arms=tuple(arms_of(settings, control)),
            points=[{}],
            replicates=range(settings.control_replicates if control else settings.replicates),
            hyperparameters={**size.hyperparameters, "learning_rate": settings.learning_rate, "warmup_steps": 0},
            batch_size=settings.full if control else settings.batch_size,
            steps=steps,
            evaluation_batch_size=settings.part,
            evaluation_steps=range(3 * steps // 4, steps, gap),
            fields={"evaluation_by_batch": True},
        )
    ]


def late_errors(record: TrialRecord) -> np.ndarray:
    """Validation errors of a complete trial, float64 (evaluations, parts of the validation set)."""
    count = len(record.curves["evaluation_step"])
    return np.asarray(record.curves["evaluation_error_by_batch"], np.float64).reshape(count, -1)


def late_sd(errors: np.ndarray) -> np.ndarray:
    """Standard deviation around a polynomial of degree `TREND`, fitted by least squares.

    Args:
      errors: (evaluations, ...), evenly spaced in steps, more than `TREND` + 1 of them.

    Returns:
      Root of the residual sum of squares over the degrees of freedom that are left, of shape (...).
    """
    count = len(errors)
    basis = np.linalg.qr(np.vander(np.linspace(-1, 1, count), TREND + 1))[0]
    flat = errors.reshape(count, -1)
    residuals = flat - basis @ (basis.T @ flat)
    return np.sqrt(np.sum(residuals**2, axis=0) / (count - TREND - 1)).reshape(errors.shape[1:])


def log_sd(record: TrialRecord, settings: Settings, parts: int = 1) -> float:
    """Mean log2 of the late standard deviation over disjoint validation sets.

    Args:
      record: a complete trial.
      settings: of its scale.
      parts: of the validation set that one such set is made of; sets left over that are smaller are left out.
    """
    errors = late_errors(record)
    sets = errors.shape[1] // parts
    joined = errors[:, : sets * parts].reshape(len(errors), sets, parts).mean(axis=2)
    return float(np.mean(np.log2(np.maximum(late_sd(joined), settings.negligible))))


def whole(record: TrialRecord) -> int:
    """Parts of the validation set that were evaluated."""
    return late_errors(record).shape[1]


def complete(records: Sequence[TrialRecord], arm: str) -> dict[int, TrialRecord]:
    """The trials of an arm that finished, by replicate."""
    return {r: trial for r, trial in at(records, arm).items() if trial.status == "complete"}


def reductions(records: Sequence[TrialRecord], remedy: str, settings: Settings, all_data: bool = False) -> np.ndarray:
    """Log2 of the late standard deviation, baseline minus remedy, per seed.

    Args:
      records: of the experiment.
      remedy: an arm.
      settings: of the scale.
      all_data: take the whole validation set for both instead of the small ones.

    Returns:
      float64 (seeds,); 0, no reduction, where either trial is infeasible.
    """
    baseline, remedied = complete(records, BASELINE), complete(records, remedy)
    differences = paired_differences(
        baseline, remedied, lambda record: log_sd(record, settings, whole(record) if all_data else 1)
    )
    return np.concatenate([differences, np.zeros(len(at(records, BASELINE)) - len(differences))])


def more_data(records: Sequence[TrialRecord], settings: Settings) -> np.ndarray:
    """The same of the baseline's small validation sets against their union."""
    baseline = complete(records, BASELINE).values()
    found = [log_sd(trial, settings) - log_sd(trial, settings, whole(trial)) for trial in baseline]
    return np.array(found + [0.0] * (len(at(records, BASELINE)) - len(found)))


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    settings = SETTINGS[scale]
    if control:
        # The larger batch and the larger validation set are those that the baseline has: nothing to compare.
        left = [reductions(records, remedy, settings, all_data=True) for remedy in (DECAY, AVERAGING)]
        remedied = every(*(larger(one, HALVED, 2 * HALVED) for one in left))
        return [(REMEDIES, remedied), (CONTROL, every(*(same(one, HALVED) for one in left)))]
    batch, data, decay, averaging = (
        larger(found, HALVED, 2 * HALVED)
        for found in (
            reductions(records, BATCH, settings),
            more_data(records, settings),
            reductions(records, DECAY, settings),
            reductions(records, AVERAGING, settings),
        )
    )
    return [
        (REMEDIES, every(batch, data, decay, averaging)),
        (LARGER_BATCH, batch),
        (MORE_DATA, data),
        (RATE_DECAY, decay),
        (POLYAK, averaging),
    ]


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.experiments.step_variance_figure import draw

    return draw(records, scale)


EXPERIMENT = Experiment(
    name="step-variance",
    title="Larger batches, more validation data, rate decay and Polyak averaging calm late evaluations",
    source="examining the training curves",
    figure="Validation error over the last quarter of one seed's training for the baseline and each remedy; late "
    "standard deviation of every arm, on small validation sets and on the whole one, and against the size of the set.",
    claims=(REMEDIES, LARGER_BATCH, MORE_DATA, RATE_DECAY, POLYAK),
    control="Full-batch gradients and the whole validation set leave no variance, no larger batch and no more data: "
    "the main claim is judged on decay and averaging, which change nothing, and is not reproduced.",
    studies=_studies,
    judge=_judge,
    draw=_draw,
)
