"""`playbook batch-size`: what is measured, and what is decided from it."""

import dataclasses
import json
import math
import os
from multiprocessing import parent_process

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.procedures.batch_size import decide, read_sizes, read_steps
from harness.procedures.step_time import ROUNDS, StepTime, step_time
from harness.records import InputError
from harness.report.batch_size import COLUMNS, batch_size_page, rows
from tests.stand_in import StandIn, stand_in_trial


def measured(size, seconds, input_share=0.0):
    return StepTime(size, True, None, 1000 * size, 1100 * size, (seconds, seconds, seconds), input_share, "a device")


def refused(size):
    return StepTime(size, False, "needs 9 bytes, 5 may be used", 9, None, (), math.nan, "a device")


FULL_AT_64 = [measured(16, 0.1), measured(32, 0.1), measured(64, 0.11), measured(128, 0.21), refused(256)]


class TestDecide:
    def test_says_where_doubling_stops_to_pay(self):
        decision = decide(FULL_AT_64, None)
        assert decision.values["doubling_stops_to_pay"] == 64
        assert decision.values["largest_fitting"] == 128
        assert [row["gain"] for row in decision.values["sizes"]] == [
            None,
            pytest.approx(2),
            pytest.approx(2 / 1.1),
            pytest.approx(1.1 / 1.05),
            None,
        ]
        assert [f.check for f in decision.findings] == ["memory", "throughput", "batch size", "input pipeline"]
        assert "256 does not: needs 9 bytes" in decision.findings[0].evidence
        assert decision.findings[2].advice.startswith("train with 64,")

    def test_one_slow_measurement_does_not_end_the_search(self):
        decision = decide([measured(16, 0.1), measured(32, 0.3), measured(64, 0.1), measured(128, 0.1)], None)
        assert decision.values["doubling_stops_to_pay"] is None
        (finding,) = (f for f in decision.findings if f.check == "throughput")
        assert "the device is not full yet" in finding.advice

    def test_an_input_pipeline_that_holds_training_up_comes_first(self):
        decision = decide([measured(16, 0.1, 0.5), measured(32, 0.2, 0.6)], None)
        assert decision.findings[0].check == "input pipeline"
        assert decision.values["input_bound"] == [16, 32]

    def test_least_time_and_least_cost_come_from_the_steps(self):
        decision = decide(FULL_AT_64, {16: 1000, 64: 300, 128: 160, 4096: 1})
        target = decision.values["target"]
        assert [row["batch_size"] for row in target["sizes"]] == [16, 64, 128]
        assert [row["seconds"] for row in target["sizes"]] == pytest.approx([100, 33, 33.6])
        # 128 examples in .21 s are the cheapest.
        assert [row["device_seconds"] for row in target["sizes"]] == pytest.approx([26.25, 31.5, 33.6])
        assert (target["least_time"], target["least_cost"]) == (64, 16)

    def test_steps_of_other_batch_sizes_are_refused(self):
        line = r"^--steps has batch sizes 8: expected some of those measured, 16, 32, 64, 128; see --sizes$"
        with pytest.raises(InputError, match=line):
            decide(FULL_AT_64, {8: 100})

    def test_a_limit_below_the_smallest_batch_is_one_line(self):
        with pytest.raises(
            InputError, match=r"^batch_size 256, the smallest: needs 9 bytes, .* raise --memory-limit, "
        ):
            decide([refused(256)], None)


