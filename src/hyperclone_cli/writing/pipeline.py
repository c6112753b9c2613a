"""`expand`: plan, grow and write a clone, into a directory or an object store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hyperclone_cli.checkpoint.object_store import StoreUrl
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.hub.download import Access, locate
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.progress import Progress
from hyperclone_cli.writing.into_directory import into_directory
from hyperclone_cli.writing.into_store import into_store
from hyperclone_cli.writing.options import Writing
from hyperclone_cli.writing.ranks import rank_of
from hyperclone_cli.writing.ray_cluster import check_executor
from hyperclone_cli.writing.run import Run, Written


def expand(
    src: str | Path,
    out: Path | StoreUrl,
    request: Request,
    writing: Writing | None = None,
    access: Access | None = None,
    progress: Progress | None = None,
    planned: Callable[[Plan], None] | None = None,
) -> Plan:
    """Write the clone of `src` under `request` to the new directory or prefix `out`, and return its plan.

    `src` is a directory, a URL, or the name of a model on the Hub, which is fetched with `access`. It is only read;
    a note of the plan names tensors that contain NaN or Inf. Until the clone is complete, `out` is absent, or the
    clone that was there before. An interrupted run of the same clone is resumed, unless `writing` says otherwise. The
    number of threads and their memory (see `plan_budget`) do not change a byte of the clone.

    `planned` is called with the plan before anything is written.

    Raises RequestError, CheckpointError, or StorageError if the disk is too small or fails, the source changes
    while it is read, another run is writing `out`, or the Hub fails.
    """
    return expand_part(src, out, request, writing, access, progress, planned).plan


def expand_part(
    src: str | Path,
    out: Path | StoreUrl,
    request: Request,
    writing: Writing | None = None,
    access: Access | None = None,
    progress: Progress | None = None,
    planned: Callable[[Plan], None] | None = None,
) -> Written:
    """As `expand`, for a process that may be one of several: says what it wrote, and how far the others are."""
    access, writing, progress = access or Access(), writing or Writing(), progress or Progress()
    rank = rank_of(writing, os.environ)
    if rank and writing.restart:
        raise RequestError(
            f"--restart: {rank} cannot discard what the others write.",
            "Leave it out, and remove the unfinished clone before any rank is started.",
        )
    if rank and writing.optimizer:
        raise RequestError(f"--optimizer: one process grows it, and this is {rank}.", "Write the clone by one process.")
    check_executor(writing)
    if writing.executor == "ray" and (rank or isinstance(out, StoreUrl)):
        with_what = f"and this is {rank}" if rank else f"and {out} is in an object store"
        raise RequestError(
            f"--executor ray: its workers write to a filesystem that all see, as Ray shares them out, {with_what}.",
            "Give one of the two.",
        )
    run = Run(src, locate(src, access), request, writing, access, rank, progress, planned or (lambda _: None))
    return into_store(run, out) if isinstance(out, StoreUrl) else into_directory(run, out)
