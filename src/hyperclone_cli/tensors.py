"""One tensor of the clone: what it is made from, its shape, and how exact it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from hyperclone_cli.axes import Form, Role
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth import Growth, Request, Run, grow_dimension
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.shards import FLOAT_DTYPES, ITEM_BYTES, StoredTensor


@dataclass(frozen=True)
class GrownTensor:
    """One tensor of the clone, made from one tensor of the source.

    Element = gain · (w + offset) · (shares of its input dimensions) - offset, rounded once to `dtype`;
    offset is 1 for norms that multiply by (1 + w), else 0.
    """

    name: str
    source: StoredTensor
    dtype: str
    part: str
    roles: tuple[Role, ...]
    growths: tuple[Growth, ...]
    mixing: Mixing
    gain: float = 1.0
    offset: float = 0.0

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(growth.target for growth in self.growths)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]

    @cached_property
    def exact(self) -> bool:
        """Whether no element needs rounding: factors are powers of two, and the dtype holds the source's.

        Subnormal numbers aside.
        """
        shares = {share for run in self.growths[0].runs for share in self.shares(run)}
        powers = _is_power_of_two(self.gain) and all(_is_power_of_two(float(share)) for share in shares if share)
        wide = self.dtype == self.source.dtype or (
            ITEM_BYTES[self.dtype] > ITEM_BYTES[self.source.dtype] and self.dtype in ("F32", "F64")
        )
        return powers and wide and not self.noisy and not (self.offset and self.gain != 1.0)

    @cached_property
    def noisy(self) -> bool:
        """Whether noise is asked for and there are copies over which it can cancel."""
        return (
            self.mixing.noise_snr_db is not None
            and self.roles[-1] is Role.IN
            and any(run.copies > 1 for run in self.growths[-1].runs)
        )

    def shares(self, rows: Run) -> tuple[Fraction, ...]:
        """What part of its weight a run of rows takes in each run of columns; a column's copies sum to 1."""
        if self.roles[1:] != (Role.IN,):
            return tuple(Fraction(1) for growth in self.growths[1:] for _ in growth.runs)
        return tuple(self.mixing.share(rows.copy, run.copy, run.copies) for run in self.growths[1].runs)


def grow_tensor(
    stored: StoredTensor, full: str, parameter: str, form: Form, growths: Mapping[str, Growth], request: Request
) -> GrownTensor:
    """The tensor `full` of the clone, from the stored one and the form of its module.

    Raises CheckpointError if the stored shape or dtype is not what the config and the form say.
    """
    dimensions = form.parameters[parameter]
    if len(dimensions) != len(stored.shape):
        raise CheckpointError(
            f"tensor {stored.name!r}: expected {len(dimensions)} dimensions, found shape {list(stored.shape)}."
        )
    grown = []
    for number, (dimension, size) in enumerate(zip(dimensions, stored.shape, strict=True)):
        try:
            grown.append(grow_dimension(dimension.axes, size, growths))
        except ValueError as error:
            raise CheckpointError(
                f"tensor {stored.name!r}: config.json makes dimension {number} ({' × '.join(dimension.axes)})"
                f" {error}, found shape {list(stored.shape)}.",
                "config.json and the weights do not belong together.",
            ) from None
    is_float = stored.dtype in FLOAT_DTYPES.values()
    if not is_float:
        raise CheckpointError(f"tensor {stored.name!r}: expected floating-point weights, found {stored.dtype}.")
    embed = growths["embed"]
    return GrownTensor(
        name=full,
        source=stored,
        dtype=FLOAT_DTYPES[request.dtype] if request.dtype else stored.dtype,
        part=_part(form, dimensions[0].axes + dimensions[-1].axes),
        roles=tuple(dimension.role for dimension in dimensions),
        growths=tuple(grown),
        mixing=request.mixing,
        gain=(embed.source / embed.target) ** form.forward_power,
        offset=float(form.plus_one),
    )


def _part(form: Form, axes: tuple[str, ...]) -> str:
    """The part of the network, read off the axes."""
    if form.kind == "vector":
        return "norms"
    if "vocab" in axes:
        return "embedding" if form.kind == "embedding" else "head"
    if "kv_heads" in axes:
        return "attention"
    return "feed-forward" if "ffn" in axes else "embedding"


def _is_power_of_two(number: float) -> bool:
    return math.frexp(number)[0] == 0.5
