"""What `round-transfer` trains: its parts, the settings of every scale with their pilots, and the candidates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.studies.transfer import KEPT, constant_phase

SHORT, LONG, FRESH = "short", "long", "fresh"
"""The rounds: two that choose, of their own seeds and lengths, and the long one again on fresh seeds, which judges."""

SCHEDULE, WARMUP, NORMALIZATION, DEPTH, OPTIMIZER = "schedule", "warmup", "normalization", "depth", "optimizer"

PARTS = {
    SCHEDULE: "schedule",
    OPTIMIZER: "beta1",
    NORMALIZATION: "normalization",
    DEPTH: "layers",
    WARMUP: "warmup_steps",
}
"""What is tuned apart, to a hyperparameter by which `harness.studies.transfer.tier` places it, least likely first."""

FAMILIES = (*KEPT, "cosine")
"""Schedules that both rounds choose among."""


class Candidate(NamedTuple):
    """A setting among which a round chooses.

    Attributes:
      name: unique within its part, the same in both rounds.
      steps: after warmup.
      hyperparameters: that it sets.
      schedule: of the learning rate.
      fields: of the workload that are set.
    """

    name: str
    steps: int
    hyperparameters: Mapping[str, float]
    schedule: str = "linear"
    fields: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots, on the pilot range of seed 0; one run of the whole plan, and 3 to 12 replicates of each before. Short
    round, linear decay at the five rates: 2.963, 2.731, 2.656, 2.676, 2.785; cosine .015 to .04 above, square root
    best at 3.2e-2 (2.688); trial standard deviation .02 to .05. Long round: linear stretched 2.412, 2.349, 2.379,
    2.429, 2.512, extended 2.336, 2.320, 2.404, 2.466, 2.631; cosine 2.362 and square root stretched 2.407 at their
    best, extended 2.323. Trial standard deviation at the best rates .008 over 6 seeds, .0185 over 12 others, .0156
    over all, hence `spread`. On fresh seeds the short round's best lost .070 nats extended and .040 stretched, its
    second best .148 and .103, with standard deviations of paired differences up to .018, for which 12 seeds have a
    power over .9 at a regret of 2.5 spreads. At the short round's rate extended lost .030 to stretched with linear
    decay and .038 with square-root decay; each at its own rate it gained .027 and .084.

    Warmup of 20, 40, 80 of 120 steps in the short round: 3.342, 3.288, 3.017, at 10 stuck as well; of 820: 3.224,
    3.240, and 2.455 over 12 seeds (standard deviation .045, hence `warmup_spread`), though one of 3 others stuck at
    80. 160 and 320 steps, beyond a tenth, end .04 and .06 lower. Normalization before, after, none: 2.654, 2.991,
    2.629 and 2.323, 2.403, 2.276; depth 2 and 1: 2.654, 2.601 and 2.323, 2.295. Were these one part, the short round
    would choose the one wider layer and the long one no normalization, which is .02 better there: a counterexample as
    the playbook expects them (L649). beta1 0, .5, .8, .9, .95 at beta2 .98 (8e-3 in both rounds): 2.635, 2.630, 2.644,
    2.688, 2.766 and 2.324, 2.304, 2.309, 2.343, 2.378; beta2 matters less, epsilon up to 1e-3 hardly. The optimizer of
    the short round lost .010 on fresh seeds.

    Tunings: where 90% of them lose little, 15 reproduce a claim with a power of .82 by their share, at the strictest
    step of Holm's correction, and both kinds of architecture with .67; 14 with .59. With 18 it would be .90 and .81, in
    five minutes.

    Null calibration, 2,000 simulated experiments of each kind of noise (skewed, bimodal with a tenth diverged, tied,
    normal), each claim as if it stood alone (nominally 2.5%; with others open, Holm's correction halves that at least).
    Where both rounds rank all candidates alike, with noise 2.5 times as large in the short one: the schedule is found
    not to transfer in at most 1.1%, a simple part to be worse in none. Where the schedule's regret is just the
    threshold: not to transfer and worse in at most 3.1%, no worse in 2.9%, the same in 4.8% (5%). Chosen by means
    instead of medians, 11% of schedules are found not to transfer though both rank alike, where a tenth diverged.
    Where the short round chooses a simple part at random, among two, three and six candidates that lose more than the
    threshold on average: carried over in at most 4.2% (1% with normal noise), 1.3% and .8%; chosen once, two would
    agree in half.
    Where some tunings lose nothing, the others the same, and the mean regret is just the threshold: where all, 80%, two
    thirds and half lose, carried over in at most 1.1%, 1.9%, 3.8% and 6.2%, and worse in at most 1.4%, but for ties:
    one with the threshold counts as losing, so that all losing just that is worse in 5%. Where a quarter loses four
    thresholds carried over in 11%, where a tenth loses ten in 24%, as often as few or none of 15 show it; by the share
    alone it would be 46% and 95%. No rule for a mean sees what did not happen.

    `accelerator` and `paper` are reasoned, not piloted: rates around the workload's own, spreads of a hundredth of a
    nat and half of that.

    Attributes:
      fields: of the workload that are set.
      short: steps after warmup of the short round.
      long: of the long one.
      warmup_steps: of all parts but the warmup's.
      rates: base rates of every schedule, ascending in equal ratios.
      base_rates: round to the rate of the parts that do not tune it, about the best of linear decay in it.
      warmups: lengths that the warmup's part chooses among, ascending, in steps: at most a tenth of the long round
        (L1019), and fewer than there are in the short one. Warmup and what follows have the same number of steps in
        all.
      warmup_fields: of the workload in that part.
      warmup_rate: its base rate in both rounds, since how long it must be depends on it.
      normalizations: variant to workload fields.
      depths: variant to workload fields.
      beta1: values that the optimizer's part crosses with those of `beta2`.
      beta2: see `beta1`.
      spread: trial standard deviation of the final loss in the long round, nats.
      warmup_spread: the same in the warmup's part.
      stated: regret of the schedule that the power is for, in units of spread.
      selection: round to the number of its seeds in the schedule's part.
      judged: fresh seeds of that part.
      tunings: of every other part, the units that are judged: a short and a long round each, and a fresh seed.
      batch_size: examples per step; that of the workload if None.
      evaluation_batch_size: that of the workload if None.
    """

    fields: Mapping[str, Any]
    short: int
    long: int
    warmup_steps: int
    rates: tuple[float, ...]
    base_rates: Mapping[str, float]
    warmups: tuple[int, ...]
    warmup_fields: Mapping[str, Any]
    warmup_rate: float
    normalizations: Mapping[str, Mapping[str, Any]]
    depths: Mapping[str, Mapping[str, Any]]
    beta1: tuple[float, ...]
    beta2: tuple[float, ...]
    spread: float
    warmup_spread: float
    stated: float
    selection: Mapping[str, int]
    judged: int
    tunings: int
    batch_size: int | None = None
    evaluation_batch_size: int | None = None


