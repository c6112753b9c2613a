"""The task that a clone is written by: one shard, its inputs all values, so that any thread or machine can do it.

There is no other way to write a shard. What differs is who does the tasks: threads of this process (`on_threads`),
which may be one of several ranks that share them out (`ranks`), for a directory or for an object store; or the workers
of a Ray cluster (`on_ray`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from hyperclone_cli.checkpoint.row_io import write_rows
from hyperclone_cli.checkpoint.safetensors_file import create, lay_out
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.arithmetic import grow_block
from hyperclone_cli.writing.block_loop import BlockResult, run_blocks, workers
from hyperclone_cli.writing.blocks import Block
from hyperclone_cli.writing.budget import Budget
from hyperclone_cli.writing.journal import Journal

_SYNC_BYTES = 256 << 20
"""Bytes written to a shard between two syncs: of each open shard, what a power cut can cost, and what a slow disk can
still have to take in at the end."""


@dataclass(frozen=True)
class ShardTask:
    """Write one shard of a plan into a directory.

    done  tensors that the file has already, from an earlier run; they count only if it has its full size
    """

    shard: str
    directory: Path
    budget: Budget
    done: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ShardWritten:
    """What was written of a shard: the tensors that are complete, all bytes, and the source's non-finite tensors."""

    shard: str
    tensors: tuple[str, ...]
    nbytes: int
    non_finite: frozenset[str]


Record = Callable[[ShardWritten], None]
"""Called, from any thread, with what has reached the disk."""

Progress = Callable[[int, int], None]
"""Called from the caller's thread with the number of bytes just written, and of all bytes to write."""

Sync = Callable[[int, ShardWritten], None]
"""Called with a shard's descriptor and what was written since the last call: brings that to the disk."""


def shard_tasks(plan: Plan, journal: Journal, budget: Budget) -> list[ShardTask]:
    """The tasks that write what a journal does not list yet of `plan`, beside it."""
    return [ShardTask(shard, journal.directory, budget, journal.done.get(shard, frozenset())) for shard in plan.shards]


def write_shard(
    plan: Plan,
    task: ShardTask,
    sync: Sync = lambda descriptor, _: os.fsync(descriptor),
    report: Callable[[int], None] = lambda _: None,
    executor: Executor | None = None,
) -> ShardWritten:
    """Do one task of `plan`. Shards are independent of one another. Takes and raises what `shard_parts` does."""
    parts = list(shard_parts(plan, task, sync, report, executor))
    tensors = tuple(name for part in parts for name in part.tensors)
    return ShardWritten(task.shard, tensors, sum(part.nbytes for part in parts), parts[-1].non_finite)


def shard_parts(
    plan: Plan,
    task: ShardTask,
    sync: Sync = lambda descriptor, _: os.fsync(descriptor),
    report: Callable[[int], None] = lambda _: None,
    executor: Executor | None = None,
) -> Iterator[ShardWritten]:
    """Do one task of `plan`, and yield what was written after each sync, at least once.

    sync      called every 256 MB and at the end
    report    called with the bytes of the tensors that are done, then with those of each block that is written
    executor  has the threads that work on blocks; None: threads of its own, as the task's budget says

    Raises OSError if the disk fails or a source file is too short, RequestError if a storage dtype overflows.
    """
    path, done = task.directory / task.shard, task.done
    tensors = [plan.named[name] for name in plan.shards[task.shard]]
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
        nullcontext(executor) if executor else workers(task.budget.threads) as threads,
        closing(run_blocks(missing, read, threads, task.budget, write)) as results,
    ):
        for part in _parts(task.shard, results, report):
            sync(file.fileno(), part)
            yield part


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
