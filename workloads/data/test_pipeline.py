import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.data.pipeline import batches
from workloads.workload import DataError, Stream


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """An endless order without epochs."""

    examples: int

    def __getitem__(self, position):
        return (7 * position + 3) % self.examples


def prepare(record, generator):
    return {"record": np.int32(record), "draw": generator.random(2, np.float32)}


def refuse_five(record, generator):
    if record == 5:
        raise DataError("record 5 does not decode; prepare it again")
    return prepare(record, generator)


def stream(examples=11, prepare=prepare):
    return Stream(range(examples), prepare)


def read(start, stop, batch_size=6, **named):
    return list(batches(stream(), Shuffled(11), 5, batch_size, start, stop, **named))


def bits(found):
    return [{name: values.tobytes() for name, values in batch.items()} for batch in found]


def test_batches_follow_the_order():
    found = read(2, 4)
    assert [batch["record"].tolist() for batch in found] == [
        [Shuffled(11)[position] for position in range(6 * step, 6 * step + 6)] for step in (2, 3)
    ]
    assert found[0]["draw"].shape == (6, 2)


def test_every_position_has_randomness_of_its_own():
    draws = np.concatenate([batch["draw"] for batch in read(0, 4)])
    assert len(np.unique(draws)) == draws.size
    other = list(batches(stream(), Shuffled(11), 6, 6, 0, 4))
    assert not np.any(np.concatenate([batch["draw"] for batch in other]) == draws)


def test_nothing_is_read_of_no_steps():
    assert read(3, 3) == []


@given(start=st.integers(0, 20), cut=st.integers(0, 3))
@settings(derandomize=True, deadline=None, max_examples=10)
def test_a_resume_goes_on_with_the_same_batches(start, cut):
    whole = bits(read(start, start + 3))
    assert bits(read(start, start + cut)) + bits(read(start + cut, start + 3)) == whole


@given(hosts=st.sampled_from([1, 2, 3, 6]), start=st.integers(0, 20))
@settings(derandomize=True, deadline=None, max_examples=10)
def test_hosts_share_every_batch(hosts, start):
    shares = [read(start, start + 2, host=host, hosts=hosts) for host in range(hosts)]
    together = [
        {name: np.concatenate([share[step][name] for share in shares]) for name in ("record", "draw")}
        for step in (0, 1)
    ]
    assert bits(together) == bits(read(start, start + 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(workers):
    assert bits(read(0, 7, workers=workers)) == bits(read(0, 7))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_does_not_decode_is_named(workers):
    with pytest.raises(DataError, match=r"^record 5 does not decode; prepare it again$"):
        list(batches(stream(prepare=refuse_five), Shuffled(11), 5, 6, 0, 3, workers))