class TestInput:
    def test_sizes_are_powers_of_two_up_to_the_data(self):
        assert read_sizes(None, 100) == [8, 16, 32, 64]
        assert read_sizes(None, 64) == [8, 16, 32, 64]
        assert read_sizes(None, 5) == [4]
        assert read_sizes("64, 16,64", 100) == [16, 64]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a", r"--sizes 'a': expected whole numbers from 1 on .*"),
            ("", r"--sizes '': expected whole numbers from 1 on .*"),
            ("0,8", r"--sizes '0,8': expected whole numbers from 1 on .*"),
            ("8,101", r"--sizes '8,101': expected at most 100, the size of the training set"),
        ],
    )
    def test_bad_sizes_are_one_line(self, text, message):
        with pytest.raises(InputError, match=f"^{message}$"):
            read_sizes(text, 100)

    def test_steps_are_read_from_their_columns(self, tmp_path):
        file = tmp_path / "steps.csv"
        file.write_text("steps,batch_size,critical\n100.5,8,no\n60,16,no\n")
        assert read_steps(file) == {8: 100.5, 16: 60}

    @pytest.mark.parametrize("text", ["", "batch_size\n8\n", "batch_size,steps\n8,\n", "batch_size,steps\n8,0\n", "\0"])
    def test_bad_steps_are_one_line(self, tmp_path, text):
        file = tmp_path / "steps.csv"
        file.write_text(text)
        with pytest.raises(InputError, match=r"^--steps .*steps.csv: expected a CSV with columns batch_size and steps"):
            read_steps(file)

    def test_missing_steps_are_one_line(self, tmp_path):
        with pytest.raises(InputError, match=r"^--steps .*none.csv: cannot be read \(No such file or directory\)$"):
            read_steps(tmp_path / "none.csv")


@dataclasses.dataclass(frozen=True)
class OutOfMemory(StandIn):
    """Runs out of memory in the process that measures it: by an error, or killed."""

    killed: bool = False
    message: str = "RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes"

    def loss(self, *arguments, **named):
        if parent_process() is not None:
            if self.killed:
                os._exit(9)
            raise RuntimeError(self.message)
        return super().loss(*arguments, **named)


class TestStepTime:
    def test_measures_time_and_memory(self):
        found = step_time(stand_in_trial(), None)
        assert found.fits and found.batch_size == 8
        assert len(found.seconds) == ROUNDS
        assert 0 < found.seconds[0] <= found.seconds_per_step <= found.seconds[-1]
        assert found.predicted_bytes > 0
        assert 0 <= found.input_share <= 1

    def test_what_is_predicted_not_to_fit_is_not_run(self):
        found = step_time(stand_in_trial(), 10)
        assert not found.fits and not found.seconds
        assert found.reason == f"needs {found.predicted_bytes:,} bytes, 10 may be used"

    @pytest.mark.parametrize(
        ("killed", "reason"), [(False, "out of memory"), (True, "its process ended with exit code 9")]
    )
    def test_running_out_of_memory_is_caught(self, killed, reason):
        found = step_time(stand_in_trial(workload=OutOfMemory(killed=killed)), None)
        assert (found.fits, found.reason, found.seconds) == (False, reason, ())

    def test_a_defect_is_not_taken_for_a_lack_of_memory(self):
        with pytest.raises(RuntimeError, match=r"batch size 8 could not be measured:(.|\n)*shapes differ"):
            step_time(stand_in_trial(workload=OutOfMemory(message="shapes differ")), None)


def test_the_page_and_the_table_have_every_size():
    decision = decide(FULL_AT_64, {16: 1000, 64: 300})
    table = rows(decision.values)
    assert [row[0] for row in table] == ["16", "32", "64", "128", "256"]
    assert all(len(row) == len(COLUMNS) for row in table)
    assert table[-1][-1] == "needs 9 bytes, 5 may be used"
    provenance = {
        "command": "playbook",
        "commit": None,
        "device": "a device",
        "versions": {},
        "data": {},
        "written": "",
    }
    page = batch_size_page(
        {
            "procedure": "batch-size",
            "workload": "<b>",
            "scale": "laptop",
            "set": {},
            "decision": decision.values,
            "findings": [dataclasses.asdict(finding) for finding in decision.findings],
            "provenance": provenance,
        }
    )
    assert "&lt;b&gt;" in page and "Batch sizes: <b>" not in page
    assert page.count("<figure") + page.count('role="img"') >= 4
    assert "time to the target" in page
    assert "trials.parquet" not in page and "fingerprint" not in page


def test_the_command_measures_and_writes(tmp_path):
    arguments = ["batch-size", "mlp", "--scale", "smoke", "--sizes", "8,16", "--out", str(tmp_path), "--json"]
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    result = json.loads(ran.stdout)
    assert [row["batch_size"] for row in result["decision"]["sizes"]] == [8, 16]
    folder = tmp_path / "batch-size" / "mlp" / "smoke"
    assert json.loads((folder / "result.json").read_text())["decision"] == result["decision"]
    assert "Batch sizes: mlp" in (folder / "index.html").read_text()
