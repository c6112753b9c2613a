"""Gaussian noise that sums to zero over the copies of every unit, and does not depend on how a tensor is cut."""

from __future__ import annotations

import torch

from hyperclone_cli.checkpoint.views import normal_rows
from hyperclone_cli.growth.widths import Growth
from hyperclone_cli.planning.grown_tensor import Filling
from hyperclone_cli.writing.columns import copy_units, sum_copies


def zero_sum_noise(seed: int, name: str, start: int, stop: int, columns: Growth) -> torch.Tensor:
    """Noise for rows start … stop - 1 of the grown tensor `name`: float32, (stop - start, columns.target).

    It depends on nothing but its arguments and the number of the row, so a block may be cut anywhere. Every row
    sums to zero over the copies of each source column and has a root mean square of 1; it is zero where no column
    has several copies. Padding is zero.
    """
    rows = normal_rows(seed, name, start, stop, columns.target)
    _zero_columns(rows, columns, padding=True)
    rows -= copy_units(sum_copies(rows, columns, mean=True), 1, columns, Filling.ZERO)
    return rows / rows.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)


def padding_noise(seed: int, name: str, start: int, stop: int, columns: Growth) -> torch.Tensor:
    """Standard normal numbers in the padding of rows start … stop - 1, zero elsewhere; shape as `zero_sum_noise`."""
    rows = normal_rows(seed, f"{name} padding", start, stop, columns.target)
    _zero_columns(rows, columns, padding=False)
    return rows


def _zero_columns(rows: torch.Tensor, columns: Growth, padding: bool) -> None:
    """Set the columns of padding, or those of copies, to zero."""
    position = 0
    for run in columns.runs:
        if run.is_padding == padding:
            rows.narrow(1, position, run.length).zero_()
        position += run.length
