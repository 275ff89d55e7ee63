"""What a set of studies is: its specification, data, sources and jax; results of equal identity may be mixed."""

import hashlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import harness.training
import workloads
from harness.studies.study import PlannedTrial
from harness.training.trial import LATER, canonical_json, describe_workload
from workloads.workload import Workload


def identity(planned: Sequence[PlannedTrial]) -> dict[str, Any]:
    """Describes planned trials as JSON-ready data.

    Args:
      planned: every trial of every study of an experiment.

    Returns:
      `studies` (settings of each study and arm with the values that vary as lists), `trials` (sha256 of every place
      and address in order), `data` (name to sha256), `source` (sha256 of `workloads` and `harness.training`), `jax`
      (version).
    """
    studies: dict[str, dict[str, dict[Any, Any]]] = {}
    for place in planned:
        seen = studies.setdefault(f"{place.study}/{place.arm}", {})
        for name, value in _settings(place).items():
            seen.setdefault(name, {}).setdefault(tuple(value) if isinstance(value, list) else value, value)
    places = [[place.study, place.arm, place.replicate, place.trial.address()] for place in planned]
    return {
        "studies": {
            study: {name: _one_or_all(list(values.values())) for name, values in settings.items()}
            for study, settings in studies.items()
        },
        "trials": hashlib.sha256(canonical_json(places).encode()).hexdigest(),
        "data": data_hashes(place.trial.workload for place in planned),
        "source": source_hash(),
        "jax": importlib.metadata.version("jax"),
    }


def data_hashes(trained: Iterable[Workload]) -> dict[str, str]:
    """sha256 of every data set of some workloads, by its name.

    Raises:
      DataError: see `workloads.workload`.
    """
    return {name: content for workload in dict.fromkeys(trained) for name, content in workload.data_hashes().items()}


def source_hash() -> str:
    """sha256 over the Python sources of `workloads` and `harness.training`, tests and benchmarks left out."""
    digest = hashlib.sha256()
    for package in (workloads, harness.training):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
            if not path.name.startswith(("test_", "bench_", "conftest", "contract")):
                digest.update(f"{package.__name__}/{path.relative_to(root).as_posix()}\n".encode())
                digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def difference(found: Any, wanted: Any, path: str = "") -> str | None:
    """Says where two JSON-ready values first differ, as `path: found, now wanted`; None where they are equal."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(k for k in found if k not in wanted)]:
            here = f"{path}.{key}" if path else str(key)
            if key not in found or key not in wanted:
                return f"{here} is {'new' if key in wanted else 'gone'}"
            if (inner := difference(found[key], wanted[key], here)) is not None:
                return inner
        return None
    return None if found == wanted else f"{path} was {_short(found)}, is now {_short(wanted)}"


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _short(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _settings(place: PlannedTrial) -> dict[str, Any]:
    trial = place.trial
    return {
        **{f"workload.{name}": value for name, value in describe_workload(trial.workload).items()},
        **trial.hyperparameters,
        "batch_size": trial.batch_size,
        "steps": trial.steps,
        "optimizer": trial.optimizer,
        "schedule": trial.schedule,
        "curvature_examples": trial.curvature_examples,
        "curvature_steps": list(trial.curvature_steps),
        "noise_steps": list(trial.noise_steps),
        "accumulation": trial.accumulation,
        **{name: getattr(trial, name) for name, usual in LATER.items() if getattr(trial, name) != usual},
        "evaluation_batch_size": trial.evaluation_batch_size,
        "evaluation_steps": list(trial.evaluation_steps),
        "replicate": place.replicate,
    }
