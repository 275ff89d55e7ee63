import contextlib
import importlib.resources
import io
import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.recorded import FLIPS, expected_seconds, own_flips, recorded_flips, recorded_trials
from harness.records import InputError
from harness.report.recorded_table import Place, Recorded, packed, without_curves
from tests import made_up_results
from tests.made_up_records import record

PACKAGE = Path(str(importlib.resources.files("baselines")))
CARD = PACKAGE / "TRIALS.md"
LARGEST = 5_000_000  # bytes, of all baselines together


def kept(folder, seeds=(0,)):
    """Baselines of a stand-in with made-up trials, one of which stands in two studies."""
    results = {}
    for seed in seeds:
        trials = [without_curves(record("rates", number, [1.0], error=seed + number)) for number in range(3)]
        trials += trials[:1]  # another study's too
        results[Place("stand-in", "laptop", seed, False)] = Recorded("f", trials)
        results[Place("stand-in", "laptop", seed, True)] = Recorded("g", trials[:2])
        results[Place("stand-in", "accelerator", seed, False)] = Recorded("h", trials[:2])
        path = folder / "laptop" / "stand-in" / f"laptop-seed{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"fingerprint": "f", "trials": {"complete": 2, "infeasible": 1}}))
    (folder / "laptop" / "trials.parquet").write_bytes(packed(results))
    return folder


class TestRecordedTrials:
    def test_by_seed_controls_and_other_scales_left_out(self, tmp_path):
        found = recorded_trials("stand-in", "laptop", "AMD EPYC", kept(tmp_path, seeds=(10, 2)))
        assert list(found) == [2, 10]
        for seed, records in found.items():
            assert [record.results["final_error"] for record in records] == [seed, seed + 1, seed + 2, seed]
            assert all(record.curves == {} for record in records)

    @pytest.mark.parametrize(
        ("experiment", "scale", "device"),
        [("another", "laptop", None), ("stand-in", "smoke", None), ("stand-in", "laptop", "NVIDIA H200")],
    )
    def test_what_is_not_recorded(self, tmp_path, experiment, scale, device):
        assert recorded_trials(experiment, scale, device, kept(tmp_path)) == {}

    @pytest.mark.parametrize(
        "result",
        [
            {"fingerprint": "e", "trials": {"complete": 3, "infeasible": 0}},
            {"fingerprint": "f", "trials": {"complete": 4, "infeasible": 0}},
            {"fingerprint": "f"},
            [],
            None,
        ],
    )
    def test_trials_of_another_result(self, tmp_path, result):
        path = kept(tmp_path) / "laptop" / "stand-in" / "laptop-seed0.json"
        if result is None:
            path.unlink()
        else:
            path.write_text(json.dumps(result))
        with pytest.raises(InputError, match=f"seed 0 are not those of {path}.*record the result again") as caught:
            recorded_trials("stand-in", "laptop", None, tmp_path)
        assert "\n" not in str(caught.value)

    def test_a_damaged_file(self, tmp_path):
        path = kept(tmp_path) / "laptop" / "trials.parquet"
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(InputError, match=f"recorded trials {path} are damaged") as caught:
            recorded_trials("stand-in", "laptop", None, tmp_path)
        assert "\n" not in str(caught.value)


