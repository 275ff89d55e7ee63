"""Where results vary from: a significance test does not see training's own variance, and its sources can be measured.

    playbook reproduce variance-sources              about 1 minute on 2 CPU cores
    playbook reproduce variance-sources --control    under half a minute

The playbook says: a test on the validation examples alone, such as McNemar's, speaks of two trained networks and not of
two ways to train, as repeated training varies too; three sources are to be told apart, trial, study and data-sampling
variance. The figure to expect: McNemar p-values of pairs of runs of one setting, many more under .05 than 5%; and the
spread that each source gives when its seed alone is varied.

*How it is judged.* Pairs are disjoint, so that they are independent, and share the validation examples; each gets the
exact McNemar test, and the share of significant ones its Clopper-Pearson interval. That share depends on the number of
validation examples: with more of them the same spread of training is significant more often.

A source is measured by 20 runs or more in which all other seeds stay. Two sources are ranked in the figure only where
their spreads differ by Brown and Forsythe's permutation test, with Holm's correction over the pairs of a workload.
Initialisation, data order and split exist everywhere; dropout is measured in the Transformer, augmentation in the
ResNet on streamed photographs, and the search, 20 searches of 20 trials with one set of seeds whose winners retrain
with another, in the MLP. The MLP has no dropout and no augmentation, the Transformer no augmentation, the ResNet no
dropout; their searches would take too many runs.

What differs at `laptop`: the pairs are fully connected networks on 1,000 digits with a fifth of their labels replaced,
in the setting in which their sources are measured, evaluated on 4,000 clean digits; Wide ResNets would leave too few
pairs. The sources are measured in small models and short runs; their spreads are compared within a workload alone.

Settings were found on pilot seeds. Share of significant pairs among all pairs of 40 runs: .55 as used here, and .69
without decay and smoothing; with clean labels at the workload's defaults .22, and .14 with 4,000 training and 1,000
validation examples. Of 16 Wide ResNets 10-1 (100 steps, 1,000 validation examples) .18 at their default rate of .1 and
.57 at .316. So the share is large where training ends noisy: at a rate that falls to 0 these networks spread by .003 to
.004 instead of .011, hardly more than McNemar's test expects. Seed 0 had first been judged on 140 pairs with clean
labels: .09, interval .05 to .15, undecided. The noisy task, of a share far from the threshold in the pilot, was taken
after that; for this claim seed 0 is not fresh. Seeds 1 and 2 are: .48 [.34, .63] and .50 [.35, .65].

Found: 40% (seed 0) and 48% (seed 1) of pairs are significant, reproduced at both. At both seeds the Transformer's
initialisation spreads more than its order, and that more than dropout. In the MLP initialisation spreads least, in the
ResNet augmentation does, significantly at seed 0 alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.analysis.trial_table import final_error
from harness.analysis.variance import by_source, compare_sds
from harness.experiments.experiment import Experiment
from harness.experiments.study_variance import SPACE
from harness.experiments.verdict import ALPHA, Judgement, every, same, share_above
from harness.records import Claim, TrialRecord, Verdict
from harness.search.samplers import sample
from harness.studies.study import Arm, Study
from harness.training.trial import PURPOSES
from workloads.workload import Scale, Stream, configure, workload_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNIFICANT = 0.05
"""Level of McNemar's test on a pair."""

SHARE = 0.10
"""Share of significant pairs that the claim exceeds: twice what pairs of equal networks would show at most."""

SEARCH_TRIALS = 20

_FRESH = 100_000
"""The replicate whose seeds retrain the winners of searches; no other study has it."""


