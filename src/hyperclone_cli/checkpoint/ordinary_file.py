"""What is opened is a file."""

from __future__ import annotations

from pathlib import Path

from hyperclone_cli.errors import CheckpointError


def check_is_file(path: Path) -> None:
    """Raise CheckpointError for a directory or a pipe: to open one would fail, or wait forever. Nothing is no error."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: expected a file, found something else.", "Fetch the file.")
