"""The arithmetic: rows of one source tensor in, rows of the grown tensor out.

Torch does it because numpy has no bfloat16. A block of source rows is grown once, and the result is written
wherever those rows are copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import torch

from hyperclone_cli.checkpoint.row_io import STORED_DTYPES
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.writing.blocks import Block
from hyperclone_cli.writing.columns import copy_columns, share_columns, share_columns_rounded
from hyperclone_cli.writing.noise import padding_noise, zero_sum_noise

WIDER = {"F64": torch.float64, "F32": torch.float64, "F16": torch.float32, "BF16": torch.float32}


def grow_block(block: Block, rows: torch.Tensor, noise_power: float) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, rows) of the grown tensor for every copy of a block; the rows are contiguous.

    rows         the block's source rows, or what its padding contains: contiguous, (rows, …) as in the source
    noise_power  mean square of the tensor's elements without noise; used only where the tensor is noisy

    Raises RequestError if the storage dtype overflows.
    """
    tensor = block.tensor
    noisy = (tensor.noisy and not block.is_padding) or tensor.reads_padding
    data = None
    for place in block.places:
        if data is None or noisy:
            data = grow_rows(rows, block, _noise(block, place, rows, noise_power) if noisy else None)
            if not tensor.exact and data.isinf().any() and not rows.isinf().any():
                raise RequestError(
                    f"tensor {tensor.name}: contains numbers too large for {data.dtype}.",
                    "Use --dtype bfloat16 or float32.",
                )
        yield place, data


def grow_rows(rows: torch.Tensor, block: Block, noise: torch.Tensor | None = None) -> torch.Tensor:
    """The grown rows of a block: (rows, columns) of the source to (rows, columns) of the clone; or vectors.

    `noise`, of the grown shape, is added to copies and fills padding, which is zero without it. A product that must
    be rounded is computed in the next wider dtype; see `share_columns_rounded` for where the remainder goes.
    """
    tensor = block.tensor
    dtype = STORED_DTYPES[tensor.dtype]
    exact = tensor.exact and noise is None
    rows = scale_rows(rows.to(dtype if exact else wide_dtype(tensor)), block)
    if tensor.roles[-1] is Role.OUT:
        return copy_columns(rows, tensor).to(dtype)
    columns = tensor.growths[1]
    if exact and not columns.padding:
        return share_columns(rows, columns, block.shares) if columns.grows else rows
    return share_columns_rounded(rows, columns, block.shares, noise, dtype)


def wide_dtype(tensor: GrownTensor) -> torch.dtype:
    """The dtype in which a tensor's products are computed before they are rounded."""
    return torch.promote_types(WIDER[tensor.source.dtype], WIDER[tensor.dtype])


def scale_rows(rows: torch.Tensor, block: Block) -> torch.Tensor:
    """Gain · scale · (w + offset) - offset, in the dtype of `rows`."""
    if block.tensor.silent:  # not by a product: zero times Inf is none
        return torch.full_like(rows, block.tensor.rest)
    factor, offset = block.tensor.gain * block.scale, block.tensor.offset
    if factor == 1.0:
        return rows
    return (rows + offset) * factor - offset if offset else rows * factor


def _noise(block: Block, place: int, rows: torch.Tensor, power: float) -> torch.Tensor:
    """The noise of the copy of a block that begins at row `place`: float32, (rows, grown columns).

    In copied columns it sums to zero over the copies; in padding it has the mean square of one copy of the row.
    """
    tensor, mixing = block.tensor, block.tensor.mixing
    columns = tensor.growths[1]
    stop = place + block.stop - block.start
    noise = torch.zeros(len(rows), columns.target)
    if tensor.noisy and not block.is_padding:
        assert mixing.noise_snr_db is not None
        noise += zero_sum_noise(mixing.seed, tensor.name, place, stop, columns) * sqrt(
            power * 10 ** (-mixing.noise_snr_db / 10)
        )
    if tensor.reads_padding:
        copies = max(run.copies for run in columns.runs)
        size = scale_rows(rows.to(wide_dtype(tensor)), block).square().mean(1, keepdim=True).sqrt() / copies
        noise += padding_noise(mixing.seed, tensor.name, place, stop, columns) * size.float()
    return noise
