"""The contract that every workload keeps, and how one is found by name and configured by field."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import jax


class ConfigurationError(ValueError):
    """A workload, a scale, a field or a value that does not exist; one line with the known ones."""


class DataError(Exception):
    """A data set that is missing, or whose content is not the expected one; one line with the mend."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """Examples that are read and decoded when they are asked for, since they are too many to hold.

    It travels to worker processes, so both fields can be pickled.

    Attributes:
      records: random access to the stored examples, by `len` and `[index]`.
      prepare: from a record and the randomness of its augmentation to the fields of an example, a function of these
        two alone; raises `DataError` where the record cannot be decoded.
    """

    records: Sequence[Any]
    prepare: Callable[[Any, np.random.Generator], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Splits:
    """Training and held-out examples: field name to array, examples along the first axis, or both as streams.

    Attributes:
      train: examples to train on.
      validation: examples to evaluate on.
    """

    train: Mapping[str, np.ndarray] | Stream
    validation: Mapping[str, np.ndarray] | Stream


class Workload(Protocol):
    """What is trained: an immutable dataclass whose fields are its whole configuration.

    A module `workloads/<name>/workload.py` holds the dataclass and `SCALES`, scale to `Scale`. It imports without
    JAX; the methods import what they need.
    """

    name: typing.ClassVar[str]
    classes: int
    objective: typing.ClassVar[str]
    """`error` or `loss`: what of an evaluation is to be minimised."""

    def data_hashes(self) -> dict[str, str]:
        """Data set name to sha256 of its decoded content; raises `DataError` where a set cannot be found."""

    def data(self, split_seed: int) -> Splits:
        """Reads, splits and prepares the data; raises `DataError`."""

    def initial(self, key: jax.Array) -> tuple[Any, Any]:
        """Gives (parameters, model state) as pytrees of float32, a function of the key alone."""

    def loss(
        self,
        parameters: Any,
        state: Any,
        batch: Mapping[str, jax.Array],
        train: bool,
        key: jax.Array,
        label_smoothing: jax.Array | float = 0.0,
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        """Gives the loss of a weighted batch.

        Args:
          parameters: from `initial`.
          state: from `initial` or an earlier call.
          batch: the fields of `Splits`, and `weight`: (batch,) float32, 0 for padding.
          train: whether to use and update batch statistics, dropout and the like.
          key: randomness of this step.
          label_smoothing: see `workloads.cross_entropy`.

        Returns:
          What is minimised, a weighted mean, float32 (), and (metrics, new state); metrics are those of
          `workloads.cross_entropy.weighted_cross_entropy`: `loss`, `error` and the `weight` that they are means over.
        """

    def predictions(self, parameters: Any, state: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Gives the most probable label of every example (or token), int32, shaped like the batch's labels."""

    # A workload may also have `score(parameters, state) -> Score | None`, which `playbook train` calls once, for the
    # best checkpoint: a measure of the validation data that takes too long to be taken along the way.


class Score(typing.NamedTuple):
    """A further measure of a trained model.

    Attributes:
      name: such as `bleu`.
      value: of the measure.
      how: the exact settings that it was taken with.
    """

    name: str
    value: float
    how: str


@dataclasses.dataclass(frozen=True)
class Scale:
    """How big a run of a workload is.

    Attributes:
      workload: the configuration.
      batch_size: examples per training step.
      steps: training steps after warmup.
      evaluation_batch_size: examples per evaluation batch.
      hyperparameters: the workload's defaults, name to value.
      optimizer: update rule that the defaults are for.
      schedule: of the learning rate.
    """

    workload: Workload
    batch_size: int
    steps: int
    evaluation_batch_size: int
    hyperparameters: Mapping[str, float]
    optimizer: str = "heavy_ball"
    schedule: str = "constant"


def workload_names() -> list[str]:
    """Names of the workloads that this package holds, in alphabetical order."""
    import workloads

    return sorted(m.name for m in pkgutil.iter_modules(workloads.__path__) if m.ispkg and m.name != "data")


def workload_scale(name: str, scale: str) -> Scale:
    """Finds a workload at a scale.

    Args:
      name: a folder of `workloads`, such as `wide_resnet`, or `module:NAME` where NAME is a mapping like `SCALES`.
      scale: `smoke`, `laptop`, `accelerator` or `paper`.

    Raises:
      ConfigurationError: no such workload or scale.
    """
    scales = _scales(name)
    if scale not in scales:
        raise ConfigurationError(f"unknown scale {scale!r} of {name}: {_known(scale, scales)}")
    return scales[scale]


def _scales(name: str) -> Mapping[str, Scale]:
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in workload_names():
            raise ConfigurationError(f"unknown workload {name!r}: {_known(name, workload_names())}, or module:NAME")
        return importlib.import_module(f"workloads.{name}.workload").SCALES
    try:
        scales = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"workload {name!r}: {error}; expected module:NAME that can be imported") from None
    if not isinstance(scales, Mapping) or not all(isinstance(scale, Scale) for scale in scales.values()):
        raise ConfigurationError(f"workload {name!r}: expected a mapping of scale name to workloads.workload.Scale")
    return scales


def configure(workload: Workload, overrides: Mapping[str, Any]) -> Workload:
    """Replaces fields of a workload's configuration by name.

    Args:
      workload: the configuration to start from.
      overrides: field to value; a string is read as the field's type (`1,2,1` for a tuple).

    Raises:
      ConfigurationError: an unknown field, or a value that the field does not take.
    """
    types = typing.get_type_hints(type(workload))
    fields = [field.name for field in dataclasses.fields(workload)]
    values = {}
    for name, value in overrides.items():
        if name not in fields:
            raise ConfigurationError(f"unknown field {name!r} of {workload.name}: {_known(name, fields)}")
        values[name] = _read(name, value, types[name]) if isinstance(value, str) else value
    return dataclasses.replace(workload, **values)


def check_choice(field: str, value: Any, choices: tuple) -> None:
    """Raises ConfigurationError unless the value of a field is one of the choices."""
    if value not in choices:
        raise ConfigurationError(f"{field}={value!r}: expected one of {', '.join(map(str, choices))}")


def check_at_least(field: str, value: Any, low: float) -> None:
    """Raises ConfigurationError unless the value of a field is a number of at least `low`."""
    if not value >= low:
        raise ConfigurationError(f"{field}={value!r}: expected at least {low}")


def _read(name: str, text: str, kind: Any) -> Any:
    if kind is bool:  # which any text but the empty one would make true
        check_choice(name, text, ("true", "false"))
        return text == "true"
    try:
        if typing.get_origin(kind) is tuple:
            parts, kinds = text.strip("()").split(","), typing.get_args(kind)
            if len(parts) != len(kinds):
                raise ValueError
            return tuple(k(part) for k, part in zip(kinds, parts, strict=True))
        return kind(text)
    except ValueError:
        expected = getattr(kind, "__name__", kind) if typing.get_origin(kind) is None else "numbers like 1,2,1"
        raise ConfigurationError(f"{name}={text!r}: expected {expected}") from None


def _known(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {', '.join(known)}"
