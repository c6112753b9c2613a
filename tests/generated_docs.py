"""The pages of the documentation that are made from the code: `make docs` writes them, a test compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import hyperclone_cli
from options_reference import options_reference

DOCS = Path(hyperclone_cli.__file__).parent / "docs"
MARK = "<!-- Made by tests/generated_docs.py: `make docs` writes this page. -->\n"


def options() -> str:
    """Every command, every option: type, default, what it does."""
    return MARK + options_reference()


PAGES: Mapping[Path, Callable[[], str]] = {DOCS / "options.md": options}
"""The file of each page that is made from the code, and what makes its text."""


if __name__ == "__main__":
    for path, text in PAGES.items():
        path.write_text(text(), encoding="utf-8")
