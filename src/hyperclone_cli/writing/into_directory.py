"""A clone into a directory, which appears whole or not at all: by one process, or by ranks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.source import Origin
from hyperclone_cli.checkpoint.training_state import state_note
from hyperclone_cli.errors import StorageError
from hyperclone_cli.hub.download import cache_of
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.acceptance import Acceptance, Replanned
from hyperclone_cli.writing.beside_shards import complete, write_beside_shards
from hyperclone_cli.writing.budget import plan_budget
from hyperclone_cli.writing.journal import Journal, RunKey
from hyperclone_cli.writing.preflight import check_loads
from hyperclone_cli.writing.provenance import read_provenance
from hyperclone_cli.writing.publish import (
    check_places,
    new_directory,
    partial_of,
    remove_leftovers,
    remove_stale_journal,
    take_place,
)
from hyperclone_cli.writing.ranks import Rank, finish, joined, share_of
from hyperclone_cli.writing.run import Run, Written, check_unchanged, with_notes
from hyperclone_cli.writing.shard_task import Record, ShardTask, ShardWritten, shard_tasks

if TYPE_CHECKING:
    from hyperclone_cli.writing.training_state import TrainingState

_SPARE_BYTES = 64 << 20


def into_directory(run: Run, out: Path) -> Written:
    """Write the clone of a run, or a rank's share of it, so that it is at `out` once it is complete."""
    writing, rank = run.writing, run.rank
    shown, out = out, Path(os.path.abspath(out))
    place = run.place
    directory = cache_of(run.access) if isinstance(place, Origin) else place if isinstance(place, Path) else None
    remove_stale_journal(out)
    check_places(directory, out, writing.overwrite or rank is not None)
    plan = run.plan(lambda plan: check_space(plan, out))
    if rank is None:
        # what resumes an earlier run, or is handed to others, is accepted first
        beside = not (partial_of(out).exists() or writing.executor == "ray" or writing.optimizer)
        acceptance = Acceptance(plan) if beside else None
        plan = plan if beside else check_loads(plan)
        run.planned(plan)
        try:
            return _write_alone(run, plan, directory, out, shown, acceptance)
        except Replanned as other:
            return _write_alone(run, other.plan, directory, out, shown)
    plan = check_loads(plan)
    if not writing.overwrite and _is_published(plan, out):
        return Written(plan, rank)
    check_places(directory, out, writing.overwrite)
    run.planned(plan)
    return _write_share(run, plan, directory, out, shown, rank)


def _write_alone(
    run: Run, plan: Plan, directory: Path | None, out: Path, shown: Path, acceptance: Acceptance | None = None
) -> Written:
    """Write the clone as the only process; by a plan that is not accepted yet, or if there is no `acceptance`, is.

    Raises Replanned, with nothing written, if transformers accepts another plan.
    """
    writing = run.writing
    check_places(directory, out, writing.overwrite)
    state = _plan_state(plan, out) if writing.optimizer else None
    plan = _noted(plan, writing.optimizer, state.notes if state else ())
    key = run.key(plan, out, state)
    begin = acceptance is None
    with _disk_errors(out), new_directory(directory, out, key, writing.overwrite, writing.restart, begin) as journal:
        non_finite = _write(run, plan, journal, key, shown, state, acceptance)
        complete(plan, journal.directory, out, non_finite, writing.checksum, run.progress, shown)
    return Written(with_notes(plan, plan, journal, non_finite))


def _write_share(run: Run, plan: Plan, directory: Path | None, out: Path, shown: Path, rank: Rank) -> Written:
    """Write the share of a rank, and publish the clone if all others have finished."""
    writing = run.writing
    plan = _noted(plan, writing.optimizer)
    key = run.key(plan, out)
    with _disk_errors(out), joined(directory, out, key, rank, writing.overwrite) as journal:
        share = share_of(plan, rank)
        _write(run, share, journal, key, shown)
        standing = finish(journal, plan, key, rank)
        if standing.publisher == rank.number:
            remove_leftovers(journal.directory, plan.shards)
            complete(plan, journal.directory, out, standing.non_finite, writing.checksum, run.progress, shown)
            take_place(directory, out, writing.overwrite)
    return Written(with_notes(plan, share, journal, standing.non_finite), rank, share, standing)


def _noted(plan: Plan, optimizer: bool, more: Sequence[str] = ()) -> Plan:
    """The plan with notes on what resumes the source's training."""
    return replace(plan, notes=(*plan.notes, *more, *filter(None, [state_note(plan.source.path, optimizer)])))


