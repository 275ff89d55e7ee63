"""How long `playbook diagnose` takes, start of Python included: `pytest tests/bench_diagnose.py --benchmark-only`."""

import json
import subprocess
import sys

import numpy as np
import pytest


@pytest.fixture(params=["60 trials", "1,000 trials with two curves of 1,000 points", "100,000 trials"])
def table(request, tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "table.jsonl"
    count = int(request.param.split()[0].replace(",", ""))
    names = ("learning_rate", "momentum", "weight_decay", "label_smoothing")
    steps = np.arange(1000)
    with path.open("w") as file:
        for point in random.random((count, len(names))):
            error = 0.1 + float(((point - 0.5) ** 2).sum())
            row = dict(zip(names, point.tolist(), strict=True))
            if count == 1000:
                noise = random.normal(0, 0.01, (2, len(steps)))
                row["validation_error"] = (error + np.exp(-steps / 150) + noise[0]).tolist()
                row["train_error"] = (np.exp(-steps / 200) + noise[1]).tolist()
            else:
                row["validation_error"] = error
            file.write(json.dumps(row) + "\n")
    return path


def test_diagnose(table, benchmark):
    command = [sys.executable, "-m", "harness", "diagnose", str(table), "--out", str(table.parent / "page")]
    benchmark.pedantic(lambda: subprocess.run(command, check=True, capture_output=True), rounds=5, warmup_rounds=1)
