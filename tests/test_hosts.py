"""One trial over several devices and hosts, as users start it: processes with forced devices."""

import json
import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pyarrow.parquet
import pytest

from harness.records import InputError
from harness.train import plan
from harness.training.checkpoints import Checkpoints
from harness.training.devices import check_divisible, data_mesh
from harness.training.hosts import join
from harness.training.programs import Programs

STEPS = 20
SETTINGS = {"steps": STEPS, "learning_rate": 0.02, "batch_size": 16, "evaluation_batch_size": 50}

TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}
"""Of losses and statistics between different numbers of devices, which sum in another order, over 20 steps."""

LAYOUTS = {"1": (1, 1), "2": (2, 1), "8": (8, 1), "2x2": (2, 2)}
"""Name to devices of a host and hosts."""


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def start(devices, cache, *arguments):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(processes):
    ended = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    return [out for out, _, _ in ended], [err for _, err, _ in ended], [code for _, _, code in ended]


def train(out, cache, layout, **settings):
    devices, hosts = LAYOUTS[layout]
    options = [f"--set={name}={value}" for name, value in {**SETTINGS, **settings}.items()]
    command = ["-m", "harness", "train", "resnet", "--scale=smoke", f"--out={out}", *options]
    at = f"localhost:{free_port()}"
    which = [[f"--hosts={host}/{hosts}@{at}"] for host in range(hosts)] if hosts > 1 else [[]]
    outs, errors, codes = finish([start(devices, cache, *command, *one) for one in which])
    assert codes == [0] * hosts, errors
    return outs, errors, out / "train" / "resnet" / "smoke-seed0"


def curves(folder):
    [row] = pyarrow.parquet.read_table(folder / "trials.parquet").to_pylist()
    names = ("train_loss", "gradient_norm", "evaluation_loss", "evaluation_error")
    return {name: np.array(row[f"curve.{name}"]) for name in names}


def statistics(folder, **settings):
    """Running averages of the last checkpoint."""
    trial = plan("resnet", "smoke", 0, {name: str(value) for name, value in {**SETTINGS, **settings}.items()})
    checkpoints = Checkpoints(folder / "checkpoints", "error")
    try:
        return jax.tree.map(np.asarray, checkpoints.restore(Programs(trial).blank_state()).state.model_state)
    finally:
        checkpoints.close()


ROADS = {
    "stream": {"dataset": "photo_patches_jpeg", "virtual_batch_size": 6},
    "arrays": {"dataset": "photo_patches"},
}
"""Data from disk, each host's part, with virtual batches that fit no device's share; and data on every device."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Gives the folder of a run, made once."""
    cache, found = tmp_path_factory.mktemp("cache"), {}

    def one(road, layout):
        if (road, layout) not in found:
            out = tmp_path_factory.mktemp("out")
            found[road, layout] = train(out, cache, layout, **ROADS[road])
        return found[road, layout]

    return one


@pytest.mark.parametrize(
    ("road", "layout"),
    [pytest.param("stream", "2", marks=pytest.mark.slow), ("stream", "8"), ("stream", "2x2"), ("arrays", "2x2")],
)
def test_devices_and_hosts_change_nothing_but_rounding(run, road, layout):
    _, _, alone = run(road, "1")
    _, _, together = run(road, layout)
    expected = curves(alone)
    assert len(expected["train_loss"]) == STEPS
    for name, curve in curves(together).items():
        np.testing.assert_allclose(curve, expected[name], **TOLERANCE, err_msg=name)
    found, wanted = (statistics(folder, **ROADS[road]) for folder in (together, alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), found, wanted)


def test_one_host_speaks_and_writes(run):
    (first, second), (progress, silence), folder = run("stream", "2x2")
    assert "fingerprint: " in first
    assert f"step     {STEPS} of {STEPS}" in progress
    assert "results" not in second
    assert "step " not in silence
    result = json.loads((folder / "result.json").read_text())
    assert result["provenance"]["device"].endswith(", 4 devices on 2 hosts")


def test_a_finished_run_is_not_repeated_by_any_host(run, tmp_path):
    _, _, folder = run("stream", "2x2")
    before = (folder / "result.json").read_bytes()
    outs, _, _ = train(folder.parents[2], tmp_path, "2x2", **ROADS["stream"])
    assert json.loads(before)["fingerprint"] in outs[0]
    compiled = [path for path in (tmp_path / "playbook-bench").glob("*/*-cache")]
    assert not compiled


def test_hosts_that_would_run_different_trials_are_refused(tmp_path):
    at = f"localhost:{free_port()}"
    command = ["-m", "harness", "train", "resnet", "--scale=smoke", f"--out={tmp_path}"]
    processes = [start(1, tmp_path, *command, f"--hosts={host}/2@{at}", f"--seed={host}") for host in (0, 1)]
    _, errors, codes = finish(processes)
    assert codes == [2, 2]
    for error in errors:
        assert re.search(
            r"^playbook: hosts disagree on trials: host 0 has sha256 \w+, host 1 has \w+; give", error, re.M
        )


def test_hosts_that_disagree_on_data_are_refused(tmp_path):
    code = """
import sys
from harness.records import InputError
from harness.training.hosts import agree, join
host = int(sys.argv[1])
join(f"{host}/2@{sys.argv[2]}")
agree({"source": "a" * 64, "data": "b" * 64})
try:
    agree({"source": "a" * 64, "data": ("b" if host else "c") * 64})
except InputError as error:
    print(error)
"""
    at = f"localhost:{free_port()}"
    outs, errors, codes = finish([start(1, tmp_path, "-c", code, str(host), at) for host in (0, 1)])
    assert codes == [0, 0], errors
    expected = (
        "hosts disagree on data: host 0 has sha256 cccccccccccc, host 1 has bbbbbbbbbbbb; give all hosts the same "
    )
    assert [out.splitlines()[-1] for out in outs] == [f"{expected}data and start them again"] * 2


@pytest.mark.parametrize("specification", ["2/2@a:1", "0@a:1", "0/2@a", "yes", ""])
def test_hosts_are_named_in_full(specification):
    with pytest.raises(InputError, match=f"^--hosts '{specification}': expected HOST/HOSTS@ADDRESS:PORT"):
        join(specification)


def test_batches_divide_by_the_devices():
    class Mesh:
        size = 8

    check_divisible(16, Mesh)
    check_divisible(3, None)
    with pytest.raises(InputError, match=r"^batch_size 20: expected a multiple of the 8 devices, such as 16; "):
        check_divisible(20, Mesh)


def test_one_device_needs_no_mesh():
    assert jax.device_count() == 1
    assert data_mesh() is None
