"""Tensors that no file holds as they are: cut out of stored ones, or drawn at random."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hyperclone_cli.checkpoint.quantised.packed import Packed, unpacking

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read


def standard_normal(key: str, rows: int, width: int) -> torch.Tensor:
    """Standard normal numbers (rows, width) in float32, by Philox, that depend on nothing but the arguments.

    Processors with other vector instructions may differ in the last bit.
    """
    import numpy
    import torch

    digest = hashlib.sha256(key.encode()).digest()
    generator = numpy.random.Generator(numpy.random.Philox(key=numpy.frombuffer(digest[:16], dtype="<u8")))
    return torch.from_numpy(generator.standard_normal((rows, width), dtype="float32"))


@dataclass(frozen=True)
class Cut:
    """Rows and columns of one of several matrices: its number, and ranges of each."""

    part: int
    rows: range
    columns: range


@dataclass(frozen=True)
class Cuts(Packed):
    """Pieces of `parts`, which are matrices, one below the other. All of them have as many columns."""

    cuts: tuple[Cut, ...]

    is_view: ClassVar[bool] = True

    def rows(self, read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1, numbered across all pieces: (rows, columns) in the dtype of the parts."""
        import torch

        read, found, first = unpacking(read), [], 0
        for cut in self.cuts:
            begin, end = max(start - first, 0), min(stop - first, len(cut.rows))
            if begin < end:
                whole = read(self.parts[cut.part], cut.rows.start + begin, cut.rows.start + end)
                found.append(whole[:, cut.columns.start : cut.columns.stop])
            first += len(cut.rows)
        return torch.cat(found)


@dataclass(frozen=True)
class Drawn(Packed):
    """Normal numbers, which lie nowhere.

    key     what they depend on
    width   numbers in a row
    spread  their standard deviation; 0 makes zeros
    alike   how many rows that follow one another are the same
    """

    key: str
    width: int
    spread: float = 0.0
    alike: int = 1

    is_view: ClassVar[bool] = True

    def rows(self, _read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1: (rows, width) in float32."""
        import torch

        if not self.spread:
            return torch.zeros(stop - start, self.width)
        numbers = range(start // self.alike, -(-stop // self.alike))
        drawn = {number: self.spread * standard_normal(f"{self.key} {number}", 1, self.width) for number in numbers}
        return torch.cat([drawn[row // self.alike] for row in range(start, stop)])


def drawn(key: str, width: int, spread: float = 0.0, alike: int = 1) -> Drawn:
    """Normal numbers as `Drawn` describes them."""
    return Drawn((), False, key, width, spread, alike)
