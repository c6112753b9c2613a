"""The tasks of a clone done by threads of this process, several shards at once.

The kernel lets one thread at a time write to a file, so each thread should have a file of its own to write to: as many
shards are open as there are threads. Every open shard has a light thread that drives it, cutting its tensors into
blocks, and all hand their blocks to the same few threads: memory is a few blocks a thread, however many are open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from threading import Event

from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.block_loop import workers
from hyperclone_cli.writing.shard_task import Progress, Record, ShardTask, ShardWritten, Sync, write_shard


class _Stopped(Exception):
    """Another shard has failed."""


def write_on_threads(
    plan: Plan,
    tasks: Sequence[ShardTask],
    threads: int,
    record: Record | None = None,
    progress: Progress | None = None,
) -> frozenset[str]:
    """Do the tasks of `plan`, as many at once as there are threads; without a `record` nothing is synced.

    Returns the names of the source's tensors that were found to contain NaN or Inf.

    Raises as `write_shard`; the tensors that are recorded by then are complete.
    """
    non_finite, plan_bytes = frozenset[str](), plan.nbytes
    news: SimpleQueue[int | Future[ShardWritten]] = SimpleQueue()  # bytes just written, and shards that have ended
    stop = Event()

    def report(nbytes: int) -> None:
        if stop.is_set():
            raise _Stopped
        news.put(nbytes)

    def write(task: ShardTask) -> ShardWritten:
        with _syncing(record) if record else nullcontext(lambda *_: None) as sync:
            return write_shard(plan, task, sync, report, executor)

    with workers(threads) as executor, ThreadPoolExecutor(threads) as drivers:
        shards = [drivers.submit(write, task) for task in tasks]
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


@contextmanager
def _syncing(record: Record) -> Iterator[Sync]:
    """A `Sync` that returns at once: another thread brings the bytes to the disk, then records the tensors.

    Each call waits for the call before, so that a slow disk slows the writing down. An error is raised by the next
    call, or at the end.
    """
    pending: list[Future[None]] = []
    with ThreadPoolExecutor(1) as thread:

        def sync(descriptor: int, written: ShardWritten) -> None:
            while pending:
                pending.pop().result()
            pending.append(thread.submit(_sync_and_record, os.dup(descriptor), record, written))

        yield sync
        while pending:
            pending.pop().result()


def _sync_and_record(descriptor: int, record: Record, written: ShardWritten) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    record(written)
