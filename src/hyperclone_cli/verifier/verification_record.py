"""verification.json: the result of a clone's last full verification, whose figures are also written into its card.

It contains the SHA-256 of every file that was verified, so that later changes are noticed. It contains no clock time,
host or absolute path, so that it can be published with the clone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from hyperclone_cli.checkpoint.checksums import checksums
from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.errors import MismatchError, RequestError
from hyperclone_cli.writing.card import with_figures
from hyperclone_cli.writing.clone_files import CARD_NAME, VERIFICATION_NAME, published_files, replacement_of
from hyperclone_cli.writing.provenance import read_provenance

SCHEMA_VERSION = 1

_FIGURES = ("passed", "weights", "logits", "generation", "before_rounding")


def file_digests(clone: Path) -> dict[str, str]:
    """Name → SHA-256 of every published file, except the card, which users may edit, and verification.json."""
    return checksums(clone, published_files(clone) - {CARD_NAME, VERIFICATION_NAME})


def record_verification(clone: Path, plan_digest: str, files: Mapping[str, str], report: Mapping[str, Any]) -> str:
    """Write the figures of a verification into verification.json and into the clone's card.

    plan_digest  of the plan that the clone was compared with
    files        name → SHA-256 of the files that were verified
    report       the JSON of the report

    Returns "", or why they could not be written, for instance into a read-only directory.
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
    """Replace the contents of a file atomically, and keep its mode."""
    new = path.with_name(replacement_of(path.name))
    try:
        new.write_bytes(text.encode())
        if path.exists():
            shutil.copymode(path, new)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def check_verified(clone: Path) -> None:
    """Raise RequestError unless a clone is unchanged since its last verification, MismatchError if it failed that."""
    path, again = clone / VERIFICATION_NAME, f"Next: hyperclone verify {quote(str(clone))}; or push with --force."
    if not path.exists():
        raise RequestError(f"{clone}: the clone was never verified.", again)
    found, record = read_json(path), read_provenance(clone)
    files = found.get("files")
    if (
        record is None
        or found.get("schema_version") != SCHEMA_VERSION
        or found.get("plan_digest") != record.plan_digest
        or not isinstance(files, dict)
    ):
        raise RequestError(f"{path}: the record is not about this clone.", again)
    if found.get("passed") is not True:
        raise MismatchError(f"{clone}: the clone failed its verification.", again)
    present = file_digests(clone)
    changed = [name for name in sorted({*files, *present}) if files.get(name) != present.get(name)]
    if changed:
        added = " was not there" if changed[0] not in files else ""
        raise RequestError(f"{clone}: the clone changed since it was verified: {changed[0]}{added}.", again)
