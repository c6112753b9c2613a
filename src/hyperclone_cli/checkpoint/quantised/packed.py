"""A tensor that is stored as others: quantised numbers, scales, zero points. Its rows are worked out as they are read.

Every scheme gives the rows of its matrices in the order in which it stores them. Whoever reads asks in the layout of
the tensor that they stand for; `unpacking` is between the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read

_BLOCK_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class Packed(ABC):
    """How a matrix, or a stack of matrices, is stored.

    parts       the stored tensors
    transposed  whether the stored rows of each matrix are its columns
    """

    parts: tuple[StoredTensor, ...]
    transposed: bool

    is_view: ClassVar[bool] = False
    """Whether it shows parts of tensors that are there for themselves too, or is there for nobody else."""

    is_noisy: ClassVar[bool] = False
    """Whether its numbers are sums with random ones, which are rounded."""

    @abstractmethod
    def rows(self, read: Read, start: int, stop: int) -> torch.Tensor:
        """Stored rows start … stop - 1, numbered across all matrices: (rows, columns), in float32 or a tensor's dtype.

        A vector has rows of one column.
        """


def unpacking(read: Read) -> Read:
    """`read`, also of packed tensors. Their numbers are rounded once, from float32 to the tensor's dtype."""

    def rows(stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
        if stored.packed is None:
            return read(stored, start, stop)
        if len(stored.stack or stored.shape) - bool(stored.stack) == 1:
            return _numbers(read, stored, start, stop)
        height, width = (stored.stack or stored.shape)[-2:]
        if stored.stack or len(stored.shape) == 2:
            size = (width, height) if stored.transposed else (height, width)
            return _unpacked(read, stored, stored.transposed, size, start, stop)
        each = prod(stored.shape[1:-1])  # a row of what is no stack is all of one matrix, or of several
        found = _unpacked(read, stored, False, (height, width), start * each, stop * each)
        return found.view(stop - start, *stored.shape[1:])

    return rows


def _numbers(read: Read, stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
    """Numbers start … stop - 1 of a vector, or of a stack of vectors, each of which is stored as a row."""
    from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES

    assert stored.packed is not None
    width = stored.stack[-1] if stored.stack else 1
    first = start // width
    rows = stored.packed.rows(read, first, -(-stop // width)).to(TORCH_DTYPES[stored.dtype])
    return rows.reshape(-1)[start - first * width : stop - first * width].contiguous()


def _unpacked(
    read: Read, stored: StoredTensor, transposed: bool, size: tuple[int, int], start: int, stop: int
) -> torch.Tensor:
    """Rows start … stop - 1 of matrices of `size` (rows, columns), which are columns of those stored if `transposed`.

    Where a scheme stores the others, all of each matrix is read, a part at a time.
    """
    import torch

    from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES

    packed, dtype = stored.packed, TORCH_DTYPES[stored.dtype]
    assert packed is not None
    if transposed == packed.transposed:
        return packed.rows(read, start, stop).to(dtype).contiguous()
    height, width = size
    found = torch.empty((stop - start, width), dtype=dtype)
    step = max(1, _BLOCK_ELEMENTS // height)
    for number in range(start // height, -(-stop // height)):
        first, last = max(start - number * height, 0), min(stop - number * height, height)
        place = found[number * height + first - start :][: last - first]
        for begin in range(0, width, step):
            end = min(width, begin + step)
            part = packed.rows(read, number * width + begin, number * width + end)
            place[:, begin:end] = part[:, first:last].T.to(dtype)
    return found
