"""A clone into an object store: by one process, or by ranks."""

from __future__ import annotations

from hyperclone_cli.checkpoint.object_store import StoreUrl
from hyperclone_cli.errors import RequestError
from hyperclone_cli.writing.beside_shards import complete
from hyperclone_cli.writing.preflight import check_loads
from hyperclone_cli.writing.ranks import share_of
from hyperclone_cli.writing.run import Run, Written, check_unchanged, with_notes
from hyperclone_cli.writing.shard_task import shard_tasks
from hyperclone_cli.writing.stored_clone import StoredClone, check_room


def into_store(run: Run, out: StoreUrl) -> Written:
    """Write the clone of a run, or a rank's share of it, to a prefix where nothing is taken for a model until the end.

    Raises RequestError for what a store cannot do.
    """
    writing, rank, progress = run.writing, run.rank, run.progress
    for option in ("overwrite", "checksum", "optimizer"):
        if getattr(writing, option):
            raise RequestError(f"--{option}: not for an --out in an object store.", "Leave it out.")
    clone = StoredClone(out)
    there = clone.published()
    if rank is None or not there:
        clone.check_vacant(run.place)
    plan = check_loads(run.plan(check_room))
    if rank is not None and there == plan.digest:
        return Written(plan, rank)
    clone.check_vacant(run.place)
    run.planned(plan)
    key = run.key(plan, out)
    with clone.opened(key, rank, writing.restart) as journal:
        part = share_of(plan, rank) if rank else plan
        tasks, nbytes = shard_tasks(part, journal, run.budget(part)), part.nbytes
        progress.step(f"Writing {out}", "bytes")
        try:
            non_finite = clone.write(part, tasks, journal, lambda written: progress.advance(written, nbytes))
        except RequestError:
            if rank is None:
                clone.discard()
            raise
        check_unchanged(plan.source, key)
        standing = clone.finish(plan, journal, key, rank) if rank else None
        non_finite = standing.non_finite if standing else non_finite
        if standing is None or standing.publisher == (rank and rank.number):
            clone.publish(
                plan, journal, lambda directory: complete(plan, directory, None, non_finite, False, progress, out)
            )
    return Written(with_notes(plan, part, journal, non_finite), rank, part if rank else None, standing)
