"""Is every tensor of the clone what it should be? Needs no forward pass and little memory.

Whatever the strategy, the copies of a column that a layer reads must sum to the source's column, and
every copy of a row must be that row. Each stored number may be off by its own rounding, no more. What
a layer reads padding with does not matter, so it only has to be finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from math import inf

import torch

from hyperclone_cli.checkpoint.row_io import TORCH_DTYPES
from hyperclone_cli.checkpoint.source import Source
from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.planning.planner import Plan
from hyperclone_cli.planning.tensors import GrownTensor
from hyperclone_cli.verifier.report import WeightFigures
from hyperclone_cli.writing.arithmetic import (
    Block,
    Survey,
    blocks,
    copy_columns,
    scale_rows,
    source_rows,
    survey,
    wide_dtype,
    workers,
)
from hyperclone_cli.writing.budget import plan_budget
from hyperclone_cli.writing.copy_sums import sum_copies
from hyperclone_cli.writing.integrity import watched


def compare_weights(plan: Plan, checkpoint: Source, advance: Callable[[int, int], None]) -> WeightFigures:
    """Hold every tensor of the clone `checkpoint` against the source of `plan`, block by block.

    Memory: a few blocks a thread. `advance` is called from any thread with the bytes of the clone that were just
    compared and the bytes of all that will be.
    """
    clone, planned = checkpoint.tensors, {tensor.name for tensor in plan.tensors}
    bad = {tensor.name: "is missing" for tensor in plan.tensors if tensor.name not in clone}
    bad |= {name: "is not in the plan" for name in clone if name not in planned}
    for tensor in plan.tensors:
        if tensor.name in clone:
            found = clone[tensor.name]
            if (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
                bad[tensor.name] = (
                    f"should be {tensor.dtype} {list(tensor.shape)}, found {found.dtype} {list(found.shape)}"
                )
    compared = [tensor for tensor in plan.tensors if tensor.name not in bad]
    total = sum(tensor.nbytes for tensor in compared)
    worst, worst_tensor = 0.0, ""
    not_finite: set[str] = set()
    budget = plan_budget(plan.tensors)
    with plan.source.rows() as source, checkpoint.rows() as clone_rows, workers(budget.threads) as pool:
        read = watched(source, not_finite)

        def check(block: Block, surveyed: Survey) -> tuple[float, int]:
            stored, number = block.tensor.like(clone[block.tensor.name]), block.stop - block.start
            found = [clone_rows(stored, place, place + number) for place in block.places]
            compared_rows = _compare(block, source_rows(block, read, surveyed), found)
            advance(sum(rows.nbytes for rows in found), total)
            return compared_rows

        for tensor in compared:
            noise_free = replace(tensor, mixing=replace(tensor.mixing, noise_snr_db=None))  # the noise cancels
            results = list(pool.map(check, blocks(tensor, budget.block_bytes), repeat(survey(noise_free, read, pool))))
            error, wrong = max(error for error, _ in results), sum(count for _, count in results)
            if wrong:
                bad[tensor.name] = (
                    f"{wrong:,} of {tensor.elements:,} weights are off, by up to {error:.1e} of their size"
                )
            if error >= worst:
                worst, worst_tensor = error, tensor.name
    elements = sum(tensor.elements for tensor in compared)
    return WeightFigures(len(compared), elements, worst, worst_tensor, bad, tuple(sorted(not_finite)))


def _compare(block: Block, source: torch.Tensor, found: list[torch.Tensor]) -> tuple[float, int]:
    """(largest relative error, weights beyond their own rounding) of every copy of a block of source rows."""
    tensor = block.tensor
    wide = wide_dtype(tensor)
    expected = scale_rows(source.to(wide), block)
    magnitude = tensor.offset * tensor.gain  # what cancels in (1 + w) norms, and is rounded in `wide`
    if tensor.roles[-1] is Role.OUT:
        expected = copy_columns(expected, tensor)
    info = torch.finfo(TORCH_DTYPES[tensor.dtype])
    rounding = 0.0 if tensor.exact else 0.505 * info.eps
    copies = max(-(-growth.target // growth.source) for growth in tensor.growths)
    worst, wrong = 0.0, 0
    for rows in found:
        total, size = _sum_copies(rows.to(wide), tensor), _sum_copies(rows.to(wide).abs(), tensor)
        slack = rounding * size + 4 * torch.finfo(wide).eps * (size * (rounding > 0) + magnitude)
        slack += info.smallest_normal * info.eps * copies
        error = (total - expected).abs()
        lost = ~(total.isfinite() | expected.isfinite())  # where the source has no number, the clone needs none
        good = (error <= slack) & total.isfinite() | lost
        wrong += int((~good).sum())
        if tensor.reads_padding:
            wrong += int((~rows.isfinite() & expected.isfinite().all(-1, keepdim=True)).sum())
        larger = torch.maximum(size, expected.abs()) + magnitude
        relative = (error / larger.clamp_min(info.tiny)).nan_to_num(inf, inf)
        worst = max(worst, float(relative.masked_fill(lost, 0.0).max()))
    return worst, wrong


def _sum_copies(rows: torch.Tensor, tensor: GrownTensor) -> torch.Tensor:
    """What the copies of each source column contribute: (rows, grown columns) to (rows, source columns)."""
    reads_copies = len(tensor.growths) == 2 and tensor.roles[1] is Role.IN and tensor.growths[1].grows
    return sum_copies(rows, tensor.growths[1]) if reads_copies else rows
