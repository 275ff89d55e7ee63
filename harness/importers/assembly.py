"""From the columns of a source to a `TrialTable`: what each column is, the objective, its goal, who is infeasible."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.importers import names
from harness.importers.columns import seed_column, take_curves, typed, varies
from harness.records import Curve, InputError, TrialTable, did_you_mean

GOALS = ("min", "max")
TELLING = 10
"""Trials up to which a column's values tell nothing of its role. Of more, a text column in which no value repeats names
the trials, and numbers that are the objective's in all of them are a result."""
_SHOWN = 6  # how many names a message lists


@dataclass
class Source:
    """What a reader took from its format, a row per trial, before it is known what each column is.

    Attributes:
      trials: names of the n trials; None where a column of identity, if any, names them, else their row, from 1.
      columns: name to n cells: float64 (n,), or values as JSON has them; strings where `text`.
      text: whether the format has no types.
      study: name of the study to keep, of a table with a column of studies.
      roles: name to `hyperparameter`, `seed`, `status`, `study`, `result`, `timing`, `identity` or `note`, of the
        columns whose role the format says; the others go by their names.
      curves: name to one curve or None per trial, beside those in list columns.
      objective: name of the column that the format says is the objective.
      goals: name of an objective to `min` or `max`, where the format says it.
      ranges: as in `TrialTable`.
      skipped: as in `TrialTable`.
      warnings: as in `TrialTable`.
    """

    trials: list[str] | None
    columns: dict[str, Sequence[Any]]
    text: bool = False
    study: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Curve | None]] = field(default_factory=dict)
    objective: str | None = None
    goals: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float, str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def assemble(source: Source, objective: str | None, goal: str | None) -> TrialTable:
    """Makes a trial table of what was read.

    A trial is infeasible where its status says so, where its objective is missing, NaN or infinite, and, if the
    objective is a curve, where that ends so. A trial that was not finished is skipped; one that was pruned counts with
    the best that it reached. Hyperparameters are the columns that vary among the trials kept.

    Args:
      source: what was read.
      objective: column or curve of the objective; guessed, with a warning, where neither this nor the source says.
      goal: `min` or `max`; by the source or the objective's name if None.

    Returns:
      The table, in the order of the source.

    Raises:
      InputError: no trial, an unknown or ambiguous study, no objective, no goal, a column of mixed types, text that is
        not Unicode.
    """
    columns, warnings, skipped = dict(source.columns), list(source.warnings), list(source.skipped)
    size = len(next(iter(columns.values()), source.trials or ()))
    if size == 0:
        raise InputError(f"holds no trial{_why(skipped)}; give a table with a row per trial")
    trials = source.trials or _names(columns, source, size)
    curves = {name: tuple(found) for name, found in source.curves.items()}
    if not source.text:
        curves.update(take_curves(columns, trials))
    roles = {name: source.roles.get(name) or names.role(name) for name in columns}
    if objective is not None and objective in roles:
        roles[objective] = "result"

    kept = _of_study(columns, roles, source.study, size)
    words = _statuses(columns, roles, kept, trials)
    for index in [i for i in kept if words.get(i) == "unfinished"]:
        skipped.append(f"trial {trials[index]!r} is not finished; left out")
    kept = np.array([i for i in kept if words.get(i) != "unfinished"], dtype=int)
    if kept.size == 0:
        raise InputError("none of its trials is finished; give a table with a finished trial")
    if pruned := sum(words.get(i) == "pruned" for i in kept):
        warnings.append(f"trials that were pruned, and count with the value they had reached: {pruned}")

    def column_of(name: str) -> np.ndarray:
        return typed(name, columns[name], trials, source.text)[kept]

    curves = {name: tuple(found[i] for i in kept) for name, found in curves.items()}
    curves = {name: found for name, found in curves.items() if any(one is not None for one in found)}
    chosen = _objective(source, objective, columns, roles, curves, warnings)
    goal = _goal(goal, source.goals.get(chosen), chosen, warnings)
    values = best_along(curves[chosen], goal) if chosen in curves else column_of(chosen)
    if values.dtype == object and any(value is not None for value in values):
        first = next(i for i, value in enumerate(values) if value is not None)
        raise InputError(
            f"objective {chosen!r} holds {values[first]!r} in trial {trials[kept[first]]!r}, not a number; "
            "name a column of numbers with --objective"
        )
    values = np.array(values, dtype=np.float64)  # a copy; None becomes NaN
    infeasible = ~np.isfinite(values) | np.array([words.get(i) == "infeasible" for i in kept])
    values[infeasible] = math.nan

    seeds = {
        name: seed_column(name, columns[name], trials, source.text)[kept]
        for name, one in roles.items()
        if one == "seed"
    }
    roles[chosen] = "objective"
    hyperparameters = _hyperparameters(source, columns, roles, column_of, values, warnings)
    for name, column in hyperparameters.items():
        _check_finite(name, column, trials, kept)
    _check_text([*columns, *curves, *trials, *(v for c in hyperparameters.values() if c.dtype == object for v in c)])
    return TrialTable(
        trials=tuple(trials[i] for i in kept),
        hyperparameters=hyperparameters,
        objective=values,
        infeasible=infeasible,
        objective_name=chosen,
        goal=goal,
        seeds=seeds,
        curves=curves,
        ranges={
            name: (low, high, scale)
            for name, (low, high, scale) in source.ranges.items()
            if name in hyperparameters and -math.inf < low < high < math.inf
        },
        skipped=tuple(skipped),
        warnings=tuple(warnings),
        seconds=_seconds(roles, column_of),
    )


