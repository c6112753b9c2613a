"""The tasks of a clone done by a Ray cluster, one for each shard.

The process that asks for it, the driver, is an ordinary run: it holds the lock, keeps the journal of what is on the
disk, and publishes the clone. A worker is sent no plan: it makes the plan by itself, from the source and the request,
and writes nothing if that is another plan, or if it does not see the directory that the driver sees.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hyperclone_cli import __version__
from hyperclone_cli.checkpoint.object_store import StoreUrl
from hyperclone_cli.checkpoint.source import Fingerprint, GgufSource, Source
from hyperclone_cli.errors import HypercloneError, RequestError, StorageError
from hyperclone_cli.hub.download import Access, open_checkpoint
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.progress import Progress as Steps
from hyperclone_cli.writing.provenance import Expansion, growth_of
from hyperclone_cli.writing.ray_cluster import ray_cluster
from hyperclone_cli.writing.shard_task import Progress, Record, ShardTask, ShardWritten, shard_parts

_TOKEN_NAME = ".hyperclone-token"


@dataclass(frozen=True)
class Order:
    """All that a worker knows of the clone, beside its task.

    growth       by which it makes the plan
    fingerprint  of the source's files, as the driver sees them
    token        what a file of the directory holds that the driver writes to
    tool         version of hyperclone
    """

    growth: Expansion
    fingerprint: Fingerprint
    token: str
    tool: str = __version__


def write_on_ray(
    plan: Plan, tasks: Sequence[ShardTask], address: str | None, record: Record, progress: Progress
) -> frozenset[str]:
    """Do the tasks of `plan`, which write into one directory; names of the source's non-finite tensors.

    Raises as `write_shard`, and StorageError if no cluster is there, a worker sees another source or does not see the
    directory, or tasks are given up.
    """
    place = place_for_workers(plan.source)
    non_finite, total = frozenset[str](), plan.nbytes
    for task in tasks:
        progress(sum(plan.named[name].nbytes for name in task.done), total)
    with _token(tasks[0].directory) as token, ray_cluster(address) as do:
        order = Order(growth_of(plan, place), plan.source.fingerprint(), token)
        budget = tasks[0].budget
        for _, written in do(partial(write_as_ordered, order), tasks, budget.threads, budget.nbytes):
            record(written)
            progress(written.nbytes, total)
            non_finite |= written.non_finite
    return non_finite


def place_for_workers(source: Source) -> Path | StoreUrl:
    """Where workers open a source: its URL, or its path on this disk, also that of a model in the Hub's cache.

    Raises RequestError for a GGUF file.
    """
    if isinstance(source, GgufSource):
        raise RequestError(
            "--executor ray: each task would dequantise the whole GGUF file again.",
            "Leave it out, or take the checkpoint that the file was made of.",
        )
    return source.place if isinstance(source.place, StoreUrl) else source.path.absolute()


@contextmanager
def _token(directory: Path) -> Iterator[str]:
    """Put a file into the directory by which a worker knows it; gone at the end."""
    path, token = directory / _TOKEN_NAME, secrets.token_hex(16)
    path.write_text(token)
    try:
        yield token
    finally:
        path.unlink(missing_ok=True)


def write_as_ordered(order: Order, task: ShardTask) -> Iterator[ShardWritten]:
    """What a worker does: plan again, and write one shard; yields what has reached the disk, every 256 MB.

    Raises StorageError, and writes nothing, if this machine sees another source or another directory.
    """
    _check_sees(order, task.directory)
    yield from shard_parts(_plan(order), task)


def _check_sees(order: Order, directory: Path) -> None:
    try:
        seen = (directory / _TOKEN_NAME).read_text()
    except OSError:
        seen = ""
    if seen != order.token:
        raise StorageError(
            f"{directory}: this worker does not see the directory that the clone is written to.",
            "Choose an --out on a filesystem that all nodes of the cluster have under the same path.",
        )


def _plan(order: Order) -> Plan:
    growth = order.growth
    try:
        source = open_checkpoint(growth.source, Access(), Steps(), growth.request.dtype)
        plan = make_plan(source.as_loaded(growth.ignored, growth.zeros), growth.request)
    except HypercloneError as error:  # which another worker may not meet: what is written stays
        raise StorageError(error.message, error.hint) from error
    if (plan.digest, plan.source.fingerprint(), __version__) != (growth.plan_digest, order.fingerprint, order.tool):
        raise StorageError(
            f"{growth.source}: this worker plans another clone of it: the source, or the version of hyperclone"
            f" ({__version__}), is not that of the driver ({order.tool}).",
            "Give all nodes of the cluster the same of both.",
        )
    return plan
