"""A file that torch has laid out around numbers that are left open, and how these are filled in, block by block.

torch.save takes tensors that are in memory. So it is given tensors without memory, and writes what belongs around their
numbers; moments are then grown into their places, as weights are into those of a shard.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hyperclone_cli.checkpoint.row_io import STORED_DTYPES, as_bytes, write_rows
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor, allocate, read_into, write_all
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.optimizer import GrownMoment
from hyperclone_cli.writing.arithmetic import grow_block
from hyperclone_cli.writing.block_loop import BlockResult, run_blocks, workers
from hyperclone_cli.writing.blocks import Block
from hyperclone_cli.writing.budget import Budget
from hyperclone_cli.writing.journal import Journal
from hyperclone_cli.writing.publish import sync

_SYNC_BYTES = 256 << 20
_COPY_BYTES = 4 << 20


@dataclass(frozen=True)
class OpenFile(ABC):
    """A file with tensors of three kinds, by their names in it.

    moments  as planned
    copied   weights: the tensors of the clone that they are
    numbers  steps and rates, which are small
    """

    moments: Mapping[str, GrownMoment]
    copied: Mapping[str, GrownTensor]
    numbers: Mapping[str, torch.Tensor]

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The files that are laid out, relative to the clone. The first has the numbers."""

    @abstractmethod
    def lay_out(self, directory: Path) -> None:
        """Write the files into the unfinished clone `directory`, with all numbers left open."""

    @abstractmethod
    def places(self, directory: Path) -> Mapping[str, StoredTensor]:
        """Where each tensor lies in the files that are laid out in `directory`."""

    @abstractmethod
    def read_back(self, directory: Path) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor, as a reader of the files in `directory` finds it. Raises CheckpointError."""

    @property
    def nbytes(self) -> int:
        return sum(self.room.values())

    @property
    def room(self) -> dict[str, int]:
        """The bytes of each moment and each weight."""
        return {name: one.nbytes for name, one in self.moments.items()} | {
            name: one.nbytes for name, one in self.copied.items()
        }


@contextmanager
def numbers_left_open() -> Iterator[Callable[[str, tuple[int, ...]], torch.Tensor]]:
    """A context in which torch.save seeks past the numbers of tensors; it gives the function that makes such tensors.

    It takes safetensors' name of a dtype, and a shape.
    """
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        yield lambda dtype, shape: torch.empty(shape, dtype=STORED_DTYPES[dtype])


def write_open_file(
    file: OpenFile,
    held: Source,
    clone: Mapping[str, StoredTensor],
    journal: Journal,
    budget: Budget,
    advance: Callable[[int], None],
) -> set[str]:
    """Lay a file out beside the journal, and fill in every tensor that the journal does not list yet.

    Returns the names of moments of the source that contain NaN or Inf, of those that were read.

    held     where the source's moments lie
    clone    where the clone's weights lie
    advance  is called with the bytes just written

    The bytes do not depend on the number of threads, nor on how often the run was interrupted. Raises OSError if the
    disk fails.
    """
    name = file.names[0]
    path, done = journal.directory / name, journal.done.get(name, frozenset())
    if not done or not all((journal.directory / one).exists() for one in file.names):
        done = frozenset()
        _lay_out(file, journal)
    places = file.places(journal.directory)
    advance(sum(nbytes for one, nbytes in file.room.items() if one in done))
    with path.open("r+b", buffering=0) as opened:
        finished: list[str] = []
        non_finite: set[str] = set()
        unsynced = 0

        def finish(tensors: list[str], nbytes: int, last: bool = False) -> None:
            nonlocal unsynced
            finished.extend(tensors)
            unsynced += nbytes
            if last or (unsynced >= _SYNC_BYTES and finished):
                os.fsync(opened.fileno())
                journal.record(name, finished, non_finite)
                finished.clear()
                unsynced = 0

        for one, number in file.numbers.items():
            write_all(opened.fileno(), as_bytes(number.contiguous()), places[one].offset)
        for one, tensor in file.copied.items():
            if one not in done:
                _copy(clone[tensor.name], opened.fileno(), places[one].offset, advance)
                finish([one], tensor.nbytes)
        missing = {one: moment for one, moment in file.moments.items() if one not in done}
        for ended, result in _grow(missing, places, held, opened.fileno(), budget):
            advance(result.value)
            if not result.finite:
                non_finite.add(result.block.tensor.name)
            finish(ended, result.value)
        finish([], 0, last=True)
        return non_finite


def _lay_out(file: OpenFile, journal: Journal) -> None:
    file.lay_out(journal.directory)
    for name in file.names:
        path = journal.directory / name
        with path.open("r+b") as laid_out:
            allocate(laid_out.fileno(), path.stat().st_size)
        sync(path)
        sync(path.parent)
    for name in file.names[1:]:
        journal.record(name, [name])  # has no numbers: it is whole


def _copy(stored: StoredTensor, descriptor: int, offset: int, advance: Callable[[int], None]) -> None:
    """Copy the bytes of a tensor to another place."""
    with stored.path.open("rb", buffering=0) as file:
        for start in range(0, stored.nbytes, _COPY_BYTES):
            data = memoryview(bytearray(min(_COPY_BYTES, stored.nbytes - start)))
            read_into(file.fileno(), data, stored.offset + start)
            write_all(descriptor, data, offset + start)
            advance(len(data))


def _grow(
    moments: Mapping[str, GrownMoment],
    places: Mapping[str, StoredTensor],
    held: Source,
    descriptor: int,
    budget: Budget,
) -> Iterator[tuple[list[str], BlockResult[int]]]:
    """Grow each moment into its place: (moments that this completes, result, whose value is bytes) of every block."""
    targets = {
        tensor.name: tensor.like(place)
        for name, moment in moments.items()
        for tensor, place in moment.places(places[name])
    }
    last = {[*moment.parts.values()][-1].name: name for name, moment in moments.items()}

    def write(block: Block, rows: torch.Tensor, noise_power: float) -> int:
        written = 0
        for start, grown in grow_block(block, rows, noise_power):
            write_rows(descriptor, targets[block.tensor.name], start, grown)
            written += grown.nbytes
        return written

    tensors = [tensor for moment in moments.values() for tensor in moment.parts.values()]
    with held.rows() as read, workers(budget.threads) as executor:
        for result in run_blocks(tensors, read, executor, budget, write):
            ended = last.get(result.block.tensor.name) if result.last else None
            yield ([ended] if ended else []), result
