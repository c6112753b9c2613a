"""A tensor of the clone as it is planned: what it is made from, its shape, and how exact it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES, StoredTensor
from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.growth.widths import Growth, Run


class Filling(Enum):
    """What the padding of a dimension holds."""

    ZERO = "zero"
    MEAN = "mean"  # the mean of the source's units, which LayerNorm subtracts
    NOISE = "noise"  # noise of the tensor's own size: it reads what is zero until training fills the padding


@dataclass(frozen=True, eq=False)
class TensorKind:
    """How tensors of one kind are made: of one line of the table, of one shape and dtype, in layers that grow alike.

    A mixture has tens of thousands of tensors and some twenty kinds: what is worked out here, is worked out once.

    Element = gain · (w + offset) · (scales of its output dimensions, shares of its input dimensions)
    - offset, rounded once to `dtype`; offset is 1 for norms that multiply by (1 + w), else 0.

    Dimensions are (rows, columns) = (out, in) for every matrix, also where it is transposed on disk.

    pattern     the name with a `*` for every number
    stored      the first of the tensors of the source that are grown so, for dtype, shape and stack
    part        the part of the network: "attention", "feed-forward", "norms", …
    fillings    those of the padding in each dimension
    transposed  whether the clone has it transposed on disk
    silent      whether it makes its layer add nothing to the residual stream: then every element is `rest`, whatever
                the source has
    experts     if it belongs to an expert, or to all of a layer: how many of them the layer has in the clone, else 0
    matrices    how many matrices a stack has in the clone, else 0
    kept        whether it is copied byte for byte, of whatever dtype it is
    """

    pattern: str
    stored: StoredTensor
    dtype: str
    part: str
    roles: tuple[Role, ...]
    growths: tuple[Growth, ...]
    fillings: tuple[Filling, ...]
    mixing: Mixing
    gain: float = 1.0
    offset: float = 0.0
    transposed: bool = False
    silent: bool = False
    rest: float = 0.0
    experts: int = 0
    matrices: int = 0
    kept: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape on disk: a scalar's is none, although it grows as a row of one."""
        if self.stack:
            flat = (self.stack[0] * self.stack[1], *self.stack[2:])
            return self.stack if len(self.stored.shape) == len(self.stack) else flat
        targets = tuple(growth.target for growth in self.growths)[: len(self.stored.shape)]
        return targets[::-1] if self.transposed else targets

    @cached_property
    def stack(self) -> tuple[int, ...]:
        """(experts, …) of a stack of matrices; empty for all others."""
        if not self.stored.stack:
            return ()
        rows, *columns = (growth.target for growth in self.growths)
        matrix = (rows // self.matrices, *columns)
        return (self.matrices, *(matrix[::-1] if self.transposed else matrix))

    @cached_property
    def elements(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]

    @cached_property
    def exact(self) -> bool:
        """Whether no element needs rounding: factors are powers of two, and the dtype holds the source's.

        Subnormal numbers aside, and padding, which holds nothing of the source's.
        """
        if self.silent:
            return True
        if self.stored.packed and self.stored.packed.is_noisy:
            return False
        rows = {self.mixing_row(run) for run in self.growths[0].runs}
        factors = {float(share) for row in rows for share in self.shares(row) if share}
        factors |= {run.scale for growth in self.growths for run in growth.runs} | {self.gain}
        powers = all(math.frexp(factor)[0] == 0.5 for factor in factors)
        wide = self.dtype == self.stored.dtype or (
            ITEM_BYTES[self.dtype] > ITEM_BYTES[self.stored.dtype] and self.dtype in ("F32", "F64")
        )
        return powers and wide and not self.noisy and not (self.offset and self.gain != 1.0) and not self._means

    @property
    def _means(self) -> bool:
        return any(
            growth.padding and filling is Filling.MEAN
            for growth, filling in zip(self.growths, self.fillings, strict=True)
        )

    @cached_property
    def noisy(self) -> bool:
        """Whether noise is asked for and there are copies over which it can cancel."""
        return (
            self.mixing.noise_snr_db is not None
            and not self.silent
            and self.roles[-1] is Role.IN
            and any(run.copies > 1 for run in self.growths[-1].runs)
        )

    @cached_property
    def reads_padding(self) -> bool:
        """Whether a row has columns for padding, which hold noise of their own."""
        return self.roles[-1] is Role.IN and self.growths[-1].padding > 0 and not self.silent

    def mixing_row(self, rows: Run) -> int:
        """The row of C, see `growth.strategies`, by which a run of rows reads the copies of its columns."""
        if self.roles[1:] != (Role.IN,) or self.mixing.strategy == "symmetric":
            return 0
        return rows.copy % math.lcm(*{run.copies for run in self.growths[1].runs if not run.is_padding})

    def shares(self, mixing_row: int) -> tuple[Fraction, ...]:
        """The part of its weight that each run of columns takes under a row of C; a column's copies sum to 1."""
        if self.roles[1:] != (Role.IN,):
            return tuple(Fraction(1) for growth in self.growths[1:] for _ in growth.runs)
        return tuple(
            Fraction(0) if run.is_padding or run.silent else self.mixing.share(mixing_row, run.copy, run.copies)
            for run in self.growths[1].runs
        )


class GrownTensor(NamedTuple):
    """One tensor of the clone, made from one tensor of the source in the way of its kind.

    layer  the number of its layer; None outside of the layers
    """

    name: str
    layer: int | None
    source: StoredTensor
    kind: TensorKind

    def changed(self, **changes: Any) -> GrownTensor:
        """The same tensor, made in another way."""
        return self._replace(kind=replace(self.kind, **changes))

    def like(self, stored: StoredTensor) -> StoredTensor:
        """`stored`, a tensor of the clone's name and shape, to be read by rows as this one is."""
        return stored._replace(transposed=self.transposed, stack=self.stack)

    @property
    def kept(self) -> bool:
        """Whether it is copied byte for byte, of whatever dtype it is."""
        return self.kind.kept

    def mixing_row(self, rows: Run) -> int:
        """As of its kind."""
        return self.kind.mixing_row(rows)

    def shares(self, mixing_row: int) -> tuple[Fraction, ...]:
        """As of its kind."""
        return self.kind.shares(mixing_row)

    # what its kind says

    @property
    def pattern(self) -> str:
        return self.kind.pattern

    @property
    def dtype(self) -> str:
        return self.kind.dtype

    @property
    def part(self) -> str:
        return self.kind.part

    @property
    def roles(self) -> tuple[Role, ...]:
        return self.kind.roles

    @property
    def growths(self) -> tuple[Growth, ...]:
        return self.kind.growths

    @property
    def fillings(self) -> tuple[Filling, ...]:
        return self.kind.fillings

    @property
    def mixing(self) -> Mixing:
        return self.kind.mixing

    @property
    def gain(self) -> float:
        return self.kind.gain

    @property
    def offset(self) -> float:
        return self.kind.offset

    @property
    def transposed(self) -> bool:
        return self.kind.transposed

    @property
    def silent(self) -> bool:
        return self.kind.silent

    @property
    def rest(self) -> float:
        return self.kind.rest

    @property
    def shape(self) -> tuple[int, ...]:
        return self.kind.shape

    @property
    def stack(self) -> tuple[int, ...]:
        return self.kind.stack

    @property
    def elements(self) -> int:
        return self.kind.elements

    @property
    def nbytes(self) -> int:
        return self.kind.nbytes

    @property
    def exact(self) -> bool:
        return self.kind.exact

    @property
    def noisy(self) -> bool:
        return self.kind.noisy

    @property
    def reads_padding(self) -> bool:
        return self.kind.reads_padding
