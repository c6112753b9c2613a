"""Several processes, ranks, write one clone: each a share of the shards, and the last one to finish publishes it.

Every rank makes the plan by itself. They know of each other through files in `<out>.partial` alone, beside the shards:

    .hyperclone-partial-rank-2-of-4       the journal of rank 2, while it has shards to write
    .hyperclone-partial-rank-2-of-4.done  the same, once all of its shards are on the disk
    .hyperclone-partial-publisher         a second name of the journal of the rank that publishes

Machines may not see each other's locks, so nothing rests on these. A rank makes its own file before it looks at the
others', so that of two that begin or finish at once one sees both; and a link is made once, whoever tries. Where a
rank runs twice, both write the same bytes to the same places.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hyperclone_cli.errors import RequestError, StorageError
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.writing.journal import Journal, RunKey, open_journal, read_journal
from hyperclone_cli.writing.options import Writing
from hyperclone_cli.writing.publish import check_places, locked, make_partial, mark_of_ranks, marks_of_ranks

_VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
"""Where launchers say which process this is, and of how many. torchrun first: Slurm may have started it."""


@dataclass(frozen=True)
class Rank:
    """One of the `world_size` processes that write a clone together; numbers begin with 0."""

    number: int
    world_size: int

    def __str__(self) -> str:
        return f"rank {self.number} of {self.world_size}"


@dataclass(frozen=True)
class Standing:
    """How far all ranks are when one ends.

    unfinished  ranks whose shards are not all on the disk
    publisher   the rank that publishes the clone; None if some are unfinished, or it is published
    non_finite  tensors of the source in which any rank found NaN or Inf
    """

    unfinished: tuple[int, ...] = ()
    publisher: int | None = None
    non_finite: frozenset[str] = frozenset()


def rank_of(writing: Writing, environment: Mapping[str, str]) -> Rank | None:
    """The rank that the options, or with `distributed` the variables of a launcher, say that this process is.

    None if it writes the clone alone. Raises RequestError for numbers that make no rank.
    """
    if writing.distributed:
        if writing.rank is not None or writing.world_size is not None:
            raise RequestError("--distributed and --rank are two answers to one question.", "Give one.")
        return _launched(environment)
    if writing.rank is None and writing.world_size is None:
        return None
    if writing.rank is None or writing.world_size is None:
        raise RequestError("--rank and --world-size belong together.", "Give both, or --distributed.")
    return _checked(Rank(writing.rank, writing.world_size), "--rank and --world-size")


def _launched(environment: Mapping[str, str]) -> Rank:
    for names in _VARIABLES:
        number, world_size = (environment.get(name, "") for name in names)
        if number.isdecimal() and world_size.isdecimal():
            return _checked(Rank(int(number), int(world_size)), " and ".join(names))
    raise RequestError(
        "--distributed: no launcher has said which process this is:"
        f" {' and '.join(_VARIABLES[0])} are not set, nor {' and '.join(_VARIABLES[1])}.",
        "Start it with torchrun or srun, or give --rank and --world-size.",
    )


def _checked(rank: Rank, names: str) -> Rank:
    if not 0 <= rank.number < rank.world_size:
        raise RequestError(
            f"{names} are {rank.number} and {rank.world_size}: expected a rank from 0 to one less than the number of"
            " ranks."
        )
    return rank


def share_of(plan: Plan, rank: Rank) -> Plan:
    """The plan with a rank's share of the shards alone, which may be none.

    The largest shard first, each goes to the rank with the fewest bytes: any number of ranks is about equally busy.
    """
    nbytes = {tensor.name: tensor.nbytes for tensor in plan.tensors}
    shard_bytes = {shard: sum(nbytes[name] for name in names) for shard, names in plan.shards.items()}
    loads = [0] * rank.world_size
    owners = {}
    for shard in sorted(shard_bytes, key=lambda shard: (-shard_bytes[shard], shard)):
        owners[shard] = loads.index(min(loads))
        loads[owners[shard]] += shard_bytes[shard]
    shards = {shard: names for shard, names in plan.shards.items() if owners[shard] == rank.number}
    names = {name for tensors in shards.values() for name in tensors}
    return replace(plan, shards=shards, tensors=tuple(tensor for tensor in plan.tensors if tensor.name in names))


@contextmanager
def joined(src: Path | None, out: Path, key: RunKey, rank: Rank, overwrite: bool = False) -> Iterator[Journal]:
    """Yield the journal of a rank in `<out>.partial`, which is made if this is the first; `out` is absolute.

    Whatever ends the block, what the ranks have written stays.

    Raises RequestError if the directory is of another run, or of another number of ranks; StorageError if a process
    of the same rank is writing it.
    """
    lock = make_partial(out)
    partial = lock.parent
    discard = f"Give every rank the same command, or remove {partial} first."
    with locked(lock, shared=True):
        try:
            check_places(src, out, overwrite)  # again: the others may have finished
        except RequestError:
            if not lock.stat().st_size and not marks_of_ranks(partial):
                shutil.rmtree(partial)
            raise
        if lock.stat().st_size:
            raise RequestError(
                f"{partial}: contains an unfinished clone that one process writes.",
                f"Run the same command without --rank to finish it, or remove {partial} first.",
            )
        own = next(
            (path for path in (finished_path(partial, rank), unfinished_path(partial, rank)) if path.exists()), None
        )
        path = own or unfinished_path(partial, rank)
        with locked(path, holder=f"another process of {rank}"):
            try:
                journal = open_journal(path, key)
                _check_links(path)
                check_others(partial, key, rank)
            except RequestError as error:
                if own is None:
                    path.unlink()
                raise RequestError(error.message, discard) from None
            try:
                yield journal
            except RequestError as error:
                again = f"Remove {partial} before another request is begun."
                raise RequestError(error.message, f"{error.hint} {again}".lstrip()) from None


def finish(journal: Journal, plan: Plan, key: RunKey, rank: Rank) -> Standing:
    """Note that a rank's share is on the disk, and see how far the others are.

    plan  of the whole clone
    """
    partial = journal.directory
    finished = finished_path(partial, rank)
    if journal.path != finished:
        journal.path.rename(finished)
    standing = read_standing(partial, plan, key, rank)
    if not partial.exists():  # meanwhile another rank has published the clone
        return Standing()
    return standing if standing.unfinished else replace(standing, publisher=_publisher(partial, rank))


def read_standing(partial: Path, plan: Plan, key: RunKey, rank: Rank) -> Standing:
    """How far all ranks are, by the journals in a directory; who publishes is not known yet."""
    ranks = _all(rank)
    journals = [_read_finished(partial, plan, key, other) for other in ranks]
    unfinished = tuple(other.number for other, found in zip(ranks, journals, strict=True) if found is None)
    return Standing(unfinished, non_finite=frozenset().union(*(found.non_finite for found in journals if found)))


def _all(rank: Rank) -> list[Rank]:
    return [Rank(number, rank.world_size) for number in range(rank.world_size)]


def _read_finished(partial: Path, plan: Plan, key: RunKey, rank: Rank) -> Journal | None:
    """The journal of a rank that has finished, and has noted every tensor of its share; None if it has not."""
    try:
        journal = read_journal(finished_path(partial, rank), key)
    except FileNotFoundError:
        return None
    shards = share_of(plan, rank).shards
    return journal if all(journal.done.get(shard, frozenset()) >= {*names} for shard, names in shards.items()) else None


def _publisher(partial: Path, asking: Rank) -> int | None:
    """The rank that publishes: the first that asked. None if it has done so already."""
    publisher = mark_of_ranks(partial, "publisher")
    try:
        with suppress(FileExistsError):
            os.link(finished_path(partial, asking), publisher)
        found = [rank.number for rank in _all(asking) if publisher.samefile(finished_path(partial, rank))]
    except FileNotFoundError:
        return None
    if not found:  # the directory is a copy
        raise StorageError(f"{publisher}: is of none of the ranks.", "Remove it, and run one of them again.")
    return found[0]


def check_others(partial: Path, key: RunKey, rank: Rank) -> None:
    """Raise RequestError if a journal in a directory is of another run, or of one of another number of ranks."""
    for mark in marks_of_ranks(partial):
        found = re.search(r"-rank-(\d+)-of-(\d+)(\.done)?$", mark.name)
        if found is None:
            continue
        if int(found[2]) != rank.world_size:
            raise RequestError(f"{partial}: contains an unfinished clone that {found[2]} ranks write; this is {rank}.")
        with suppress(FileNotFoundError):  # it has just finished; who publishes reads it again
            read_journal(mark, key)


def _check_links(path: Path) -> None:
    """Raise StorageError if the filesystem makes no links: found before anything is written."""
    probe = path.with_name(f"{path.name}.probe")
    probe.unlink(missing_ok=True)
    try:
        os.link(path, probe)
    except OSError as error:
        raise StorageError(
            f"{path.parent}: the filesystem makes no links ({error.strerror}), by which ranks agree who publishes.",
            "Choose another filesystem for --out, or write the clone by one process.",
        ) from None
    probe.unlink()


def unfinished_path(partial: Path, rank: Rank) -> Path:
    """The journal of a rank that has shards to write."""
    return mark_of_ranks(partial, f"rank-{rank.number}-of-{rank.world_size}")


def finished_path(partial: Path, rank: Rank) -> Path:
    """The journal of a rank that has written all of its shards."""
    return mark_of_ranks(partial, f"rank-{rank.number}-of-{rank.world_size}.done")
