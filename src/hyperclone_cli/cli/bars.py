"""What a terminal shows of a long run: one line, which is gone when the run is over."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Display

from hyperclone_cli.progress import Progress


class Bars(Progress):
    """The step under way: with a bar and the time left where it counts, else with the time that it has taken."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._display = Display(console=console)

    def step(self, text: str, unit: str = "") -> None:
        self.close()
        columns: tuple[ProgressColumn, ...] = (TimeElapsedColumn(),)
        if unit == "bytes":
            columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        elif unit:
            columns = BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn()
        name = TextColumn("{task.description}", markup=False)
        self._display = Display(SpinnerColumn(), name, *columns, console=self._console, transient=True)
        self._task = self._display.add_task(text, total=None)
        self._display.start()

    def fetch(self, name: str) -> None:  # noqa: ARG002  # huggingface_hub shows it
        self.close()

    def advance(self, done: int, total: int) -> None:
        self._display.update(self._task, advance=done, total=total)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._display.stop()
