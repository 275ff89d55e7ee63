"""On a real cluster of two nodes of one CPU each, on this machine."""

import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
import types
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.records import InputError
from harness.studies.processes import run_trials
from tests.conftest import marked_processes, wait_until
from tests.executor_contract import NARROW, TRIALS, ExecutorContract, bits
from tests.stand_in import FOLDER, TRIALS_OF_STUDY, StandIn, calls, stand_in_study, stand_in_trial
from tests.test_reproduce import elsewhere, release, stored

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402

from harness.studies import ray_fleet  # noqa: E402


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """`address`, `add()` and `kill(node)`, its `nodes`, and `follow()`.

    What its workers find in their environment was fixed when it started: folders that `follow` makes links to those of
    the driver's environment.
    """
    links = tmp_path_factory.mktemp("links")

    def follow():
        for name in (FOLDER, "XDG_CACHE_HOME"):
            (links / name).unlink(missing_ok=True)
            (links / name).symlink_to(os.environ.get(name) or tmp_path_factory.mktemp("empty"))

    follow()
    with pytest.MonkeyPatch.context() as patch:
        for name in (FOLDER, "XDG_CACHE_HOME"):
            patch.setenv(name, str(links / name))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes = [made.head_node]

        def add():
            with pytest.MonkeyPatch.context() as again:
                for name in (FOLDER, "XDG_CACHE_HOME"):
                    again.setenv(name, str(links / name))
                nodes.append(made.add_node(num_cpus=1))

        add()
    yield SimpleNamespace(
        address=made.address,
        add=add,
        kill=lambda node: (nodes.remove(node), made.remove_node(node, allow_graceful=False)),
        nodes=nodes,
        follow=follow,
    )
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
class TestRay(ExecutorContract):
    executor = "ray"
    packed_by = "processes"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def on_the_cluster(cls, cluster):
        cls.cluster = cluster

    @classmethod
    def run(cls, trials, jobs=1, on_finished=lambda trial: None, **begun):
        cls.cluster.follow()
        return super().run(trials, jobs, on_finished, ray_address=cls.cluster.address, **begun)

    def test_the_bits_are_those_of_processes(self, first):
        found = {}
        run_trials(TRIALS, 1, lambda _: None, lambda *_: None, lambda t, o: found.update({t.address(): bits(o)}))
        assert found == first.bits

    def test_workers_have_one_thread(self, first):
        assert {call["environment"]["NPROC"] for call in first.calls} == {"1"}

    def test_a_trial_over_several_devices_has_them(self, faults):
        trial = stand_in_trial(devices=2)
        assert self.run([trial], jobs=2).addresses == [trial.address()]
        assert {c["environment"]["XLA_FLAGS"].split()[-1] for c in calls(faults)} == {
            "--xla_force_host_platform_device_count=2"
        }

    def test_trials_that_run_alone_take_turns_in_one_worker(self, faults):
        run = self.run([stand_in_trial(replicate, alone=True) for replicate in range(3)], jobs=2)
        assert len(run.addresses) == 3
        assert len({call["pid"] for call in calls(faults)}) == 1


@pytest.fixture
def asked(cluster, tmp_path, monkeypatch):
    """Runs trials on the cluster; `calls(tmp_path)` are theirs."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    TestRay.cluster = cluster
    return TestRay.run


def test_other_code_is_refused(asked, monkeypatch, tmp_path):
    monkeypatch.setattr("harness.studies.ray_fleet.source_hash", lambda: "1" * 64)
    line = r"^a worker on \S+ has source [0-9a-f]{64}, this driver has 1{64}; install the same version of "
    with pytest.raises(InputError, match=line):
        asked(NARROW)
    assert calls(tmp_path) == []


def test_other_data_are_refused(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(StandIn, "data_hashes", lambda self: {"synthetic": "1" * 64})
    line = r"^a worker on \S+ has synthetic 0{64}, this driver has 1{64}; give every node the same data set synthetic$"
    with pytest.raises(InputError, match=line):
        asked(NARROW)
    assert calls(tmp_path) == []


def test_a_workload_that_nodes_lack_is_named(asked, monkeypatch):
    module = types.ModuleType("only_here")
    module.OnlyHere = type("OnlyHere", (StandIn,), {"__module__": "only_here"})
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(InputError, match=r"^a node of the cluster has No module named 'only_here'; install"):
        asked([stand_in_trial(workload=module.OnlyHere())])


@pytest.fixture
def held(cluster, stand_in_finished, tmp_path, monkeypatch):
    """A study on the cluster whose two last trials of each group wait for their files to go."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "faults"))
    (tmp_path / "faults").mkdir()
    for seed in {place.trial.seeds["split"] for place in stand_in_study().plan(0) if place.replicate == 2}:
        (tmp_path / "faults" / f"hold-{seed}").touch()
    cluster.follow()
    study = elsewhere(stand_in_finished, tmp_path / "out")
    study.faults = tmp_path / "faults"
    return study


def meet_in_the_middle(start, study, *where):
    """Starts the study on Ray; gives the driver, and the workers of trials that are held."""
    driver = start(*study.arguments, "--executor", "ray", *where, module=study.module)
    seeds = {int(path.name.removeprefix("hold-")) for path in study.faults.glob("hold-*")}

    def holding():
        assert driver.process.poll() is None, driver.finish().stderr
        pids = {call["pid"] for call in calls(study.faults) if call["seed"] in seeds}
        return stored(study.folder) >= 2 and len(pids) == 2 and pids

    return driver, wait_until(holding, "two stored trials and two held ones")


def alive(pid):
    return os.path.exists(f"/proc/{pid}")


