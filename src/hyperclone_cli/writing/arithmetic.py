"""The arithmetic: rows of one source tensor in, rows of the grown tensor out.

Torch does it because numpy has no bfloat16. A block of source rows is read once, its columns are
grown once, and the result is written wherever those rows repeat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, prod, sqrt

import torch

from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES, Read
from hyperclone_cli.errors import RequestError
from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.growth.widths import Growth
from hyperclone_cli.planning.tensors import Filling, GrownTensor
from hyperclone_cli.writing.budget import SURVEY_BLOCK_BYTES
from hyperclone_cli.writing.noise import padding_noise, zero_sum_noise

WIDER = {"F64": torch.float64, "F32": torch.float64, "F16": torch.float32, "BF16": torch.float32}


@dataclass(frozen=True)
class Block:
    """Source rows start … stop - 1 of a tensor, and every row of the grown tensor where a copy begins.

    `shares` are the fractions that the block's columns take, one for each run of columns; `scale` is the
    rows' own factor. Rows of padding are a block too: they are numbered among themselves, and come from no
    source rows.
    """

    tensor: GrownTensor
    start: int
    stop: int
    shares: tuple[Fraction, ...]
    scale: float
    is_padding: bool
    places: tuple[int, ...]

    def read(self, read: Read) -> torch.Tensor:
        """The block's source rows."""
        return read(self.tensor.source, self.start, self.stop)


def blocks(tensor: GrownTensor, block_bytes: int) -> Iterator[Block]:
    """Cut a grown tensor into blocks of about `block_bytes`, each of one run of source rows.

    Those of the same rows, which copies read differently, follow one another: a source is read from its disk once.
    """
    return iter(sorted(_cut(tensor, block_bytes), key=lambda block: (block.is_padding, block.start)))


