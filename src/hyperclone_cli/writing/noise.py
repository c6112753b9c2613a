"""Gaussian noise that sums to zero over the copies of every unit, the same whatever cuts a tensor into blocks."""

from __future__ import annotations

import hashlib

import torch

from hyperclone_cli.growth.widths import Growth
from hyperclone_cli.writing.budget import NOISE_ROWS
from hyperclone_cli.writing.copy_sums import sum_copies


def zero_sum_noise(seed: int, name: str, start: int, stop: int, columns: Growth) -> torch.Tensor:
    """Noise for rows start … stop - 1 of the grown tensor `name`: float32, (stop - start, columns.target).

    It depends on nothing but its arguments and the row: a block may be cut anywhere. Every row sums
    to zero over the copies of each source column, and has a root mean square of 1; rows without a
    copied column are zero, and so is padding.
    """
    rows = _rows(seed, name, start, stop, columns.target)
    _mask_padding(rows, columns, keep=False)
    rows -= _spread(sum_copies(rows, columns, mean=True), columns)
    return rows / rows.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)


def padding_noise(seed: int, name: str, start: int, stop: int, columns: Growth) -> torch.Tensor:
    """Standard normal numbers in the padding of rows start … stop - 1, zero elsewhere; shaped and cut as above."""
    rows = _rows(seed, f"{name} padding", start, stop, columns.target)
    _mask_padding(rows, columns, keep=True)
    return rows


def _rows(seed: int, name: str, start: int, stop: int, width: int) -> torch.Tensor:
    first, last = start // NOISE_ROWS, -(-stop // NOISE_ROWS)  # groups of rows that hold the wanted ones
    groups = [_group(seed, name, group, width) for group in range(first, last)]
    return torch.cat(groups)[start - first * NOISE_ROWS : stop - first * NOISE_ROWS]


def _mask_padding(rows: torch.Tensor, columns: Growth, keep: bool) -> None:
    """Set the padding's columns to zero, or with `keep` all others."""
    position = 0
    for run in columns.runs:
        if run.is_padding != keep:
            rows.narrow(1, position, run.length).zero_()
        position += run.length


def _group(seed: int, name: str, group: int, width: int) -> torch.Tensor:
    import numpy

    digest = hashlib.sha256(f"{seed} {group} {name}".encode()).digest()
    key = numpy.frombuffer(digest[:16], dtype="<u8")
    generator = numpy.random.Generator(numpy.random.Philox(key=key))
    return torch.from_numpy(generator.standard_normal((NOISE_ROWS, width), dtype="float32"))


def _spread(units: torch.Tensor, columns: Growth) -> torch.Tensor:
    zeros = units.new_zeros(len(units), columns.padding)
    return torch.cat(
        [
            zeros.narrow(1, 0, run.length) if run.is_padding else units.narrow(1, run.start, run.length)
            for run in columns.runs
        ],
        1,
    )
