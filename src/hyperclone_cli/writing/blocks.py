"""Blocks: the pieces that a tensor is cut into, each small enough for a thread to read, grow and write at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from math import prod

from hyperclone_cli.planning.grown_tensor import GrownTensor


@dataclass(frozen=True)
class Block:
    """Source rows start … stop - 1 of a tensor, and where the grown tensor has copies of them.

    shares      for each run of columns, the fraction of the source's weight that it takes
    scale       the factor of all its rows
    is_padding  whether its rows are padding: then there are `stop - start` of them and no source rows, and `start`
                only tells the matrix of a stack
    places      for each copy, the number of its first row in the grown tensor
    """

    tensor: GrownTensor
    start: int
    stop: int
    shares: tuple[Fraction, ...]
    scale: float
    is_padding: bool
    places: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Elements of the grown tensor that the block makes."""
        columns = prod(growth.target for growth in self.tensor.growths[1:])
        return (self.stop - self.start) * len(self.places) * columns


def cut_blocks(tensor: GrownTensor, block_bytes: int) -> list[Block]:
    """Cut a grown tensor into blocks of about `block_bytes` grown bytes, at least a row each.

    Copies of the same rows are one block if they read their columns in the same shares and have the same scale. If not,
    their blocks follow one another.
    """
    return sorted(_cut(tensor, block_bytes), key=_rows)


def of_same_rows(blocks: Iterable[Block]) -> list[list[Block]]:
    """The blocks of a tensor, those of the same source rows together, so that one reading serves them all."""
    return [list(group) for _, group in groupby(blocks, key=_rows)]


def _rows(block: Block) -> tuple[bool, int, int]:
    return block.is_padding, block.start, block.stop


def _cut(tensor: GrownTensor, block_bytes: int) -> Iterator[Block]:
    places: dict[tuple[int, int, int, float, bool], list[int]] = defaultdict(list)
    position = 0
    for run in tensor.growths[0].runs:
        places[run.start, run.length, tensor.mixing_row(run), run.scale, run.is_padding].append(position)
        position += run.length
    row_bytes = max(1, tensor.nbytes // max(1, position))
    step = max(1, block_bytes // row_bytes)
    for (start, length, row_of_c, scale, is_padding), positions in places.items():
        shares = tensor.shares(row_of_c)
        for first in range(0, length, step):
            last = min(first + step, length)
            found = tuple(p + first for p in positions)
            yield Block(tensor, start + first, start + last, shares, scale, is_padding, found)
