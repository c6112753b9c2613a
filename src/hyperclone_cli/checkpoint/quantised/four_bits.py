"""Numbers of four bits in floating point (E2M1), two in a byte, times a scale for each group in a row.

MXFP4, as gpt-oss publishes its experts: `_blocks` (experts, rows, groups, 16) and `_scales` (experts, rows, groups),
which are powers of two, 2^(stored − 127), for groups of 32. The rows are columns of the tensor that they stand for,
(experts, columns, rows). The lower half of a byte comes first. Source: transformers' integrations/mxfp4.py and the
Microscaling formats specification of the Open Compute Project.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.quantised.packed import Packed
from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_GROUP_BYTES = 16


@dataclass(frozen=True)
class Mxfp4(Packed):
    """`parts` are blocks and scales."""

    def rows(self, read: Read, start: int, stop: int) -> torch.Tensor:
        """Rows start … stop - 1, numbered across all matrices: (rows, columns) in float32."""
        import torch

        blocks, scales = self.parts
        groups = scales.shape[-1]
        flat = prod(scales.shape[:-1])
        pairs = read(blocks._replace(shape=(flat, groups * _GROUP_BYTES)), start, stop).int()
        powers = read(scales._replace(shape=(flat, groups)), start, stop).int() - 127
        values = torch.tensor((*_MAGNITUDES, *(-one for one in _MAGNITUDES)))
        both = torch.stack([values[torch.arange(256) % 16], values[torch.arange(256) // 16]], 1)  # of every byte
        numbers = both[pairs].view(stop - start, groups, 2 * _GROUP_BYTES)
        return torch.ldexp(numbers, powers[..., None]).view(stop - start, -1)


def mxfp4(blocks: StoredTensor, scales: StoredTensor) -> tuple[Mxfp4, tuple[int, ...]]:
    """(how it is stored, shape) of the tensor that these two make. Raises CheckpointError if they do not fit."""
    if len(blocks.shape) < 3 or blocks.shape != (*scales.shape, _GROUP_BYTES):
        raise CheckpointError(
            f"tensor {scales.name!r}: scales of shape {list(scales.shape)} do not fit blocks of {list(blocks.shape)}."
        )
    *stack, rows, groups = scales.shape
    return Mxfp4((blocks, scales), True), (*stack, groups * 2 * _GROUP_BYTES, rows)
