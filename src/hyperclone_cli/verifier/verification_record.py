"""verification.json: the result of a clone's last full verification, whose figures are also written into its card.

It contains the SHA-256 of every file that was verified, so that later changes are noticed. It contains no clock time,
host or absolute path, so that it can be published with the clone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from hyperclone_cli.checkpoint.checksums import checksums
from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.errors import MismatchError, RequestError
from hyperclone_cli.writing.card import with_figures
from hyperclone_cli.writing.clone_files import (
    CARD_NAME,
    REPORT_NAME,
    VERIFICATION_NAME,
    published_files,
    replacement_of,
)
from hyperclone_cli.writing.provenance import read_provenance

SCHEMA_VERSION = 1

_FIGURES = ("passed", "weights", "logits", "picture", "generation", "before_rounding")


def hashed_files(clone: Path) -> set[str]:
    """Every published file, except the card, which users may edit, and what a verification writes."""
    return published_files(clone) - {CARD_NAME, VERIFICATION_NAME, REPORT_NAME}


def file_digests(clone: Path) -> dict[str, str]:
    """Name → SHA-256 of these files."""
    return checksums(clone, hashed_files(clone))


def record_verification(clone: Path, plan_digest: str, files: Mapping[str, str], report: Mapping[str, Any]) -> str:
    """Write the figures of a verification into verification.json and into the clone's card.

    plan_digest  of the plan that the clone was compared with
    files        name → SHA-256 of the files that were verified
    report       the JSON of the report

    Returns "", or why they could not be written, for instance into a read-only directory.
    """
    figures = {key: report[key] for key in _FIGURES}
    found = {"schema_version": SCHEMA_VERSION, "plan_digest": plan_digest, "files": files, **figures}
    try:
        _write(clone, found)
    except UnicodeDecodeError:
        return f"{CARD_NAME} is not UTF-8, so the figures were not written into it."
    except OSError as error:
        return f"The figures could not be recorded in {clone}: {error.strerror or error}."
    return ""


def record_page(clone: Path, report: Mapping[str, Any]) -> None:
    """Add the HTML page of a verification, which is in the clone, to verification.json, and link it in the card.

    Does nothing if verification.json records another verification than that of `report`; `push` then refuses the page.
    """
    path = clone / VERIFICATION_NAME
    found = read_json(path) if path.is_file() else {}
    # as JSON has them: lists in place of tuples
    if any(found.get(key) != json.loads(json.dumps(report[key])) for key in _FIGURES):
        return
    found["files"] |= checksums(clone, {REPORT_NAME})
    with suppress(UnicodeDecodeError):
        _write(clone, found)


def _write(clone: Path, found: Mapping[str, Any]) -> None:
    """Write verification.json, and its figures into the clone's card if there is one."""
    replace_file(clone / VERIFICATION_NAME, f"{json.dumps(found, indent=2, allow_nan=False)}\n".encode())
    card = clone / CARD_NAME
    if card.is_file():
        text = card.read_bytes().decode()
        page = REPORT_NAME if REPORT_NAME in found["files"] else ""
        if text != (changed := with_figures(text, found, page)):
            replace_file(card, changed.encode())


def replace_file(path: Path, content: bytes) -> None:
    """Replace the contents of a file atomically, and keep its mode."""
    new = path.with_name(replacement_of(path.name))
    try:
        new.write_bytes(content)
        if path.exists():
            shutil.copymode(path, new)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def check_verified(clone: Path) -> None:
    """Raise RequestError unless a clone is unchanged since its last verification, MismatchError if it failed that."""
    record = read_provenance(clone)
    if record is not None and not record.request.keeps_function:
        raise RequestError(
            f"{clone}: the clone is {record.request.by_request}, so it is never verified.", "Push with --force."
        )
    path, again = clone / VERIFICATION_NAME, f"Next: hyperclone verify {quote(str(clone))}; or push with --force."
    if not path.exists():
        raise RequestError(f"{clone}: the clone was never verified.", again)
    found = read_json(path)
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
    present = file_digests(clone) | checksums(clone, {REPORT_NAME})
    changed = [name for name in sorted({*files, *present}) if files.get(name) != present.get(name)]
    if changed == [REPORT_NAME]:
        page = clone / REPORT_NAME
        why = f"{page}: this page is not that of the clone's last verification."
        raise RequestError(why, f"Remove it, or: hyperclone verify {quote(str(clone))} --report {quote(str(page))}")
    if changed:
        added = " was not there" if changed[0] not in files else ""
        raise RequestError(f"{clone}: the clone changed since it was verified: {changed[0]}{added}.", again)
