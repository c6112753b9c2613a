"""The commands as functions: the same options, under the same names, with the same defaults.

Each imports what it needs when it is called, so that `--help` need not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperclone_cli.growth.option import take, takes
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.writing.options import Writing

if TYPE_CHECKING:
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.hub.upload import Pushed, Target
    from hyperclone_cli.planning.plan import Plan
    from hyperclone_cli.progress import Progress


@takes(Request, Mixing)
def plan(
    src: str | Path,
    request: Request | None = None,
    *,
    access: Access | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """What `expand` would write for the checkpoint `src`: sizes, parameters, bytes, what is exact. Writes nothing.

    src       a directory, or the name of a model on the Hub, of which the headers are read and no weights fetched
    request   what is asked for; or its fields and those of its `mixing`, as keywords
    access    revision, token and cache for the Hub; None: the usual ones
    progress  hears of every step

    Raises RequestError, CheckpointError or StorageError as `expand` does, and TypeError for an unknown keyword.
    """
    from hyperclone_cli.hub.download import Access, locate
    from hyperclone_cli.hub.remote_headers import open_headers
    from hyperclone_cli.planning.planner import make_plan
    from hyperclone_cli.progress import Progress

    wanted, access = Request.of(request, options), access or Access()
    return make_plan(open_headers(locate(src, access), access, progress or Progress(), wanted.dtype), wanted)


@takes(Request, Mixing, Writing)
def expand(
    src: str | Path,
    out: str | Path,
    request: Request | None = None,
    *,
    access: Access | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Write a larger checkpoint that computes the same function as `src` to the new directory `out`.

    The clone is not verified: call `verify(out)` for that.

    src       a directory, or the name of a model on the Hub, which is fetched
    request   what is asked for; or its fields and those of its `mixing`, as keywords. Those of Writing are keywords too
    access    revision, token and cache for the Hub; None: the usual ones
    progress  hears of every step, and of the bytes written

    Raises RequestError, CheckpointError, or StorageError if the disk is too small or fails, or the Hub;
    then `out` is as it was. Raises TypeError for an unknown keyword.
    """
    from hyperclone_cli.checkpoint.object_store import place_of
    from hyperclone_cli.writing import pipeline

    writing = Writing(**take(Writing, options))
    return pipeline.expand(src, place_of(out), Request.of(request, options), writing, access, progress)


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
