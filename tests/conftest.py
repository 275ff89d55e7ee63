"""What many tests share: a compilation cache of the session's own, a finished smoke study, processes by their mark."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.register_assert_rewrite("tests.executor_contract", "tests.importer_contract", "tests.sampler_contract")

ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds before a test that waits for an event gives up
MARK = "PLAYBOOK_TEST_MARK"


@pytest.fixture(scope="session", autouse=True)
def session_environment(tmp_path_factory):
    """Compiled programs in a folder of the session, and `tests` importable in every process that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
        patch.syspath_prepend(str(ROOT))
        yield


def finish_study(name, out, module):
    """Runs an experiment at scale smoke to its end: `arguments`, `out`, `folder`, `result`, `stdout`."""
    arguments = ["reproduce", name, "--scale", "smoke", "--out", str(out), "--json"]
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = out / name / "smoke-seed0"
    result = json.loads((folder / "result.json").read_text())
    return SimpleNamespace(
        arguments=arguments, out=out, folder=folder, result=result, stdout=done.stdout, name=name, module=module
    )


@pytest.fixture(scope="session")
def stand_in_finished(tmp_path_factory):
    """The finished stand-in study."""
    return finish_study("stand-in", tmp_path_factory.mktemp("stand_in"), "tests.stand_in")


@pytest.fixture(scope="session")
def rounds_finished(tmp_path_factory):
    """The finished stand-in study of several rounds."""
    return finish_study("stand-in-rounds", tmp_path_factory.mktemp("rounds"), "tests.stand_in")


@pytest.fixture(scope="session")
def smoke_finished(tmp_path_factory):
    """The finished smoke study of stride-instability, which takes a minute or two where nothing is compiled."""
    return finish_study("stride-instability", tmp_path_factory.mktemp("smoke"), "harness")


@pytest.fixture
def study_copy(stand_in_finished, tmp_path):
    """A copy of the finished stand-in study that a test may harm."""
    out = tmp_path / "copy"
    shutil.copytree(stand_in_finished.out, out)
    arguments = [str(out) if word == str(stand_in_finished.out) else word for word in stand_in_finished.arguments]
    folder = out / stand_in_finished.folder.relative_to(stand_in_finished.out)
    return SimpleNamespace(**{**vars(stand_in_finished), "arguments": arguments, "out": out, "folder": folder})


def wait_until(condition, what):
    """Waits for an event; fails where it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.02)
    return found


def marked_processes(mark):
    """Pids of the living processes that carry a mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


class Driver:
    """A `playbook` command in a session of its own, whose workers can be told by a mark."""

    def __init__(self, *arguments, module="tests.stand_in", **environment):
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A suite in the background of a script ignores SIGINT, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, **environment, MARK: self.mark},
        )

    def finish(self):
        stdout, stderr = self.process.communicate(timeout=PATIENCE)
        return SimpleNamespace(status=self.process.returncode, stdout=stdout, stderr=stderr)

    def kill_all(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.finish()

    def wait_for_no_process(self):
        wait_until(lambda: not marked_processes(self.mark), "the last process to end")


@pytest.fixture
def start():
    """Starts drivers, and kills whatever is left of them in the end."""
    drivers = []

    def begin(*arguments, **options):
        drivers.append(Driver(*arguments, **options))
        return drivers[-1]

    yield begin
    for driver in drivers:
        for pid in marked_processes(driver.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        driver.process.kill()
        driver.process.communicate()
