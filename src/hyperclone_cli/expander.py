"""The arithmetic: rows of one source tensor in, rows of the grown tensor out.

Torch does it because numpy has no bfloat16. A block of source rows is read once, its columns are
grown once, and the result is written wherever those rows repeat.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import prod, sqrt

import torch

from hyperclone_cli.axes import Role
from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth import Growth
from hyperclone_cli.noise import noise_rows
from hyperclone_cli.rows import TORCH_DTYPES, Read
from hyperclone_cli.shards import ITEM_BYTES
from hyperclone_cli.tensors import GrownTensor

BLOCK_BYTES = 4 << 20
"""Bytes of one grown block: small enough to stay in the processor's cache, large enough to write well."""

WIDER = {"F64": torch.float64, "F32": torch.float64, "F16": torch.float32, "BF16": torch.float32}


@dataclass(frozen=True)
class Block:
    """Source rows start … stop - 1 of a tensor, and every row of the grown tensor where a copy begins.

    `shares` are the fractions that the block's columns take, one for each run of columns.
    """

    tensor: GrownTensor
    start: int
    stop: int
    shares: tuple[Fraction, ...]
    places: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the grown tensor."""
        return prod(self.tensor.shape[1:]) * ITEM_BYTES[self.tensor.dtype]

    def read(self, read: Read) -> torch.Tensor:
        """The block's source rows."""
        return read(self.tensor.source, self.start, self.stop)


def blocks(tensor: GrownTensor) -> Iterator[Block]:
    """Cut a grown tensor into blocks of about BLOCK_BYTES, each of one run of source rows."""
    places: dict[tuple[int, int, tuple[Fraction, ...]], list[int]] = defaultdict(list)
    position = 0
    for run in tensor.growths[0].runs:
        places[run.start, run.length, tensor.shares(run)].append(position)
        position += run.length
    row_bytes = max(1, tensor.nbytes // max(1, position))
    step = max(1, BLOCK_BYTES // row_bytes)
    for (start, length, shares), positions in places.items():
        for first in range(0, length, step):
            last = min(first + step, length)
            yield Block(tensor, start + first, start + last, shares, tuple(p + first for p in positions))


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """A pool that works on blocks in parallel. Meanwhile torch itself keeps to one thread in each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # more than eight find the disk busy and cost memory
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def signal_power(tensor: GrownTensor, read: Read, pool: Executor) -> float:
    """The mean square of a tensor's noise-free elements, which scales its noise; 0 for one without noise.

    It needs the whole tensor, so it comes before any of the tensor's blocks can be grown.
    """

    def energy(block: Block) -> float:
        return float(grow_rows(block.read(read), block).double().square().sum()) * len(block.places)

    return sum(pool.map(energy, blocks(tensor))) / tensor.elements if tensor.noisy else 0.0


def grow_block(block: Block, read: Read, power: float) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, rows) of the grown tensor, for every place where the block repeats.

    `power` is the tensor's `signal_power`. Raises RequestError where the storage dtype overflows.
    """
    rows = block.read(read)
    data = grow_rows(rows, block)
    tensor = block.tensor
    if tensor.dtype != tensor.source.dtype and data.isinf().any() and not rows.isinf().any():
        raise RequestError(
            f"tensor {tensor.name}: holds numbers too large for {data.dtype}.", "Use --dtype bfloat16 or float32."
        )
    for place in block.places:
        yield place, grow_rows(rows, block, noise_for(block, place, power)) if tensor.noisy else data


def grow_rows(rows: torch.Tensor, block: Block, noise: torch.Tensor | None = None) -> torch.Tensor:
    """The grown rows of a block: (rows, columns) of the source to (rows, columns) of the clone; or vectors.

    `noise`, of the grown shape, is added. Where a product must be rounded it is taken in the next
    wider dtype, and the last copy of a column is what the copies before it, as rounded, still lack:
    the copies of a column add up to the source's number within the rounding of one of them.
    """
    tensor = block.tensor
    dtype = TORCH_DTYPES[tensor.dtype]
    exact = tensor.exact and noise is None
    wide = dtype if exact else torch.promote_types(WIDER[tensor.source.dtype], WIDER[tensor.dtype])
    rows = apply_gain(rows.to(wide), tensor)
    if len(tensor.growths) == 1:
        return rows.to(dtype)
    columns = tensor.growths[1]
    if exact or tensor.roles[1] is Role.OUT:
        return _share_out(rows.to(dtype) if tensor.roles[1] is Role.OUT else rows, columns, block.shares)
    return _settle(rows, columns, block.shares, noise, dtype)


def apply_gain(rows: torch.Tensor, tensor: GrownTensor) -> torch.Tensor:
    """Gain · (w + offset) - offset, in the dtype of `rows`."""
    if tensor.gain == 1.0:
        return rows
    return (rows + tensor.offset) * tensor.gain - tensor.offset if tensor.offset else rows * tensor.gain


def _share_out(rows: torch.Tensor, columns: Growth, shares: tuple[Fraction, ...]) -> torch.Tensor:
    if not columns.grows:
        return rows
    scaled = {share: rows if share == 1 else rows * float(share) for share in set(shares)}
    parts = [scaled[share].narrow(1, run.start, run.length) for run, share in zip(columns.runs, shares, strict=True)]
    return torch.cat(parts, 1)


def _settle(
    rows: torch.Tensor, columns: Growth, shares: tuple[Fraction, ...], noise: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Round each copy, and let the last one that is not zero pay what the rounding of the others left."""
    lacking = rows.clone()
    grown = rows.new_empty((len(rows), columns.target), dtype=dtype)
    position = 0
    for run, share in zip(columns.runs, shares, strict=True):
        part = rows.narrow(1, run.start, run.length) * float(share)
        if noise is not None:
            part += noise.narrow(1, position, run.length)
        owed = lacking.narrow(1, run.start, run.length)
        if run.copy == run.copies - 1 and (share or noise is not None):
            part = owed
        target = grown.narrow(1, position, run.length)
        target.copy_(part)
        owed -= target.to(rows.dtype)
        position += run.length
    return grown


def noise_for(block: Block, place: int, power: float) -> torch.Tensor:
    """The noise of a block at `place`, for a tensor whose noise-free elements have the mean square `power`."""
    mixing = block.tensor.mixing
    assert mixing.noise_snr_db is not None
    stop = place + block.stop - block.start
    noise = noise_rows(mixing.seed, block.tensor.name, place, stop, block.tensor.growths[1])
    return noise * sqrt(power * 10 ** (-mixing.noise_snr_db / 10))
