"""Is every tensor of the clone what it should be? Needs no forward pass and little memory.

Whatever the strategy, the copies of a column that a layer reads must sum to the source's column, and every copy of
a row must be that row. Each stored number may be off by its own rounding, no more. Columns that read padding have
no right value: they only must be finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from math import inf
from typing import NamedTuple

import numpy as np
import torch

from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.plan import Plan
from hyperclone_cli.verifier.report import WeightFigures
from hyperclone_cli.writing.arithmetic import scale_rows, wide_dtype
from hyperclone_cli.writing.block_loop import run_blocks, workers
from hyperclone_cli.writing.blocks import Block
from hyperclone_cli.writing.budget import Budget, plan_budget
from hyperclone_cli.writing.columns import copy_columns, sum_copies


class Deviation(NamedTuple):
    """How far the copies of a block are from the source: the largest relative error, and weights beyond rounding."""

    error: float
    wrong: int


def compare_weights(plan: Plan, checkpoint: Source, advance: Callable[[int, int], None]) -> WeightFigures:
    """Compare every tensor of the clone `checkpoint` with the source of `plan`, block by block.

    Memory: a few blocks per thread. `advance` is called with the weights just compared, and with all of them.
    """
    bad = misplaced(plan, checkpoint)
    tensors = [tensor for tensor in plan.tensors if tensor.name not in bad]
    total = sum(tensor.elements for tensor in tensors)
    figures = compare_tensors(plan, checkpoint, tensors, plan_budget(plan.kinds), lambda done: advance(done, total))
    return replace(figures, bad=bad | figures.bad)


def misplaced(plan: Plan, checkpoint: Source) -> dict[str, str]:
    """Name → what is wrong, of tensors that the clone lacks, has beyond the plan, or has in another dtype or shape."""
    clone, planned = checkpoint.tensors, {tensor.name for tensor in plan.tensors}
    bad = {tensor.name: "is missing" for tensor in plan.tensors if tensor.name not in clone}
    bad |= {name: "is not in the plan" for name in clone if name not in planned}
    for tensor in plan.tensors:
        found = clone.get(tensor.name, tensor)
        if (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
            bad[tensor.name] = f"should be {tensor.dtype} {list(tensor.shape)}, found {found.dtype} {list(found.shape)}"
    return bad


def compare_tensors(
    plan: Plan,
    checkpoint: Source,
    tensors: Sequence[GrownTensor],
    budget: Budget,
    advance: Callable[[int], None] = lambda _: None,
) -> WeightFigures:
    """Compare some tensors, which the clone has in their dtypes and shapes; `advance` is called with every block."""
    worst, worst_tensor = 0.0, ""
    bad: dict[str, str] = {}
    non_finite: set[str] = set()
    with plan.source.rows() as read, checkpoint.rows() as read_clone, workers(budget.threads) as executor:

        def check(block: Block, rows: torch.Tensor, _: float) -> Deviation:
            stored = block.tensor.like(checkpoint.tensors[block.tensor.name])
            return _compare(block, rows, (read_clone(stored, place, place + len(rows)) for place in block.places))

        results = run_blocks(tensors, read, executor, budget, check, noise=False)  # noise sums to zero
        for tensor, blocks in groupby(results, key=lambda result: result.block.tensor):
            error, wrong = 0.0, 0
            for result in blocks:
                error, wrong = max(error, result.value.error), wrong + result.value.wrong
                advance(result.block.elements)
                if not result.finite:
                    non_finite.update(one.name for one in tensor.source.originals)
            if wrong:
                bad[tensor.name] = (
                    f"{wrong:,} of {tensor.elements:,} weights are off, by up to {error:.1e} of their size"
                )
            worst, worst_tensor = max((worst, worst_tensor), (error, tensor.name))
    elements = sum(tensor.elements for tensor in tensors)
    return WeightFigures(len(tensors), elements, worst, worst_tensor, bad, tuple(sorted(non_finite)))


def _compare(block: Block, rows: torch.Tensor, copies: Iterable[torch.Tensor]) -> Deviation:
    """Compare the copies of a block, as the clone has them, with the rows that they were grown from."""
    tensor = block.tensor
    if tensor.silent:
        return _at_rest(tensor, copies)
    if tensor.kept:  # whatever it holds, NaN too
        wrong = sum(int((found.view(torch.uint8) != rows.view(torch.uint8)).sum()) for found in copies)
        return Deviation(inf if wrong else 0.0, wrong)
    # what is read is summed, and a sum of exact copies may need more bits than each of them
    dtype = TORCH_DTYPES[tensor.dtype] if tensor.exact and tensor.roles[-1] is Role.OUT else wide_dtype(tensor)
    expected = _expected(block, rows, dtype)
    worst, wrong = 0.0, 0
    for found in copies:
        if not tensor.reads_padding and _equal(_sum_copies(found.to(dtype), tensor), expected):
            continue  # a few times faster than the analysis, and the rule where nothing is rounded
        error, beyond = _deviation(block, rows, found)
        worst, wrong = max(worst, error), wrong + beyond
    return Deviation(worst, wrong)


def _deviation(block: Block, rows: torch.Tensor, found: torch.Tensor) -> Deviation:
    """How far one copy of a block is from the rows that it was grown from, and whether rounding explains it."""
    tensor = block.tensor
    wide, info = wide_dtype(tensor), torch.finfo(TORCH_DTYPES[tensor.dtype])
    expected = _expected(block, rows, wide)
    magnitude = tensor.offset * tensor.gain  # what cancels in (1 + w) norms, and is rounded in `wide`
    rounding = 0.0 if tensor.exact else 0.505 * info.eps
    most_copies = max(-(-growth.target // growth.source) for growth in tensor.growths)
    total, size = _sum_copies(found.to(wide), tensor), _sum_copies(found.to(wide).abs(), tensor)
    slack = rounding * size + 4 * torch.finfo(wide).eps * (size * (rounding > 0) + magnitude)
    slack += info.smallest_normal * info.eps * most_copies
    error = (total - expected).abs()
    lost = ~(total.isfinite() | expected.isfinite())  # NaN or Inf in the source allows either in the clone
    good = (error <= slack) & total.isfinite() | lost
    wrong = int((~good).sum())
    if tensor.reads_padding:
        wrong += int((~found.isfinite() & expected.isfinite().all(-1, keepdim=True)).sum())
    larger = torch.maximum(size, expected.abs()) + magnitude
    relative = (error / larger.clamp_min(info.tiny)).nan_to_num(inf, inf)
    return Deviation(float(relative.masked_fill(lost, 0.0).max()), wrong)


def _expected(block: Block, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What each copy of a block must be, or its columns must sum to: the source's rows, scaled."""
    scaled = scale_rows(rows.to(dtype), block)
    return copy_columns(scaled, block.tensor) if block.tensor.roles[-1] is Role.OUT else scaled


def _equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether all numbers are the same. numpy is six times faster at it; it lacks bfloat16, whose bits are compared."""
    one, other = (rows.view(torch.int16) if rows.dtype is torch.bfloat16 else rows for rows in (found, expected))
    return np.array_equal(one.numpy(), other.numpy())


def _at_rest(tensor: GrownTensor, copies: Iterable[torch.Tensor]) -> Deviation:
    """Compare what silences a layer with the one number that does."""
    worst, wrong = 0.0, 0
    for found in copies:
        off = ~(found == tensor.rest)
        wrong += int(off.sum())
        worst = max(worst, float(off.any()))
    return Deviation(worst, wrong)


def _sum_copies(rows: torch.Tensor, tensor: GrownTensor) -> torch.Tensor:
    """(rows, grown columns) to (rows, source columns): copies that are read are summed, others returned as they are."""
    reads_copies = len(tensor.growths) == 2 and tensor.roles[1] is Role.IN and tensor.growths[1].grows
    return sum_copies(rows, tensor.growths[1]) if reads_copies else rows