def best_along(curves: Sequence[Curve | None], goal: str) -> np.ndarray:
    """Value of each trial at its best step.

    Args:
      curves: one per trial, or None.
      goal: `min` or `max`.

    Returns:
      float64 (n,); NaN where there is no curve, and where its last value is not finite: the trial diverged.
    """
    best = np.full(len(curves), math.nan)
    for index, found in enumerate(curves):
        if found is not None and len(found.values) and math.isfinite(found.values[-1]):
            finite = found.values[np.isfinite(found.values)]
            best[index] = finite.min() if goal == "min" else finite.max()
    return best


def pick(kind: str, wanted: str | None, found: Sequence[str]) -> str:
    """The one study (or such) of several in a source.

    Args:
      kind: what they are, for messages, such as `study`.
      wanted: the name given after `#` in the path.
      found: the names in the source, at least one.

    Returns:
      `wanted`, or the only one.

    Raises:
      InputError: `wanted` is unknown, or None where there are several.
    """
    if wanted is None and len(found) == 1:
        return found[0]
    if wanted is None:
        raise InputError(f"holds more than one {kind}: {_listed(found)}; name one as PATH#NAME")
    if wanted not in found:
        raise InputError(f"no {kind} {wanted!r}; it holds {_listed(found)}{did_you_mean(wanted, found)}")
    return wanted