_SMALL = {"layers": 2, "width": 32, "heads": 2, "mlp_width": 64, "length": 32}
_NORMALIZATIONS = {"before": {}, "after": {"normalization": "after"}, "none": {"normalization": "none"}}

SETTINGS = {
    "smoke": Settings(
        fields={},
        short=3,
        long=6,
        warmup_steps=1,
        rates=(3e-3, 1e-2),
        base_rates={SHORT: 1e-2, LONG: 3e-3},
        warmups=(1, 2),
        warmup_fields={"normalization": "after"},
        warmup_rate=1e-2,
        normalizations={"before": {}, "none": {"normalization": "none"}},
        depths={"2 layers": {}, "1 wider layer": {"layers": 1, "width": 24}},
        beta1=(0.6, 0.9),
        beta2=(0.98,),
        spread=0.01,
        warmup_spread=0.03,
        stated=2.5,
        selection={SHORT: 1, LONG: 1},
        judged=2,
        tunings=2,
    ),
    "laptop": Settings(
        fields=_SMALL,
        short=100,
        long=800,
        warmup_steps=20,
        rates=(3e-3, 6.6e-3, 1.45e-2, 3.2e-2, 7e-2),
        base_rates={SHORT: 1.45e-2, LONG: 6.6e-3},
        warmups=(10, 20, 40, 80),
        warmup_fields={"normalization": "after", "layers": 4},
        warmup_rate=6e-3,
        normalizations=_NORMALIZATIONS,
        depths={"2 layers": {}, "1 wider layer": {"layers": 1, "width": 48, "mlp_width": 96}},
        beta1=(0.0, 0.6, 0.9),
        beta2=(0.9, 0.98),
        spread=0.015,
        warmup_spread=0.04,
        stated=2.5,
        selection={SHORT: 8, LONG: 3},
        judged=12,
        tunings=15,
        batch_size=4,
    ),
    "accelerator": Settings(
        fields={},
        short=400,
        long=3200,
        warmup_steps=100,
        rates=(2.5e-4, 5.6e-4, 1.25e-3, 2.8e-3, 6.3e-3),
        base_rates={SHORT: 1.25e-3, LONG: 5.6e-4},
        warmups=(40, 80, 160, 320),
        warmup_fields={"normalization": "after"},
        warmup_rate=1e-3,
        normalizations=_NORMALIZATIONS,
        depths={"6 layers": {}, "3 wider layers": {"layers": 3, "width": 720, "mlp_width": 2880}},
        beta1=(0.0, 0.6, 0.9),
        beta2=(0.9, 0.98),
        spread=0.01,
        warmup_spread=0.03,
        stated=2.5,
        selection={SHORT: 3, LONG: 2},
        judged=8,
        tunings=15,
        batch_size=64,
    ),
    "paper": Settings(
        fields={},
        short=62_500,
        long=500_000,
        warmup_steps=1000,
        rates=(4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3),
        base_rates={SHORT: 3.2e-3, LONG: 1.6e-3},
        warmups=(1000, 4000, 16_000, 48_000),
        warmup_fields={"normalization": "after"},
        warmup_rate=1.6e-3,
        normalizations=_NORMALIZATIONS,
        depths={"6 layers": {}, "3 wider layers": {"layers": 3, "width": 720, "mlp_width": 2880}},
        beta1=(0.0, 0.6, 0.9),
        beta2=(0.9, 0.98),
        spread=0.005,
        warmup_spread=0.02,
        stated=2.5,
        selection={SHORT: 1, LONG: 1},
        judged=8,
        tunings=15,
    ),
}


