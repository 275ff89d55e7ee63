"""The progress display of a running study, on standard error."""

from __future__ import annotations

from types import TracebackType


class TrialProgress:
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

    def __enter__(self) -> TrialProgress:
        """Gives the display, which starts with the first update: bad input shows none."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the display, leaving its last state."""
        if self._display.live.is_started:  # stopping prints an empty line otherwise
            self._display.stop()

    def update(self, done: int, infeasible: int, total: int) -> None:
        """Shows trials done, infeasible ones among them, and trials in all."""
        self._display.start()
        self._display.update(self._task, completed=done, infeasible=infeasible, total=total)

    def notice(self, line: str) -> None:
        """Shows a line above the bar."""
        self._display.console.print(line, highlight=False, markup=False)
