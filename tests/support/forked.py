"""`hyperclone` in processes forked from one that has imported what it needs, so that hundreds of them take no hours."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["hyperclone_cli.api", "hyperclone_cli.cli.app", "hyperclone_cli.cli.growth_output", "hyperclone_cli.writing.run",
     "transformers.models.llama.modeling_llama"]
)  # fmt: skip


class Forked:
    """A command that runs: what of `subprocess.Popen` a test of interrupted commands needs.

    words        those after `hyperclone`
    limit_bytes  that no file which it writes can outgrow
    environment  variables that it has beside those of the first process that was forked
    """

    def __init__(
        self, words: Sequence[object], limit_bytes: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._stderr, theirs = _SERVER.Pipe(duplex=False)
        given = [*map(str, words)], theirs, limit_bytes, dict(environment or {})
        self._process = _SERVER.Process(target=_run, args=given)
        self._process.start()
        theirs.close()

    def poll(self) -> int | None:
        """Its exit status, -N if signal N ended it; None while it runs."""
        return self._process.exitcode

    def anonymous_bytes(self) -> int:
        """Anonymous memory that it has now; 0 when it has ended."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0
        return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon")), 0)

    def send_signal(self, sent: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None and self._process.pid:
            os.kill(self._process.pid, sent)

    def finish(self) -> tuple[int, str]:
        """Wait for its end, ten minutes at most: (exit status, stderr)."""
        stderr = b""
        deadline = time.monotonic() + 600
        while self._stderr.poll(deadline - time.monotonic()) and (part := os.read(self._stderr.fileno(), 1 << 16)):
            stderr += part
        self._process.join(deadline - time.monotonic())
        status = self.poll()
        assert status is not None, "it does not end"
        return status, stderr.decode()


def _run(words: list[str], stderr: Connection, limit_bytes: int | None, environment: dict[str, str]) -> None:
    os.environ |= environment
    from hyperclone_cli.__main__ import main

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    if limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    sys.argv = ["hyperclone", *words]
    main()
