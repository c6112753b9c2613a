"""Every way the program can refuse, and the exit code that each one carries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class HypercloneError(Exception):
    """Something the user can act on.

    `message` says what was expected and what was found; `hint` is the next thing to try.
    Only the command line turns these into text and an exit code.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RequestError(HypercloneError):
    """The options ask for something that cannot be done."""

    exit_code = 2


class CheckpointError(HypercloneError):
    """The source checkpoint is unsupported or damaged."""

    exit_code = 3


DEQUANTISE = "Use the original weights, or dequantise and save them first."
"""The hint where weights are not floating-point numbers of a usual kind."""


NOT_TOGETHER = "Take config.json and weights that belong together: of one revision, or of one save_pretrained."
"""The hint where parts of a checkpoint contradict each other, each of which may be as it was published."""


class MismatchError(HypercloneError):
    """The clone is not the source."""

    exit_code = 4


class StorageError(HypercloneError):
    """The Hub, the network, the disk or memory failed."""

    exit_code = 5


def is_memory_error(error: BaseException) -> bool:
    """Whether an error says that memory is short: Python's own, torch's of a GPU, or torch's of the machine."""
    said = ("can't allocate memory", "Cannot allocate memory", "not enough memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in said if isinstance(error, RuntimeError | OSError))
    )


@contextmanager
def clone_is_kept(message: str) -> Iterator[None]:
    """Whatever error ends the block, Ctrl-C too, also tells the user `message`: that the clone is there, and usable."""
    try:
        yield
    except HypercloneError as error:
        error.hint = f"{message} {error.hint}".rstrip()
        raise
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(message) from stop
    except Exception as error:
        if not is_memory_error(error):
            raise
        raise StorageError(f"memory ran out: {last_line(error)}", message) from error


NOT_PRESERVED = 6
"""Exit code of `verify` for a clone whose weights are as planned, and which is not function-preserving by request."""

OUTPUTS_ALONE = 7
"""Exit code of `verify` where the outputs agree, and nothing else could be compared: neither config, files nor weights.

So it is for a model that the clone was not grown from, and for a clone without hyperclone.json.
"""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it (128 + SIGINT)."""


def last_line(error: Exception) -> str:
    """The last line of an error's message, or the name of its kind: other libraries' messages are long."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def first_of(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
