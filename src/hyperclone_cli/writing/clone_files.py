"""The files of a clone that hyperclone writes beside the weights, by name."""

from __future__ import annotations

from pathlib import Path

CARD_NAME = "README.md"
PROVENANCE_NAME = "hyperclone.json"
VERIFICATION_NAME = "verification.json"


def replacement_of(name: str) -> str:
    """The name that a new version of a file has until it takes the place of `name`."""
    return f".{name}.new"


VERIFICATION_NAMES = frozenset({VERIFICATION_NAME, replacement_of(VERIFICATION_NAME), replacement_of(CARD_NAME)})
"""What verifications add to a clone, also those that are killed."""


def published_files(clone: Path) -> set[str]:
    """The files that `push` uploads, by their paths in the clone: all that are not hidden."""
    files = (path.relative_to(clone) for path in clone.rglob("*") if path.is_file())
    return {str(path) for path in files if not any(part.startswith(".") for part in path.parts)}
