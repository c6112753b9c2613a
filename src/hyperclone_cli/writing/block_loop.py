"""The loop over blocks: source rows are read once, an executor works on them, and the results come in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import isfinite, prod
from typing import Generic, TypeVar

import torch

from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES, Read
from hyperclone_cli.checkpoint.safetensors_file import ITEM_BYTES
from hyperclone_cli.errors import RequestError
from hyperclone_cli.planning.grown_tensor import Filling, GrownTensor
from hyperclone_cli.writing.arithmetic import grow_rows
from hyperclone_cli.writing.blocks import Block, cut_blocks, of_same_rows
from hyperclone_cli.writing.budget import SURVEY_BLOCK_BYTES, Budget
from hyperclone_cli.writing.integrity import is_finite

Value = TypeVar("Value")
Work = Callable[[Block, torch.Tensor, float], Value]
"""What is done with a block, its rows (the source's, or those of padding) and its tensor's noise power."""

_JOBS_AHEAD = 4
"""Jobs per thread that are submitted before the first result of theirs is taken: bounds the memory."""


@dataclass(frozen=True)
class BlockResult(Generic[Value]):
    """What the work on a block returned.

    finite  whether no source row of the block contains NaN or Inf
    last    whether the block is the last of its tensor
    """

    block: Block
    value: Value
    finite: bool
    last: bool


def run_blocks(
    tensors: Iterable[GrownTensor],
    read: Read,
    executor: Executor,
    budget: Budget,
    work: Work[Value],
    noise: bool = True,
) -> Generator[BlockResult[Value]]:
    """Cut each tensor into blocks, have `executor` read the rows of each and `work` on them; yield results in order.

    Small blocks are submitted together, up to the bytes of one large block: handing each over would take longer than
    growing it. At most 4 jobs a thread are submitted ahead of the result that is yielded, of whichever tensors. An
    error of `work` is raised in the place of its job's results. Then, or if the caller closes the iterator early, jobs
    that have not begun are cancelled and the others are waited for: none uses a file that its caller has closed.

    noise  whether `work` needs the noise power of noisy tensors, for which they are read once more

    Raises RequestError for noise in a tensor that contains NaN or Inf.
    """
    running: deque[Future[list[BlockResult[Value]]]] = deque()
    try:
        for job in _jobs(tensors, read, executor, budget, work, noise):
            if len(running) == _JOBS_AHEAD * budget.threads:
                yield from running[0].result()
                running.popleft()
            running.append(executor.submit(_run, job))
        while running:
            yield from running[0].result()
            running.popleft()
    finally:
        wait([job for job in running if not job.cancel()])


@contextmanager
def workers(threads: int) -> Iterator[Executor]:
    """So many threads, in each of which torch computes without threads of its own.

    At the end, also after an error, jobs that have not begun are cancelled and the others are waited for.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    executor = ThreadPoolExecutor(threads)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _jobs(
    tensors: Iterable[GrownTensor],
    read: Read,
    executor: Executor,
    budget: Budget,
    work: Work[Value],
    noise: bool,
) -> Iterator[list[Callable[[], list[BlockResult[Value]]]]]:
    """What is done with each block, in lists that make about `budget.block_bytes`."""
    job: list[Callable[[], list[BlockResult[Value]]]] = []
    nbytes = 0
    for tensor in tensors:
        noise_power, means = survey(tensor, read, executor, noise)
        groups = of_same_rows(cut_blocks(tensor, budget.block_bytes))
        for number, blocks in enumerate(groups, 1):
            job.append(partial(_run_blocks, work, read, blocks, noise_power, means, number == len(groups)))
            nbytes += sum(block.elements for block in blocks) * ITEM_BYTES[tensor.dtype]
            if nbytes >= budget.block_bytes:
                yield job
                job, nbytes = [], 0
    if job:
        yield job


def _run(job: list[Callable[[], list[BlockResult[Value]]]]) -> list[BlockResult[Value]]:
    return [result for blocks in job for result in blocks()]


def survey(tensor: GrownTensor, read: Read, executor: Executor, noise: bool) -> tuple[float, torch.Tensor | None]:
    """What must be known of a whole tensor before any of its blocks can be grown; reads nothing if that is nothing.

    First the mean square of the grown elements without noise, rows of padding left out: 0 unless there is `noise`.
    Second the mean of the rows of each matrix, (matrices of the stack, …): None unless padding is filled with it.
    """
    blocks = [block for block in cut_blocks(tensor, SURVEY_BLOCK_BYTES) if not block.is_padding]
    power = 0.0
    if noise and tensor.noisy:
        rows = sum((block.stop - block.start) * len(block.places) for block in blocks)
        energy = sum(chain.from_iterable(executor.map(partial(_energies, read), of_same_rows(blocks))))
        power = energy / (rows * prod(growth.target for growth in tensor.growths[1:]))
        if not isfinite(power):
            raise RequestError(
                f"tensor {tensor.source.name}: contains NaN or Inf, so the power of its noise is not defined.",
                "Omit --noise-snr-db, or repair the source.",
            )
    means = None
    if tensor.growths[0].padding and tensor.fillings[0] is Filling.MEAN:
        means = _means(tensor, list({(block.start, block.stop): block for block in blocks}.values()), read, executor)
    return power, means


def _energies(read: Read, blocks: Sequence[Block]) -> list[float]:
    rows = rows_of(blocks[0], read)
    return [float(grow_rows(rows, block).double().square().sum()) * len(block.places) for block in blocks]


def _means(tensor: GrownTensor, blocks: Sequence[Block], read: Read, executor: Executor) -> torch.Tensor:
    """The means of `survey`; every source row is in one of the `blocks`."""
    matrices = prod(tensor.source.stack[:1])
    height = tensor.growths[0].source // matrices
    means = torch.zeros(matrices, *(growth.source for growth in tensor.growths[1:]), dtype=torch.float64)
    for block, total in zip(blocks, executor.map(partial(_sum, read), blocks), strict=True):
        means[block.start // height] += total
    return means / height


def _sum(read: Read, block: Block) -> torch.Tensor:
    return rows_of(block, read).double().sum(0)


def _run_blocks(
    work: Work[Value],
    read: Read,
    blocks: Sequence[Block],
    noise_power: float,
    means: torch.Tensor | None,
    last: bool,
) -> list[BlockResult[Value]]:
    """The work on blocks of the same rows: it takes and returns values alone, so that another process could run it.

    last  whether no blocks of their tensor follow
    """
    rows = rows_of(blocks[0], read, means)
    finite = blocks[0].is_padding or is_finite(rows)
    return [
        BlockResult(block, work(block, rows, noise_power), finite, last and number == len(blocks))
        for number, block in enumerate(blocks, 1)
    ]


def rows_of(block: Block, read: Read, means: torch.Tensor | None = None) -> torch.Tensor:
    """The source rows of a block; of padding, as many rows of zeros, or of the mean of the matrix's rows."""
    if not block.is_padding:
        return read(block.tensor.source, block.start, block.stop)
    rows, *columns = block.stop - block.start, *(growth.source for growth in block.tensor.growths[1:])
    if means is None:
        return torch.zeros((rows, *columns), dtype=TORCH_DTYPES[block.tensor.source.dtype])
    matrix = block.start // (block.tensor.growths[0].source // len(means))
    return means[matrix : matrix + 1].repeat_interleave(rows, 0)  # not expand(), which is not contiguous
