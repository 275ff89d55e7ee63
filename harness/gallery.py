"""Reads every result folder of `OUT` and writes the gallery, `OUT/index.html`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from harness.experiments.experiment import SCALES, Experiment, experiments
from harness.recorded import has_verdict, own_flips, recorded_flips
from harness.records import InputError, did_you_mean
from harness.report.gallery import MOST_TRIALS, GalleryResult, ShownTrial, Trained, gallery_page

_RESULT_FOLDER = re.compile(r".+-seed\d+(-control)?")
_CURVE = "curve.train_loss"


def gallery(out: Path) -> Path:
    """Writes one page of every experiment's results below a folder.

    Args:
      out: the folder of all results.

    Returns:
      The page, `OUT/index.html`.

    Raises:
      InputError: no result, one that cannot be read or is damaged, or the page cannot be written.
    """
    folders = list(_result_folders(out))
    if not folders:
        raise InputError(
            f"--out {out} holds no result of an experiment: expected EXPERIMENT/SCALE-seedN/result.json below it; "
            "run playbook reproduce first, or name another folder"
        )
    known = experiments()
    page = gallery_page([_read(folder, out, known) for folder in folders])
    path = out / "index.html"
    try:
        path.write_text(page, "utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); make room and repeat the command") from None
    return path


def _result_folders(out: Path) -> Iterator[Path]:
    for path in sorted(out.glob("*/*/result.json")):
        if _RESULT_FOLDER.fullmatch(path.parent.name):  # results that were moved aside have a longer one
            yield path.parent


def _read(folder: Path, out: Path, known: Mapping[str, Experiment]) -> GalleryResult:
    result = _read_result(folder / "result.json")
    name = result["experiment"]
    if name not in known:
        raise InputError(
            f"{folder / 'result.json'} is of an unknown experiment {name!r}{did_you_mean(name, known)}; expected one "
            "that playbook list shows; remove its folder, or install the version that made it"
        )
    try:
        figure = (folder / "figure.svg").read_text("utf-8")
        if "<svg" not in figure:
            raise ValueError
    except (OSError, ValueError):
        raise InputError(_damaged(folder / "figure.svg", "an SVG")) from None
    return GalleryResult(
        experiment=known[name],
        result=result,
        figure_svg=figure,
        flips=_flips(folder, result),
        trained=_trained(folder / "trials.parquet"),
        link=quote((folder / "index.html").relative_to(out).as_posix()),
    )


def _read_result(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text("utf-8"))
        claims = result["claims"]
        sound = (
            result["scale"] in SCALES
            and type(result["seed"]) is int
            and type(result["control"]) is bool
            and isinstance(result.get("overrides", {}), dict)  # which older versions did not write
            and all(map(has_verdict, claims))
            and all(isinstance(claim[key], str) for claim in claims for key in ("text", "rule"))
            and all(isinstance(claim["level"], int | float) and "reason" in claim for claim in claims)
            and all(type(result["trials"][status]) is int for status in ("complete", "infeasible"))
            and isinstance(result["seconds"], int | float)
            and all(isinstance(result["provenance"][key], str) for key in ("device", "command", "written"))
            and isinstance(result["provenance"].get("commit"), str | None)
            and all(isinstance(result["provenance"][key], dict) for key in ("data", "versions"))
            and isinstance(result["experiment"], str)
            and isinstance(result["fingerprint"], str)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise InputError(_damaged(path, "JSON as playbook reproduce writes it"))
    return result


def _damaged(path: Path, expected: str) -> str:
    return (
        f"{path} is damaged or missing: expected {expected}; repeat the playbook reproduce of its folder with --fresh, "
        "or remove the folder"
    )


def _flips(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The folder's own flip maps, else the recorded ones, as on its own page; those are of no control and no --set."""
    if own := own_flips(folder):
        return own
    if result["control"] or result.get("overrides"):
        return {}
    return recorded_flips(result["experiment"], result["scale"], result["provenance"]["device"])


def _trained(path: Path) -> Trained:
    """What stands in a trial table; the curves only of the trials that are shown."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        classes = json.loads(schema.metadata[b"column_classes"])
        names = [name for name in schema.names if not name.startswith("curve.")]
        rows = pq.read_table(path, columns=names).to_pylist()
        shown = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_TRIALS)).round().astype(int))
        curves = pq.read_table(path, columns=[_CURVE]).column(0)
        losses = curves.take(pa.array(shown)).to_pylist()
        lengths = pc.list_value_length(curves).to_pylist()
        steps = [n for n, row in zip(lengths, rows, strict=True) if row["status"] == "complete" and n] or [0]
        hyperparameters = [
            name for name in names if classes[name] == "hyperparameter" and name not in ("study", "arm", "address")
        ]
        workloads = dict.fromkeys(f"{row['workload.name']} on {row['workload.dataset']}" for row in rows)
        return Trained(
            trials=len(rows),
            arms=list(dict.fromkeys(row["arm"] for row in rows)),
            workloads=list(workloads),
            steps=(min(steps), max(steps)),
            # A trial that arms share was trained once.
            seconds=sum({row["address"]: row["trial_seconds"] or 0.0 for row in rows}.values()),
            shown=[
                ShownTrial(
                    arm=rows[i]["arm"],
                    replicate=rows[i]["replicate"],
                    hyperparameters={name: rows[i][name] for name in hyperparameters},
                    status=rows[i]["status"],
                    error=rows[i]["final_error"],
                    loss=np.array(loss or [], np.float32),
                )
                for i, loss in zip(shown.tolist(), losses, strict=True)
            ],
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        raise InputError(_damaged(path, "a trial table")) from None