def _write(
    run: Run,
    part: Plan,
    journal: Journal,
    key: RunKey,
    shown: Path,
    state: TrainingState | None = None,
    acceptance: Acceptance | None = None,
) -> frozenset[str]:
    """Write what the journal does not list of `part`, and of the optimizer.

    Returns the names of the source's tensors and moments that contain NaN or Inf, of those that were read.
    Raises OSError if the disk fails, RequestError if a storage dtype overflows, StorageError if the source changes, and
    what the acceptance of `part` raises.
    """
    source, progress = part.source, run.progress
    progress.step(f"Writing {shown}", "bytes")
    non_finite = _do_tasks(run, part, journal, acceptance)
    if state:
        from hyperclone_cli.writing.training_state import check_training_state, write_training_state

        progress.step(f"Growing the optimizer of {source.path}", "bytes")
        non_finite |= write_training_state(
            state, part, journal, run.writing.threads, run.writing.max_memory, progress.advance
        )
        check_training_state(state, journal.directory)
    check_unchanged(source, key, state)
    return non_finite | journal.non_finite


def _do_tasks(run: Run, part: Plan, journal: Journal, acceptance: Acceptance | None) -> frozenset[str]:
    """Write what the journal does not list of `part`, by whom the run says, and record it once that is accepted."""

    def record(written: ShardWritten) -> None:
        journal.record(written.shard, written.tensors, written.non_finite)

    with acceptance.before(record) if acceptance else nullcontext(record) as record_accepted:
        return _write_shards(run, part, journal, record_accepted)


def _write_shards(run: Run, part: Plan, journal: Journal, record: Record) -> frozenset[str]:
    writing, advance = run.writing, run.progress.advance
    if writing.executor == "ray":
        from hyperclone_cli.writing.on_ray import write_on_ray

        budget = plan_budget(part.kinds, writing.threads or 1, writing.max_memory)
        return write_on_ray(part, shard_tasks(part, journal, budget), writing.ray_address, record, advance)
    from hyperclone_cli.writing.on_threads import write_on_threads

    budget = run.budget(part)
    return write_on_threads(part, shard_tasks(part, journal, budget), budget.threads, record, advance)


def _is_published(plan: Plan, out: Path) -> bool:
    """Whether the clone of this plan has its place already, as for a rank that is run again after all have finished."""
    record = read_provenance(out)
    return record is not None and record.plan_digest == plan.digest


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError, and add to a KeyboardInterrupt how the run can be resumed."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not partial_of(out).exists():
            raise  # nothing was written yet, or the clone is complete
        raise KeyboardInterrupt(f"Run the same command again: it resumes what is in {partial_of(out)}.") from stop
    except OSError as error:
        partial = partial_of(out)
        raise StorageError(
            f"{error.filename or partial}: {error.strerror or error}.",
            f"Remove the cause and run the same command again: it resumes what is in {partial}."
            if partial.exists()
            else "Remove the cause, or choose another --out.",
        ) from error


def _plan_state(plan: Plan, out: Path) -> TrainingState:
    from hyperclone_cli.writing.training_state import plan_training_state

    state = plan_training_state(plan)
    check_space(plan, out, state.nbytes)
    return state


def check_space(plan: Plan, out: Path, more: int = 0) -> None:
    """Raise StorageError if the filesystem of `out` has too little space for the clone, and for so many bytes `more`.

    The space of an unfinished clone in `<out>.partial` counts as free: that is resumed, or removed first.
    """
    existing = next(parent for parent in out.parents if parent.exists())
    leftovers = [path for path in partial_of(out).rglob("*") if path.is_file()]
    free = shutil.disk_usage(existing).free + sum(path.stat().st_blocks * 512 for path in leftovers)
    needed = bytes_needed(plan) + more
    if needed > free:
        raise StorageError(
            f"{existing}: the clone needs {needed:,} bytes, {free:,} are free.",
            "Choose another disk for --out, smaller multipliers, or a narrower --dtype.",
        )


def bytes_needed(plan: Plan) -> int:
    """The free space without which a clone is not begun."""
    return plan.nbytes + plan.source.side_file_bytes() + _SPARE_BYTES


def write_checkpoint(plan: Plan, directory: Path, advance: Callable[[int, int], None]) -> None:
    """Write the clone of `plan` into an existing directory, to be read and removed: without card, record or journal."""
    from hyperclone_cli.writing.on_threads import write_on_threads

    budget = plan_budget(plan.kinds)
    tasks = [ShardTask(shard, directory, budget) for shard in plan.shards]
    write_on_threads(plan, tasks, budget.threads, progress=advance)
    write_beside_shards(plan, directory)
