"""The shards of a clone, several at once, and the journal of what is on the disk.

The kernel lets one thread at a time write to a file, so each thread should have a file of its own to write to: as many
shards are open as there are threads. Every open shard has a light thread that drives it, cutting its tensors into
blocks, and all hand their blocks to the same few threads: memory is a few blocks a thread, however many are open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event

import torch

from hyperclone_cli.checkpoint.row_io import write_rows
from hyperclone_cli.checkpoint.safetensors_file import create, lay_out
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.writing.arithmetic import grow_block
from hyperclone_cli.writing.block_loop import BlockResult, run_blocks, workers
from hyperclone_cli.writing.blocks import Block
from hyperclone_cli.writing.budget import Budget
from hyperclone_cli.writing.journal import Journal

Progress = Callable[[int, int], None]
"""Called from the caller's thread with the number of bytes just written, and of all bytes to write."""

_SYNC_BYTES = 256 << 20
"""Bytes written to a shard between two syncs: of each open shard, what a power cut can cost, and what a slow disk can
still have to take in at the end."""


@dataclass(frozen=True)
class ShardWritten:
    """What was written of a shard: the tensors that are complete, all bytes, and the source's non-finite tensors."""

    shard: str
    tensors: tuple[str, ...]
    nbytes: int
    non_finite: frozenset[str]


Sync = Callable[[int, ShardWritten], None]
"""Called with a shard's descriptor and what was written since the last call: brings that to the disk."""


class _Stopped(Exception):
    """Another shard has failed."""


def write_shards(
    plan: Plan, directory: Path, budget: Budget, journal: Journal | None = None, progress: Progress | None = None
) -> frozenset[str]:
    """Write the shards of `plan` into `directory`, as many at once as the budget has threads.

    journal  lists tensors that are written already, which are left out, and then those that are on the disk; without
             one nothing is synced

    Returns the names of the source's tensors that contain NaN or Inf.

    Raises OSError if the disk fails or a source file is too short, RequestError if a storage dtype overflows; the
    tensors that the journal lists by then are complete.
    """
    done = journal.done if journal else {}
    non_finite, plan_bytes = journal.non_finite if journal else frozenset[str](), plan.nbytes
    news: SimpleQueue[int | Future[ShardWritten]] = SimpleQueue()  # bytes just written, and shards that have ended
    stop = Event()

    def report(nbytes: int) -> None:
        if stop.is_set():
            raise _Stopped
        news.put(nbytes)

    def write(shard: str) -> ShardWritten:
        with _syncing(journal) if journal else nullcontext(lambda *_: None) as sync:
            return write_shard(plan, shard, directory, budget, done.get(shard, frozenset()), sync, report, executor)

    with workers(budget.threads) as executor, ThreadPoolExecutor(budget.threads) as drivers:
        shards = [drivers.submit(write, shard) for shard in plan.shards]
        for shard in shards:
            shard.add_done_callback(news.put)
        try:
            while shards:
                new = news.get()
                if isinstance(new, Future):
                    shards.remove(new)
                    non_finite |= new.result().non_finite
                elif progress:
                    progress(new, plan_bytes)
        finally:
            stop.set()
            for shard in shards:
                shard.cancel()
    return non_finite


def write_shard(
    plan: Plan,
    shard: str,
    directory: Path,
    budget: Budget,
    done: Set[str] = frozenset(),
    sync: Sync = lambda descriptor, _: os.fsync(descriptor),
    report: Callable[[int], None] = lambda _: None,
    executor: Executor | None = None,
) -> ShardWritten:
    """Write one shard of `plan` into `directory`. Shards are independent of one another.

    done      tensors that the file has already, from an earlier run; they count only if it has its full size
    sync      called every 256 MB and at the end
    report    called with the bytes of the tensors that are done, then with those of each block that is written
    executor  has the threads that work on blocks; None: threads of its own, as the budget says

    Raises as `write_shards`.
    """
    path = directory / shard
    tensors = [plan.named[name] for name in plan.shards[shard]]
    head, stored = lay_out(path, [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors])
    targets = {tensor.name: tensor.like(place) for tensor, place in zip(tensors, stored, strict=True)}
    file_bytes = len(head) + sum(tensor.nbytes for tensor in tensors)
    if not path.exists() or path.stat().st_size != file_bytes:
        done = frozenset()
    report(sum(tensor.nbytes for tensor in tensors if tensor.name in done))
    missing = [tensor for tensor in tensors if tensor.name not in done]

    def write(block: Block, rows: torch.Tensor, noise_power: float) -> int:
        written = 0
        for place, grown in grow_block(block, rows, noise_power):
            write_rows(file.fileno(), targets[block.tensor.name], place, grown)
            written += grown.nbytes
        return written

    with (
        open(create(path, head, file_bytes), "r+b", buffering=0) as file,
        plan.source.rows() as read,
        nullcontext(executor) if executor else workers(budget.threads) as threads,
        closing(run_blocks(missing, read, threads, budget, write)) as results,
    ):
        for part in _parts(shard, results, report):
            sync(file.fileno(), part)
    nbytes = sum(tensor.nbytes for tensor in missing)
    return ShardWritten(shard, tuple(tensor.name for tensor in missing), nbytes, part.non_finite)


def _parts(shard: str, results: Iterable[BlockResult[int]], report: Callable[[int], None]) -> Iterator[ShardWritten]:
    """What was written between two syncs: the results of blocks, summed up every 256 MB and at the end."""
    finished: list[str] = []
    non_finite: set[str] = set()
    nbytes = 0
    for result in results:
        report(result.value)
        nbytes += result.value
        if not result.finite:
            non_finite.update(one.name for one in result.block.tensor.source.originals)
        if result.last:  # and so all blocks before it are written
            finished.append(result.block.tensor.name)
        if nbytes >= _SYNC_BYTES:
            yield ShardWritten(shard, tuple(finished), nbytes, frozenset(non_finite))
            finished, nbytes = [], 0
    yield ShardWritten(shard, tuple(finished), nbytes, frozenset(non_finite))


@contextmanager
def _syncing(journal: Journal) -> Iterator[Sync]:
    """A `Sync` that returns at once: another thread brings the bytes to the disk, then journals the tensors.

    Each call waits for the call before, so that a slow disk slows the writing down. An error is raised by the next
    call, or at the end.
    """
    pending: list[Future[None]] = []
    with ThreadPoolExecutor(1) as thread:

        def sync(descriptor: int, written: ShardWritten) -> None:
            while pending:
                pending.pop().result()
            pending.append(thread.submit(_sync_and_record, os.dup(descriptor), journal, written))

        yield sync
        while pending:
            pending.pop().result()


def _sync_and_record(descriptor: int, journal: Journal, written: ShardWritten) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if written.tensors:
        journal.record(written.shard, written.tensors, written.non_finite)