def lengths(scale: str, control: bool) -> dict[str, int]:
    """Steps after warmup of both rounds; in the control they are equal."""
    settings = SETTINGS[scale]
    return {SHORT: settings.long if control else settings.short, LONG: settings.long}


def parts_of(control: bool) -> tuple[str, ...]:
    """The parts that are run; the control has the one of the main claim."""
    return (SCHEDULE,) if control else tuple(PARTS)


def schedule_name(family: str, rate: float, extended: bool = False) -> str:
    """Name of a candidate of the schedule's part."""
    return f"{family}{' extended' if extended else ''} {rate:g}"


def candidates(part: str, round_: str, scale: str, control: bool) -> dict[str, Candidate]:
    """What a round chooses among, by name; those of the long round include those of the short one.

    Args:
      part: one of `PARTS`.
      round_: `SHORT` or `LONG`.
      scale: one of `harness.experiments.experiment.SCALES`.
      control: whether rounds are of equal length.
    """
    settings, steps = SETTINGS[scale], lengths(scale, control)
    found, length = [], steps[round_]
    if part == SCHEDULE:
        for family in FAMILIES:
            # With a constant phase of 0 steps, to stretch a schedule is to keep it at 0.
            grown = constant_phase(family, steps[SHORT], 0, length)
            for constant in dict.fromkeys((0, grown)):
                for rate in settings.rates:
                    name = schedule_name(family, rate, bool(constant))
                    found.append(Candidate(name, length, {"learning_rate": rate, "constant_steps": constant}, family))
    elif part == WARMUP:
        for warmup in settings.warmups:
            after = length + settings.warmup_steps - warmup
            own = {"learning_rate": settings.warmup_rate, "warmup_steps": warmup}
            own["constant_steps"] = max(0, after - steps[SHORT])
            found.append(Candidate(f"{warmup} steps", after, own, fields=settings.warmup_fields))
    else:
        base = {
            "learning_rate": settings.base_rates[round_],
            "constant_steps": constant_phase("linear", steps[SHORT], 0, length),
        }
        if part == OPTIMIZER:
            for beta1 in settings.beta1:
                for beta2 in settings.beta2:
                    own = {**base, "beta1": beta1, "beta2": beta2}
                    found.append(Candidate(f"beta1 {beta1:g}, beta2 {beta2:g}", length, own))
        else:
            variants = settings.normalizations if part == NORMALIZATION else settings.depths
            found += [Candidate(name, length, base, fields=fields) for name, fields in variants.items()]
    return {candidate.name: candidate for candidate in found}
