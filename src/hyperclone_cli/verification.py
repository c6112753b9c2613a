"""verification.json: what the last full verification of a clone found, repeated in its card.

It holds the SHA-256 of every file that was there, so that a later change shows, and no clock time, no host and no
path, so that it can be published with the clone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperclone_cli.card import CARD_NAME, with_figures
from hyperclone_cli.checksums import checksums

VERIFICATION_NAME = "verification.json"
SCHEMA_VERSION = 1


def _beside(name: str) -> str:
    """What a file is called until it takes the place of `name`."""
    return f".{name}.new"


OWN_NAMES = frozenset({VERIFICATION_NAME, _beside(VERIFICATION_NAME), _beside(CARD_NAME)})
"""What verifications add to a clone, also those that are killed."""

_FIGURES = ("passed", "weights", "logits", "generation")


def published(clone: Path) -> set[str]:
    """The files that go where a clone goes, by their paths in it: all but those that are, or lie, in hiding."""
    files = (path.relative_to(clone) for path in clone.rglob("*") if path.is_file())
    return {str(path) for path in files if not any(part.startswith(".") for part in path.parts)}


def file_digests(clone: Path) -> dict[str, str]:
    """Name → SHA-256 of every file that is published with a clone.

    But for the card, which is the user's to edit, and the record of its verification.
    """
    return checksums(clone, published(clone) - {CARD_NAME, VERIFICATION_NAME})


def record_verification(clone: Path, plan_digest: str, files: Mapping[str, str], report: Mapping[str, Any]) -> str:
    """Write the figures of `report` (its JSON) into a clone that was held against the plan with that digest.

    `files` are the digests of what was verified. Returns why that could not be done, for a directory that cannot be
    written; else an empty text.
    """
    figures = {key: report[key] for key in _FIGURES}
    found = {"schema_version": SCHEMA_VERSION, "plan_digest": plan_digest, "files": files, **figures}
    card = clone / CARD_NAME
    try:
        _replace(clone / VERIFICATION_NAME, json.dumps(found, indent=2, allow_nan=False) + "\n")
        if card.is_file():
            text = card.read_bytes().decode()
            if text != (changed := with_figures(text, figures)):
                _replace(card, changed)
    except UnicodeDecodeError:
        return f"{CARD_NAME} is not UTF-8, so the figures were not written into it."
    except OSError as error:
        return f"The figures could not be recorded in {clone}: {error.strerror or error}."
    return ""


def _replace(path: Path, text: str) -> None:
    """Put `text` in the place of what `path` holds, whole or not at all, in the mode that it had."""
    new = path.with_name(_beside(path.name))
    try:
        new.write_bytes(text.encode())
        if path.exists():
            shutil.copymode(path, new)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
