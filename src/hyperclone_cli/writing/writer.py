"""The shards of a clone: blocks are read, grown and written in parallel, and what is on disk is journalled."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from hyperclone_cli.checkpoint.row_io import Read, write_rows
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor, create, lay_out
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.planning.tensors import GrownTensor
from hyperclone_cli.writing.arithmetic import Block, Survey, blocks, grow_block, survey, workers
from hyperclone_cli.writing.budget import Budget
from hyperclone_cli.writing.integrity import watched
from hyperclone_cli.writing.journal import Journal

Progress = Callable[[int, int], None]
"""Called from any thread with the number of bytes just written, and of all bytes to write."""

_SYNC_BYTES = 256 << 20
"""How much is written between two calls that bring it to the disk: what a power cut can cost. It keeps the disk
busy from the start, and bounds what a slow one still has to take in at the end."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Sync = Callable[[int, str, Sequence[str]], None]


@dataclass(frozen=True)
class _Job:
    """A block of the tensor `target`, and whether it is its last."""

    block: Block
    target: StoredTensor
    surveyed: Survey
    last: bool


def write_shards(plan: Plan, journal: Journal, budget: Budget, progress: Progress | None = None) -> frozenset[str]:
    """Write every tensor of `plan` that the journal does not have yet, in shards beside the journal.

    Returns the source's tensors that hold NaN or Inf.

    Raises OSError if the disk fails or a source file turns out short, RequestError where a storage dtype
    overflows. What the journal names by then is complete.
    """
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    not_finite = set(journal.not_finite)
    with plan.source.rows() as rows, workers(budget.threads) as pool, _syncing(journal, not_finite) as sync:
        read = watched(rows, not_finite)

        def write(descriptor: int, job: _Job) -> tuple[_Job, int]:
            written = 0
            for place, data in grow_block(job.block, read, job.surveyed):
                write_rows(descriptor, job.block.tensor.like(job.target), place, data)
                written += data.nbytes
                if progress:
                    progress(data.nbytes, plan.nbytes)
            return job, written

        for shard, names in plan.shards.items():
            path = journal.directory / shard
            head, targets = lay_out(path, [(name, by_name[name].dtype, by_name[name].shape) for name in names])
            total_bytes = len(head) + sum(target.nbytes for target in targets)
            kept = path.exists() and path.stat().st_size == total_bytes
            done = journal.done.get(shard, frozenset()) if kept else frozenset()
            if progress:
                progress(sum(target.nbytes for target in targets if target.name in done), plan.nbytes)
            missing = [target for target in targets if target.name not in done]
            jobs = _jobs(missing, by_name, read, pool, budget.block_bytes)
            descriptor = create(path, head, total_bytes)
            try:
                with closing(_map_ahead(pool, partial(write, descriptor), jobs, 4 * budget.threads)) as written:
                    _sync_now_and_then(written, partial(sync, descriptor, shard))
            finally:
                os.close(descriptor)
    return frozenset(not_finite)


def _jobs(
    targets: Iterable[StoredTensor], by_name: Mapping[str, GrownTensor], read: Read, pool: Executor, block_bytes: int
) -> Iterator[_Job]:
    for target in targets:
        tensor = by_name[target.name]
        surveyed = survey(tensor, read, pool)
        cut = list(blocks(tensor, block_bytes))
        for number, block in enumerate(cut, 1):
            yield _Job(block, target, surveyed, number == len(cut))


def _sync_now_and_then(written: Iterable[tuple[_Job, int]], sync: Callable[[Sequence[str]], None]) -> None:
    """Follow the jobs of a shard and the bytes that each wrote, in order; `sync` with the tensors that are whole."""
    finished: list[str] = []
    unsynced = 0
    for job, nbytes in written:
        unsynced += nbytes
        if job.last:  # and so are all before it
            finished.append(job.target.name)
        if unsynced >= _SYNC_BYTES:
            sync(finished)
            finished, unsynced = [], 0
    sync(finished)


def _map_ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Generator[Result, None, None]:
    """As `pool.map`, but no more than `ahead` items are taken before the first result of theirs is wanted.

    However it ends, none of its calls is running afterwards.
    """
    running: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(running) == ahead:
                yield running.popleft().result()
            running.append(pool.submit(function, item))
        while running:
            yield running.popleft().result()
    finally:
        for job in running:
            job.cancel()
        wait(running)


@contextmanager
def _syncing(journal: Journal, not_finite: Iterable[str]) -> Iterator[Sync]:
    """A function that brings a shard's bytes to the disk and then journals tensors, while others go on writing.

    It waits for its last call, so that a slow disk holds the writers up; a failure comes with the call after, or at
    the end.
    """

    def bring(descriptor: int, shard: str, tensors: Sequence[str]) -> None:
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if tensors:
            journal.record(shard, tensors, tuple(not_finite))  # other threads may add to them

    pending: list[Future[None]] = []
    with ThreadPoolExecutor(1) as thread:

        def sync(descriptor: int, shard: str, tensors: Sequence[str]) -> None:
            while pending:
                pending.pop().result()
            pending.append(thread.submit(bring, os.dup(descriptor), shard, tensors))

        yield sync
        while pending:
            pending.pop().result()
