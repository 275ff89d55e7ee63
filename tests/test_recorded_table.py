import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import InputError, TrialRecord
from harness.report.recorded_table import Place, Recorded, packed, unpacked, without_curves

ONE = Place("one", "laptop", 0, False)
OTHER = Place("other", "laptop", 0, False)


def trial(hyperparameters=None, results=None, timings=None, **fields):
    own = {"study": "rates", "arm": "narrow", "replicate": 0, "address": "a" * 64, "seeds": {"init": 7}}
    own |= {"status": "complete", "reason": None, "curves": {}}
    return TrialRecord(
        **{**own, **fields},
        hyperparameters=hyperparameters or {},
        results=results or {},
        timings=timings or {},
    )


def there_and_back(results, folder):
    path = folder / "trials.parquet"
    path.write_bytes(packed(results))
    return unpacked(path)


def values(place, records, folder):
    """The rows of one result, as a reader finds them."""
    (folder / "trials.parquet").write_bytes(packed({place: Recorded("f", records)}))
    return pq.read_table(folder / "trials.parquet")


numbers = st.one_of(st.floats(), st.floats(width=32))
names = st.sampled_from(["a", "b", "c.d", "workload.depth"])
hyperparameter = st.one_of(numbers, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=5))
records = st.builds(
    trial,
    hyperparameters=st.dictionaries(names, hyperparameter),
    results=st.dictionaries(st.sampled_from(["best_error", "final_error"]), numbers),
    seeds=st.dictionaries(st.sampled_from(["init", "order"]), st.integers(0, 2**63 - 1)),
    study=st.text(max_size=5),
    replicate=st.integers(0, 10),
    reason=st.one_of(st.none(), st.text(max_size=5)),
)
places = st.builds(
    Place, st.sampled_from(["one", "other"]), st.sampled_from(["laptop", "x"]), st.integers(0, 9), st.booleans()
)


def exact(record):
    """Everything of a record as text, in which a NaN is a NaN's equal; whole numbers may come back as fractions."""

    def shown(value):
        return repr(float(value) if type(value) is int and abs(value) <= 2**53 else value)

    return [(name, kind, shown(value)) for name, kind, value in record.columns()]