def shipped():
    return [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


class TestThePackage:
    def test_it_is_small(self):
        assert sum(path.stat().st_size for path in shipped()) < LARGEST

    def test_every_recorded_result_has_its_trials(self):
        """Whose number and fingerprint are the result's, or reading them fails."""
        results = [json.loads(path.read_text()) for path in PACKAGE.glob("*/*/*-seed[0-9]*.json") if is_result(path)]
        assert results
        for result in results:
            found = recorded_trials(result["experiment"], result["scale"], result["provenance"]["device"])
            statuses = {record.address: record.status for record in found[result["seed"]]}
            counts = {status: list(statuses.values()).count(status) for status in ("complete", "infeasible")}
            assert counts == result["trials"], result["experiment"]

    def test_every_recorded_flip_map_can_be_read(self):
        paths = list(PACKAGE.glob("*/*/*.flips.json"))
        assert paths
        for path in paths:
            found = json.loads(path.read_text())
            assert recorded_flips(found["experiment"], found["scale"], found["device"]) == found, path

    def test_no_other_trials(self):
        for path in PACKAGE.glob("*/trials.parquet"):
            for place in json.loads(pq.read_schema(path).metadata[b"results"]):
                name = f"{place['scale']}-seed{place['seed']}{'-control' if place['control'] else ''}.json"
                assert (path.parent / place["experiment"] / name).exists()

    def test_wheels_have_it(self):
        """All but the figures."""
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
        patterns = project["tool"]["setuptools"]["package-data"]["baselines"]
        left_out = {
            path.suffix
            for path in shipped()
            if not any(fnmatch("/" + path.relative_to(PACKAGE).as_posix(), pattern) for pattern in patterns)
        }
        assert left_out == {".py", ".png"}


def is_result(path):
    return not path.name.endswith((".flips.json", "-control.json"))


def counts():
    """The table of the data card."""
    table = pq.read_table(PACKAGE / "laptop" / "trials.parquet")
    columns = table.select(["experiment", "address", "status", "arm", "workload.name"]).to_pydict()
    rows = list(zip(*columns.values(), strict=True))
    lines = ["| experiment | rows | trials | infeasible | arms | workloads |", "|---|---|---|---|---|---|"]
    for experiment in (*sorted({row[0] for row in rows}), None):
        own = [row for row in rows if experiment in (row[0], None)]
        trials = {(address, status) for _, address, status, _, _ in own}
        infeasible = sum(status == "infeasible" for _, status in trials)
        arms = len({row[3] for row in own}) if experiment else ""
        workloads = ", ".join(f"`{name}`" for name in sorted({row[4] for row in own})) if experiment else ""
        name = f"`{experiment}`" if experiment else "all"
        lines.append(f"| {name} | {len(own):,} | {len(trials):,} | {infeasible:,} | {arms} | {workloads} |")
    return "\n".join(lines)


class TestTheDataCard:
    def test_its_counts(self):
        """To write them anew, print `counts()`."""
        found = re.search("<!-- counts -->\n(.*)\n<!-- counts end -->", CARD.read_text(), re.DOTALL)
        assert found
        assert found[1].strip() == counts()

    def test_it_names_every_result_and_timing(self):
        schema = pq.read_schema(PACKAGE / "laptop" / "trials.parquet")
        classes = json.loads(schema.metadata[b"column_classes"])
        card = CARD.read_text()
        for name, kind in classes.items():
            assert f"`{name}`" in card or kind == "hyperparameter", name

    def test_its_code_prints_what_it_says(self):
        pytest.importorskip("pandas")
        *code, printed = re.findall("```(?:python)?\n(.*?)```", CARD.read_text(), re.DOTALL)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec("".join(code), {})
        assert output.getvalue() == printed


SOUND = made_up_results.flips([made_up_results.claim("a.b", "reproduced")])


def of_claim(place, **fields):
    """Maps in which a claim of the chosen setting or of a cell has other fields, None for none."""
    flips = json.loads(json.dumps(SOUND))
    claim = (flips if place == "chosen" else flips["cells"][0])["claims"][0]
    claim.update(fields)
    for name in [name for name, value in fields.items() if value is None]:
        del claim[name]
    return json.dumps(flips)


DAMAGED = [
    "",
    "[]",
    "{}",
    "\x00",
    '{"claims": 1, "cells": []}',
    '{"claims": {}, "cells": []}',
    '{"claims": [], "cells": [{}]}',
    '{"claims": [], "cells": [{"axis": ["steps"], "factor": 2.0}]}',
    '{"claims": [], "cells": [{"axis": "steps", "factor": 2.0, "unavailable": 1}]}',
    '{"claims": [1], "cells": []}',
    *(
        of_claim(place, **{name: value})
        for place in ("chosen", "cell")
        for name, value in [
            *((name, None) for name in ("id", "verdict", "effect", "interval", "n")),
            ("verdict", "proved"),
            ("effect", "0.1"),
            ("interval", [0.1]),
            ("interval", ["0.1", "0.2"]),
            ("n", "12"),
        ]
    ),
]


@pytest.mark.parametrize("content", DAMAGED)
def test_flip_maps_that_cannot_be_read_are_none(tmp_path, content):
    (tmp_path / FLIPS).write_text(content)
    assert own_flips(tmp_path) == {}


def test_sound_flip_maps_are_read(tmp_path):
    (tmp_path / FLIPS).write_text(json.dumps(SOUND))
    assert own_flips(tmp_path) == SOUND


@pytest.fixture
def recorded_folder(monkeypatch, tmp_path):
    """The folder of a stand-in's baselines, in place of the package's."""
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    folder = tmp_path / "laptop" / "stand-in"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("content", [*DAMAGED, None])
def test_recorded_flip_maps_that_are_damaged_are_named(recorded_folder, content):
    """Nothing writes them anew, so that they must be restored."""
    path = recorded_folder / "laptop-seed0.flips.json"
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=f"^recorded {path} is damaged: .*; restore the file, ") as caught:
        recorded_flips("stand-in", "laptop", "AMD EPYC")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", '"', '{"seconds": "90"}', None])
def test_recorded_times_that_are_damaged_are_named(recorded_folder, content):
    path = recorded_folder / "laptop-seed0.json"
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=f"^recorded {path} is damaged: .*; restore the file, ") as caught:
        expected_seconds(["other", "stand-in"], "laptop")
    assert "\n" not in str(caught.value)


def test_an_experiment_that_was_not_recorded_is_expected_to_take_the_mean(recorded_folder):
    (recorded_folder / "laptop-seed0.json").write_text('{"seconds": 90.0}')
    assert expected_seconds(["stand-in", "other"], "laptop") == {"stand-in": 90.0, "other": 90.0}
    assert expected_seconds(["other"], "laptop") == {"other": 1.0}
