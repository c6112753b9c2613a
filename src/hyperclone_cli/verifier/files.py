"""Are config.json and the files beside the weights what they should be, and are there no others?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperclone_cli.checkpoint.source import INDEX_NAME, READ_WITH_MODEL, fits
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.verifier.report import Findings
from hyperclone_cli.writing.clone_files import CARD_NAME, PROVENANCE_NAME, VERIFICATION_NAME, published_files

_NOT_COMPARED = {"transformers_version", "_name_or_path"}
"""Keys that say where a config comes from, not what it means."""

_LOADED = (*READ_WITH_MODEL, "adapter_config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*")
"""Files that a loader reads if they are there, with the clone's own or instead of them."""


def compare_config(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Every key of config.json that is not what the plan says."""
    keys = [key for key in {**expected, **found} if key not in _NOT_COMPARED]
    return [
        f"config.json: {key} should be {expected.get(key, 'absent')!r}, found {found.get(key, 'absent')!r}"
        for key in keys
        if expected.get(key, "absent") != found.get(key, "absent")
    ]


def compare_files(plan: Plan, clone: Path, found: Findings) -> None:
    """Hold what lies beside the weights in the directory `clone` against the source's, byte for byte.

    A file too many fails the clone if loaders would read it; of others there is a note.
    """
    companions = plan.source.companions()
    for name in companions:
        if not (clone / name).is_file():
            found.failures.append(f"file {name} is missing; the source has it")
        elif (clone / name).read_bytes() != plan.source.companion(name):
            found.failures.append(f"file {name} is not the source's")
    own = {"config.json", CARD_NAME, PROVENANCE_NAME, VERIFICATION_NAME, *plan.shards, *map(str, companions)}
    own |= {INDEX_NAME} if len(plan.shards) > 1 else set()
    others = sorted(published_files(clone) - own)
    found.failures += [
        f"file {name} should not be there: the source has none, and loaders would read it"
        for name in others
        if fits(name, _LOADED)
    ]
    harmless = [name for name in others if not fits(name, _LOADED)]
    if harmless:
        more = f" and {len(harmless) - 3} more" if len(harmless) > 3 else ""
        found.notes.append(
            f"Not of the clone, and not compared, but `push` would publish it: {', '.join(harmless[:3])}{more}."
        )
