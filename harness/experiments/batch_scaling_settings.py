"""What `batch-size-scaling` trains at each scale, and the pilots that chose it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

BUDGET = 3
"""Step budget of every batch size, in the pilot's steps to the target."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained to which target, and how it is searched.

    Attributes:
      name: of its arm.
      workload: name and scale.
      fields: of the workload that are set.
      target: validation error to reach.
      sizes: batch sizes, ascending.
      least: steps of the largest batches in the pilot.
      critical: batch size of the pilot at which steps were twice as many; with `least` it gives the step budget.
      searches: independent searches at every batch size.
      trials: of each search.
      fresh: seeds on which a winner is retrained; odd, for the median.
      rate: effective rate of the largest batches, and the batch size at which half of it was best.
      reach: factor by which the space reaches to either side of that.
      optimizer: update rule with momentum.
    """

    name: str
    workload: tuple[str, str]
    fields: Mapping[str, float]
    target: float
    sizes: tuple[int, ...]
    least: float
    critical: float
    searches: int
    trials: int
    fresh: int
    rate: tuple[float, float] = (1.5, 60.0)
    reach: float = 8.0
    optimizer: str = "heavy_ball"

    def budget(self, size: int) -> int:
        """Steps after which a trial ends."""
        return round(BUDGET * self.least * (1 + self.critical / size))

    def rates(self, size: int) -> tuple[float, float]:
        """Ends of the range of the effective rate."""
        centre = self.rate[0] / (1 + self.rate[1] / size)
        return centre / self.reach, centre * self.reach

    def study_of(self, size: int, search: int, purpose: str = "search") -> str:
        """Name of a study."""
        return f"{self.name}-{size}-{purpose}-{search}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a scale; `laptop` is chosen on pilots.

    The pilots, on the pilot range of seed 0: 3 searches of 10 trials at 8 batch sizes of the main task. At a target of
    .2 the winners took 800, 405, 182, 136, 38, 23, 20 and 20 steps at 1, 2, 4, 8, 32, 64, 128 and 256; least 14.5 and
    critical 53, gains .77 to .98 at the small batch sizes and .04 to .20 at the large, standard deviations over
    searches of .1 and .08, which give 12 searches a power over .99. Targets of .25, .18, .15 and .12 have critical
    batch sizes of 58, 79, 91 and 153: the harder, the larger, and at .15 the curve has not levelled off at a tenth of
    the 4,000 examples. The example budget is twice what the smallest batch of the pilot needs; it
    reaches to 32 by the pilot's fit, and 16 is judged.
    The other tasks: 8 trials at 2, 32 and 256 each; critical batch sizes as they stand in their settings, but for those
    with a fifth and two fifths of the labels replaced, which are reasoned from .3 (210) and .6 (630). Winners lay at
    effective rates of .02 to .05 at a batch of 2 and .4 to 3 at 256, which the spaces follow.

    A last pilot of all rounds with 3 searches of the main task: gains .95 to 1.17 at the small batch sizes and .16 to
    .28 at the large; no batch size void or censored. Critical batch size and noise scale: clean 83 and 105, linear 100
    and 46, narrow 92 and 89, deep 60 and 46, small images 141 and 82, noisy 106 and 115, 251 and 171, 560 and 435. The
    ratio's log2 is .47 in size on average; that of a constant guess is .41 larger, with a standard deviation of .85, so
    that 8 tasks have a power of .2 to find it better: five of them lie within a factor of 2 of one another, where a
    constant is as good as anything. It would take some 35 tasks, or larger batches than a tenth of the data to spread
    the critical batch sizes further, and is left undecided rather than tuned for.

    The number of searches is not from pilots alone: three searches understated the spread. With 12 of them experiment
    seed 1 left the main claim undecided (gain at the large batch sizes .375, standard deviation .22, upper limit .53),
    for which 24 were then chosen, before seed 0 was run. Seed 1 is not fresh; no rule, target or space was changed.

    `accelerator` and `paper` are reasoned, not piloted; the targets are what a constant rate may reach.

    Attributes:
      main: the task of the playbook's claims.
      small: its batch sizes at which scaling is to be perfect.
      large: its batch sizes at which it is to have levelled off.
      seen: its batch sizes that the example budget reaches.
      examples: the example budget.
      control_sizes: batch sizes of the control, all past the plateau's beginning.
      others: the other tasks of `scaling.noise-scale-predicts`.
    """

    main: Task
    small: tuple[int, ...]
    large: tuple[int, ...]
    seen: tuple[int, ...]
    examples: int
    control_sizes: tuple[int, ...]
    others: tuple[Task, ...] = ()


def _powers(low: int, high: int, factor: int = 2) -> tuple[int, ...]:
    """Powers of two from the first to the last."""
    return tuple(2**n for n in range(low.bit_length() - 1, high.bit_length(), factor.bit_length() - 1))


def _other(name: str, least: float, critical: float, **fields: float) -> Task:
    return Task(name, ("mlp", "laptop"), fields, 0.2, _powers(2, 512, 4), least, critical, 2, 8, 3)


_OTHERS = (
    _other("linear", 8, 100, hidden_layers=0),
    _other("narrow", 24, 85, width=16),
    _other("deep", 20, 90, hidden_layers=4),
    _other("small_images", 18, 320, side=5),
    _other("noisy_20", 13, 110, label_noise=0.2),
    _other("noisy_40", 15, 300, label_noise=0.4),
    _other("noisy_60", 15, 650, label_noise=0.6),
)

SETTINGS = {
    "smoke": Settings(
        main=Task("clean", ("mlp", "smoke"), {}, 0.8, (4, 16, 64), 5, 8, 2, 3, 1),
        small=(4, 16),
        large=(16, 64),
        seen=(4, 16),
        examples=50,
        control_sizes=(64, 128),
        others=(Task("linear", ("mlp", "smoke"), {"hidden_layers": 0}, 0.8, (4, 16, 64), 5, 8, 1, 3, 1),),
    ),
    "laptop": Settings(
        main=Task("clean", ("mlp", "laptop"), {}, 0.2, _powers(1, 256), 14.5, 53, 24, 10, 3),
        small=(1, 2, 4, 8),
        large=(64, 128, 256),
        seen=(1, 2, 4, 8, 16),
        examples=1_600,
        control_sizes=(512, 1024, 2048),
        others=_OTHERS,
    ),
    "accelerator": Settings(
        main=Task("resnet", ("resnet", "accelerator"), {}, 0.3, _powers(4, 256), 150, 64, 12, 10, 3),
        small=(4, 8, 16),
        large=(64, 128, 256),
        seen=(4, 8, 16),
        examples=20_000,
        control_sizes=(512, 1024, 2048),
        others=_OTHERS,
    ),
    "paper": Settings(
        main=Task(
            "resnet",
            ("resnet", "paper"),
            {},
            0.35,
            _powers(64, 65_536),
            4_000,
            4_096,
            12,
            10,
            3,
            (20.0, 4_096.0),
            optimizer="nesterov",
        ),
        small=(64, 128, 256, 512),
        large=(16_384, 32_768, 65_536),
        seen=(64, 128, 256, 512, 1024),
        examples=33_000_000,
        control_sizes=(32_768, 65_536, 131_072),
        others=_OTHERS,
    ),
}
