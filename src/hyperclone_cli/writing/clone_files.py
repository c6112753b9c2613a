"""Names of the files that hyperclone writes into a clone beside the weights."""

from __future__ import annotations

from pathlib import Path

from hyperclone_cli.checkpoint.training_state import state_files

CARD_NAME = "README.md"
PROVENANCE_NAME = "hyperclone.json"
RECIPE_NAME = "recipe.json"
VERIFICATION_NAME = "verification.json"
REPORT_NAME = "verification.html"


def replacement_of(name: str) -> str:
    """The name of a new version of the file `name` until it is renamed."""
    return f".{name}.new"


VERIFICATION_NAMES = frozenset(
    {VERIFICATION_NAME, REPORT_NAME, *map(replacement_of, (VERIFICATION_NAME, REPORT_NAME, CARD_NAME))}
)
"""Files that a verification adds to a clone, also one that is killed."""


def published_files(clone: Path) -> set[str]:
    """The files that `push` uploads, as paths inside the clone: all but hidden ones, and those that resume a run."""
    files = (path.relative_to(clone) for path in clone.rglob("*") if path.is_file())
    return {str(path) for path in files if not any(part.startswith(".") for part in path.parts)} - state_files(clone)