@dataclasses.dataclass(frozen=True)
class _Measured:
    """A workload in which sources are measured.

    Attributes:
      scale: of the workload.
      sources: purposes of seeds, and `search`.
      configuration: fields of the workload that differ.
      hyperparameters: those that differ.
      steps: of a run; those of the workload's scale if None.
    """

    scale: str
    sources: tuple[str, ...]
    configuration: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hyperparameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    steps: int | None = None


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Of a scale; `laptop` is chosen on pilots.

    Attributes:
      pairs: disjoint pairs of runs.
      pairs_of: name and scale of their workload.
      configuration: its fields that differ.
      hyperparameters: of the pairs, those that differ.
      seeds: runs of each source.
      measured: workload to how it is measured.
      search_trials: trials of a search.
    """

    pairs: int
    pairs_of: tuple[str, str]
    configuration: Mapping[str, Any]
    hyperparameters: Mapping[str, float]
    seeds: int
    measured: Mapping[str, _Measured]
    search_trials: int = SEARCH_TRIALS


_DROPOUT = {"dropout": 0.1}
_AUGMENTED = {"dataset": "photo_patches_jpeg", "side": 16}
_NOISY = {"training_examples": 1000, "label_noise": 0.2, "validate_on_rest": True}
_NOISY_POINT = {"learning_rate": 0.1, "weight_decay": 5e-3, "label_smoothing": 0.3}

_SETTINGS = {
    "smoke": _Settings(
        2,
        ("mlp", "smoke"),
        _NOISY,
        _NOISY_POINT,
        2,
        {
            "mlp": _Measured("smoke", ("init", "order", "split", "search"), _NOISY, _NOISY_POINT),
            "transformer": _Measured("smoke", ("init", "order", "dropout"), _DROPOUT),
        },
        search_trials=2,
    ),
    "laptop": _Settings(
        60,
        ("mlp", "laptop"),
        _NOISY,
        _NOISY_POINT,
        20,
        {
            "mlp": _Measured("laptop", ("init", "order", "split", "search"), _NOISY, _NOISY_POINT),
            "transformer": _Measured("smoke", ("init", "order", "dropout"), _DROPOUT, steps=100),
            "resnet": _Measured("smoke", ("init", "order", "augment"), _AUGMENTED, steps=60),
        },
    ),
    "accelerator": _Settings(
        60,
        ("wide_resnet", "accelerator"),
        {},
        {},
        20,
        {
            "mlp": _Measured("laptop", ("init", "order", "split", "search"), _NOISY, _NOISY_POINT),
            "transformer": _Measured("accelerator", ("init", "order", "dropout"), _DROPOUT),
            "resnet": _Measured("accelerator", ("init", "order", "augment"), {"dataset": "photo_patches_jpeg"}),
        },
    ),
    "paper": _Settings(
        60,
        ("wide_resnet", "paper"),
        {},
        {},
        20,
        {
            "mlp": _Measured("laptop", ("init", "order", "split", "search"), _NOISY, _NOISY_POINT),
            "transformer": _Measured("paper", ("init", "order", "dropout"), _DROPOUT),
            "resnet": _Measured("paper", ("init", "order", "augment")),
        },
    ),
}

SIGNIFICANCE = Claim(
    "sources.significance-is-not-enough",
    "Two runs of one setting often differ significantly by a test on the validation examples.",
    f"Share of disjoint pairs of runs of one setting with an exact McNemar p under {SIGNIFICANT}: lower 95% limit over "
    f"{SHARE}.",
)
MEASURED = Claim(
    "sources.measured",
    "Each source of randomness alone makes runs of one setting end apart.",
    "For every source, all other seeds held: more than half of the disjoint pairs of its runs differ in their final "
    "validation error (of a language model: loss), by an exact 95% interval. The figure ranks sources only where their "
    "spreads differ significantly.",
)
CONTROL = Claim(
    "sources.control-same",
    "Runs with identical seeds are the same run.",
    "90% interval of the difference in final error between the runs of a pair within plus or minus one validation "
    "example.",
)

_CLASSES = 10
"""Of the data of the pairs, at every scale."""

_USED_BY_PAIRS = ("init", "order", "split")
"""Purposes that the networks of the pairs draw for; the control varies the others, which change nothing."""


def _study(
    size: Scale,
    name: str,
    configuration: Mapping[str, Any],
    points: Sequence[Mapping[str, float]],
    replicates: Sequence[int],
    held: Mapping[str, int],
    steps: int | None = None,
    predictions: bool = False,
) -> Study:
    """A study of one arm; `held` is purpose to the replicate whose seed every run takes."""
    workload = configure(size.workload, configuration)
    return Study(
        name=name,
        workload=workload,
        arms=(Arm(workload.name, seeds_of={purpose: [held[purpose]] * len(replicates) for purpose in held}),),
        points=points,
        replicates=replicates,
        hyperparameters=size.hyperparameters,
        batch_size=size.batch_size,
        steps=steps or size.steps,
        evaluation_batch_size=size.evaluation_batch_size,
        optimizer=size.optimizer,
        schedule=size.schedule,
        predictions=predictions,
    )


def _studies(scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """Overrides are of the workload of the pairs."""
    settings = _SETTINGS[scale]
    held = _USED_BY_PAIRS if control else ("split",)
    size = workload_scale(*settings.pairs_of)
    replicates = range(2 * settings.pairs)
    configuration = {**settings.configuration, **overrides}
    pairs = _study(
        size, "pairs", configuration, [settings.hyperparameters], replicates, dict.fromkeys(held, 0), predictions=True
    )
    return [pairs] if control else [pairs, *_source_studies(settings)]


def _source_studies(settings: _Settings) -> list[Study]:
    studies = []
    for name, measured in settings.measured.items():
        size = workload_scale(name, measured.scale)
        for source in measured.sources:
            if source == "search":
                points = [sample(SPACE, "halton", n, settings.search_trials) for n in range(settings.seeds)]
                studies += [
                    _study(size, f"{name}-search-{n}", measured.configuration, p, [0], {}, measured.steps)
                    for n, p in enumerate(points)
                ]
                continue
            held = {purpose: 0 for purpose in PURPOSES if purpose != source}
            point, replicates = [measured.hyperparameters], range(settings.seeds)
            studies.append(
                _study(size, f"{name}-{source}", measured.configuration, point, replicates, held, measured.steps)
            )
    return studies


def _winners(records: Sequence[TrialRecord], scale: str, control: bool, overrides: Mapping[str, str]) -> list[Study]:
    """The winner of each search, the first where several tie, with seeds that no search had and all winners share."""
    del overrides
    settings = _SETTINGS[scale]
    studies = []
    for name, measured in settings.measured.items():
        if control or "search" not in measured.sources:
            continue
        size = workload_scale(name, measured.scale)
        for number in range(settings.seeds):
            trials = [record for record in records if record.study == f"{name}-search-{number}"]
            winner = min(trials, key=lambda trial: final_error(trial, size.workload.classes))
            point = {axis: winner.hyperparameters[axis] for axis in SPACE}
            held = dict.fromkeys(PURPOSES, _FRESH)
            studies.append(
                _study(size, f"{name}-search", measured.configuration, [point], [number], held, measured.steps)
            )
    return studies


def mcnemar(right: np.ndarray, other: np.ndarray) -> float:
    """Exact p-value of McNemar's test (McNemar 1947, Psychometrika 12:153): a sign test of the discordant examples.

    Args:
      right: which examples one network has right, bool (n,).
      other: which ones another has right.

    Returns:
      Two-sided p; 1 where they never differ.
    """
    from scipy.special import bdtr

    one, two = int(np.sum(right & ~other)), int(np.sum(other & ~right))
    return float(min(1.0, 2 * bdtr(min(one, two), one + two, 0.5))) if one + two else 1.0


def _pairs(records: Sequence[TrialRecord]) -> list[tuple[TrialRecord, TrialRecord]]:
    trials = sorted((record for record in records if record.study == "pairs"), key=lambda record: record.replicate)
    return list(zip(trials[::2], trials[1::2], strict=True))


def _p_values(records: Sequence[TrialRecord], scale: str) -> list[float]:
    """McNemar's p of each pair; 1 where a run of it diverged, and has no predictions."""
    pairs = _pairs(records)
    labels = _labels(pairs[0][0], scale)
    return [
        mcnemar(*(trial.curves["prediction"] == labels for trial in pair))
        if all(trial.status == "complete" for trial in pair)
        else 1.0
        for pair in pairs
    ]


