"""The pipeline: plan → read → grow → write, into a directory that appears whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperclone_cli.card import CARD_NAME, write_card
from hyperclone_cli.checksums import checksums
from hyperclone_cli.config import check_config, read_sizes
from hyperclone_cli.errors import StorageError
from hyperclone_cli.families import find_family
from hyperclone_cli.hub import Access, cache_of, locate, open_checkpoint
from hyperclone_cli.integrity import check_written, finiteness_note, watched
from hyperclone_cli.planner import Plan, make_plan
from hyperclone_cli.provenance import PROVENANCE_NAME, provenance
from hyperclone_cli.publish import check_places, new_directory, partial_of, sync
from hyperclone_cli.request import Request
from hyperclone_cli.resolve import resolve
from hyperclone_cli.shards import StoredTensor, create, lay_out
from hyperclone_cli.source import INDEX_NAME

_SPARE_BYTES = 64 << 20

Progress = Callable[[int, int], None]
"""Called from any thread with the number of bytes just written, and of all bytes to write."""


def expand(
    src: str | Path,
    out: Path,
    request: Request,
    overwrite: bool = False,
    progress: Progress | None = None,
    access: Access | None = None,
    checksum: bool = False,
) -> Plan:
    """Write the clone of `src` under `request` to the new directory `out`, and return its plan.

    `src` is a directory or the name of a model on the Hub, which is fetched by `access`. `out` is either
    absent (or the clone that was there before) or complete. The source is only read; where it holds NaN or
    Inf, a note of the plan says so. With `checksum` the SHA-256 of every file is recorded.

    Raises RequestError, CheckpointError, or StorageError if the disk is too small or fails, or the Hub.
    """
    access = access or Access()
    out = Path(os.path.abspath(out))
    place = locate(src, access)
    directory = place if isinstance(place, Path) else cache_of(access)
    check_places(directory, out, overwrite)
    source = open_checkpoint(place, access, request.dtype, lambda config: _check_request(config, request))
    plan = make_plan(source, request)
    check_space(plan, out)
    growths = plan.growths
    if growths["embed"].ratio != growths["kv_heads"].ratio * growths["group"].ratio or growths["value"].grows:
        # Architectures tie hidden_size to the number of heads in different ways, and importing
        # transformers takes a second: a config whose widths all grow alike is as valid as the source's.
        check_config(plan.source.config)
        check_config(plan.config)
    not_finite: set[str] = set()
    with new_directory(directory, out, overwrite) as partial:
        try:
            _write_shards(plan, partial, progress, not_finite)
            _write_files(plan, partial, out, not_finite, checksum)
            check_written(plan, partial)
        except OSError as error:
            raise StorageError(
                f"{error.filename or partial}: {error.strerror or error}.",
                f"What was written is under {partial}; mend the cause and run the same command again.",
            ) from error
    return replace(plan, notes=(*plan.notes, finiteness_note(not_finite))) if not_finite else plan


def _check_request(config: Mapping[str, Any], request: Request) -> None:
    """Refuse what can be refused by the config alone, before gigabytes are fetched for it."""
    family = find_family(config, instead=request.family)
    if request.target_params is None:
        resolve(request, read_sizes(config, family), family, config)


def check_space(plan: Plan, out: Path) -> None:
    """Raise StorageError if the filesystem of `out` has too little room for the clone.

    What a killed run left under `<out>.partial` counts as free: it is cleared first.
    """
    existing = next(parent for parent in out.parents if parent.exists())
    leftovers = [path for path in partial_of(out).rglob("*") if path.is_file()]
    free = shutil.disk_usage(existing).free + sum(path.stat().st_blocks * 512 for path in leftovers)
    needed = plan.nbytes + plan.source.companion_bytes() + _SPARE_BYTES
    if needed > free:
        raise StorageError(
            f"{existing}: the clone needs {needed:,} bytes, {free:,} are free.",
            "Choose another disk for --out, smaller multipliers, or a narrower --dtype.",
        )


def _write_shards(plan: Plan, partial: Path, progress: Progress | None, not_finite: set[str]) -> None:
    from hyperclone_cli.expander import Block, Survey, blocks, grow_block, survey, workers
    from hyperclone_cli.rows import write_rows

    by_name = {tensor.name: tensor for tensor in plan.tensors}
    with plan.source.rows() as rows, workers() as pool:
        read = watched(rows, not_finite)

        def write(block: Block, target: StoredTensor, descriptor: int, surveyed: Survey) -> None:
            for place, data in grow_block(block, read, surveyed):
                write_rows(descriptor, block.tensor.like(target), place, data)
                if progress:
                    progress(data.nbytes, plan.nbytes)

        for shard, names in plan.shards.items():
            head, targets = lay_out(
                partial / shard, [(name, by_name[name].dtype, by_name[name].shape) for name in names]
            )
            descriptor = create(partial / shard, head, len(head) + sum(target.nbytes for target in targets))
            jobs: list[Future[None]] = []
            try:
                for target in targets:
                    tensor = by_name[target.name]
                    surveyed = survey(tensor, read, pool)
                    jobs += [pool.submit(write, block, target, descriptor, surveyed) for block in blocks(tensor)]
                for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
                    job.result()
                os.fsync(descriptor)
            finally:  # after a failure or Ctrl-C, nothing may write to a descriptor that is closed
                for job in jobs:
                    job.cancel()
                wait(jobs)
                os.close(descriptor)


def _write_files(plan: Plan, partial: Path, out: Path, not_finite: set[str], checksum: bool) -> None:
    if len(plan.shards) > 1:
        weight_map = {name: shard for shard, names in plan.shards.items() for name in names}
        _write_json(partial / INDEX_NAME, {"metadata": {"total_size": plan.nbytes}, "weight_map": weight_map})
    plan.source.copy_companions(partial)
    _write_json(partial / "config.json", dict(plan.config))
    write_card(partial, plan)
    files = [path for path in partial.rglob("*") if path.is_file() and not path.name.startswith(".")]
    written = sorted(str(path.relative_to(partial)) for path in files)
    record = provenance(plan, out) | {"files": written}
    record |= {"not_finite": sorted(not_finite)} if not_finite else {}
    record |= {"sha256": checksums(partial, set(written) - {CARD_NAME})} if checksum else {}
    _write_json(partial / PROVENANCE_NAME, record)
    for path in partial.rglob("*"):
        sync(path)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
