"""Work that a source decides about, tried in a process of its own first: it may take forever, or all memory.

A chat template is a program, and a tokenizer's regular expressions can be such that matching them never ends. Neither
can be interrupted where it runs, so a copy of this process does the same before, with limits.
"""

from __future__ import annotations

import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SECONDS = 120
"""Of the processor. The slowest tokenizers, which are converted as they are loaded, take about a third of it."""

MORE_BYTES = 4 << 30
"""Of memory, beyond what this process has."""


def too_much(work: Callable[[], object]) -> bool:
    """Whether `work` takes more than SECONDS of the processor, twice that in all, or MORE_BYTES of memory.

    An exception ends it as a return does: whoever does the work again meets it again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which the copy has not: it uses none of them
        child = os.fork()
    if child == 0:
        _attempt(work)
    until = time.monotonic() + 2 * SECONDS
    try:
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                child = 0
                return status != 0
            time.sleep(0.01)
        return True
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _attempt(work: Callable[[], object]) -> None:
    """Do the work, silently and within the limits, and end the process."""
    code = 1
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        used = os.times()
        _limit(resource.RLIMIT_CPU, round(used.user + used.system) + SECONDS)
        with suppress(OSError):  # only Linux tells
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MORE_BYTES)
        work()
        code = 0
    except Exception as error:
        code = int(isinstance(error, MemoryError))
    finally:
        os._exit(code)


def _limit(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
