"""What a terminal shows of a long run: one line, which is gone when the run is over."""

from __future__ import annotations

from rich import progress as rich
from rich.console import Console

from hyperclone_cli.progress import Progress


class Bars(Progress):
    """The step under way: with a bar and the time left where it counts, else with the time that it has taken."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._display = rich.Progress(console=console)

    def step(self, text: str, unit: str = "") -> None:
        self.close()
        columns: tuple[rich.ProgressColumn, ...] = (rich.TimeElapsedColumn(),)
        if unit == "bytes":
            columns = rich.BarColumn(), rich.DownloadColumn(), rich.TransferSpeedColumn(), rich.TimeRemainingColumn()
        elif unit:
            columns = rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn(unit), rich.TimeRemainingColumn()
        name = rich.TextColumn("{task.description}", markup=False)
        self._display = rich.Progress(rich.SpinnerColumn(), name, *columns, console=self._console, transient=True)
        self._task = self._display.add_task(text, total=None)
        self._display.start()

    def fetch(self, name: str) -> None:  # noqa: ARG002  # huggingface_hub shows it
        self.close()

    def advance(self, done: int, total: int) -> None:
        self._display.update(self._task, advance=done, total=total)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._display.stop()
