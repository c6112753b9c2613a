"""All of a clone but its shards: config, index, side files, recipe, card and record."""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path

from hyperclone_cli.checkpoint.checksums import checksums
from hyperclone_cli.checkpoint.source import INDEX_NAME
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.recipe import recipe_of
from hyperclone_cli.progress import Progress
from hyperclone_cli.writing.card import write_card
from hyperclone_cli.writing.clone_files import CARD_NAME, PROVENANCE_NAME, RECIPE_NAME
from hyperclone_cli.writing.integrity import check_written
from hyperclone_cli.writing.lineage import weights_digest
from hyperclone_cli.writing.provenance import earlier_growths, provenance
from hyperclone_cli.writing.publish import JOURNAL_NAME, sync


def complete(
    plan: Plan,
    directory: Path,
    out: Path | None,
    non_finite: Set[str],
    checksum: bool,
    progress: Progress,
    shown: object,
) -> None:
    """Write what lies beside the shards into the directory that holds them, and hold the whole against the plan.

    out         where the clone will be; None in an object store
    non_finite  the source's tensors that contain NaN or Inf
    shown       the clone's name for the user
    """
    progress.step(f"Writing config and tokenizer, and syncing {shown}")
    read = ""
    if earlier_growths(plan.source):
        progress.step(f"Hashing the weights of {plan.source.path}, a clone itself", "bytes")
        read = weights_digest(plan, progress.advance)
    _write_files(plan, directory, out, non_finite, checksum, read)
    check_written(plan, directory)


def write_beside_shards(plan: Plan, directory: Path) -> None:
    """Write what a loader needs beside the shards: config, index and side files."""
    if len(plan.shards) > 1:
        weight_map = {name: shard for shard, names in plan.shards.items() for name in names}
        _write_json(directory / INDEX_NAME, {"metadata": {"total_size": plan.nbytes}, "weight_map": weight_map})
    plan.source.copy_side_files(directory)
    _write_json(directory / "config.json", dict(plan.config))


def _write_files(
    plan: Plan, directory: Path, out: Path | None, non_finite: Set[str], checksum: bool, source_sha256: str
) -> None:
    write_beside_shards(plan, directory)
    (directory / RECIPE_NAME).write_text(recipe_of(plan).as_text(), encoding="utf-8")
    write_card(directory, plan)
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(JOURNAL_NAME)]
    written = sorted(str(path.relative_to(directory)) for path in files)
    record = provenance(plan, out, source_sha256) | {"files": written}
    record |= {"not_finite": sorted(non_finite)} if non_finite else {}
    record |= {"sha256": checksums(directory, set(written) - {CARD_NAME})} if checksum else {}
    _write_json(directory / PROVENANCE_NAME, record)
    for path in directory.rglob("*"):
        sync(path)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
