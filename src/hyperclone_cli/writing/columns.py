"""The columns of a block of rows: copied to a grown width, shared out among copies, or summed back."""

from __future__ import annotations

from fractions import Fraction

import torch

from hyperclone_cli.growth.widths import Growth, Run
from hyperclone_cli.planning.grown_tensor import Filling, GrownTensor


def copy_columns(rows: torch.Tensor, tensor: GrownTensor) -> torch.Tensor:
    """Grow the columns that a tensor writes: `copy_units` in every dimension but the first, that of the rows."""
    for dimension, (growth, filling) in enumerate(zip(tensor.growths, tensor.fillings, strict=True)):
        if dimension and growth.grows:
            rows = copy_units(rows, dimension, growth, filling)
    return rows


def copy_units(rows: torch.Tensor, dimension: int, growth: Growth, filling: Filling) -> torch.Tensor:
    """Grow one dimension: every copy is the source's units times the copy's scale.

    Padding is zero, or with `Filling.MEAN` the mean of the source's units.
    """
    first = rows.narrow(dimension, 0, 1)
    padding = rows.mean(dimension, keepdim=True) if filling is Filling.MEAN else torch.zeros_like(first)

    def units(run: Run) -> torch.Tensor:
        if run.is_padding:
            return padding.repeat_interleave(run.length, dimension)
        return rows.narrow(dimension, run.start, run.length)

    return torch.cat([_times(units(run), run.scale) for run in growth.runs], dimension)


def share_columns(rows: torch.Tensor, columns: Growth, shares: tuple[Fraction, ...]) -> torch.Tensor:
    """Grow columns that are read and have no padding: every copy is the source's columns times its share."""
    grown = rows.new_empty((len(rows), columns.target))
    position = 0
    for run, share in zip(columns.runs, shares, strict=True):
        units, target = rows.narrow(1, run.start, run.length), grown.narrow(1, position, run.length)
        # in place, because temporary copies cost more than the products
        target.copy_(units) if share == 1 else torch.mul(units, float(share), out=target)
        position += run.length
    return grown


def _times(rows: torch.Tensor, factor: float) -> torch.Tensor:
    return rows if factor == 1 else rows * factor


def share_columns_rounded(
    rows: torch.Tensor, columns: Growth, shares: tuple[Fraction, ...], noise: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Grow columns that are read: share · source + noise, rounded to `dtype`; padding is the noise alone, or zero.

    The last copy of a column that is not zero is the source's column minus all other copies as they were rounded:
    it takes their rounding remainder, so that the copies sum to the source's column within one rounding.
    """
    remainder = rows.clone()
    last: dict[int, int] = {}  # number of copies → the last of them that is not zero
    for run, share in zip(columns.runs, shares, strict=True):
        if not run.is_padding and (share or noise is not None):
            last[run.copies] = max(run.copy, last.get(run.copies, 0))
    grown = rows.new_zeros((len(rows), columns.target), dtype=dtype)
    position = 0
    for run, share in zip(columns.runs, shares, strict=True):
        target = grown.narrow(1, position, run.length)
        added = noise.narrow(1, position, run.length) if noise is not None else None
        position += run.length
        if run.is_padding:
            if added is not None:
                target.copy_(added)
            continue
        left = remainder.narrow(1, run.start, run.length)
        if run.copy == last.get(run.copies):
            target.copy_(left)
        else:
            part = rows.narrow(1, run.start, run.length) * float(share)
            target.copy_(part if added is None else part + added)
        left -= target.to(rows.dtype)
    return grown


def sum_copies(rows: torch.Tensor, growth: Growth, mean: bool = False, dimension: int = 1) -> torch.Tensor:
    """The copies of each source unit of a dimension summed, or with `mean` averaged; padding is left out.

    (…, growth.target, …) to (…, growth.source, …), in the dtype of `rows`.
    """
    shape = list(rows.shape)
    shape[dimension] = growth.source
    total = rows.new_zeros(shape)
    position = 0
    for run in growth.runs:
        if not run.is_padding:
            part = rows.narrow(dimension, position, run.length)
            total.narrow(dimension, run.start, run.length).add_(part, alpha=1 / run.copies if mean else 1)
        position += run.length
    return total
