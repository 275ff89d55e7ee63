"""The settings of `round-transfer` at every scale, and what the pilots said."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

SHORT, LONG, FRESH = "short", "long", "fresh"
"""The rounds: two that choose, of their own seeds and lengths, and the long one again on fresh seeds, which judges."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    PILOTS

    Attributes:
      fields: of the workload that are set.
      short: steps after warmup of the short round.
      long: of the long one.
      warmup_steps: of all parts but the warmup's.
      rates: base rates of every schedule, ascending in equal ratios.
      base_rates: round to the rate of the parts that do not tune it, about the best of linear decay in it.
      warmups: lengths that the warmup's part chooses among, in steps: at most a tenth of the long round (L1019), and
        fewer than there are in the short one. Warmup and what follows have the same number of steps in all.
      warmup_fields: of the workload in that part.
      warmup_rate: its base rate in both rounds, since how long it must be depends on it.
      normalizations: variant to workload fields.
      depths: variant to workload fields.
      beta1: values that the optimizer's part crosses with those of `beta2`.
      beta2: see `beta1`.
      spread: trial standard deviation of the final loss in the long round, nats.
      warmup_spread: the same in the warmup's part.
      stated: regret of the schedule that the power is for, in units of spread.
      selection: round to the number of its seeds.
      judged: fresh seeds.
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
        stated=5.0,
        selection={SHORT: 1, LONG: 1},
        judged=2,
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
        spread=0.009,
        warmup_spread=0.03,
        stated=5.0,
        selection={SHORT: 8, LONG: 3},
        judged=12,
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
        stated=5.0,
        selection={SHORT: 3, LONG: 2},
        judged=8,
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
        stated=5.0,
        selection={SHORT: 1, LONG: 1},
        judged=8,
    ),
}
