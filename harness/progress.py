"""The progress display of a running study, or of several experiments, on standard error."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress


class _Shown:
    """A display that starts with the first update, since bad input shows none; a context manager.

    Attributes:
      _display: Rich's, which the display makes.
    """

    _display: Progress

    def __enter__(self) -> Self:
        """Gives the display."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the display, leaving its last state."""
        if self._display.live.is_started:  # stopping prints an empty line otherwise
            self._display.stop()

    def notice(self, line: str) -> None:
        """Shows a line above the bars."""
        self._display.console.print(line, highlight=False, markup=False)


class TrialProgress(_Shown):
    """Trials done, infeasible ones, time gone and time left; a context manager."""

    def __init__(self, name: str):
        """Names the experiment that runs."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._display = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("trials, {task.fields[infeasible]} infeasible"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._display.add_task(name, total=None, infeasible=0)

    def update(self, done: int, infeasible: int, total: int) -> None:
        """Shows trials done, infeasible ones among them, and trials in all."""
        self._display.start()
        self._display.update(self._task, completed=done, infeasible=infeasible, total=total)


class CatalogueProgress(_Shown):
    """Which experiment of how many runs and its trials, time gone and time left of them all; a context manager."""

    def __init__(self, expected: Mapping[str, float]):
        """Shows nothing yet.

        Args:
          expected: names of the experiments, in the order that they are run, to how long each takes beside the others,
            in any unit.
        """
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._expected = expected
        self._begun: list[str] = []
        self._kept = 0.0
        """Of what is expected, the part that was finished before."""
        self._first = True
        self._display = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            speed_estimate_period=3600,  # the experiments' trials may take minutes
        )
        self._all = self._display.add_task("all", total=None, told="")
        self._trials = self._display.add_task("", total=None, told="")

    def begin(self, name: str) -> None:
        """Shows the next experiment instead of the one before."""
        self._begun.append(name)
        self._first = True
        self._display.reset(self._trials, total=1, description=name, told="")
        self._display.update(self._all, told=f"experiment {len(self._begun)} of {len(self._expected)}")

    def update(self, done: int, infeasible: int, total: int) -> None:
        """Shows trials done, infeasible ones among them, and trials in all, of the experiment that was begun."""
        # With the longest name a row has 80 columns.
        told = f"{done}/{total}" + (f", {infeasible} infeasible" if infeasible else " trials")
        *before, this = (self._expected[name] for name in self._begun)
        share = this * done / total if total else this
        if self._first:  # what was finished before says nothing of how fast the rest goes
            self._first = False
            self._kept += share
            self._display.reset(self._trials, completed=done, total=total, told=told)
        self._display.update(self._trials, completed=done, total=total, told=told)
        whole = sum(self._expected.values()) - self._kept
        self._display.update(self._all, completed=max(0.0, sum(before) + share - self._kept), total=whole)
        self._display.start()
