"""Whether transformers accepts a plan, asked while its first gigabytes are written.

Most of the seconds that the answer takes are imports. Until it is there, nothing that is written counts: see
`publish.new_directory` for what becomes of it otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock

from hyperclone_cli.errors import HypercloneError
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.preflight import check_loads
from hyperclone_cli.writing.shard_task import Record, ShardWritten

_UNACCEPTED_BYTES = 4 << 30
"""Written at most before the answer is there, by all threads together: what a fast disk takes in meanwhile."""


class Replanned(HypercloneError):
    """Transformers sees the source otherwise than its plan: `plan` is the one to write."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(f"{plan.source.path}: transformers sees it otherwise than its files say.")
        self.plan = plan


class Acceptance:
    """The answer of `check_loads` about a plan, which a thread of its own works out."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        thread = ThreadPoolExecutor(1)
        self._answer = thread.submit(check_loads, plan)
        thread.shutdown(wait=False)

    def wait(self) -> None:
        """Return once transformers accepts the plan. Raises Replanned for another one, and as `check_loads` does."""
        accepted = self._answer.result()
        if accepted is not self._plan:
            raise Replanned(accepted)

    @contextmanager
    def before(self, record: Record) -> Iterator[Record]:
        """A `record` that keeps what has reached the disk, and passes it on once the plan is accepted.

        After 4 GiB it waits for that, as leaving the context does. Raises as `wait`.
        """
        kept: list[ShardWritten] = []
        one_at_a_time = Lock()

        def pass_on() -> None:
            self.wait()
            while kept:
                record(kept.pop(0))

        def keep(written: ShardWritten) -> None:
            with one_at_a_time:
                kept.append(written)
                if self._answer.done() or sum(each.nbytes for each in kept) >= _UNACCEPTED_BYTES:
                    pass_on()

        try:
            yield keep
        finally:  # what another error ends can be resumed
            pass_on()
