import dataclasses
import itertools
import math
import time
from typing import ClassVar

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import InputError
from harness.train import plan
from harness.training import profile
from harness.training.programs import Programs
from harness.training.run import TRACED_DISPATCH, TRACED_INPUT
from tests.stand_in import StandIn, stand_in_trial
from workloads.workload import Splits, Stream

END = 30
TIMES = st.integers(0, END)
SETS = st.lists(st.tuples(TIMES, TIMES).map(sorted), max_size=6).map(
    lambda pairs: np.array(pairs, float).reshape(-1, 2)
)


def cells(intervals):
    """The unit cells of 0 to END that intervals with whole ends cover."""
    return {cell for start, end in intervals for cell in range(int(start), int(end))}


@given(SETS)
def test_union_covers_the_same_in_disjoint_ascending_intervals(intervals):
    merged = profile.union(intervals)
    assert cells(merged) == cells(intervals)
    assert profile.length(merged) == len(cells(intervals))
    assert np.all(merged[1:, 0] > merged[:-1, 1])


@given(SETS, SETS)
def test_intersection_is_what_both_cover(one, other):
    common = profile.intersection(profile.union(one), profile.union(other))
    assert cells(common) == cells(one) & cells(other)
    assert profile.length(common) == len(cells(common))


@given(SETS)
def test_gaps_are_what_is_left(intervals):
    left = profile.gaps(profile.union(intervals), 0, END)
    assert cells(left) == set(range(END)) - cells(intervals)
    assert profile.length(left) == len(cells(left))


@given(st.lists(TIMES, min_size=2, unique=True).map(sorted), SETS, SETS, SETS)
def test_every_moment_is_computes_inputs_or_the_hosts(starts, inputs, operations, copies):
    window = set(range(starts[0], starts[-1]))
    busy = cells(operations) & window
    lacks_steps = set()
    for start, stop in itertools.pairwise(starts):
        last = max(busy & set(range(start, stop)), default=start - 1)
        lacks_steps |= set(range(last + 1, stop))
    waiting = (cells(inputs) & lacks_steps) | (cells(copies) & window - busy)
    expected = len(waiting) / len(window), len(busy) / len(window)
    assert profile.shares(starts, inputs, operations, copies) == pytest.approx(expected)
    assert not waiting & busy


def line(name, *events):
    """A line of a trace, in its text form: events of (name, start, duration) in ns, and the steps of some."""
    written = []
    for number, _, start, duration, *steps in events:
        stats = f"stats {{ metadata_id: 1 int64_value: {steps[0]} }}" if steps else ""
        times = f"offset_ps: {start * 1000} duration_ps: {duration * 1000}"
        written.append(f"events {{ metadata_id: {number} {times} {stats} }}")
    return f'lines {{ name: "{name}" timestamp_ns: 1000 {" ".join(written)} }}'


def plane(name, stat, **lines):
    """A plane of a trace, in its text form."""
    names = sorted({event[0] for events in lines.values() for event in events})
    numbers = {name: number for number, name in enumerate(names, 1)}
    known = " ".join(f'event_metadata {{ key: {n} value {{ id: {n} name: "{e}" }} }}' for e, n in numbers.items())
    stats = f'stat_metadata {{ key: 1 value {{ id: 1 name: "{stat}" }} }}'
    held = (line(key, *((numbers[event[0]], *event) for event in events)) for key, events in lines.items())
    return f'planes {{ name: "{name}" {known} {stats} {" ".join(held)} }}'


def keep(folder, *planes):
    file = folder / "plugins" / "profile" / "then" / "here.xplane.pb"
    file.parent.mkdir(parents=True)
    file.write_bytes(jax.profiler.ProfileData.text_proto_to_serialized_xspace(" ".join(planes)))


HANDED = [(TRACED_DISPATCH, start, 1, 4) for start in (0, 100, 200, 300)]
"""Pieces of 4 steps; the first warms up, so 100 to 300 counts."""
LINES_OF_ACCELERATORS = {"GPU": "Stream #14(Compute)", "TPU": "XLA Ops"}


@pytest.mark.parametrize("kind", LINES_OF_ACCELERATORS)
def test_reads_the_first_accelerator_by_its_operations(tmp_path, kind):
    inputs = [(TRACED_INPUT, start + 1, 79) for start in (0, 100, 200)]
    operations = [("fusion", 101, 20), ("fusion", 131, 20), ("fusion", 201, 50)]
    host = plane("/host:CPU", "steps", python=HANDED + inputs)
    own = {LINES_OF_ACCELERATORS[kind]: operations, "XLA Modules": [("jit_train", 0, 300)], "Steps": [("0", 0, 300)]}
    other = {LINES_OF_ACCELERATORS[kind]: [("fusion", 0, 300)]}
    keep(tmp_path, plane(f"/device:{kind}:1", "", **other), host, plane(f"/device:{kind}:0", "", **own))
    found = profile.read(tmp_path)
    assert (found.steps, found.seconds) == (8, pytest.approx(200e-9))
    assert found.compute == pytest.approx(90 / 200)
    assert found.input == pytest.approx((29 + 29) / 200)  # from 151 to 180 and from 251 to 280
    assert found.input + found.compute + found.host == pytest.approx(1)
    assert found.input_bound
    assert "--workers" in found.advice


