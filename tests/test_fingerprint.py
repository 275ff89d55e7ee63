import dataclasses
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import TrialRecord
from harness.studies.fingerprint import fingerprint

NAN = float("nan")
OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_DEAD_0001))[0]
NAN_PAYLOADS = np.array([0x7FC00000, 0xFFC00001, 0x7F800001], "<u4").view("<f4")


def record(address="a", **changes):
    fields = {
        "study": "rates",
        "arm": "narrow",
        "replicate": 0,
        "address": address,
        "hyperparameters": {"learning_rate": 0.1, "optimizer": "heavy_ball"},
        "seeds": {"init": 1, "order": 2},
        "status": "complete",
        "reason": None,
        "results": {"final_error": 0.25, "sharpness": NAN},
        "curves": {"train_loss": np.array([2.0, np.nan, 0.5], np.float32)},
        "timings": {"trial_seconds": 1.5},
    }
    return TrialRecord(**{**fields, **changes})


RECORDS = [record("a"), record("b", replicate=1), record("c", arm="wide"), record("d", study="other")]


def test_pinned_value():
    """Fingerprints of different versions are compared: what goes into one must not change unnoticed."""
    assert fingerprint([record()]) == "d9f3f777990ae89826b14dd2ba69c92428c42f48967578b4a6bf0609cd276baa"


@given(st.permutations(RECORDS))
def test_the_order_of_rows_plays_no_part(records):
    assert fingerprint(records) == fingerprint(RECORDS)


def test_the_order_of_names_plays_no_part():
    turned = {
        field: dict(reversed(getattr(RECORDS[0], field).items()))
        for field in ("hyperparameters", "seeds", "results", "curves", "timings")
    }
    assert fingerprint([dataclasses.replace(RECORDS[0], **turned)]) == fingerprint(RECORDS[:1])


@pytest.mark.parametrize("timings", [{}, {"trial_seconds": 9.0}, {"trial_seconds": 1.5, "compile_seconds": 3.0}])
def test_timings_play_no_part(timings):
    assert fingerprint([record(timings=timings)]) == fingerprint([record()])


@pytest.mark.parametrize("payload", range(len(NAN_PAYLOADS)))
def test_the_payload_of_a_nan_plays_no_part(payload):
    curve = np.array([2.0, 0, 0.5], "<f4")
    curve[1] = NAN_PAYLOADS[payload]
    assert curve.view("<u4")[1] == NAN_PAYLOADS.view("<u4")[payload]  # it was not lost on the way
    changed = record(curves={"train_loss": curve}, results={"final_error": 0.25, "sharpness": OTHER_NAN})
    assert fingerprint([changed]) == fingerprint([record()])


def test_hashing_leaves_curves_as_they_are():
    curve = NAN_PAYLOADS.copy()
    fingerprint([record(curves={"train_loss": curve})])
    np.testing.assert_array_equal(curve.view("<u4"), NAN_PAYLOADS.view("<u4"))


@given(
    curve=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8),
    place=st.integers(0, 7),
    bit=st.integers(0, 31),
)
def test_every_bit_of_a_curve_counts(curve, place, bit):
    before = np.array(curve, "<f4")
    after = before.copy()
    after.view("<u4")[place % len(curve)] ^= np.uint32(1 << bit)
    hashes = {fingerprint([record(curves={"train_loss": points})]) for points in (before, after)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"study": "others"},
        {"arm": "wider"},
        {"replicate": 1},
        {"hyperparameters": {"learning_rate": 0.2, "optimizer": "heavy_ball"}},
        {"hyperparameters": {"learning_rate": 0.1, "optimizer": "nesterov"}},
        {"hyperparameters": {"rate": 0.1, "optimizer": "heavy_ball"}},
        {"seeds": {"init": 1, "order": 3}},
        {"seeds": {"init": 1, "split": 2}},
        {"seeds": {"init": 2, "order": 1}},
        {"status": "infeasible"},
        {"reason": "the training loss was not finite at step 3"},
        {"results": {"final_error": float(np.nextafter(np.float32(0.25), np.float32(1))), "sharpness": NAN}},
        {"results": {"final_error": 0.25, "sharpness": 0.0}},
        {"results": {"final_loss": 0.25, "sharpness": NAN}},
        {"results": {"final_error": 0.25}},
        {"curves": {"train_loss": np.array([2.0, np.nan], np.float32)}},
        {"curves": {"loss": np.array([2.0, np.nan, 0.5], np.float32)}},
        {"curves": {"train_loss": np.array([2.0, np.nan, 0.5], np.float32), "empty": np.zeros(0, np.float32)}},
    ],
    ids=repr,
)
def test_everything_else_counts(changes):
    assert fingerprint([record(**changes)]) != fingerprint([record()])


def test_the_number_of_rows_counts():
    assert len({fingerprint(rows) for rows in ([], RECORDS[:1], RECORDS[:2], RECORDS[:1] * 2)}) == 4


def test_names_and_values_do_not_run_together():
    one = record(results={"a": 1.0}, curves={"b": np.array([2.0], np.float32)})
    assert fingerprint([one]) != fingerprint([record(results={"a": 1.0, "b": 2.0}, curves={})])
