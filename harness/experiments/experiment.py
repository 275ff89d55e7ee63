"""What an experiment is, and how one is found by name."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from harness.experiments.verdict import Judgement
from harness.records import Claim, InputError, TrialRecord, Verdict, did_you_mean
from harness.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = ("smoke", "laptop", "accelerator", "paper")
"""From seconds that judge nothing to the published setting."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One row of the catalogue; a module `harness/experiments/<name>.py` holds it as `EXPERIMENT`.

    Attributes:
      name: as the command line has it.
      title: one line.
      source: where in the playbook the claims stand.
      figure: caption of the figure, which is also its text alternative.
      claims: the main claim first.
      control: what the control removes, and the outcome that is expected of it.
      studies: (scale, control, workload overrides) to the studies of the first round.
      judge: (records, scale, control) to claims with their judgements, the main claim first.
      draw: (records, verdicts, scale) to the figure.
      follow_ups: for each further round (records of the rounds before, scale, control, workload overrides) to its
        studies, such as the best points of the first on fresh seeds; none ends nothing, a later round may have some.
        It must be a function of its arguments alone: a resumed run plans again.
      flips: axes of its flip maps, see `harness.experiments.variation`: those that leave what is asked as it is.
    """

    name: str
    title: str
    source: str
    figure: str
    claims: tuple[Claim, ...]
    control: str
    studies: Callable[[str, bool, Mapping[str, str]], list[Study]]
    judge: Callable[[Sequence[TrialRecord], str, bool], list[tuple[Claim, Judgement]]]
    draw: Callable[[Sequence[TrialRecord], Sequence[Verdict], str], Figure]
    follow_ups: tuple[Callable[[Sequence[TrialRecord], str, bool, Mapping[str, str]], list[Study]], ...] = ()
    flips: tuple[str, ...] = ("model", "steps", "data", "batch")


def experiments() -> dict[str, Experiment]:
    """Finds every experiment of this package, by name in alphabetical order."""
    import harness.experiments

    modules = [
        importlib.import_module(f"harness.experiments.{module.name}")
        for module in pkgutil.iter_modules(harness.experiments.__path__)
        if not module.name.startswith("test_")
    ]
    found = [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]
    return {experiment.name: experiment for experiment in sorted(found, key=lambda e: e.name)}


def experiment(name: str) -> Experiment:
    """Finds an experiment by name.

    Raises:
      InputError: there is none of that name.
    """
    known = experiments()
    if name not in known:
        raise InputError(f"unknown experiment {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    return known[name]


def chosen(names: Sequence[str]) -> list[Experiment]:
    """Finds experiments by name, each once, in the order given; all of them where one of the names is `all`.

    Raises:
      InputError: there is none of some name, whatever else is asked for.
    """
    found = [experiment(name) for name in dict.fromkeys(names) if name != "all"]
    return list(experiments().values()) if "all" in names else found
