"""Tensors that no file holds as they are: cut out of stored ones, or drawn at random."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hyperclone_cli.checkpoint.quantised.packed import Packed, unpacking

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read


DRAWN_ROWS = 64
"""Rows that are drawn together."""


def standard_normal(key: str, rows: int, width: int) -> torch.Tensor:
    """Standard normal numbers (rows, width) in float32, by Philox, that depend on nothing but the arguments.

    Processors with other vector instructions may differ in the last bit.
    """
    import numpy
    import torch

    digest = hashlib.sha256(key.encode()).digest()
    generator = numpy.random.Generator(numpy.random.Philox(key=numpy.frombuffer(digest[:16], dtype="<u8")))
    return torch.from_numpy(generator.standard_normal((rows, width), dtype="float32"))


def normal_rows(seed: int, name: str, start: int, stop: int, width: int) -> torch.Tensor:
    """Rows start … stop - 1 of standard normal numbers, float32: the same however many are asked for at once."""
    import torch

    first, last = start // DRAWN_ROWS, -(-stop // DRAWN_ROWS)  # the groups of rows that the wanted ones lie in
    groups = [standard_normal(f"{seed} {group} {name}", DRAWN_ROWS, width) for group in range(first, last)]
    return torch.cat(groups)[start - first * DRAWN_ROWS : stop - first * DRAWN_ROWS]


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

    seed, name  what they depend on
    width       numbers in a row
    spread      their standard deviation; 0 makes zeros
    alike       how many rows that follow one another are the same
    """

    seed: int
    name: str
    width: int
    spread: float = 0.0
    alike: int = 1

    is_view: ClassVar[bool] = True

    def rows(self, _read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1: (rows, width) in float32."""
        import torch

        if not self.spread:
            return torch.zeros(stop - start, self.width)
        first, last = start // self.alike, -(-stop // self.alike)
        found = self.spread * normal_rows(self.seed, self.name, first, last, self.width)
        return found.repeat_interleave(self.alike, 0)[start - first * self.alike : stop - first * self.alike]


@dataclass(frozen=True)
class Varied(Packed):
    """The matrices of experts, one below the other in the one of `parts`, each made to differ from the others.

    seed, name    what its random numbers depend on
    experts       a name for each expert, on which its dropped units depend
    units         how many units an expert has
    in_rows       whether its rows are units, in one or several runs of all of them; else its columns are
    drop          the part of the units that is drawn anew, with mean and spread of the row
    noise_snr_db  decibels from the power of a row to that of its noise; None: no noise
    """

    seed: int
    name: str
    experts: tuple[str, ...]
    units: int
    in_rows: bool
    drop: float
    noise_snr_db: float | None

    is_view: ClassVar[bool] = True
    is_noisy: ClassVar[bool] = True

    def rows(self, read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1, numbered across all experts: (rows, columns) in float32."""
        import torch

        (matrix,) = self.parts
        stored = unpacking(read)(matrix, start, stop).float()
        width, height = stored.shape[1], matrix.shape[0] // len(self.experts)
        found = stored
        if self.drop:
            dropped = torch.stack([self._dropped(expert) for expert in self.experts])
            numbers = torch.arange(start, stop)
            experts, rows = numbers // height, numbers % height
            chosen = dropped[experts, rows % self.units][:, None] if self.in_rows else dropped[experts]
            drawn = normal_rows(self.seed, f"{self.name} drop", start, stop, width)
            new = stored.mean(1, keepdim=True) + stored.std(1, correction=0, keepdim=True) * drawn
            found = torch.where(chosen, new, stored)
        if self.noise_snr_db is not None:
            size = stored.square().mean(1, keepdim=True).sqrt() * 10 ** (-self.noise_snr_db / 20)
            found = found + size * normal_rows(self.seed, f"{self.name} noise", start, stop, width)
        return found

    def _dropped(self, expert: str) -> torch.Tensor:
        """Which units of an expert are drawn anew: (units), true for so many of them."""
        import torch

        order = standard_normal(f"{self.seed} units of {expert}", 1, self.units)[0].argsort()
        dropped = torch.zeros(self.units, dtype=torch.bool)
        dropped[order[: round(self.drop * self.units)]] = True
        return dropped


@dataclass(frozen=True)
class Balanced(Packed):
    """The matrix in `parts`, once for each of some copies, with noise that sums to zero over all copies.

    seed, name    what the noise depends on
    copies        the numbers of the copies that are one below the other here
    number        how many copies there are in all
    noise_snr_db  decibels from the power of a row to that of its noise in a copy
    """

    seed: int
    name: str
    copies: range
    number: int
    noise_snr_db: float

    is_view: ClassVar[bool] = True
    is_noisy: ClassVar[bool] = True

    def rows(self, read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1, numbered across the copies: (rows, columns) in float32."""
        import torch

        (matrix,) = self.parts
        height, found = matrix.shape[0], []
        for place in range(start // height, -(-stop // height)):
            first, last = max(start - place * height, 0), min(stop - place * height, height)
            stored = unpacking(read)(matrix, first, last).float()
            width = stored.shape[1]
            each = [
                normal_rows(self.seed, f"{self.name} copy {copy}", first, last, width) for copy in range(self.number)
            ]
            noise = each[self.copies[place]] - torch.stack(each).mean(0)
            size = (stored.square().mean(1, keepdim=True) * self.number / (self.number - 1)).sqrt()
            found.append(stored + noise * size * 10 ** (-self.noise_snr_db / 20))
        return torch.cat(found)
