"""What a long run says while it works."""

from __future__ import annotations


class Progress:
    """Hears of every step as it begins. Does nothing with it: override the methods that you need."""

    def step(self, text: str, unit: str = "") -> None:
        """A step begins, such as "Comparing the weights". If `unit` is given, `advance` counts in it."""

    def fetch(self, name: str) -> None:
        """A step begins that fetches `name` from the Hub. On a terminal huggingface_hub shows bars of its own."""
        self.step(f"Fetching {name}")

    def advance(self, done: int, total: int) -> None:
        """`done` more units of the step's `total` are done. It is called from the thread that called the function."""
