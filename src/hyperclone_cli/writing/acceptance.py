"""Whether transformers accepts a plan, asked while its first shards are written.

Most of the seconds that the answer takes are imports. Until it is there, nothing that is written counts: see
`publish.new_directory` for what becomes of it otherwise.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hyperclone_cli.errors import HypercloneError
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.preflight import check_loads


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
