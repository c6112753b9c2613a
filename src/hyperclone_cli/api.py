"""The commands as functions: the same options, under the same names, with the same defaults.

Each imports what it needs when it is called, so that `--help` need not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hyperclone_cli.growth.options import GrowthOptions, request
from hyperclone_cli.growth.request import DEFAULT_MAX_MEMORY

if TYPE_CHECKING:
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.hub.upload import Pushed, Target
    from hyperclone_cli.planning.planner import Plan
    from hyperclone_cli.writing.writer import Progress


def plan(src: str | Path, *, access: Access | None = None, **options: Unpack[GrowthOptions]) -> Plan:
    """What `expand` would write for the checkpoint `src`: sizes, parameters, bytes, what is exact. Writes nothing.

    src      a directory, or the name of a model on the Hub, of which the headers are read and no weights fetched
    access   revision, token and cache for the Hub; None: the usual ones
    options  those of GrowthOptions

    Raises RequestError, CheckpointError or StorageError as `expand` does.
    """
    from hyperclone_cli.hub.download import Access, locate
    from hyperclone_cli.hub.remote_headers import open_headers
    from hyperclone_cli.planning.planner import make_plan

    wanted, access = request(**options), access or Access()
    return make_plan(open_headers(locate(src, access), access, wanted.dtype), wanted)


def expand(
    src: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    access: Access | None = None,
    checksum: bool = False,
    restart: bool = False,
    threads: int | None = None,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    **options: Unpack[GrowthOptions],
) -> Plan:
    """Write a larger checkpoint that computes the same function as `src` to the new directory `out`.

    Does not verify it: call `verify(out)` for that.

    src        a directory, or the name of a model on the Hub, which is fetched
    overwrite  replace a model at `out` once the new one is complete
    progress   called from any thread with the bytes just written and the bytes of the whole
    access     revision, token and cache for the Hub; None: the usual ones
    checksum   also record the SHA-256 of every file, for `verify(out, checksum=True)`
    restart    discard what an interrupted run has written, instead of going on with it
    threads    how many to work with; None: one for each core
    max_memory  of the blocks being worked on, in bytes or a size such as "512MB"
    options    those of GrowthOptions

    Raises RequestError, CheckpointError, or StorageError if the disk is too small or fails, or the Hub;
    then `out` is as it was.
    """
    from hyperclone_cli.writing import pipeline

    wanted = request(**options)
    return pipeline.expand(src, Path(out), wanted, overwrite, progress, access, checksum, restart, threads, max_memory)


def push(clone: Path, target: Target, force: bool = False) -> Pushed:
    """Upload the finished, verified clone at `clone`; see `hub.upload`.

    force  upload a clone that was not verified, or failed

    Raises CheckpointError if `clone` is no finished clone, RequestError if it was not verified as it stands,
    MismatchError if it failed its verification, and StorageError if the Hub refuses or cannot be reached.
    """
    from hyperclone_cli.hub.upload import upload
    from hyperclone_cli.verifier.verification_record import check_verified
    from hyperclone_cli.writing.provenance import check_clone

    check_clone(clone)
    if not force:
        check_verified(clone)
    return upload(clone, target, force)
