"""The specification of one's own study: which workload to tune, over which space, how, and what the roles are."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.records import InputError, did_you_mean
from harness.search.samplers import MAX_SEED, MAX_TRIALS, check_integer
from harness.search.samplers import SAMPLERS as _SEQUENCES
from harness.search.space import KEYS, Space, space_from_dict
from harness.search.toml_file import read_toml

SAMPLERS = (*_SEQUENCES, "bayesian")
ROLES = ("scientific", "nuisance", "fixed")
"""Of a hyperparameter in a study, as in the playbook: its effect is the question; it is tuned so that the comparison is
fair; it has one value, which the conclusions may depend on."""

OBJECTIVES = ("best_error", "best_loss", "final_error", "final_loss")
"""What may be minimised: of the validation data, at the best checkpoint or at the end."""

_MAX_REPLICATES = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KEYS = (
    "name",
    "notes",
    "workload",
    "scale",
    "trials",
    "seed",
    "replicates",
    "sampler",
    "parallel",
    "objective",
    "set",
    "space",
)
_REQUIRED = ("name", "workload", "trials", "space")


@dataclasses.dataclass(frozen=True)
class StudySpec:
    """One's own study.

    Attributes:
      name: also of its folder.
      notes: what it is for.
      workload: a workload's name, or `module:NAME`.
      scale: one of the workload's.
      trials: number of settings; each is run once a replicate.
      seed: of the sampler and of the trials.
      replicates: seeds per setting.
      sampler: one of `SAMPLERS`.
      parallel: settings of a round of Bayesian search, else None.
      objective: one of `OBJECTIVES`, None for the best checkpoint by the workload's own objective.
      settings: field of the workload or the run, or hyperparameter, to value, the same in all trials.
      space: its axes.
      roles: name of each axis to one of `ROLES`.
    """

    name: str
    notes: str
    workload: str
    scale: str
    trials: int
    seed: int
    replicates: int
    sampler: str
    parallel: int | None
    objective: str | None
    settings: Mapping[str, Any]
    space: Space
    roles: Mapping[str, str]

    def identity(self) -> dict[str, Any]:
        """What decides the sequence of its trials, as JSON-ready data.

        Notes, roles and the number of trials do not: a study can be extended, and read again with other roles.
        """
        left_out = ("name", "notes", "trials", "roles", "space", *(() if self.parallel else ("objective", "parallel")))
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in left_out}
        axes = [dataclasses.asdict(axis) for axis in self.space.hyperparameters]
        return {**fields, "space": {axis.pop("name"): axis for axis in axes}}


def study_from_toml(path: str | Path) -> StudySpec:
    """Reads a study's specification from a TOML file.

    ```toml
    name = "nesterov-against-adam"
    workload = "wide_resnet"
    trials = 40

    [set]
    steps = 200

    [space.optimizer]
    role = "scientific"
    values = ["nesterov", "adam"]

    [space.beta2]
    role = "fixed"
    value = 0.999
    when = { optimizer = "adam" }
    ```

    Beside their `role`, which is `nuisance` if left out, axes are those of `harness.search.space.space_from_toml`;
    fixed ones have a `value`. Left out, `scale` is `laptop`, `seed` 0, `replicates` 1, `sampler` `halton`, and
    `parallel` 4.

    Args:
      path: the file.

    Raises:
      InputError: the file cannot be read or does not describe a study; the message names file and value.
    """
    return read_toml(path, "a study's specification", _study)


def _study(tables: Mapping[str, Any]) -> StudySpec:
    for key in tables:
        if key not in _KEYS:
            raise InputError(f"unknown key {key!r}; known keys: {', '.join(_KEYS)}{did_you_mean(key, _KEYS)}")
    for key in _REQUIRED:
        if key not in tables:
            raise InputError(f"{key} is missing; a study needs {', '.join(_REQUIRED)}")
    texts = {"name": "", "notes": "", "workload": "", "scale": "laptop", "sampler": "halton"}
    texts = {key: tables.get(key, default) for key, default in texts.items()}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InputError(f"{key} = {value!r} is not a string; write {key} = '...'")
    if not _NAME.fullmatch(texts["name"]):
        raise InputError(
            f"name = {texts['name']!r} cannot name a folder; "
            "use up to 100 letters, digits, dots, dashes and underscores, the first a letter or digit"
        )
    _check_choice("sampler", texts["sampler"], SAMPLERS)
    if (objective := tables.get("objective")) is not None:
        _check_choice("objective", objective, OBJECTIVES)
    parallel = None
    if texts["sampler"] == "bayesian":
        parallel = check_integer("parallel", tables.get("parallel", 4), 1, MAX_TRIALS)
    elif "parallel" in tables:
        raise InputError(f"parallel = {tables['parallel']!r} goes with sampler = 'bayesian' alone; leave it out")
    space, roles = _space(tables["space"])
    return StudySpec(
        **texts,
        trials=check_integer("trials", tables["trials"], 1, MAX_TRIALS),
        seed=check_integer("seed", tables.get("seed", 0), 0, MAX_SEED),
        replicates=check_integer("replicates", tables.get("replicates", 1), 1, _MAX_REPLICATES),
        parallel=parallel,
        objective=objective,
        settings=_settings(tables.get("set", {}), space),
        space=space,
        roles=roles,
    )


def _check_choice(key: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{key} = {value!r} is unknown; known: {', '.join(known)}{did_you_mean(value, known)}")


def _settings(settings: object, space: Space) -> Mapping[str, Any]:
    if not isinstance(settings, Mapping):
        raise InputError(f"set = {settings!r} is not a table; write [set] with a line for each setting")
    for name, value in settings.items():
        if isinstance(value, Mapping) or not isinstance(value, str | bool | int | float | list):
            raise InputError(f"set.{name} = {value!r} is not a number, a string, a boolean or a list; give one")
        if name in {axis.hyperparameter for axis in space.values()}:
            raise InputError(f"{name!r} is in [set] and in the space; keep one")
    return settings


def _space(tables: object) -> tuple[Space, dict[str, str]]:
    if not isinstance(tables, Mapping):
        raise InputError(f"space = {tables!r} is not a table; write [space.learning_rate] and the like")
    axes, roles = {}, {}
    for name, table in tables.items():
        if isinstance(table, Mapping):
            table = dict(table)
            try:
                _check_choice("role", role := table.pop("role", "nuisance"), ROLES)
                axes[name], roles[name] = _axis(table, role), role
            except InputError as error:
                raise InputError(f"hyperparameter {name!r}: {error}") from None
        else:
            axes[name] = table
    return space_from_dict(axes), roles


def _axis(table: dict[str, Any], role: str) -> dict[str, Any]:
    """The table of an axis, with the value of a fixed one as its only value."""
    known = ("role", "value", *KEYS)
    for key in table:
        if key not in known:
            raise InputError(f"unknown key {key!r}; known keys: {', '.join(known)}{did_you_mean(key, known)}")
    if role != "fixed":
        if "value" in table:
            raise InputError(
                f"value = {table['value']!r} goes with role = 'fixed'; give values or a range, or that role"
            )
        return table
    if "value" not in table:
        raise InputError("role = 'fixed' needs its value; add value = ...")
    for key in ("low", "high", "scale", "values", "integer"):
        if key in table:
            raise InputError(f"{key} = {table[key]!r} does not go with role = 'fixed'; give value alone")
    value = table.pop("value")
    return {**table, "values": [value]}