def _cut(tensor: GrownTensor, block_bytes: int) -> Iterator[Block]:
    places: dict[tuple[int, int, int, float, bool], list[int]] = defaultdict(list)
    position = 0
    for run in tensor.growths[0].runs:
        places[run.start, run.length, tensor.mixing_row(run), run.scale, run.is_padding].append(position)
        position += run.length
    row_bytes = max(1, tensor.nbytes // max(1, position))
    step = max(1, block_bytes // row_bytes)
    for (start, length, reading, scale, is_padding), positions in places.items():
        shares = tensor.shares(reading)
        for first in range(0, length, step):
            last = min(first + step, length)
            found = tuple(p + first for p in positions)
            yield Block(tensor, start + first, start + last, shares, scale, is_padding, found)


@contextmanager
def workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that works on blocks in parallel. Meanwhile torch itself keeps to one thread in each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Survey:
    """What must be known of a whole tensor before any of its rows can be grown.

    power  mean square of the noise-free elements, rows of padding aside, which scales the noise; 0 without noise
    mean   mean of the source's rows, of each matrix of a stack, where padding holds that
    """

    power: float = 0.0
    mean: torch.Tensor | None = None


def survey(tensor: GrownTensor, read: Read, pool: Executor) -> Survey:
    """Read a tensor once over for its noise and padding; reads nothing if it has neither.

    Raises RequestError for noise beside NaN or Inf.
    """
    copied = [block for block in blocks(tensor, SURVEY_BLOCK_BYTES) if not block.is_padding]
    power = 0.0
    if tensor.noisy:

        def energy(block: Block) -> float:
            return float(grow_rows(block.read(read), block).double().square().sum()) * len(block.places)

        rows = sum((block.stop - block.start) * len(block.places) for block in copied)
        power = sum(pool.map(energy, copied)) / (rows * prod(growth.target for growth in tensor.growths[1:]))
        if not isfinite(power):
            raise RequestError(
                f"tensor {tensor.source.name}: holds NaN or Inf, so noise has no size to take after.",
                "Leave --noise-snr-db out, or mend the source.",
            )
    mean = None
    if tensor.growths[0].padding and tensor.fillings[0] is Filling.MEAN:
        each_once = {(block.start, block.stop): block for block in copied}.values()
        sums = pool.map(lambda block: block.read(read).double().sum(0), each_once)
        mean = _means(tensor, zip((block.start for block in each_once), sums, strict=True))
    return Survey(power, mean)


def _means(tensor: GrownTensor, sums: Iterable[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """(matrices of the stack, …): the mean of the rows of each, from the sums of blocks and where these start."""
    matrices = prod(tensor.source.stack[:1])
    height = tensor.growths[0].source // matrices
    totals: list[torch.Tensor | None] = [None] * matrices
    for start, part in sums:  # added as they come: all of them at once can be larger than the tensor
        total = totals[start // height]
        totals[start // height] = part if total is None else total + part
    return torch.stack([total for total in totals if total is not None]) / height


def source_rows(block: Block, read: Read, survey: Survey) -> torch.Tensor:
    """The rows that a block is grown from: those of the source, or what padding holds."""
    if not block.is_padding:
        return block.read(read)
    shape = (block.stop - block.start, *(growth.source for growth in block.tensor.growths[1:]))
    if survey.mean is not None:
        height = block.tensor.growths[0].source // len(survey.mean)
        return survey.mean[block.start // height].expand(shape)
    return torch.zeros(shape, dtype=TORCH_DTYPES[block.tensor.source.dtype])


def grow_block(block: Block, read: Read, survey: Survey) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, rows) of the grown tensor, for every place where the block repeats.

    `survey` is the tensor's. Raises RequestError where the storage dtype overflows.
    """
    rows = source_rows(block, read, survey)
    tensor = block.tensor
    noisy = (tensor.noisy and not block.is_padding) or tensor.reads_padding
    data = None
    for place in block.places:
        if data is None or noisy:
            data = grow_rows(rows, block, noise_for(block, place, rows, survey.power) if noisy else None)
            if not tensor.exact and data.isinf().any() and not rows.isinf().any():
                raise RequestError(
                    f"tensor {tensor.name}: holds numbers too large for {data.dtype}.",
                    "Use --dtype bfloat16 or float32.",
                )
        yield place, data


def grow_rows(rows: torch.Tensor, block: Block, noise: torch.Tensor | None = None) -> torch.Tensor:
    """The grown rows of a block: (rows, columns) of the source to (rows, columns) of the clone; or vectors.

    `noise`, of the grown shape, is added to copies and stands in padding; without it that is zero. Where a
    product must be rounded it is taken in the next wider dtype, and the last copy of a column is what the
    copies before it, as rounded, still lack: the copies of a column add up to the source's number within
    the rounding of one of them.
    """
    tensor = block.tensor
    dtype = TORCH_DTYPES[tensor.dtype]
    exact = tensor.exact and noise is None
    wide = dtype if exact else wide_dtype(tensor)
    rows = scale_rows(rows.to(wide), block)
    if tensor.roles[-1] is Role.OUT:
        return copy_columns(rows, tensor).to(dtype)
    columns = tensor.growths[1]
    if exact and not columns.padding:
        return _share_out(rows, columns, block.shares)
    return _settle(rows, columns, block.shares, noise, dtype)


def wide_dtype(tensor: GrownTensor) -> torch.dtype:
    """What a tensor's products are taken in before they are rounded."""
    return torch.promote_types(WIDER[tensor.source.dtype], WIDER[tensor.dtype])


def scale_rows(rows: torch.Tensor, block: Block) -> torch.Tensor:
    """Gain · scale · (w + offset) - offset, in the dtype of `rows`."""
    factor, offset = block.tensor.gain * block.scale, block.tensor.offset
    if factor == 1.0:
        return rows
    return (rows + offset) * factor - offset if offset else rows * factor


def copy_columns(rows: torch.Tensor, tensor: GrownTensor) -> torch.Tensor:
    """Columns that are written, not read: each copy is the source's, times its scale; padding as the fillings say.

    The same in every dimension but the first, which holds the rows.
    """
    for number in range(1, len(tensor.growths)):
        if tensor.growths[number].grows:
            rows = _copy_units(rows, number, tensor.growths[number], tensor.fillings[number])
    return rows


def _copy_units(rows: torch.Tensor, number: int, units: Growth, filling: Filling) -> torch.Tensor:
    """`copy_columns` in dimension `number` alone."""
    mean = rows.mean(number, keepdim=True)
    padding = mean if filling is Filling.MEAN else torch.zeros_like(mean)
    parts = [
        _times(
            padding.repeat_interleave(run.length, number)
            if run.is_padding
            else rows.narrow(number, run.start, run.length),
            run.scale,
        )
        for run in units.runs
    ]
    return torch.cat(parts, number)


def _times(rows: torch.Tensor, factor: float) -> torch.Tensor:
    return rows if factor == 1 else rows * factor


def _share_out(rows: torch.Tensor, columns: Growth, shares: tuple[Fraction, ...]) -> torch.Tensor:
    if not columns.grows:
        return rows
    scaled = {share: _times(rows, float(share)) for share in set(shares)}
    parts = [scaled[share].narrow(1, run.start, run.length) for run, share in zip(columns.runs, shares, strict=True)]
    return torch.cat(parts, 1)


def _settle(
    rows: torch.Tensor, columns: Growth, shares: tuple[Fraction, ...], noise: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Round each copy, and let the last one that is not zero pay what the rounding of the others left."""
    lacking = rows.clone()
    last: dict[int, int] = {}  # of so many copies, the last that is not zero
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
        owed = lacking.narrow(1, run.start, run.length)
        if run.copy == last.get(run.copies):
            target.copy_(owed)
        else:
            part = rows.narrow(1, run.start, run.length) * float(share)
            target.copy_(part if added is None else part + added)
        owed -= target.to(rows.dtype)
    return grown


def noise_for(block: Block, place: int, rows: torch.Tensor, power: float) -> torch.Tensor:
    """The noise of a block at `place`: in the copied columns it cancels, in padding it is as large as the copies.

    `rows` are the block's source rows, `power` the mean square of the tensor's noise-free elements.
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
