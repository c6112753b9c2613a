"""The entry point: the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import os
import sys

from hyperclone_cli.errors import INTERRUPTED, HypercloneError, StorageError


def main() -> None:
    """Run the command line and exit. HYPERCLONE_DEBUG=1 shows tracebacks."""
    from hyperclone_cli.cli import app

    try:
        app(prog_name="hyperclone")
    except HypercloneError as error:
        _fail(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(StorageError(f"{where}{error.strerror or error}."))


def _fail(error: HypercloneError) -> None:
    if os.environ.get("HYPERCLONE_DEBUG"):
        raise error
    print(f"Error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

__all__ = ["INTERRUPTED", "main"]