class TestPacked:
    @settings(deadline=None)  # the first call imports pyarrow
    @given(results=st.dictionaries(places, st.lists(records, min_size=1, max_size=4), max_size=4))
    def test_there_and_back(self, results, tmp_path_factory):
        recorded = {place: Recorded(str(number), found) for number, (place, found) in enumerate(results.items())}
        back = there_and_back(recorded, tmp_path_factory.mktemp("table"))
        assert set(back) == set(results)
        for place, found in back.items():
            assert found.fingerprint == recorded[place].fingerprint
            assert [exact(record) for record in found.records] == [exact(record) for record in results[place]]

    @settings(deadline=None)  # the first call imports pyarrow
    @given(results=st.dictionaries(places, st.lists(records, min_size=1, max_size=3), min_size=1, max_size=3))
    def test_equal_bytes_in_any_order(self, results):
        recorded = {place: Recorded("f", found) for place, found in results.items()}
        assert packed(recorded) == packed(dict(reversed(recorded.items())))

    def test_results_that_are_float32_stay_so(self, tmp_path):
        loss = float(np.float32(0.1))
        back = there_and_back({ONE: Recorded("f", [trial(results={"final_loss": loss})])}, tmp_path)
        assert np.float32(back[ONE].records[0].results["final_loss"]) == np.float32(0.1)
        assert back[ONE].records[0].results["final_loss"] == loss

    def test_a_nan_is_a_value_and_a_lack_is_null(self, tmp_path):
        found = values(ONE, [trial(results={"final_loss": float("nan")}), trial()], tmp_path)["final_loss"]
        assert [value.is_valid for value in found] == [True, False]
        assert np.isnan(found[0].as_py())

    def test_columns_and_their_classes(self, tmp_path):
        one = trial({"learning_rate": 0.1, "alone": True}, {"final_error": 0.5}, {"seconds_per_step": 0.01})
        table = values(ONE, [one], tmp_path)
        assert json.loads(table.schema.metadata[b"column_classes"]) == {
            "experiment": "hyperparameter",
            "scale": "hyperparameter",
            "seed": "seed",
            "control": "hyperparameter",
            "address": "hyperparameter",
            "arm": "hyperparameter",
            "study": "hyperparameter",
            "alone": "hyperparameter",
            "learning_rate": "hyperparameter",
            "replicate": "seed",
            "seed.init": "seed",
            "reason": "result",
            "status": "result",
            "final_error": "result",
            "seconds_per_step": "timing",
        }
        assert table.column_names == list(json.loads(table.schema.metadata[b"column_classes"]))
        assert table.to_pylist() == [
            {
                **ONE._asdict(),
                **{"address": "a" * 64, "arm": "narrow", "study": "rates", "alone": True, "learning_rate": 0.1},
                **{"replicate": 0, "seed.init": 7, "reason": None, "status": "complete"},
                **{"final_error": 0.5, "seconds_per_step": 0.01},
            }
        ]

    @pytest.mark.parametrize(
        ("kept", "type"),
        [
            ([1, 2], "int64"),
            ([2**63 - 1, None], "int64"),
            ([1, 0.5], "double"),
            ([0.5, None], "double"),
            ([True, False], "bool"),
            (["a", "b"], "string"),
        ],
    )
    def test_types(self, tmp_path, kept, type):
        table = values(ONE, [trial({} if value is None else {"x": value}) for value in kept], tmp_path)
        assert str(table.schema.field("x").type) == type
        assert table["x"].to_pylist() == kept

    @pytest.mark.parametrize("kept", [[0.5, "a"], [True, 1], [True, "true"], [2**53 + 1, 0.5], [1, "1", 2.5, None]])
    def test_several_kinds_are_json(self, tmp_path, kept):
        found = [trial({} if value is None else {"x": value}) for value in kept]
        table = values(ONE, found, tmp_path)
        assert json.loads(table.schema.metadata[b"json_columns"]) == ["x"]
        assert table["x"].to_pylist() == [None if value is None else json.dumps(value) for value in kept]
        assert unpacked(tmp_path / "trials.parquet")[ONE].records == found

    def test_a_kind_in_each_of_two_results(self, tmp_path):
        results = {ONE: Recorded("f", [trial({"x": 0.5})]), OTHER: Recorded("g", [trial({"x": "half"})])}
        back = there_and_back(results, tmp_path)
        assert back == results

    def test_a_row_group_a_result(self, tmp_path):
        """Of results with very many rows too, so that one is read without the others."""
        path = tmp_path / "trials.parquet"
        many = [trial() for _ in range(3000)]
        path.write_bytes(packed({ONE: Recorded("f", many), OTHER: Recorded("g", many[:2])}))
        file = pq.ParquetFile(path)
        assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [3000, 2]
        assert list(unpacked(path, lambda place: place == OTHER)) == [OTHER]
        groups = [file.metadata.row_group(number).column(0).statistics.min for number in range(2)]
        assert groups == ["one", "other"]

    @pytest.mark.parametrize("clash", [trial({"seed": 3}), trial({"scale": "x"}), trial({"a": 1}, {"a": 1.0})])
    def test_a_name_of_two_columns(self, clash):
        with pytest.raises(ValueError, match="is of two classes"):
            packed({ONE: Recorded("f", [clash])})


class TestWithoutCurves:
    def test_timings_of_a_trial_that_shared_the_machine_go(self):
        timings, curves = {"trial_seconds": 1.0}, {"train_loss": np.zeros(3, np.float32)}
        assert without_curves(trial({"alone": False}, timings=timings, curves=curves)) == trial({"alone": False})
        assert without_curves(trial(timings=timings, curves=curves)) == trial()
        assert without_curves(trial({"alone": True}, timings=timings)) == trial({"alone": True}, timings=timings)


class TestUnpacked:
    def test_no_file(self, tmp_path):
        assert unpacked(tmp_path / "trials.parquet") == {}

    def test_cut_anywhere(self, tmp_path):
        path = tmp_path / "trials.parquet"
        whole = packed({ONE: Recorded("f", [trial({"x": 0.5}) for _ in range(9)])})
        for length in range(0, len(whole), 97):
            path.write_bytes(whole[:length])
            assert_damaged(path)

    @pytest.mark.parametrize(
        "metadata",
        [
            None,
            {},
            {"column_classes": "{}", "json_columns": "[]", "results": "[]"},
            {"column_classes": "{", "json_columns": "[]", "results": "[]"},
            {"column_classes": '{"x": "hyperparameter"}', "json_columns": "[]", "results": "[1]"},
            {"column_classes": '{"x": "hyperparameter"}', "json_columns": "[]", "results": '[{"experiment": "one"}]'},
        ],
    )
    def test_another_table(self, tmp_path, metadata):
        path = tmp_path / "trials.parquet"
        pq.write_table(pa.table({"x": [1, 2]}).replace_schema_metadata(metadata), path)
        assert_damaged(path)


def assert_damaged(path):
    with pytest.raises(InputError, match=f"recorded trials {re.escape(str(path))} are damaged.*record") as caught:
        unpacked(path)
    assert "\n" not in str(caught.value)