def _labels(record: TrialRecord, scale: str) -> np.ndarray:
    """Labels of the validation examples of a run, int32 (n,)."""
    start = workload_scale(*_SETTINGS[scale].pairs_of).workload
    fields = {name[9:]: value for name, value in record.hyperparameters.items() if name.startswith("workload.")}
    named = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items() if name != "name"}
    validation = configure(start, named).data(record.seeds["split"]).validation
    if isinstance(validation, Stream):
        unused = np.random.default_rng(0)  # nothing is augmented in evaluation
        return np.array([validation.prepare(each, unused)["label"] for each in validation.records])
    return np.asarray(validation["label"])


def _outcomes(records: Sequence[TrialRecord], scale: str) -> dict[str, dict[str, np.ndarray]]:
    """Workload to source to the final error or loss of its runs, in order of their replicates."""
    settings = _SETTINGS[scale]
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, measured in settings.measured.items():
        workload = workload_scale(name, measured.scale).workload
        chance = {"error": 1 - 1 / workload.classes, "loss": np.log(workload.classes)}[workload.objective]
        for source in measured.sources:
            trials = sorted((r for r in records if r.study == f"{name}-{source}"), key=lambda record: record.replicate)
            values = [
                trial.results[f"final_{workload.objective}"] if trial.status == "complete" else chance
                for trial in trials
            ]
            found.setdefault(name, {})[source] = np.array(values)
    return found


