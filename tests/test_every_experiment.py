"""Every experiment of the catalogue and its control run from the command to the page, at `smoke`."""

import json

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.experiments.experiment import experiments


@pytest.mark.slow
@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("name", experiments())
def test_it_runs_at_smoke(name, control, tmp_path):
    arguments = ["reproduce", name, "--scale", "smoke", "--out", str(tmp_path), *(["--control"] if control else [])]
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    folder = tmp_path / name / ("smoke-seed0-control" if control else "smoke-seed0")
    result = json.loads((folder / "result.json").read_text())
    assert (result["judged"], result["claims"]) == (False, [])
    assert sum(result["trials"].values()) > 0
    assert (folder / "figure.png").stat().st_size > 20_000
    assert name in (folder / "index.html").read_text()
