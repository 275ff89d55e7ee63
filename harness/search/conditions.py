"""Conditions of a search space: which hyperparameters apply, given the values of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.records import InputError, did_you_mean

if TYPE_CHECKING:
    from harness.search.space import Hyperparameter

Conditions = dict[str, tuple]
"""Name of a parent to those of its values under which an axis applies; all must hold."""


def all_conditions(axes: Mapping[str, Hyperparameter]) -> dict[str, Conditions]:
    """Collects the conditions of each axis, those of the axes that it depends on among them, and checks them.

    An axis applies only where the parents of its conditions do. Parents are axes of values that are drawn independently
    of one another, so that conditions can hold together if and only if every parent has a value that all of them allow.

    Args:
      axes: name to axis, of one space.

    Returns:
      Name of each axis to its conditions; none where it always applies.

    Raises:
      InputError: a parent that is not in the space, is a range, lacks the value, or depends on the axis itself; an axis
        that can never apply; two axes of one hyperparameter that can apply together.
    """
    for axis in axes.values():
        for parent, allowed in axis.when:
            _check_condition(axes, axis, parent, allowed)
    found: dict[str, Conditions] = {}
    for name in axes:
        _collect(axes, name, (), found)
    _check_apart(axes, found)
    return found


def hold(conditions: Conditions, drawn: Mapping[str, object]) -> bool:
    """Says whether conditions hold, given the value of each of their parents."""
    return all(drawn[parent] in allowed for parent, allowed in conditions.items())


def _check_condition(axes: Mapping[str, Hyperparameter], axis: Hyperparameter, parent: str, allowed: tuple) -> None:
    if parent == axis.name:
        raise _error(axis.name, f"depends on itself in when = {{ {parent} = ... }}; name another hyperparameter")
    if parent not in axes:
        near = did_you_mean(parent, axes)
        raise _error(axis.name, f"when names {parent!r}, which is not in the space{near}; known: {', '.join(axes)}")
    known = axes[parent].values
    if known is None:
        raise _error(axis.name, f"when names {parent!r}, which is a range; give {parent!r} values = [...]")
    for value in allowed:
        # True == 1, but is no value of a hyperparameter of numbers.
        if value not in known or isinstance(value, bool) != isinstance(known[0], bool):
            near = did_you_mean(value, [v for v in known if isinstance(v, str)])
            raise _error(axis.name, f"when {parent} = {value!r} is impossible{near}; its values are {list(known)}")


def _collect(
    axes: Mapping[str, Hyperparameter], name: str, below: tuple[str, ...], found: dict[str, Conditions]
) -> Conditions:
    if name in below:
        circle = " -> ".join((*below[below.index(name) :], name))
        raise _error(name, f"its conditions are circular: {circle}; take one of them out")
    if name in found:
        return found[name]
    conditions: Conditions = {}
    for parent, allowed in axes[name].when:
        inherited = _collect(axes, parent, (*below, name), found)
        for other, values in (*inherited.items(), (parent, allowed)):
            conditions[other] = _both(conditions, other, values)
            if not conditions[other]:
                raise _error(name, f"can never apply: its conditions allow no value of {other!r}; change when")
    found[name] = conditions
    return conditions


def _both(conditions: Conditions, parent: str, allowed: tuple) -> tuple:
    """The values of a parent that conditions allow as well."""
    return tuple(value for value in conditions.get(parent, allowed) if value in allowed)


def _check_apart(axes: Mapping[str, Hyperparameter], found: Mapping[str, Conditions]) -> None:
    by_hyperparameter: dict[str, list[str]] = {}
    for name, axis in axes.items():
        for other in by_hyperparameter.setdefault(axis.hyperparameter, []):
            if all(_both(found[other], parent, allowed) for parent, allowed in found[name].items()):
                raise _error(
                    name,
                    f"can apply together with {other!r}, and both set {axis.hyperparameter!r}; "
                    "give them conditions (when) that exclude each other",
                )
        by_hyperparameter[axis.hyperparameter].append(name)


def _error(name: str, message: str) -> InputError:
    return InputError(f"hyperparameter {name!r}: {message}")
