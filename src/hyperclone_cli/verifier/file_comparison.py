"""Compare the clone's config.json and side files with what they should be, and look for unexpected files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperclone_cli.checkpoint.source import INDEX_NAME, READ_WITH_MODEL, matches_any
from hyperclone_cli.errors import first_of
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.verifier.report import PartialReport
from hyperclone_cli.writing.clone_files import (
    CARD_NAME,
    PROVENANCE_NAME,
    RECIPE_NAME,
    REPORT_NAME,
    VERIFICATION_NAME,
    published_files,
)

_NOT_COMPARED = {"transformers_version", "_name_or_path"}
"""Keys that record where a config comes from; the model does not depend on them."""

_LOADER_FILES = (*READ_WITH_MODEL, "adapter_config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*")
"""Files that loaders read if they exist, beside the clone's own or in their place."""


def compare_config(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One message for each key of config.json that differs from the plan's."""
    keys = [key for key in {**expected, **found} if key not in _NOT_COMPARED]
    return [
        f"config.json: {key} should be {expected.get(key, 'absent')!r}, found {found.get(key, 'absent')!r}"
        for key in keys
        if expected.get(key, "absent") != found.get(key, "absent")
    ]


def compare_files(plan: Plan, clone: Path, partial: PartialReport) -> None:
    """Compare the side files in the directory `clone` with the source's, byte for byte.

    Missing or different files are failures. An unexpected file is a failure if loaders would read it, else a note.
    """
    side_files = plan.source.side_files()
    for name in side_files:
        if not (clone / name).is_file():
            partial.failures.append(f"file {name} is missing; the source has it")
        elif (clone / name).read_bytes() != plan.source.read_side_file(name):
            partial.failures.append(f"file {name} differs from the source's")
    own = {"config.json", CARD_NAME, PROVENANCE_NAME, RECIPE_NAME, VERIFICATION_NAME, REPORT_NAME, *plan.shards}
    own |= set(map(str, side_files))
    own |= {INDEX_NAME} if len(plan.shards) > 1 else set()
    others = sorted(published_files(clone) - own)
    partial.failures += [
        f"file {name} is unexpected: the source has none, and loaders would read it"
        for name in others
        if matches_any(name, _LOADER_FILES)
    ]
    harmless = [name for name in others if not matches_any(name, _LOADER_FILES)]
    if harmless:
        partial.notes.append(
            f"Not part of the clone and not compared, but `push` would publish it: {first_of(harmless, 3)}."
        )
