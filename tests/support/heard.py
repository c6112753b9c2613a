"""What a run says of its progress."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from hyperclone_cli.progress import Progress


class Heard(Progress):
    """The steps that began, the unit of each, and what was done: (done, total) of each call, each handed to `then`."""

    def __init__(self, then: Callable[[int, int], None] = lambda *_: None) -> None:
        self.steps: list[str] = []
        self.units: dict[str, str] = {}
        self.advances: list[tuple[int, int]] = []
        self.done: dict[str, int] = defaultdict(int)
        self.totals: dict[str, int] = {}
        self._then = then

    def step(self, text: str, unit: str = "") -> None:
        self.steps.append(text)
        self.units[text] = unit

    def advance(self, done: int, total: int) -> None:
        self.advances.append((done, total))
        self.done[self.steps[-1]] += done
        self.totals[self.steps[-1]] = total
        self._then(done, total)


def expand_steps(src: Path, clone: Path, tokens: int, stored: str = "float32", reading: str = "Reading") -> list[str]:
    """All that `expand` says on a stderr that is no terminal, for a source stored in the dtype `stored`."""
    models_run = dict.fromkeys(["the source in float32", f"the source in {stored}", "the clone in float32"])
    return [
        f"{reading} {src} …",
        "Checking that transformers accepts the clone …",
        "The clone will be verified in memory.",
        f"Writing {clone} …",
        f"Writing config and tokenizer, and syncing {clone} …",
        f"Hashing the files of {clone} …",
        "Comparing the weights …",
        *(
            f"{step} …"
            for model in models_run
            for step in (
                f"Loading {model}",
                f"Running {model} on {tokens} tokens",
                *([f"Decoding 5 prompts with {model}"] if model.endswith("float32") else []),
            )
        ),
    ]
