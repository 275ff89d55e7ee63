import io
import re

import pytest
import rich.console

from harness.progress import CatalogueProgress

EXPECTED = {"first": 30.0, "second": 60.0, "third": 10.0}


@pytest.fixture
def progress(monkeypatch):
    """A display whose screen can be read, of a terminal of 100 columns."""
    screen = io.StringIO()
    real = rich.console.Console
    terminal = lambda **named: real(file=screen, force_terminal=True, color_system=None, width=100)  # noqa: E731
    monkeypatch.setattr(rich.console, "Console", terminal)
    shown = CatalogueProgress(EXPECTED)
    shown.screen = screen
    return shown


def rows(progress):
    return progress._display.tasks


def test_one_display_for_all(progress):
    with progress:
        progress.begin("first")
        progress.update(0, 0, 4)
        progress.update(4, 1, 4)
        progress._display.refresh()  # which it does by itself ten times a second
        progress.notice("first: 1 reproduced, 0:01:00 [done]")
        progress.begin("second")
        progress.update(0, 0, 8)
        progress.update(2, 0, 8)
        whole, trials = rows(progress)
        assert whole.fields["told"] == "experiment 2 of 3"
        assert (trials.description, trials.fields["told"]) == ("second", "2/8 trials")
        assert (whole.completed, whole.total) == (30 + 60 / 4, 100)
    screen = progress.screen.getvalue()
    assert "first: 1 reproduced, 0:01:00 [done]" in screen
    assert "4/4, 1 infeasible" in screen
    assert "experiment 2 of 3" in screen


def test_what_was_finished_before_does_not_count_as_done_in_no_time(progress):
    """The first stands, and half of the second."""
    with progress:
        progress.begin("first")
        progress.update(4, 0, 4)
        progress.begin("second")
        progress.update(4, 0, 8)
        whole, trials = rows(progress)
        assert (whole.completed, whole.total) == (0, 40)
        assert (trials.completed, trials.total) == (4, 8)
        progress.update(6, 0, 8)
        assert (whole.completed, whole.total) == (15, 40)


def test_a_later_round_and_an_experiment_without_trials(progress):
    with progress:
        progress.begin("first")
        progress.update(0, 0, 0)
        progress.begin("second")
        progress.update(0, 0, 4)
        progress.update(4, 0, 4)
        progress.update(4, 0, 8)  # more trials in the next round
        whole, _ = rows(progress)
        assert (whole.completed, whole.total) == (30, 70)


def test_an_experiment_that_cannot_be_run_shows_no_bar_of_another(progress):
    with progress:
        progress.begin("first")
        progress.update(4, 0, 4)
        progress.begin("second")
        _, trials = rows(progress)
        assert (trials.description, trials.completed, trials.total, trials.fields["told"]) == ("second", 0, 1, "")


def test_the_longest_name_fits_a_terminal(monkeypatch):
    """Of 80 columns, with the times behind the counts."""
    screen = io.StringIO()
    real = rich.console.Console
    terminal = lambda **named: real(file=screen, force_terminal=True, color_system=None, width=80)  # noqa: E731
    monkeypatch.setattr(rich.console, "Console", terminal)
    name = "instability-during-warmup"
    with CatalogueProgress({name: 1.0}) as progress:
        progress.begin(name)
        progress.update(1280, 14, 2560)
    assert re.search(rf"{name} \S+ +1280/2560, 14 infeasible 0:00:00 -:--:--", screen.getvalue())


def test_nothing_is_shown_before_the_first_update(progress):
    with progress:
        progress.begin("first")
    assert progress.screen.getvalue() == ""
