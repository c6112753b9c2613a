"""A progress that remembers what it hears."""

from __future__ import annotations

from collections.abc import Callable

from hyperclone_cli.progress import Progress


class Heard(Progress):
    """The steps that began, and how much was done: (done, total) of each call. `then` is called with each of these."""

    def __init__(self, then: Callable[[int, int], None] = lambda *_: None) -> None:
        self.steps: list[str] = []
        self.advances: list[tuple[int, int]] = []
        self._then = then

    def step(self, text: str, unit: str = "") -> None:  # noqa: ARG002
        self.steps.append(text)

    def advance(self, done: int, total: int) -> None:
        self.advances.append((done, total))
        self._then(done, total)
