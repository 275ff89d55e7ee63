"""What every format keeps: its test class inherits `ImporterContract` and writes a small study in the format."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.importers.importer import guess_format, read
from harness.records import InputError


@dataclass(frozen=True)
class Written:
    """A trial to write; its objective is the least value of its curve."""

    name: str
    settings: dict
    seed: int
    curve: tuple[float, ...]
    status: str = "complete"

    @property
    def objective(self):
        return min(self.curve) if self.status == "complete" else math.nan


def study(size=12):
    """Trials of which the fourth diverges; momentum is for SGD alone; more than nine, so that 10 has to sort last."""
    trials = []
    for number in range(1, size + 1):
        is_sgd = number % 2 == 0
        setting = {"learning_rate": 10.0**-number, "optimizer": "sgd" if is_sgd else "adam", "width": 16 * number}
        setting["momentum"] = 0.9 + number / 1000 if is_sgd else None
        setting["depth"] = 10  # which does not vary
        diverged = number == 4
        curve = (0.9, 0.2 + number / 100, math.nan if diverged else 0.3 + number / 100)
        trials.append(Written(str(number), setting, number % 3, curve, "infeasible" if diverged else "complete"))
    return trials


STEPS = (10, 20, 30)


class ImporterContract:
    format: str
    objective: str  # name of the objective in the format
    seed = "seed"
    prefix = ""  # of hyperparameters' names
    curve: str | None = None  # name of the curve, where the format has curves

    def name(self, trial):
        """What the table calls a trial."""
        return trial.name

    def write(self, path, trials):
        """Writes trials below an empty folder and returns the path to read."""
        raise NotImplementedError

    def read(self, path, **options):
        return read(path, **options)

    def refuse(self, path, **options):
        """Reads what cannot be read and returns the message, which is one line and names the path."""
        with pytest.raises(InputError) as caught:
            read(path, **options)
        message = str(caught.value)
        assert "\n" not in message
        assert str(path).split("#")[0] in message
        return message

    def test_study_is_read_as_it_was_written(self, tmp_path):
        trials = study()
        table = self.read(self.write(tmp_path, trials))
        assert table.trials == tuple(self.name(trial) for trial in trials)
        varying = ("learning_rate", "optimizer", "width", "momentum")
        assert set(table.hyperparameters) == {self.prefix + name for name in varying}
        for name in varying:
            wanted = [trial.settings[name] for trial in trials]
            found = table.hyperparameters[self.prefix + name]
            if name == "optimizer":
                assert found.dtype == object
                assert found.tolist() == wanted
            else:
                np.testing.assert_array_equal(found, np.array(wanted, dtype=float))
        np.testing.assert_array_equal(table.objective, [trial.objective for trial in trials])
        assert table.infeasible.dtype == bool
        assert np.flatnonzero(table.infeasible).tolist() == [3]
        assert (table.objective_name, table.goal) == (self.objective, "min")
        assert list(table.seeds) == [self.seed]
        np.testing.assert_array_equal(table.seeds[self.seed], [trial.seed for trial in trials])
        assert table.skipped == ()

    def test_curves_are_read_with_their_steps(self, tmp_path):
        trials = study()
        table = self.read(self.write(tmp_path, trials))
        assert list(table.curves) == ([self.curve] if self.curve else [])
        for trial, curve in zip(trials, table.curves.get(self.curve, ()), strict=bool(self.curve)):
            np.testing.assert_array_equal(curve.steps, STEPS)
            np.testing.assert_array_equal(curve.values, trial.curve)

    def test_format_is_guessed(self, tmp_path):
        assert guess_format(self.write(tmp_path, study())) == self.format

    def test_reading_leaves_everything_as_it_is(self, tmp_path):
        path = self.write(tmp_path, study())
        before = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()}
        self.read(path)
        assert {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()} == before

    def test_one_trial_is_a_study(self, tmp_path):
        table = self.read(self.write(tmp_path, study(1)))
        assert len(table.trials) == len(table.objective) == 1
        assert table.hyperparameters == {}

    def test_all_trials_may_be_infeasible(self, tmp_path):
        trials = [replace(trial, curve=(0.9, math.nan, math.nan), status="infeasible") for trial in study()]
        table = self.read(self.write(tmp_path, trials))
        assert table.infeasible.all()
        assert np.isnan(table.objective).all()

    def test_objective_may_be_constant(self, tmp_path):
        trials = [replace(trial, curve=(0.5, 0.5, 0.5), status="complete") for trial in study()]
        table = self.read(self.write(tmp_path, trials))
        np.testing.assert_array_equal(table.objective, 0.5)
        assert not table.infeasible.any()

    def test_names_with_html_are_data(self, tmp_path):
        html = "<script>alert(1)</script>"
        trials = [
            replace(t, settings={**t.settings, "optimizer": html if i % 2 else "a&b"}) for i, t in enumerate(study())
        ]
        table = self.read(self.write(tmp_path, trials))
        assert set(table.hyperparameters[self.prefix + "optimizer"]) == {html, "a&b"}

    def test_given_goal_that_contradicts_is_taken_with_a_warning(self, tmp_path):
        path = self.write(tmp_path, study())
        table = self.read(path, goal="max")
        assert table.goal == "max"
        assert any("contradicts" in line for line in table.warnings)
        assert not any("contradicts" in line for line in self.read(path, goal="min").warnings)

    def test_unknown_objective_is_refused_with_the_nearest(self, tmp_path):
        wrong = self.objective + "x"
        message = self.refuse(self.write(tmp_path, study()), objective=wrong)
        assert f"did you mean {self.objective!r}" in message

    def test_unknown_goal_is_refused(self, tmp_path):
        assert "min, max" in self.refuse(self.write(tmp_path, study()), goal="least")

    def test_no_trial_is_refused(self, tmp_path):
        self.refuse(self.write(tmp_path, []), format=self.format)

    def test_missing_path_is_refused(self, tmp_path):
        assert "does not exist" in self.refuse(tmp_path / "nothing", format=self.format)

    def test_infinite_hyperparameter_is_refused_or_skipped(self, tmp_path):
        trials = study()
        trials[2] = replace(trials[2], settings={**trials[2].settings, "learning_rate": math.inf})
        message = self.refuse(self.write(tmp_path, trials))
        assert "learning_rate" in message
        assert "not finite" in message


class FileContract(ImporterContract):
    """What formats of one file keep besides."""

    def test_order_is_kept(self, tmp_path):
        trials = study()[::-1]
        table = self.read(self.write(tmp_path, trials))
        np.testing.assert_array_equal(table.objective, [trial.objective for trial in trials])

    @pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"PK\x03\x04", b"BZh9"])
    def test_compressed_file_is_refused(self, tmp_path, magic):
        path = self.write(tmp_path, study())
        path.write_bytes(magic + path.read_bytes())
        assert "unpack" in self.refuse(path, format=self.format)

    def test_empty_file_is_refused(self, tmp_path):
        path = tmp_path / "empty"
        path.touch()
        assert "empty" in self.refuse(path, format=self.format)

    def test_folder_is_refused(self, tmp_path):
        assert "not a file" in self.refuse(tmp_path, format=self.format)

    # The inherited test runs once per subclass, and each example writes its own file.
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data())
    def test_damage_is_refused_in_one_line_or_read(self, tmp_path, data):
        source = tmp_path / "whole"
        if not source.exists():
            source.mkdir()
            self.write(source, study())
        whole = next(source.iterdir()).read_bytes()
        path = tmp_path / f"damaged{next(source.iterdir()).suffix}"
        end = data.draw(st.integers(0, len(whole)), "end")
        at = data.draw(st.integers(0, max(end - 1, 0)), "at")
        damage = data.draw(st.binary(max_size=4), "damage")
        path.write_bytes(whole[:at] + damage + whole[at + len(damage) : end])
        try:
            table = self.read(path, format=self.format)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert len(table.trials) == len(table.objective) > 0


class FolderContract(ImporterContract):
    """What formats with a folder per trial keep besides."""

    measurements: str

    def folders(self, path: Path):
        """Folders of the trials below a path."""
        return sorted({one.parent for one in path.rglob(self.measurements)})

    def test_unreadable_trials_are_skipped_and_counted(self, tmp_path):
        path = self.write(tmp_path, study())
        cut, gone, bad, meets = [folder for folder in self.folders(path) if folder.name[-1] in "5678"]
        (cut / self.measurements).write_text("")
        (gone / self.measurements).unlink()
        next(bad.glob("*.json")).write_bytes(b"\xff\xfe{")
        settings = next(meets.glob("*.json"))
        settings.write_text(settings.read_text().replace('"width"', '"a": {"b": 1}, "a.b"'))
        table = self.read(path)
        assert len(table.trials) == 8
        assert len(table.skipped) == 4
        for folder, line in zip((cut, gone, bad, meets), table.skipped, strict=True):
            assert folder.name in line
            assert "\n" not in line

    def test_all_unreadable_is_refused(self, tmp_path):
        path = self.write(tmp_path, study())
        for folder in self.folders(path):
            (folder / self.measurements).write_text("a,b\n1\n")
            next(folder.glob("*.json")).write_text("[]")
        assert "none of its 12 trials" in self.refuse(path)

    def test_what_leads_out_of_the_folder_is_not_read(self, tmp_path):
        outside = tmp_path / "outside"
        self.write(outside, study())
        inside = tmp_path / "inside"
        path = self.write(inside, study())
        whole, part = [folder for folder in self.folders(path) if folder.name[-1] in "56"]
        elsewhere = self.folders(outside)[0]
        (whole.parent / f"{whole.name}9").symlink_to(elsewhere, target_is_directory=True)
        (part / self.measurements).unlink()
        (part / self.measurements).symlink_to(elsewhere / self.measurements)
        table = self.read(path)
        assert len(table.trials) == 11
        assert len(table.skipped) == 2
        assert all("out of the folder" in line for line in table.skipped)

    def test_loops_end_and_count_once(self, tmp_path):
        path = self.write(tmp_path, study())
        (path.parent / "loop").symlink_to(tmp_path, target_is_directory=True)
        table = self.read(tmp_path)
        assert (len(table.trials), table.skipped) == (12, ())

    def test_any_level_above_one_folder_of_trials_will_do(self, tmp_path):
        path = self.write(tmp_path / "a" / "b", study())
        for level in (path, path.parent, tmp_path):
            assert len(self.read(level).trials) == 12

    def test_one_of_several_has_to_be_named(self, tmp_path):
        self.write(tmp_path / "one", study())
        self.write(tmp_path / "two", study(3))
        message = self.refuse(tmp_path)
        assert "PATH#NAME" in message
        names = [part.strip("'") for part in message.split(": ")[2].split(";")[0].split(", ")]
        assert [len(self.read(f"{tmp_path}#{name}").trials) for name in names] == [12, 3]
        assert "did you mean" in self.refuse(f"{tmp_path}#{names[0]}x")

    def test_folder_of_one_trial_is_refused(self, tmp_path):
        folder = self.folders(self.write(tmp_path, study()))[0]
        assert "above" in self.refuse(folder, format=self.format)

    def test_order_is_that_of_the_numbers(self, tmp_path):
        table = self.read(self.write(tmp_path, study()[::-1]))
        assert [name.split("_")[-1] for name in table.trials] == [trial.name for trial in study()]
