"""The next round of tuning: a longer training from a shorter one, without spending the added steps at tiny rates.

The playbook (L619-676), where training is bound by compute: tune in rounds of growing length, most often two. Round 1
finds good hyperparameters in short runs; round 2 runs few of its best points for long. The steps that are added extend
the time at a high rate: of a linear schedule (and one that falls with the square root, L657) the decay keeps its length
and the constant phase before it grows; of a cosine schedule the base rate is kept and the whole stretched. What round 1
found carries over by tiers (L644-658), most of all what resolves early instability, least of all the schedule, which is
to be tuned again. Teams who care for compute above all let the length grow exponentially over many rounds, and confirm
in each that what they chose still holds (L674-675).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from harness.analysis.findings import Finding, number
from harness.analysis.full_fit import FIT
from harness.records import InputError
from harness.studies.transfer import KEPT, TIERS, constant_phase, is_regularisation, tier
from harness.training.trial import MOST_STEPS

_WHY = {
    "very likely": "what resolves early instability: warmup length, initialisation, clipping",
    "likely": "architecture: a dramatic win usually does, with many exceptions",
    "might": "optimizer and its hyperparameters, loosely; augmentation; regularisation",
    "unlikely": "the schedule of the learning rate: hardly ever perfectly",
}
_ADVICE = {
    "very likely": "keep it",
    "likely": "keep it",
    "might": "keep it, and confirm it where the longer runs allow",
    "unlikely": "tune it again at the new length, such as by constant_steps in the space",
}


def ladder(steps: int, longest: int, rounds: int) -> list[int]:
    """Lengths of the rounds to come, each longer than the one before by about the same factor.

    Args:
      steps: of the round that is finished.
      longest: of the last round.
      rounds: how many are to come.

    Raises:
      InputError: the last is not longer than the finished round, too near for so many rounds, or too long.
    """
    if rounds < 1:
        raise InputError(f"--rounds {rounds}: expected at least 1")
    if longest <= steps:
        raise InputError(f"--steps {longest}: expected more than the {steps} steps of the study, such as {5 * steps}")
    if longest > MOST_STEPS:
        raise InputError(f"--steps {longest}: expected at most {MOST_STEPS}")
    if rounds > longest - steps:
        raise InputError(f"--rounds {rounds}: expected fewer, since {steps} steps are to become {longest} over them")
    lengths = [round(steps * (longest / steps) ** (i / rounds)) for i in range(1, rounds + 1)]
    if any(later <= before for before, later in zip([steps, *lengths], lengths, strict=False)):
        raise InputError(f"--rounds {rounds}: expected fewer, since {steps} steps are to become {longest} over them")
    return lengths


class Chosen(NamedTuple):
    """A point of the finished round that the next one runs.

    Attributes:
      value: mean objective over its runs, lower is better.
      point: hyperparameter to value, those of the study's space.
      schedule: of its learning rate.
      constant_steps: at the base rate, in the finished round.
      train_loss: mean training loss of the last tenth of its training, median over its runs, in nats.
    """

    value: float
    point: Mapping[str, Any]
    schedule: str
    constant_steps: int
    train_loss: float

    def lengthened(self, steps: int, longer: int) -> dict[str, Any]:
        """The point of the longer training; `constant_steps` stands in it where it is not 0."""
        constant = constant_phase(self.schedule, steps, self.constant_steps, longer)
        point = {name: value for name, value in self.point.items() if name != "constant_steps"}
        return {**point, **({"constant_steps": constant} if constant else {})}


def name_of_round(name: str) -> tuple[str, int]:
    """Name of the next round's study, and its number: `rates` gives `rates-round2`, that `rates-round3`."""
    found = re.fullmatch(r"(.*)-round(\d{1,4})", name)
    stem, current = (found[1], int(found[2])) if found else (name, 1)
    end = f"-round{current + 1}"
    return stem[: 100 - len(end)] + end, current + 1


def transfer(tuned: Sequence[str]) -> list[dict[str, str]]:
    """What carries over: a row for each hyperparameter with its `tier` and `advice`, the most likely first.

    Args:
      tuned: hyperparameters of the study that had more than one value; the schedule is added.
    """
    names = dict.fromkeys([*tuned, "schedule"])
    rows = [{"hyperparameter": name, "tier": tier(name), "advice": _ADVICE[tier(name)]} for name in names]
    return sorted(rows, key=lambda row: TIERS.index(row["tier"]))


def findings_of(
    chosen: Sequence[Chosen],
    settings: int,
    steps: int,
    lengths: Sequence[int],
    tuned: Sequence[str],
    seconds: float | None,
) -> Iterator[Finding]:
    """Says what the next round is, what carries over and what is to be tuned again.

    Args:
      chosen: the points that it runs, best first.
      settings: feasible ones of the finished round.
      steps: of the finished round.
      lengths: of the rounds to come.
      tuned: as `transfer`.
      seconds: that the next round's training takes at the finished round's time per step, one run after the other;
        None where that is not known.
    """
    longer = lengths[0]
    time = "" if seconds is None else f"; about {number(seconds)} s of training, one run after the other"
    yield Finding(
        "round",
        "note",
        f"the best {len(chosen)} of {settings} feasible settings, for {longer:,} steps after {steps:,} ("
        f"{longer / steps:.3g} times as many){time}",
        "their seeds are new: the best of a round are partly lucky",
    )
    for schedule in dict.fromkeys(one.schedule for one in chosen):
        mine = next(one for one in chosen if one.schedule == schedule)
        yield _of_schedule(schedule, mine, steps, longer)
    rows = transfer(tuned)
    for level in TIERS:
        names = [row["hyperparameter"] for row in rows if row["tier"] == level]
        if names:
            severity = "warning" if level == "unlikely" else "note"
            might = "might transfer" if level == "might" else f"{level} to transfer"
            yield Finding("transfer", severity, f"{might} ({_WHY[level]}): {', '.join(names)}", _ADVICE[level])
    regularisers = [name for name in tuned if is_regularisation(name)]
    if regularisers and not chosen[0].train_loss <= FIT:
        yield Finding(
            "training set",
            "warning",
            f"the best point ends with a training loss of {number(chosen[0].train_loss)} nats, more than {FIT:g}: it "
            "does not fit the training set perfectly, and regularisation may hardly help there",
            f"what this round says of {', '.join(regularisers)} may not hold for longer training: tune again",
        )
    if len(lengths) > 1:
        told = ", ".join(f"{length:,}" for length in lengths)
        yield Finding(
            "ladder",
            "note",
            f"rounds of {told} steps, each about {lengths[0] / steps:.3g} times the one before",
            "after each round ask for the next with one of --rounds less; go on where what you chose still holds",
        )


def _of_schedule(schedule: str, one: Chosen, steps: int, longer: int) -> Finding:
    before, after = one.constant_steps, constant_phase(schedule, steps, one.constant_steps, longer)
    if schedule in KEPT:
        evidence = (
            f"{schedule}: the decay keeps its {steps - before:,} steps, the constant phase before it grows from "
            f"{before:,} to {after:,}"
        )
    elif schedule == "cosine":
        evidence = f"cosine: the base rate is kept, and the schedule stretched from {steps:,} to {longer:,} steps"
        evidence += f", its constant phase from {before:,} to {after:,}" if before else ""
    else:
        evidence = "constant: there is no decay, the rate stays"
    return Finding("schedule", "note", evidence, "")
