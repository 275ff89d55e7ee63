from pathlib import Path

import pytest

from workloads.data.made_once import made_once
from workloads.workload import DataError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "playbook-bench" / "things"


def put(text):
    return lambda folder: (folder / "file").write_text(text)


def test_it_is_made_once(cache):
    folder = made_once("things", "one", put("first"))
    assert folder == cache / "one"
    assert made_once("things", "one", put("second")) == folder
    assert (folder / "file").read_text() == "first"
    assert [path.name for path in cache.iterdir()] == ["one"]


def test_by_default_below_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert made_once("things", "one", put("")) == tmp_path / ".cache" / "playbook-bench" / "things" / "one"


def test_the_faster_of_two_processes_wins(cache):
    def overtaken(folder: Path) -> None:
        put("slower")(folder)
        made_once("things", "one", put("faster"))

    folder = made_once("things", "one", overtaken)
    assert (folder / "file").read_text() == "faster"
    assert [path.name for path in cache.iterdir()] == ["one"]


def test_a_failure_leaves_nothing(cache):
    def fail(folder: Path) -> None:
        put("half")(folder)
        raise DataError("no such text")

    with pytest.raises(DataError, match=r"^no such text$"):
        made_once("things", "one", fail)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"^.*/things/one cannot be written \(.+\); .*XDG_CACHE_HOME") as caught:
        made_once("things", "one", put(""))
    assert len(str(caught.value).splitlines()) == 1
