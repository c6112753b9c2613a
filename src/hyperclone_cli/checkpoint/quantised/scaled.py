"""Numbers of eight bits times scales: one of a tensor, of each row, of each block, or of each group in a row.

FP8 as DeepSeek, Qwen and Kimi publish it (`weight_scale_inv`, one scale for 128 × 128), as compressed-tensors, FBGEMM
and ModelOpt write it (`weight_scale`), and INT8 as compressed-tensors and bitsandbytes (`SCB`) do. In all of them

    weight[r, c] = stored[r, c] × scale[r // rows of a block, c // columns of a block]

The last block of a row or column may be smaller. Sources: transformers' integrations/finegrained_fp8.py,
compressed_tensors.py and bitsandbytes.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.quantised.packed import Packed
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

INT8_STEP = 7.874015718698502e-3
"""1/127, as bitsandbytes has it: its scales are the largest magnitudes of rows, which it stores as 127."""


@dataclass(frozen=True)
class Scaled(Packed):
    """`parts` are the numbers, their scales if there are any, and zero points if there are any.

    block   (rows, columns) that one scale is for
    factor  by which all are multiplied too
    """

    block: tuple[int, int]
    factor: float = 1.0

    def rows(self, read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1, numbered across all matrices: (rows, columns) in float32."""
        numbers, *grids = self.parts
        values = read(numbers._replace(stack=numbers.shape if len(numbers.shape) > 2 else ()), start, stop).float()
        for zeros in grids[1:]:
            values -= self._spread(read, zeros, start, stop)
        for scales in grids[:1]:
            values *= self._spread(read, scales, start, stop)
        return values * self.factor if self.factor != 1.0 else values

    def _spread(self, read: Read, grid: StoredTensor, start: int, stop: int) -> torch.Tensor:
        """What a grid has for each element of these rows."""
        import torch

        height, width = self.parts[0].shape[-2:]
        matrices, tall, wide = _as_stack(grid.shape, self.parts[0].shape)
        rows = torch.arange(start, stop)
        places = rows % height // self.block[0] + (rows // height * tall if matrices > 1 else 0)
        first, last = int(places.min()), int(places.max())
        found = read(grid._replace(shape=(matrices * tall, wide)), first, last + 1)
        found = torch.exp2(found.float() - 127) if grid.dtype == "U8" else found.float()
        return found[places - first].repeat_interleave(self.block[1], 1)[:, :width]


def scaled(
    numbers: StoredTensor, grids: Sequence[StoredTensor], block: tuple[int, int] | None, factor: float = 1.0
) -> Scaled:
    """The tensor that `numbers` and the `grids` of its scales and zero points make.

    block  (rows, columns) that config.json states for a scale; None if it states none, or the grid shows it

    Raises CheckpointError if a grid does not fit.
    """
    fits = {_block(numbers, grid, block) for grid in grids} or {(1, 1)}
    if len(fits) != 1:
        raise CheckpointError(f"tensor {grids[-1].name!r}: zero points of another shape than the scales.")
    return Scaled((numbers, *grids), False, fits.pop(), factor)


def _as_stack(grid: tuple[int, ...], numbers: tuple[int, ...]) -> tuple[int, int, int]:
    """(matrices, rows, columns) of a grid for matrices of the shape `numbers` (…, rows, columns)."""
    if prod(grid) == 1:
        return 1, 1, 1
    if len(grid) == 1:  # one for each row, or for each matrix
        return (1, grid[0], 1) if len(numbers) == 2 else (grid[0], 1, 1)
    return prod(grid[:-2]), grid[-2], grid[-1]


def _block(numbers: StoredTensor, grid: StoredTensor, stated: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns that one scale is for: as stated where that fits, else as the shapes divide."""
    (height, width), (matrices, tall, wide) = numbers.shape[-2:], _as_stack(grid.shape, numbers.shape)
    if matrices in (1, prod(numbers.shape[:-2])) and tall and wide:
        if stated and (-(-height // stated[0]), -(-width // stated[1])) == (tall, wide):
            return stated
        if height % tall == 0 and width % wide == 0:
            return height // tall, width // wide
    raise CheckpointError(
        f"tensor {grid.name!r}: scales of shape {list(grid.shape)} do not fit weights of {list(numbers.shape)}"
        + (f" in blocks of {stated[0]} × {stated[1]}." if stated else "."),
        "Use the config.json that belongs to these weights: its quantization_config states weight_block_size.",
    )