def test_waiting_for_examples_to_be_copied_to_the_device_is_input(tmp_path):
    copies = [("MemcpyH2D", start + 5, 45) for start in (100, 200)]
    results = [("MemcpyD2H", start + 90, 5) for start in (100, 200)]
    operations = [("fusion", 150, 40), ("fusion", 240, 50)]
    streams = {"Stream #14(Compute)": operations, "Stream #15(Memcpy)": copies + results}
    keep(tmp_path, plane("/host:CPU", "steps", python=HANDED), plane("/device:GPU:0", "", **streams))
    found = profile.read(tmp_path)
    assert (found.input, found.compute) == pytest.approx((80 / 200, 90 / 200))


def test_gaps_between_operations_are_the_hosts_even_while_it_prepares_examples(tmp_path):
    inputs = [(TRACED_INPUT, start + 1, 90) for start in (0, 100, 200)]
    operations = [("fusion", start, 5) for start in range(105, 300, 10)]
    host = plane("/host:CPU", "steps", python=HANDED + inputs)
    keep(tmp_path, host, plane("/device:GPU:0", "", **{"Stream #14(Compute)": operations}))
    found = profile.read(tmp_path)
    assert (found.input, found.compute, found.host) == pytest.approx((0, 0.5, 0.5))
    assert not found.input_bound
    assert "larger chunk" in found.advice


def test_a_trace_that_is_not_a_profiles_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no trace \(\*\.xplane\.pb\); make one with"):
        profile.read(tmp_path)
    operations = plane("/device:GPU:0", "", **{"Stream #14(Compute)": [("fusion", 0, 9)]})
    keep(tmp_path / "short", plane("/host:CPU", "steps", python=HANDED[:2]), operations)
    with pytest.raises(InputError, match=r"at least 3 times 'playbook\.dispatch', but 2; repeat"):
        profile.read(tmp_path / "short")
    keep(tmp_path / "idle", plane("/host:CPU", "steps", python=HANDED))
    with pytest.raises(InputError, match="does not hold operations of a device; repeat"):
        profile.read(tmp_path / "idle")


def decode_slowly(record, generator):
    time.sleep(0.003)  # more than the training step of a whole batch takes
    return record


@dataclasses.dataclass(frozen=True)
class SlowlyDecoded(StandIn):
    """The stand-in as streams whose every example takes a while."""

    name: ClassVar[str] = "slowly_decoded"

    def data(self, split_seed):
        splits = super().data(split_seed)
        return Splits(self._stream(splits.train), self._stream(splits.validation))

    def _stream(self, examples):
        records = [{name: values[row] for name, values in examples.items()} for row in range(len(examples["label"]))]
        return Stream(records, decode_slowly)


def test_a_workload_that_decodes_slowly_is_input_bound(tmp_path):
    trial = stand_in_trial(workload=SlowlyDecoded())
    found = profile.measure(Programs(trial, chunk=8), trial, tmp_path / "trace")
    assert found.steps == max(profile.PIECES, math.ceil(profile.STEPS / 8)) * 8
    assert found.input_bound
    assert found.input > found.compute
    assert found.advice.startswith("input-bound")
    assert found.input + found.compute + found.host == pytest.approx(1)
    assert min(found[2:5]) >= 0
    assert profile.read(tmp_path / "trace") == found
    assert list((tmp_path / "trace").rglob("*.trace.json.gz"))


def test_a_workload_on_the_device_is_not_input_bound(tmp_path):
    trial = plan("wide_resnet", "smoke", 0, {"warmup_steps": "3", "learning_rate": "1e30"})  # would diverge
    found = profile.measure(Programs(trial, chunk=16), trial, tmp_path)
    assert found.steps == profile.PIECES * 16
    assert not found.input_bound
    assert found.advice.startswith("not input-bound")
    assert found.compute > found.input


@dataclasses.dataclass(frozen=True)
class NotFinite(StandIn):
    """The stand-in with examples that are not numbers."""

    name: ClassVar[str] = "not_finite"

    def data(self, split_seed):
        splits = super().data(split_seed)
        broken = {**splits.train, "image": np.full_like(splits.train["image"], np.nan)}
        return Splits(broken, splits.validation)


def test_a_loss_that_is_never_finite_and_a_folder_that_cannot_be_are_refused(tmp_path):
    trial = stand_in_trial(workload=NotFinite())
    with pytest.raises(InputError, match="nothing to profile: the training loss was not finite at step 1"):
        profile.measure(Programs(trial, chunk=4), trial, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/trace cannot be written"):
        profile.measure(Programs(trial, chunk=4), trial, tmp_path / "file" / "trace")
