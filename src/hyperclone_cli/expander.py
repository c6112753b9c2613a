"""The arithmetic: rows of one source tensor in, rows of the grown tensor out.

Torch does it because numpy has no bfloat16. A block of source rows is read once, its columns are
grown once, and the result is written wherever those rows repeat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import torch

from hyperclone_cli.axes import Role
from hyperclone_cli.growth import Growth
from hyperclone_cli.planner import GrownTensor
from hyperclone_cli.shards import ITEM_BYTES, StoredTensor, read_into

BLOCK_BYTES = 4 << 20
"""Bytes of one grown block: small enough to stay in the processor's cache, large enough to write well."""

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WIDER = {"F64": torch.float64, "F32": torch.float64, "F16": torch.float32, "BF16": torch.float32}


@dataclass(frozen=True)
class Block:
    """Source rows start … stop - 1 of a tensor, and every row of the grown tensor where a copy begins."""

    tensor: GrownTensor
    start: int
    stop: int
    share: Fraction
    places: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the grown tensor."""
        return prod(self.tensor.shape[1:]) * ITEM_BYTES[self.tensor.dtype]


def blocks(tensor: GrownTensor, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Cut a grown tensor into blocks of about `block_bytes`, each of one run of source rows."""
    rows = tensor.growths[0]
    places: dict[tuple[int, int, Fraction], list[int]] = defaultdict(list)
    position = 0
    for start, length, share in rows.runs:
        places[start, length, share if tensor.roles[0] is Role.IN else Fraction(1)].append(position)
        position += length
    row_bytes = max(1, tensor.nbytes // max(1, rows.target))
    step = max(1, block_bytes // row_bytes)
    for (start, length, share), positions in places.items():
        for first in range(0, length, step):
            last = min(first + step, length)
            yield Block(tensor, start + first, start + last, share, tuple(p + first for p in positions))


def read_rows(descriptor: int, stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
    """Rows start … stop - 1 of a tensor on disk, in its own dtype: shape (stop - start, …)."""
    shape = (stop - start, *stored.shape[1:])
    row_bytes = ITEM_BYTES[stored.dtype] * prod(shape[1:])
    data = torch.empty(row_bytes * shape[0], dtype=torch.uint8)
    read_into(descriptor, as_bytes(data), stored.offset + start * row_bytes)
    return data.view(TORCH_DTYPES[stored.dtype]).view(shape)


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def grow_rows(rows: torch.Tensor, block: Block) -> torch.Tensor:
    """The grown rows of a block: shape (rows, …) of the source to (rows, …) of the clone.

    Where a factor is no power of two, or the dtype narrows, the products are taken in the next wider
    dtype and rounded once.
    """
    tensor = block.tensor
    dtype = TORCH_DTYPES[tensor.dtype]
    if tensor.exact:
        rows = rows.to(dtype)
    else:
        rows = rows.to(torch.promote_types(WIDER[tensor.source.dtype], WIDER[tensor.dtype]))
    gain = tensor.gain * float(block.share)
    if tensor.offset and gain != 1.0:
        rows = (rows + tensor.offset) * gain - tensor.offset
    elif gain != 1.0:
        rows = rows * gain
    for dim, (role, growth) in enumerate(zip(tensor.roles, tensor.growths, strict=True)):
        if dim:
            rows = grow_columns(rows, dim, role, growth)
    return rows.to(dtype).contiguous()


def grow_columns(rows: torch.Tensor, dim: int, role: Role, growth: Growth) -> torch.Tensor:
    """Grow one dimension of a block: units are copied, and weighted by their share where it is read."""
    if not growth.grows:
        return rows
    shares = {run.share if role is Role.IN else Fraction(1) for run in growth.runs}
    scaled = {share: rows * float(share) if share != 1 else rows for share in shares}
    parts = [
        scaled[run.share if role is Role.IN else Fraction(1)].narrow(dim, run.start, run.length) for run in growth.runs
    ]
    return torch.cat(parts, dim)
