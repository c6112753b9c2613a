"""The README's table of architectures, which is written from the tables: `make readme` runs this."""

from __future__ import annotations

from pathlib import Path

from hyperclone_cli.families import FAMILIES
from hyperclone_cli.growth.capabilities import markdown

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- families -->\n", "<!-- /families -->"


def with_table(readme: str) -> str:
    """The README with today's table between its marks."""
    before, rest = readme.split(START)
    return f"{before}{START}{markdown(list(FAMILIES.values()))}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
