"""The entry point: the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

from hyperclone_cli.errors import INTERRUPTED, HypercloneError, StorageError, is_memory_error, last_line

_COLLECTED = 1_000_000
"""New objects after which Python looks for unused cycles. Imports make 600,000, plans as many as tensors: no cycles."""

_SWITCH_S = 0.0005
"""After so long, a thread that imports lets those go on that write: a block of theirs takes few milliseconds."""


def main() -> None:
    """Run the command line and exit. HYPERCLONE_DEBUG=1 shows tracebacks."""
    gc.set_threshold(_COLLECTED)
    sys.setswitchinterval(_SWITCH_S)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names need not be printable
    try:
        from hyperclone_cli.cli.app import app

        app(prog_name="hyperclone")
    except HypercloneError as error:
        _fail(error)
    except Exception as error:
        _fail(_as_message(error))
    except KeyboardInterrupt as stop:
        _interrupted(stop)
    except SystemExit as stop:  # Typer turns Ctrl-C into one
        if stop.code == INTERRUPTED:
            _interrupted(stop)
        raise


def _as_message(error: Exception) -> HypercloneError:
    if is_memory_error(error):
        return StorageError(f"memory ran out: {last_line(error)}", "End other programs, or use a larger machine.")
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return StorageError(f"{where}{error.strerror or error}.")
    unexpected = f"unexpected {type(error).__name__}: {error}"
    return HypercloneError(unexpected, "Please report it with what HYPERCLONE_DEBUG=1 shows.")


def _interrupted(stop: BaseException | None) -> NoReturn:
    while stop and not isinstance(stop, KeyboardInterrupt):
        stop = stop.__context__
    print(f"Interrupted. {stop or ''}".rstrip(), file=sys.stderr)
    # not sys.exit: where Ctrl-C came inside exec(), as dataclasses use it, CPython would end itself by a signal
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _fail(error: HypercloneError) -> None:
    if os.environ.get("HYPERCLONE_DEBUG") == "1":
        raise error
    print(f"Error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