def significantly_wider(outcomes: Mapping[str, np.ndarray]) -> list[tuple[str, str, float]]:
    """Which sources spread more than which others, by Brown and Forsythe's permutation test and Holm's correction.

    Args:
      outcomes: source to the outcomes of its runs.

    Returns:
      (wider, narrower, p) of the pairs that differ at .05, smallest p first.
    """
    order = list(by_source(outcomes))
    tests = sorted(
        (compare_sds(outcomes[wide], outcomes[narrow]).p_robust, wide, narrow)
        for wide, narrow in itertools.combinations(order, 2)
    )
    found = []
    for rank, (p, wide, narrow) in enumerate(tests):
        if p > ALPHA / (len(tests) - rank):
            break
        found.append((wide, narrow, p))
    return found


def _judge(records: Sequence[TrialRecord], scale: str, control: bool) -> list[tuple[Claim, Judgement]]:
    p_values = _p_values(records, scale)
    significance = share_above(sum(p < SIGNIFICANT for p in p_values), len(p_values), SHARE, 0.3)
    if control:
        pairs = _pairs(records)
        differences = [final_error(one, _CLASSES) - final_error(two, _CLASSES) for one, two in pairs]
        one_example = 1 / len(_labels(pairs[0][0], scale))
        return [(SIGNIFICANCE, significance), (CONTROL, same(differences, one_example, 0.0))]
    parts = []
    for sources in _outcomes(records, scale).values():
        for values in sources.values():
            apart = values[0::2] != values[1::2]
            parts.append(share_above(int(apart.sum()), len(apart), 0.5, 1.0))
    return [(SIGNIFICANCE, significance), (MEASURED, every(*parts))]


_NAMES = {
    "init": "initialisation",
    "order": "data order",
    "augment": "augmentation",
    "search": "search",
    "split": "split",
}


def _draw(records: Sequence[TrialRecord], verdicts: Sequence[Verdict], scale: str) -> Figure:
    from harness.figures.source_spread import draw_p_values, draw_spreads
    from harness.figures.style import panels

    control = {record.study for record in records} == {"pairs"}
    outcomes = {} if control else _outcomes(records, scale)
    title = f"variance-sources at scale {scale}" + (", control: pairs with identical seeds" if control else "")
    figure, axes = panels(1 + len(outcomes), title)
    draw_p_values(axes[0], _p_values(records, scale), SIGNIFICANT)
    workload = _SETTINGS[scale].pairs_of[0]
    axes[0].set_title(f"McNemar's test on pairs of runs of one setting\n({workload}, same validation examples)")
    for panel, (name, sources) in zip(axes[1:], outcomes.items(), strict=True):
        objective = workload_scale(name, _SETTINGS[scale].measured[name].scale).workload.objective
        spreads = by_source(sources).items()
        draw_spreads(
            panel, {f"{_NAMES.get(s, s)}\n({found.n} runs)": (found.sd, *found.interval) for s, found in spreads}
        )
        panel.set_xlabel(f"standard deviation of the final {objective}, 95% interval")
        wider = significantly_wider(sources)
        stated = "; ".join(f"{_NAMES.get(a, a)} > {_NAMES.get(b, b)}" for a, b, _ in wider)
        stated = textwrap.fill(f"significantly wider: {stated or 'none'}", 62)
        panel.set_title(f"{name}: one seed varied, the others held\n{stated}", fontsize=9)
    return figure


EXPERIMENT = Experiment(
    name="variance-sources",
    title="Significance on the validation examples is not enough, and what each source of randomness adds",
    source="which sources make results vary, in the section on adopting a change",
    figure="McNemar p-values of disjoint pairs of runs of one setting, in ascending order, against the .05 of the "
    "test; and for each workload the standard deviation that each source gives on its own, with its interval.",
    claims=(SIGNIFICANCE, MEASURED),
    control="Pairs with identical seeds where the network draws for nothing else: they are the same run, so that no "
    "pair is significant and all differences are zero.",
    studies=_studies,
    follow_ups=(_winners,),
    judge=_judge,
    draw=_draw,
)