def _listed(found: Sequence[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(repr(name) for name in found[:_SHOWN]) + more


def _why(skipped: Sequence[str]) -> str:
    return f" that can be read ({len(skipped)} skipped, such as: {skipped[0]})" if skipped else ""


def _names(columns: Mapping[str, Sequence[Any]], source: Source, size: int) -> list[str]:
    for name, cells in columns.items():
        if (source.roles.get(name) or names.role(name)) != "identity":
            continue
        if isinstance(cells, np.ndarray):
            cells = cells.tolist()
        # Whole floats as in a table that was through pandas.
        found = [str(int(c)) if isinstance(c, float) and c.is_integer() else str(c) for c in cells]
        if len(set(found)) == size and None not in cells and "" not in found:
            return found
    return [str(row + 1) for row in range(size)]


def _column(roles: Mapping[str, str | None], role: str) -> str | None:
    return next((name for name, one in roles.items() if one == role), None)


def _of_study(
    columns: Mapping[str, Sequence[Any]], roles: Mapping[str, str | None], study: str | None, size: int
) -> np.ndarray:
    name = _column(roles, "study")
    if name is None:
        if study is not None:
            raise InputError(f"has no column of studies to pick {study!r} from; leave out '#{study}'")
        return np.arange(size)
    cells = [str(cell) for cell in columns[name]]
    wanted = pick("study", study, list(dict.fromkeys(cells)))
    return np.array([index for index, cell in enumerate(cells) if cell == wanted])


def _statuses(
    columns: Mapping[str, Sequence[Any]],
    roles: Mapping[str, str | None],
    kept: Sequence[int],
    trials: Sequence[str],
) -> dict[int, str]:
    """Index to `complete`, `infeasible`, `pruned` or `unfinished`, of the trials that have a status."""
    name = _column(roles, "status")
    if name is None:
        return {}
    known: dict[str, str | None] = {}
    found = {}
    for index in kept:
        cell = columns[name][index]
        if cell is None or (word := str(cell)) == "":
            continue
        if word not in known:
            known[word] = names.status(word)
        if known[word] is None:
            raise InputError(
                f"column {name!r}: {word!r} of trial {trials[index]!r} is not a known status; write complete, "
                f"infeasible, pruned or running{did_you_mean(word.lower(), names.STATUS_WORDS)}"
            )
        found[int(index)] = known[word]
    return found


def _objective(
    source: Source,
    wanted: str | None,
    columns: Mapping[str, Sequence[Any]],
    roles: Mapping[str, str | None],
    curves: Mapping[str, Sequence[Curve | None]],
    warnings: list[str],
) -> str:
    wanted = wanted if wanted is not None else source.objective
    known = [*columns, *(name for name in curves if name not in columns)]
    if wanted is not None:
        if wanted not in known:
            raise InputError(
                f"no column {wanted!r} for the objective; it has {_listed(known)}" + did_you_mean(wanted, known)
            )
        return wanted
    ranks = {name: names.objective_rank(name, name in curves) for name in known if roles.get(name) in (None, "result")}
    found = sorted((name for name, rank in ranks.items() if rank is not None), key=lambda name: ranks[name])
    if not found:
        # What may be meant stands first in the list.
        likely = sorted(known, key=lambda name: not (ranks.get(name) or roles.get(name) == "result" or name in curves))
        raise InputError(
            f"no column is known to be the validation objective; name one with --objective; it has {_listed(likely)}"
        )
    others = f" rather than {_listed(found[1:])}" if found[1:] else ""
    warnings.append(f"the objective was taken to be {found[0]!r}{others}; another can be named with --objective")
    return found[0]


def _goal(given: str | None, of_source: str | None, objective: str, warnings: list[str]) -> str:
    if given is not None and given not in GOALS:
        raise InputError(f"goal {given!r} is not one of min, max; give --goal min or --goal max")
    meant = of_source or names.goal(objective)
    if given is None and meant is None:
        raise InputError(f"objective {objective!r} does not say which way it is better; give --goal min or --goal max")
    if given is not None and meant is not None and given != meant:
        by = "direction of the study" if of_source else f"name of the objective {objective!r}"
        warnings.append(f"goal {given} contradicts the {by}, which means {meant}; {given} is used")
    return given or meant


def _hyperparameters(
    source: Source,
    columns: Mapping[str, Sequence[Any]],
    roles: Mapping[str, str | None],
    column_of: Callable[[str], np.ndarray],
    objective: np.ndarray,
    warnings: list[str],
) -> dict[str, np.ndarray]:
    """The columns that vary and are nothing else; those that only look like results or names are said in warnings."""
    found = {}
    results = [name for name, one in roles.items() if one == "result" and name not in source.roles]
    for name in columns:
        if roles[name] not in (None, "hyperparameter") or not varies(column := column_of(name)):
            continue
        if roles[name] is None and column.dtype != object and (names.is_metric(name) or _repeats(column, objective)):
            results.append(name)
        elif roles[name] is None and _names_trials(column):
            warnings.append(f"column {name!r} differs in every trial and was taken for a name, not a hyperparameter")
        else:
            found[name] = column
    if results:
        warnings.append(f"columns taken for results, not hyperparameters: {_listed(results)}")
    return found


def _seconds(roles: Mapping[str, str | None], column_of: Callable[[str], np.ndarray]) -> np.ndarray | None:
    """The column of the time of a trial: by name, or the only one in seconds."""
    found = [name for name, one in roles.items() if one == "timing" and names.words(name)[-1] in ("seconds", "secs")]
    known = [name for name in ("trial_seconds", "seconds") if name in found] or (found if len(found) == 1 else [])
    for name in known[:1]:
        try:
            column = column_of(name)
        except InputError:  # of a column that nothing else needs
            return None
        if column.dtype != object and np.isfinite(column).any():
            return column
    return None


def _repeats(column: np.ndarray, objective: np.ndarray) -> bool:
    """Whether numbers are the objective under another name, in too many trials for chance."""
    feasible = ~np.isnan(objective)
    return feasible.sum() > TELLING and np.array_equal(column[feasible], objective[feasible])


def _names_trials(column: np.ndarray) -> bool:
    if column.dtype != object or len(column) <= TELLING or not isinstance(column[0], str):
        return False
    return len(set(column.tolist())) == len(column)


def _check_text(texts: Sequence[Any]) -> None:
    """Refuses halves of surrogate pairs, which JSON can escape and no page can hold."""
    for one in texts:
        if isinstance(one, str) and not one.isascii() and one.encode("utf-8", "replace").decode() != one:
            raise InputError(f"{one!r} holds half of a surrogate pair, expected Unicode text; correct it")


def _check_finite(name: str, column: np.ndarray, trials: Sequence[str], kept: np.ndarray) -> None:
    if column.dtype != object and np.any(np.isinf(column)):
        index = int(np.flatnonzero(np.isinf(column))[0])
        raise InputError(
            f"column {name!r}: {column[index]} in trial {trials[kept[index]]!r} is not finite; leave it empty where "
            "the hyperparameter does not apply"
        )
