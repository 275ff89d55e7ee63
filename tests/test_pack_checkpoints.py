import pytest

from harness.studies import pack_checkpoints
from harness.studies.pack_checkpoints import PackCheckpoints, forget, pack_folder
from harness.training.programs import Programs
from harness.training.run import run_pack
from tests.stand_in import stand_in_trial

STOPS = (5, 10, 15, 20)


class Killed(Exception):
    pass


def trials(count, **changes):
    return [stand_in_trial(replicate, evaluation_steps=STOPS, **changes) for replicate in range(count)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A pack's, below a result folder; every evaluation saves."""
    monkeypatch.setattr(pack_checkpoints, "SECONDS_BETWEEN", 0.0)
    result = tmp_path / "result"
    result.mkdir()
    return pack_folder(result, ["a", "b"])


def run(folder, pack, killed_after=None):
    """Runs a pack in programs of its own; gives its outcomes, and after how many steps it was evaluated."""
    steps = []

    def evaluated(step, metrics):
        steps.append(step)
        if step == killed_after:
            raise Killed

    checkpoints = None if folder is None else PackCheckpoints(folder)
    try:
        return run_pack(Programs(pack[0], len(pack)), pack, checkpoints=checkpoints, on_evaluation=evaluated), steps
    finally:
        if checkpoints is not None:
            checkpoints.close()


def kill(folder, pack, step):
    with pytest.raises(Killed):
        run(folder, pack, step)


def assert_same_bits(found, whole):
    for one, other in zip(found, whole, strict=True):
        assert (one.status, one.reason, one.results) == (
            other.status,
            other.reason,
            pytest.approx(other.results, abs=0, nan_ok=True),
        )
        assert {name: curve.tobytes() for name, curve in one.curves.items()} == {
            name: curve.tobytes() for name, curve in other.curves.items()
        }


def steps_of(folder):
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_killed_pack_goes_on_with_the_bits_of_an_undisturbed_one(folder, lanes):
    pack = trials(lanes)
    whole, steps = run(None, pack)
    assert steps == list(STOPS)
    kill(folder, pack, 10)
    found, steps = run(folder, pack)
    assert steps == [15, 20]
    assert_same_bits(found, whole)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_damaged_checkpoint_is_passed_over(folder, all_of_them):
    """The last, behind which the best is kept; or both, where the pack begins anew."""
    pack = trials(1, learning_rate=1.0)
    whole, _ = run(None, pack)
    kill(folder, pack, 15)
    best, last = steps_of(folder)
    for step in (best, last) if all_of_them else (last,):
        for path in step.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, steps = run(folder, pack)
    assert steps == [step for step in STOPS if all_of_them or step > int(best.name)]
    assert_same_bits(found, whole)


def test_a_short_pack_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(pack_checkpoints, "SECONDS_BETWEEN", 60.0)
    kill(folder, trials(1), 15)
    assert not folder.parent.exists()


def test_nothing_is_written_where_there_is_no_result_folder(folder):
    folder.parents[1].rmdir()
    kill(folder, trials(1), 15)
    assert not folder.parents[1].exists()


def test_a_finished_pack_is_forgotten(folder):
    other = pack_folder(folder.parents[1], ["b", "a"])
    for pack in (folder, other):
        kill(pack, trials(1), 10)
    forget(folder)
    assert not folder.exists()
    assert other.exists()
    forget(other)
    assert not folder.parent.exists()
    forget(other)  # which is not there any more
