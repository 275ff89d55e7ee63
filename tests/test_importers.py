import csv
import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.importers.importer import FORMATS, guess_format, read
from harness.records import InputError, TrialRecord
from harness.report.trial_table import write_parquet
from tests.importer_contract import STEPS, FileContract, FolderContract, study


def row(trial, **more):
    return {"trial": trial.name, **trial.settings, "seed": trial.seed, "status": trial.status, **more}


def csv_of(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def jsonl_of(tmp_path, rows):
    path = tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


class TestCsv(FileContract):
    format, objective = "csv", "val_error"

    def write(self, path, trials):
        with (path / "table.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row(study()[0], val_error=0)))
            writer.writeheader()
            writer.writerows(row(trial, val_error=trial.objective) for trial in trials)
        return path / "table.csv"

    def test_byte_order_mark_and_line_ends_do_not_matter(self, tmp_path):
        path = self.write(tmp_path, study())
        text = path.read_text()
        for other in ("\ufeff" + text, text.replace("\n", "\r\n"), text.rstrip("\n"), text + "\n\n"):
            table = read(csv_of(tmp_path, other))
            assert (table.trials, table.objective_name) == (tuple(t.name for t in study()), "val_error")
            assert list(table.hyperparameters) == ["learning_rate", "optimizer", "width", "momentum"]

    @pytest.mark.parametrize(
        "text, says",
        [
            ("lr,lr,val_loss\n1,2,3\n", "'lr' is there 2 times"),
            ("lr,,val_loss\n1,2,3\n", "column 2 has no name"),
            ("lr,val_loss\n1,2\n1\n", "row 2 has 1 cells and the header 2"),
            ("lr,val_loss\n1,2,3\n", "row 1 has 3 cells"),
            ("lr,val_loss\n", "holds no trial"),
            ("\n\n", "no columns"),
            ("lr;val_loss\n1;2\n", "semicolons"),
            ('lr,val_loss\n"1,2\n', "not CSV"),
            ("lr,val_loss\n1,2\nabc,3\n", "column 'lr' mixes types: '1' in trial '1', 'abc' in trial '2'"),
            ("lr,val_loss\n1,2\n1,bad\n", "column 'val_loss' mixes types"),
            ("lr,val_loss\n1,low\n2,high\n", "objective 'val_loss' holds 'low' in trial '1', not a number"),
            ("lr,val_loss\n1e999,2\n1,2\n", "not finite"),
            ("lr,width\n1,2\n2,3\n", "--objective"),
            ("lr,test_error\n1,2\n2,3\n", "--objective"),
            ("lr,objective\n1,2\n2,3\n", "--goal"),
            ("lr,status,val_loss\n1,weird,2\n", "'weird' of trial '1' is not a known status"),
            ("lr,status,val_loss\n1,running,2\n", "none of its trials is finished"),
            ("lr,study,val_loss\n1,a,2\n1,b,3\n", "more than one study: 'a', 'b'"),
            (b"lr,val_loss\n1,\xff\n", "byte 14 is not UTF-8"),
            ("lr,val_loss\n1,2\n".encode("utf-16"), "not UTF-8"),
        ],
    )
    def test_bad_table_is_refused(self, tmp_path, text, says):
        assert says in self.refuse(csv_of(tmp_path, text))

    def test_study_of_a_column_is_picked(self, tmp_path):
        path = csv_of(tmp_path, "lr,study,val_loss\n1,a#1,2\n2,b,3\n3,a#1,4\n")
        assert read(f"{path}#a#1").trials == ("1", "3")
        assert "no column of studies" in self.refuse(f"{csv_of(tmp_path, 'lr,val_loss,x' + chr(10) + '1,2,3')}#a")

    def test_status_or_objective_makes_a_trial_infeasible(self, tmp_path):
        lines = ["1,done,1", "2,FAILED,1", "3,TrialState.PRUNED,1", "4,,", "5,done,nan", "6,done,-inf", "7,done,1e999"]
        path = csv_of(tmp_path, "lr,state,val_loss\n" + "\n".join(lines).replace("TrialState.", ""))
        table = read(path)
        assert table.infeasible.tolist() == [False, True, False, True, True, True, True]
        assert np.isnan(table.objective[table.infeasible]).all()
        assert any("pruned" in line for line in table.warnings)

    def test_unfinished_trials_are_skipped_with_a_line(self, tmp_path):
        table = read(csv_of(tmp_path, "name,lr,state,val_loss\na,1,done,1\nb,2,running,\nc,3,waiting,\n"))
        assert table.trials == ("a",)
        assert [line.split()[1] for line in table.skipped] == ["'b'", "'c'"]

    def test_columns_that_are_no_hyperparameters_stay_out(self, tmp_path):
        header = (
            "id,lr,train_loss,test_accuracy,best_step,run_seconds,start_time,notes,rng_seed,val_acc,fixed,loss_weight"
        )
        rows = [f"{i},{i / 10},{i},{i},{i},{i},{i},n{i},{i},{i / 100},7,{i}" for i in range(3)]
        table = read(csv_of(tmp_path, "\n".join([header, *rows])))
        assert list(table.hyperparameters) == ["lr", "loss_weight"]
        assert list(table.seeds) == ["rng_seed"]
        assert table.goal == "max"
        said = next(line for line in table.warnings if "taken for results" in line)
        assert all(name in said for name in ("train_loss", "test_accuracy", "best_step"))

    def test_text_that_differs_in_every_trial_is_a_name(self, tmp_path):
        rows = [f"{i},experiment {i},{i + 1}" for i in range(20)]
        table = read(csv_of(tmp_path, "\n".join(["lr,label,val_loss", *rows])))
        assert list(table.hyperparameters) == ["lr"]
        assert any("'label'" in line for line in table.warnings)

    def test_numbers_of_the_objective_are_a_result_by_any_name(self, tmp_path):
        rows = [f"{i},{'' if i == 3 else i * i},{'' if i == 3 else i * i}" for i in range(20)]
        table = read(csv_of(tmp_path, "\n".join(["lr,what_i_measured,val_loss", *rows])))
        assert list(table.hyperparameters) == ["lr"]
        assert any("'what_i_measured'" in line for line in table.warnings)

    def test_guess_of_the_objective_is_said(self, tmp_path):
        table = read(csv_of(tmp_path, "lr,val_loss,val_error,train_error\n1,2,3,4\n2,3,4,5\n"))
        assert table.objective_name == "val_error"
        assert any("'val_error' rather than 'val_loss'" in line for line in table.warnings)
        table = read(csv_of(tmp_path, "lr,val_loss,val_error\n1,2,3\n2,3,4\n"), objective="val_loss")
        assert table.objective.tolist() == [2, 3]
        assert not any("taken to be" in line for line in table.warnings)

    def test_table_of_optuna_through_pandas(self, tmp_path):
        text = (
            ",number,value,datetime_start,duration,params_lr,user_attrs_host,state\n"
            "0,0,0.5,2026-01-01 00:00:00,0 days,0.1,a,COMPLETE\n1,1,,2026-01-01 00:00:01,0 days,0.2,b,FAIL\n"
        )
        table = read(csv_of(tmp_path, text), goal="min")
        assert list(table.hyperparameters) == ["params_lr"]
        assert table.infeasible.tolist() == [False, True]

    def test_missing_cells(self, tmp_path):
        text = (
            "clip, schedule, nesterov, val_loss\n1, none, True, 1\nnone, cosine, false, 2\n, , , 3\nN/A, none, NaN, 4\n"
        )
        table = read(csv_of(tmp_path, text + "2, cosine, true, 5\n"))
        np.testing.assert_array_equal(table.hyperparameters["clip"], [1, math.nan, math.nan, math.nan, 2])
        assert table.hyperparameters["schedule"].tolist() == ["none", "cosine", None, "none", "cosine"]
        assert table.hyperparameters["nesterov"].tolist() == [True, False, None, None, True]

    def test_large_seeds_stay_apart(self, tmp_path):
        seeds = [2**63 - 1, 2**63 - 2]
        assert float(seeds[0]) == float(seeds[1])
        text = csv_of(tmp_path, f"seed,val_loss,lr\n{seeds[0]},1,1\n{seeds[1]},2,1\n")
        lines = jsonl_of(tmp_path, [{"seed": seed, "val_loss": 1.0, "lr": 1} for seed in seeds])
        for path in (text, lines):
            assert read(path).seeds["seed"].tolist() == [str(seed) for seed in seeds]

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        values=st.lists(
            st.tuples(
                st.floats(allow_nan=False, allow_infinity=False),
                st.floats(allow_infinity=True),
                st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1).map(lambda t: f"c{t}c"),
                st.booleans(),
            ),
            min_size=1,
            max_size=12,
        )
    )
    def test_any_table_comes_back_from_csv_and_jsonl(self, tmp_path, values):
        names = ("lr", "val_loss", "kind", "nesterov")
        with (tmp_path / "any.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *values])
        (tmp_path / "any.jsonl").write_text(
            "".join(json.dumps(dict(zip(names, v, strict=True))) + "\n" for v in values)
        )
        wanted = dict(zip(names, zip(*values, strict=True), strict=True))
        for table in (read(tmp_path / "any.csv"), read(tmp_path / "any.jsonl")):
            np.testing.assert_array_equal(table.infeasible, ~np.isfinite(wanted["val_loss"]))
            finite = np.where(np.isfinite(wanted["val_loss"]), wanted["val_loss"], math.nan)
            np.testing.assert_array_equal(table.objective, finite)
            for name in ("lr", "kind", "nesterov"):
                if name in table.hyperparameters:
                    assert table.hyperparameters[name].tolist() == list(wanted[name])
                elif not (name == "kind" and len(values) > 10):
                    assert len(set(wanted[name])) == 1


class TestJsonl(FileContract):
    format, objective, curve = "jsonl", "val_error", "val_error"

    def write(self, path, trials):
        return jsonl_of(path, [row(trial, step=list(STEPS), val_error=list(trial.curve)) for trial in trials])

    def test_nested_settings_and_short_lists(self, tmp_path):
        rows = [
            {"optimizer": {"lr": lr, "betas": betas}, "val_loss": 1.0, "curve.norm": [1, None, lr]}
            for lr, betas in ((0.1, [0.9, 0.99]), (0.2, [0.9, 0.999]))
        ]
        table = read(jsonl_of(tmp_path, rows))
        assert table.hyperparameters["optimizer.betas"].tolist() == ["[0.9, 0.99]", "[0.9, 0.999]"]
        assert table.hyperparameters["optimizer.lr"].tolist() == [0.1, 0.2]
        np.testing.assert_array_equal(table.curves["norm"][1].values, [1, math.nan, 0.2])
        np.testing.assert_array_equal(table.curves["norm"][1].steps, [1, 2, 3])

    def test_value_at_the_best_step_of_a_curve(self, tmp_path):
        rows = [
            {"lr": 1, "val_loss": [3, 1, 2]},
            {"lr": 2, "val_loss": [3, math.nan, 2]},
            {"lr": 3, "val_loss": [3, 1, math.inf]},
            {"lr": 4, "val_loss": []},
            {"lr": 5},
        ]
        table = read(jsonl_of(tmp_path, rows))
        np.testing.assert_array_equal(table.objective, [1, 2, math.nan, math.nan, math.nan])
        assert read(jsonl_of(tmp_path, rows), goal="max").objective[0] == 3
        assert table.curves["val_loss"][4] is None

    @pytest.mark.parametrize("row", [{"rate\ud800": 1}, {"rate": "\ud800"}, {"trial": "\udfff"}])
    def test_half_of_a_surrogate_pair_is_refused(self, tmp_path, row):
        path = jsonl_of(tmp_path, [{"val_error": 0.3, **row}, {"val_error": 0.2, "rate": "a", "trial": "b"}])
        with pytest.raises(InputError, match="half of a surrogate pair"):
            read(path)

    @pytest.mark.parametrize("steps", [[1, 2, math.inf], [-math.inf, 1, 2], [math.nan, 2, 1]])
    def test_points_without_a_finite_step_are_left_out(self, tmp_path, steps):
        path = jsonl_of(tmp_path, [{"lr": 1, "val_error": [0.3, 0.2, 0.1], "step": steps}])
        assert read(path).curves["val_error"][0].steps.tolist() == [1, 2]

    def test_steps_that_were_measured_twice_count_once(self, tmp_path):
        rows = [{"lr": lr, "step": [1, 3, 2, 3], "val_loss": [9, 0, 5, 4]} for lr in (1, 2)]
        curve = read(jsonl_of(tmp_path, rows)).curves["val_loss"][0]
        assert (curve.steps.tolist(), curve.values.tolist()) == ([1, 2, 3], [9, 5, 4])

    @pytest.mark.parametrize(
        "text, says",
        [
            ('{"lr": 1, "lr": 2, "val_loss": 1}\n', "'lr' is there twice"),
            ('{"a": {"b": 1}, "a.b": 2, "val_loss": 1}\n', "'a.b' is there twice"),
            ('{"lr": 1}\n[1]\n', "line 2 is a list"),
            ('{"lr": 1}\n{"lr": \n', "line 2 is not JSON"),
            ("[" * 100_000, "line 1 is not JSON"),
            ('{"lr": ' + "1" * 5000 + "}", "line 1 is not JSON"),
            ('{"lr": ' + "1" * 400 + ', "val_loss": 1}\n{"lr": 1, "val_loss": 1}', "too large for double precision"),
            ('{"lr": 1, "val_loss": 1}\n{"lr": "a", "val_loss": 1}', "mixes types: 1 in trial '1', 'a' in trial '2'"),
            ('{"lr": true, "val_loss": 1}\n{"lr": 2, "val_loss": 1}', "mixes types"),
            ('{"lr": 1, "val_loss": [1]}\n{"lr": 1, "val_loss": 2}', "mixes types: lists, and 2 in trial '2'"),
            ('{"lr": 1, "val_loss": ["a"]}\n', "does not hold numbers alone"),
            ('{"lr": 1, "val_loss": [1, 2], "step": [1]}\n', "2 values and 'step' 1 steps in trial '1'"),
        ],
    )
    def test_bad_table_is_refused(self, tmp_path, text, says):
        path = tmp_path / "bad.jsonl"
        path.write_text(text)
        assert says in self.refuse(path, format="jsonl")

    def test_words_for_what_json_cannot_say(self, tmp_path):
        table = read(jsonl_of(tmp_path, [{"lr": 1, "val_loss": "NaN"}, {"lr": 2, "val_loss": 2}, {"lr": None}]))
        assert table.infeasible.tolist() == [True, False, True]


class TestParquet(FileContract):
    format, objective, curve = "parquet", "val_error", "val_error"

    def write(self, path, trials):
        rows = [row(trial, step=list(STEPS), val_error=list(trial.curve)) for trial in trials]
        empty = pa.table({"lr": pa.array([], pa.float64()), "val_error": pa.array([], pa.float64())})
        pq.write_table(pa.Table.from_pylist(rows) if rows else empty, path / "table.parquet", row_group_size=5)
        return path / "table.parquet"

    def test_our_own_tables_are_read_by_their_classes(self, tmp_path):
        records = [
            TrialRecord(
                study="sweep",
                arm=arm,
                replicate=replicate,
                address=f"{arm}{replicate}",
                hyperparameters={"learning_rate": 0.1, "workload.width": 8},
                seeds={"init": 2**31 + replicate},
                status="infeasible" if arm == "b" and replicate else "complete",
                reason="non-finite loss" if arm == "b" and replicate else None,
                results={"best_error": 0.2, "final_error": 0.3, "sharpness": replicate + 1.5},
                curves={
                    "evaluation_error": np.array([0.4, 0.2, 0.3], np.float32),
                    "evaluation_step": np.array([0, 10, 20], np.float32),
                    "train_loss": np.array([3, 2, 1, 0], np.float32),
                },
                timings={"trial_seconds": 1.0 + replicate},
            )
            for arm in ("a", "b")
            for replicate in range(2)
        ]
        write_parquet(records, tmp_path / "trials.parquet")
        table = read(tmp_path / "trials.parquet")
        assert table.trials == ("a0", "a1", "b0", "b1")
        assert list(table.hyperparameters) == ["arm"]
        assert list(table.seeds) == ["replicate", "seed.init"]
        assert (table.objective_name, table.goal) == ("best_error", "min")
        np.testing.assert_array_equal(table.objective, [0.2, 0.2, 0.2, math.nan])
        assert table.curves["evaluation_error"][0].steps.tolist() == [0, 10, 20]
        assert table.curves["train_loss"][0].steps.tolist() == [1, 2, 3, 4]
        assert "trials.parquet" in self.refuse(tmp_path)

    def test_types_of_columns(self, tmp_path):
        table = pa.table(
            {
                "lr": pa.array([1, 2, 3], pa.float32()),
                "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
                "nest": pa.array([{"x": 1}, {"x": 2}, {"x": None}]),
                "flag": pa.array([True, False, None]),
                "when": pa.array([1, 2, 3], pa.timestamp("s")),
                "val_loss": pa.array([[1.0, 2.0], None, []], pa.list_(pa.float32())),
            }
        )
        pq.write_table(table, tmp_path / "t.parquet")
        found = read(tmp_path / "t.parquet")
        assert {name: column.tolist()[:2] for name, column in found.hyperparameters.items()} == {
            "lr": [1, 2],
            "kind": ["a", "b"],
            "nest.x": [1, 2],
            "flag": [True, False],
        }
        assert found.infeasible.tolist() == [False, True, True]
        assert any("'when'" in line for line in found.warnings)

    def test_column_that_is_there_twice_is_refused(self, tmp_path):
        pq.write_table(pa.Table.from_arrays([pa.array([1.0])] * 2, names=["lr", "lr"]), tmp_path / "t.parquet")
        assert "2 times" in self.refuse(tmp_path / "t.parquet")

    def test_text_that_is_not_utf8_is_refused(self, tmp_path):
        broken = pa.array([b"\xff", b"a"]).view(pa.string())
        pq.write_table(pa.table({"kind": broken, "val_loss": [1.0, 2.0]}), tmp_path / "t.parquet")
        assert "UTF-8" in self.refuse(tmp_path / "t.parquet")


class TestOptuna(FileContract):
    format, objective, curve = "optuna", "value", "intermediate_value"

    def write(self, path, trials):
        optuna = pytest.importorskip("optuna")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        file = path / "storage.db"
        made = optuna.create_study(storage=f"sqlite:///{file}", study_name="study", direction="minimize")
        d = optuna.distributions
        axes = {
            "learning_rate": d.FloatDistribution(
                1e-15, max(1, *(t.settings["learning_rate"] for t in trials), 0), log=True
            ),
            "optimizer": d.CategoricalDistribution(sorted({t.settings["optimizer"] for t in trials} | {"sgd", "adam"})),
            "width": d.IntDistribution(1, 1024),
            "momentum": d.FloatDistribution(0.5, 0.999),
            "depth": d.IntDistribution(1, 100),
            "seed": d.IntDistribution(0, 100),
        }
        made.add_trials(
            [
                optuna.trial.create_trial(
                    params=(params := {k: v for k, v in {**t.settings, "seed": t.seed}.items() if v is not None}),
                    distributions={name: axes[name] for name in params},
                    state=optuna.trial.TrialState[{"complete": "COMPLETE"}.get(t.status, "FAIL")],
                    value=None if t.status == "infeasible" else t.objective,
                    intermediate_values=dict(zip(STEPS, t.curve, strict=True)),
                )
                for t in trials
            ]
        )
        made._storage.remove_session()
        made._storage._backend.engine.dispose()
        return file

    def name(self, trial):
        return str(int(trial.name) - 1)

    def database(self, tmp_path):
        return sqlite3.connect(self.write(tmp_path, study()), isolation_level=None)

    def test_ranges_are_those_of_the_distributions(self, tmp_path):
        table = read(self.write(tmp_path, study()))
        assert table.ranges == {
            "learning_rate": (1e-15, 1, "log"),
            "width": (1, 1024, "linear"),
            "momentum": (0.5, 0.999, "linear"),
        }

    def test_parameters_may_share_a_distribution(self, tmp_path):
        database = self.database(tmp_path)
        database.execute(
            "UPDATE trial_params SET distribution_json = (SELECT distribution_json FROM trial_params "
            "WHERE param_name = 'width') WHERE param_name = 'momentum'"
        )
        database.close()
        ranges = read(tmp_path / "storage.db").ranges
        assert ranges["momentum"] == ranges["width"] == (1, 1024, "linear")

    def test_range_that_changed_is_the_widest_with_a_warning(self, tmp_path):
        wider = {"name": "FloatDistribution", "attributes": {"low": 0.1, "high": 0.9, "log": False, "step": None}}
        database = self.database(tmp_path)
        database.execute(
            "UPDATE trial_params SET distribution_json = ? WHERE param_name = 'momentum' AND trial_id = 2",
            (json.dumps(wider),),
        )
        database.close()
        table = read(tmp_path / "storage.db")
        assert table.ranges["momentum"] == (0.1, 0.999, "linear")
        assert any("'momentum' changed" in line for line in table.warnings)

    def test_several_studies_have_to_be_named(self, tmp_path):
        database = self.database(tmp_path)
        database.execute("INSERT INTO studies (study_id, study_name) VALUES (9, 'an#other<b>')")
        database.execute("INSERT INTO study_directions (study_id, direction, objective) VALUES (9, 'MAXIMIZE', 0)")
        database.execute("INSERT INTO trials (trial_id, number, study_id, state) VALUES (99, 0, 9, 'COMPLETE')")
        database.execute("INSERT INTO trial_values VALUES (99, 99, 0, 0.5, 'FINITE')")
        database.close()
        path = tmp_path / "storage.db"
        message = self.refuse(path)
        assert "'study', 'an#other<b>'" in message
        assert "PATH#NAME" in message
        assert len(read(f"{path}#study").trials) == 12
        table = read(f"{path}#an#other<b>")
        assert (table.goal, table.objective.tolist()) == ("max", [0.5])

    def test_several_objectives_have_to_be_named(self, tmp_path):
        database = self.database(tmp_path)
        database.execute("INSERT INTO study_directions (study_id, direction, objective) VALUES (1, 'MAXIMIZE', 1)")
        database.execute("INSERT INTO trial_values VALUES (999, 3, 1, 0.5, 'FINITE')")
        database.close()
        path = tmp_path / "storage.db"
        assert "values_1" in self.refuse(path)
        table = read(path, objective="values_1")
        assert (table.goal, table.objective[2]) == ("max", 0.5)

    def test_states_constraints_and_values_that_are_not_finite(self, tmp_path):
        database = self.database(tmp_path)
        database.execute("UPDATE trials SET state = 'PRUNED' WHERE number = 0")
        database.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 1")
        database.execute("UPDATE trial_values SET value = NULL, value_type = 'INF_POS' WHERE trial_id = 3")
        database.execute("INSERT INTO trial_system_attributes VALUES (1, 5, 'constraints', '[-1.0, 0.5]')")
        database.execute("INSERT INTO trial_system_attributes VALUES (2, 6, 'constraints', '[-1.0, 0.0]')")
        database.close()
        table = read(tmp_path / "storage.db")
        assert table.skipped == ("trial '1' is not finished; left out",)
        assert [name for name, one in zip(table.trials, table.infeasible, strict=True) if one] == ["2", "3", "4"]
        assert any("pruned" in line for line in table.warnings)

    def test_choices_of_mixed_types_are_text(self, tmp_path):
        choices = {"name": "CategoricalDistribution", "attributes": {"choices": ["adam", True, None]}}
        database = self.database(tmp_path)
        database.execute(
            "UPDATE trial_params SET distribution_json = ?, param_value = trial_id % 3 WHERE param_name = 'optimizer'",
            (json.dumps(choices),),
        )
        database.close()
        assert read(tmp_path / "storage.db").hyperparameters["optimizer"].tolist()[:3] == ["true", "null", "adam"]

    @pytest.mark.parametrize(
        "statement, says",
        [
            ("UPDATE trial_params SET distribution_json = '{'", "distribution of parameter"),
            ("UPDATE trial_params SET param_value = 7 WHERE param_name = 'optimizer'", "'optimizer'"),
            ("DELETE FROM studies", "no study"),
            ("UPDATE trial_values SET value = 'low'", "other than numbers"),
            ("UPDATE trials SET state = 'ODD'", "'ODD' of trial '0'"),
            ("DROP TABLE trial_values", "no storage of Optuna"),
        ],
    )
    def test_bad_storage_is_refused(self, tmp_path, statement, says):
        database = self.database(tmp_path)
        database.execute(statement)
        database.close()
        assert says in self.refuse(tmp_path / "storage.db")

    def test_our_own_store_is_told_from_it(self, tmp_path):
        database = sqlite3.connect(tmp_path / "study.sqlite")
        for table in ("facts", "trials", "curves"):
            database.execute(f"CREATE TABLE {table} (name TEXT)")
        database.close()
        assert "trials.parquet" in self.refuse(tmp_path / "study.sqlite")


def measured(metric, curve, steps="step", **more):
    """Text of a CSV file of evaluations."""
    lines = [",".join([steps, metric, *more])]
    lines += [",".join(map(str, [at, value, *more.values()])) for at, value in zip(STEPS, curve, strict=True)]
    return "\n".join(lines) + "\n"


class TestAlgoperf(FolderContract):
    format, objective, curve = "algoperf", "validation/wer", "validation/wer"
    measurements = "eval_measurements.csv"

    def name(self, trial):
        return f"trial_{trial.name}"

    def write(self, path, trials):
        workload = path / "nadam" / "study_0" / "librispeech"
        workload.mkdir(parents=True)
        for trial in trials:
            folder = workload / f"trial_{trial.name}"
            folder.mkdir()
            (folder / "hparams.json").write_text(json.dumps({**trial.settings, "seed": trial.seed}))
            text = measured("validation/wer", trial.curve, "global_step", score=1.5, total_duration=9)
            (folder / "eval_measurements.csv").write_text(text)
            (folder / "measurements.csv").write_text("global_step,loss\n1,2\n")
        return workload

    def test_metric_of_the_validation_set_is_chosen(self, tmp_path):
        path = self.write(tmp_path, study(2))
        for folder in self.folders(path):
            columns = "global_step,train/ssim,test/ssim,validation/loss,validation/ssim,validation/num_examples,score"
            (folder / self.measurements).write_text(f"{columns}\n1,.9,.9,.5,.7,100,3\n2,.9,.9,.6,.6,100,4\n")
        table = read(path)
        assert (table.objective_name, table.goal, table.objective.tolist()) == ("validation/ssim", "max", [0.7, 0.7])
        assert list(table.curves) == ["train/ssim", "test/ssim", "validation/loss", "validation/ssim"]
        assert any("rather than 'validation/loss'" in line for line in table.warnings)
        assert read(path, objective="validation/loss").objective.tolist() == [0.5, 0.5]

    def test_empty_cell_was_not_measured_and_nan_was(self, tmp_path):
        path = self.write(tmp_path, study(2))
        for folder, last in zip(self.folders(path), ("", "NaN"), strict=True):
            text = f"global_step,train/loss,validation/loss,test/loss\n1,5,3,\n2,4,2,\n3,3,{last},\n"
            (folder / self.measurements).write_text(text)
        table = read(path)
        np.testing.assert_array_equal(table.objective, [2, math.nan])
        assert [curve.steps.tolist() for curve in table.curves["validation/loss"]] == [[1, 2], [1, 2, 3]]
        assert list(table.curves) == ["train/loss", "validation/loss"]

    @pytest.mark.parametrize(
        "text, says",
        [
            ("global_step,a,a\n1,2,3\n", "twice"),
            ("a,b\n1,2\n", "no column 'global_step'"),
            ("global_step,a\n", "no row"),
            ("global_step,a\nx,2\n", "numbers alone"),
            ("global_step,a\n1\n", "not CSV"),
        ],
    )
    def test_bad_measurements_are_skipped_with_the_reason(self, tmp_path, text, says):
        path = self.write(tmp_path, study())
        (self.folders(path)[0] / self.measurements).write_text(text)
        table = read(path)
        assert len(table.trials) == 11
        assert [says in line for line in table.skipped] == [True]


class TestBatchScience(FolderContract):
    format, objective, curve = "batch-science", "val/classification_error", "val/classification_error"
    measurements = "measurements.csv"

    def write(self, path, trials):
        folder = path / "mnist" / "simple_cnn" / "sgd" / "256"
        folder.mkdir(parents=True)
        double = {"type": "DOUBLE", "min_value": 1e-12, "max_value": 1, "scale": "LOG_SCALE"}
        configs = {
            "learning_rate": double,
            "momentum": {"type": "DOUBLE", "min_value": 0.9, "max_value": 0.999, "scale": "REVERSE_LOG_SCALE"},
            "width": {"type": "DISCRETE", "feasible_points": [16, 32]},
        }
        (folder / "study.json").write_text(json.dumps({"batch_size": 256, "parameter_configs": configs}))
        for trial in trials:
            (folder / trial.name).mkdir()
            metadata = {
                "parameters": {**trial.settings, "seed": trial.seed},
                "status": trial.status.upper(),
                "trial_id": int(trial.name),
            }
            (folder / trial.name / "metadata.json").write_text(json.dumps(metadata))
            (folder / trial.name / "measurements.csv").write_text(measured(self.objective, trial.curve))
        return folder

    def test_ranges_are_those_of_the_study(self, tmp_path):
        path = self.write(tmp_path, study())
        assert read(path).ranges == {"learning_rate": (1e-12, 1, "log"), "momentum": (0.9, 0.999, "reverse_log")}
        (path / "study.json").write_text("{")
        table = read(path)
        assert table.ranges == {}
        assert any("ranges" in line for line in table.warnings)

    def test_incomplete_trials_are_skipped(self, tmp_path):
        path = self.write(tmp_path, study())
        metadata = path / "3" / "metadata.json"
        metadata.write_text(metadata.read_text().replace("COMPLETE", "INCOMPLETE"))
        table = read(path)
        assert len(table.trials) == 11
        assert table.skipped == ("trial '3' is not finished; left out",)

    def test_infeasible_trial_needs_no_measurement(self, tmp_path):
        path = self.write(tmp_path, study())
        (path / "4" / "measurements.csv").unlink()
        table = read(path)
        assert table.skipped == ()
        assert table.infeasible[3]
        assert table.curves[self.curve][3] is None


class TestPd1(FileContract):
    format, objective, curve = "pd1", "valid/error_rate", "valid/error_rate"
    prefix, seed = "hps.", "hps.rng_seed"

    def write(self, path, trials, group="cifar10_wide_resnet,256"):
        rows = [
            {
                "trial_dir": trial.name,
                "study_group": group,
                "status": {"complete": "done"}.get(trial.status, "diverged"),
                **{f"hps.{name}": value for name, value in trial.settings.items()},
                "hps.rng_seed": trial.seed,
                "hps.input_shape": [32, 32, 3],
                "global_step": list(STEPS),
                "valid/error_rate": list(trial.curve),
                "eval_time": [1, 1, 1],
                "effective_lr": trial.settings["learning_rate"],
            }
            for trial in trials
        ]
        return jsonl_of(path, rows)

    def test_best_value_is_taken_where_it_is_given(self, tmp_path):
        path = self.write(tmp_path, study())
        rows = [{**json.loads(line), "best_valid/error_rate": 0.125} for line in path.read_text().splitlines()]
        table = read(jsonl_of(tmp_path, rows))
        assert table.objective_name == "best_valid/error_rate"
        assert set(table.objective[~table.infeasible]) == {0.125}

    def test_several_studies_have_to_be_named(self, tmp_path):
        one = self.write(tmp_path, study()).read_text()
        path = self.write(tmp_path, study(3), group="mnist,64")
        path.write_text(one + path.read_text())
        assert "'cifar10_wide_resnet,256', 'mnist,64'" in self.refuse(path)
        assert len(read(f"{path}#mnist,64").trials) == 3

    def test_curve_without_a_step_for_each_value_is_left_out(self, tmp_path):
        path = self.write(tmp_path, study())
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[1]["global_step"] = [1]
        table = read(jsonl_of(tmp_path, rows))
        assert table.curves[self.curve][1] is None
        assert any(line.startswith("1 curves") for line in table.warnings)

    def test_other_json_lines_are_refused(self, tmp_path):
        assert "--format jsonl" in self.refuse(jsonl_of(tmp_path, [{"lr": 1, "val_loss": 2}]), format="pd1")


def test_every_format_keeps_the_contract():
    contracts = [one for parent in (FileContract, FolderContract) for one in parent.__subclasses__()]
    assert sorted(one.format for one in contracts) == sorted(FORMATS)


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'jsonl'"):
        read(tmp_path, format="json")


@pytest.mark.parametrize("name, text", [("table.txt", "a,b"), ("table.tsv", "a\tb"), ("model.pkl", "\x80\x04")])
def test_file_of_no_known_format_is_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="--format csv"):
        guess_format(tmp_path / name)


def test_folder_without_trials_is_refused(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    with pytest.raises(InputError, match="no trials"):
        read(tmp_path)


def test_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(InputError, match="not a file"):
        read(tmp_path / "table.csv")


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000])
def test_path_that_cannot_be_is_refused(path):
    with pytest.raises(InputError):
        read(path)


def modules_after(code):
    root = Path(__file__).parents[1]
    code = f"import sys; from harness.importers.importer import read; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert "harness.importers.importer" in done.stdout.split()
    return set(done.stdout.split())


def test_import_is_light():
    assert not modules_after("pass").intersection({"jax", "pandas", "scipy", "optuna", "pyarrow", "matplotlib"})


@pytest.mark.parametrize("contract", [TestCsv, TestParquet, TestOptuna, TestAlgoperf, TestBatchScience])
def test_reading_needs_no_heavy_library(tmp_path, contract):
    path = contract().write(tmp_path, study())
    assert not modules_after(f"read({str(path)!r})").intersection({"jax", "pandas", "scipy.stats", "optuna"})
