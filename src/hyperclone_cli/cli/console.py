"""Where a command writes: tables and JSON on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from hyperclone_cli.progress import Progress

SCHEMA_VERSION = 1

_plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
OUT = Console(**_plain)
ERR = Console(stderr=True, **_plain)


class _Lines(Progress):
    """A line for every step, for logs and pipes."""

    def step(self, text: str, unit: str = "") -> None:  # noqa: ARG002
        ERR.print(f"{text} …")


@contextmanager
def progress() -> Iterator[Progress]:
    """What shows a run's steps on stderr. Nothing of it is left on a terminal."""
    console = Console(file=sys.stderr, **_plain)  # stderr as it is now: reading a GGUF file replaces it for a while
    if not console.is_interactive:
        yield _Lines()
        return
    from hyperclone_cli.cli.bars import Bars

    bars = Bars(console)
    try:
        yield bars
    finally:
        bars.close()


def show_notes(notes: Iterable[str]) -> None:
    for note in notes:
        ERR.print(f"Note: {note}")


_NUMBERS = ("woken", "copies", "cosine", "before", "after", "outputs", "inputs", "rank", "∇ outputs", "∇ inputs")


def print_table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Columns of numbers, known by their names, stand flush right."""
    from rich import box

    table = Table(
        title=title or None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
        show_edge=False,
        pad_edge=False,
    )
    for column in columns:
        is_number, is_name = column in _NUMBERS or column.endswith("×"), column == "architecture"
        table.add_column(column, overflow="fold", no_wrap=is_name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*row)
    OUT.print(table)
    OUT.print()


def print_json(content: dict[str, Any]) -> None:
    from hyperclone_cli.verifier.report import finite

    print(json.dumps(finite(content), indent=2, allow_nan=False))