def test_a_node_that_is_killed_costs_only_time(start, cluster, held, stand_in_finished):
    driver, pids = meet_in_the_middle(start, held, "--ray-address", cluster.address)
    cluster.kill(cluster.nodes[-1])
    try:
        (lost,) = wait_until(lambda: [pid for pid in pids if not alive(pid)], "the worker to die with its node")
        release(held)
        done = driver.finish()
    finally:
        cluster.add()
    assert done.status == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["fingerprint"] == stand_in_finished.result["fingerprint"]
    assert stored(held.folder) == TRIALS_OF_STUDY
    again = {call["seed"] for call in calls(held.faults) if call["pid"] == lost}
    assert again & {call["seed"] for call in calls(held.faults) if call["pid"] != lost}


@pytest.mark.slow
def test_nodes_come_and_go(start, cluster, smoke_finished, tmp_path):
    """Three nodes are killed at random moments of the study, the first soon; another stands by, or joins."""
    cluster.follow()
    cluster.add()
    study = elsewhere(smoke_finished, tmp_path / "out")
    driver = start(*study.arguments, "--executor", "ray", "--ray-address", cluster.address, module=study.module)
    wait_until(lambda: stored(study.folder) >= 1, "the first trial")
    moments, met = random.Random(0), 0
    for _ in range(3):
        time.sleep(moments.uniform(0, 2))
        met += driver.process.poll() is None
        cluster.kill(cluster.nodes[-2])
        cluster.add()
    done = driver.finish()
    cluster.kill(cluster.nodes[-2])
    assert done.status == 0, done.stderr
    assert met > 0
    assert json.loads(done.stdout)["fingerprint"] == smoke_finished.result["fingerprint"]
    assert json.loads(done.stdout)["trials"] == smoke_finished.result["trials"]


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along(start, cluster, held, stand_in_finished):
    driver, pids = meet_in_the_middle(start, held, "--ray-address", cluster.address)
    before = stored(held.folder)
    os.kill(driver.process.pid, signal.SIGKILL)
    driver.process.wait()
    wait_until(lambda: not any(map(alive, pids)), "the workers to end")
    assert stored(held.folder) == before
    release(held)
    done = start(*held.arguments, "--executor", "ray", "--ray-address", cluster.address, module=held.module).finish()
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["fingerprint"] == stand_in_finished.result["fingerprint"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_cluster_of_its_own_ends_with_the_driver(start, held, stand_in_finished, sent, status):
    """No process of Ray stays, nor any file; another executor goes on from what is finished."""
    folders = set(Path("/tmp").glob("playbook-ray-*"))
    driver, pids = meet_in_the_middle(start, held, "--jobs", "2")
    before = stored(held.folder)
    assert len(set(marked_processes(driver.mark)) - pids) > 3
    assert set(Path("/tmp").glob("playbook-ray-*")) > folders
    begin = time.monotonic()
    if sent == signal.SIGKILL:
        driver.process.kill()
    else:
        os.killpg(driver.process.pid, sent)
    done = driver.finish()
    took = time.monotonic() - begin
    driver.wait_for_no_process()
    print(f"{sent.name}: {took:.1f} s to the driver's end, {time.monotonic() - begin:.1f} s to the last process's")
    assert (done.status, done.stdout) == (status, "")
    assert "Traceback" not in done.stderr
    if sent != signal.SIGKILL:
        last = done.stderr.strip().splitlines()[-1]
        assert last == "interrupted; finished trials are kept, the same command continues"
    assert before <= stored(held.folder) < TRIALS_OF_STUDY
    assert set(Path("/tmp").glob("playbook-ray-*")) <= folders
    release(held)
    done = start(*held.arguments, "--executor", "processes", module=held.module).finish()
    assert json.loads(done.stdout)["fingerprint"] == stand_in_finished.result["fingerprint"]


@pytest.fixture
def other_server():
    """The address of something that is no Ray cluster."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("127.0.0.1:1", "nothing answers there"),
        ("127.0.0.1:123456", "nothing answers there"),
        ("cluster", "expected HOST:PORT"),
        ("cluster:port", "expected HOST:PORT"),
        ("auto", "nothing answers there"),  # what the environment names
        ("other_server", "what answers there is no Ray cluster"),
    ],
)
def test_a_wrong_address(start, stand_in_finished, tmp_path, address, line, request):
    if address == "other_server":
        address = request.getfixturevalue(address)
    study = elsewhere(stand_in_finished, tmp_path / "out")
    where = ("--executor", "ray", "--ray-address", address)
    done = start(*study.arguments, *where, module=study.module, RAY_ADDRESS="127.0.0.1:1").finish()
    assert done.status == 2
    assert done.stdout == ""
    (found,) = [text for text in done.stderr.splitlines() if text.startswith("playbook:")]
    assert found.startswith(f"playbook: --ray-address {address!r}: {line}")
    assert "Traceback" not in done.stderr
    shutil.rmtree(study.out)


def test_an_address_is_for_the_executor_ray(start, stand_in_finished, tmp_path):
    study = elsewhere(stand_in_finished, tmp_path / "out")
    done = start(*study.arguments, "--ray-address", "head:6379", module=study.module).finish()
    assert done.status == 2
    expected = "playbook: --ray-address 'head:6379': only the executor ray takes it; add --executor ray\n"
    assert done.stderr == expected
    assert not study.out.exists()


@pytest.mark.parametrize("ended", [ConnectionError("Could not find any running Ray instance."), None])
def test_auto_where_no_cluster_runs(monkeypatch, ended):
    """Ray raises where none has ever run, and finds none where one has."""

    def find(address):
        if ended is not None:
            raise ended

    monkeypatch.setattr(ray_fleet, "canonicalize_bootstrap_address", find)
    with pytest.raises(InputError, match=r"^--ray-address 'auto': no Ray cluster runs on this machine; expected"):
        ray_fleet._check_reachable("auto")
