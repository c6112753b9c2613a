"""Is every tensor of the clone what it should be? Needs no forward pass and little memory.

Whatever the strategy, the copies of a column that a layer reads must sum to the source's column, and
every copy of a row must be that row. Each stored number may be off by its own rounding, no more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import torch

from hyperclone_cli.axes import Role
from hyperclone_cli.expander import TORCH_DTYPES, WIDER, Block, blocks, read_rows
from hyperclone_cli.growth import Growth
from hyperclone_cli.planner import GrownTensor, Plan
from hyperclone_cli.shards import StoredTensor
from hyperclone_cli.verifier.report import WeightFigures


def compare_weights(plan: Plan, clone: Mapping[str, StoredTensor]) -> WeightFigures:
    """Hold every tensor of `clone` (name → place on disk) against the source of `plan`, block by block.

    Memory: a few blocks a thread.
    """
    bad = {name: "is missing" for name in (t.name for t in plan.tensors) if name not in clone}
    bad |= {name: "is not in the plan" for name in clone if name not in {t.name for t in plan.tensors}}
    for tensor in plan.tensors:
        if tensor.name in clone:
            found = clone[tensor.name]
            if (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
                bad[tensor.name] = (
                    f"should be {tensor.dtype} {list(tensor.shape)}, found {found.dtype} {list(found.shape)}"
                )
    torch.set_num_threads(1)  # the blocks themselves run in parallel
    compared = [tensor for tensor in plan.tensors if tensor.name not in bad]
    worst, worst_tensor = 0.0, ""
    with ExitStack() as stack, ThreadPoolExecutor(os.cpu_count()) as pool:
        paths = {t.source.path for t in compared} | {clone[t.name].path for t in compared}
        descriptors = {path: os.open(path, os.O_RDONLY) for path in sorted(paths)}
        for descriptor in descriptors.values():
            stack.callback(os.close, descriptor)

        def check(block: Block) -> tuple[float, int]:
            stored = clone[block.tensor.name]
            source = read_rows(descriptors[block.tensor.source.path], block.tensor.source, block.start, block.stop)
            rows = block.stop - block.start
            found = [read_rows(descriptors[stored.path], stored, place, place + rows) for place in block.places]
            return _compare(block.tensor, source, found)

        for tensor in compared:
            results = list(pool.map(check, blocks(tensor)))
            error, wrong = max(error for error, _ in results), sum(count for _, count in results)
            if wrong:
                bad[tensor.name] = (
                    f"{wrong:,} of {tensor.elements:,} numbers are off, by up to {error:.1e} of their size"
                )
            if error >= worst:
                worst, worst_tensor = error, tensor.name
    return WeightFigures(len(compared), sum(t.elements for t in compared), worst, worst_tensor, bad)


def _compare(tensor: GrownTensor, source: torch.Tensor, found: list[torch.Tensor]) -> tuple[float, int]:
    """(largest relative error, elements beyond their own rounding) of all copies of a block of source rows."""
    wide = torch.promote_types(WIDER[tensor.source.dtype], WIDER[tensor.dtype])
    expected = (source.to(wide) + tensor.offset) * tensor.gain - tensor.offset
    magnitude = abs(tensor.offset) * tensor.gain  # what cancels in (1 + w) norms, and is rounded in `wide`
    for dim, (role, growth) in enumerate(zip(tensor.roles, tensor.growths, strict=True)):
        if dim and role is Role.OUT:
            expected = torch.cat([expected.narrow(dim, run.start, run.length) for run in growth.runs], dim)
    copies = [found] if tensor.roles[0] is Role.IN else [[part] for part in found]
    info = torch.finfo(TORCH_DTYPES[tensor.dtype])
    rounding = 0.0 if tensor.exact else 0.505 * info.eps
    worst, wrong = 0.0, 0
    for copy in copies:
        total = sum_copies([part.to(wide) for part in copy], tensor)
        size = sum_copies([part.to(wide).abs() for part in copy], tensor)
        slack = rounding * size + 4 * torch.finfo(wide).eps * (size * (rounding > 0) + magnitude)
        slack += info.smallest_normal * info.eps * len(copy) * max(map(_copies, tensor.growths))
        error = (total - expected).abs()
        wrong += int((~(error <= slack)).sum())
        worst = max(worst, float((error / (size + magnitude).clamp_min(info.tiny)).max()))
    return worst, wrong


def sum_copies(parts: list[torch.Tensor], tensor: GrownTensor) -> torch.Tensor:
    """Add up what the copies of each source unit contribute: grown rows to rows of the source's width."""
    total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
    for dim, (role, growth) in enumerate(zip(tensor.roles, tensor.growths, strict=True)):
        if dim and role is Role.IN and growth.grows:
            shape = list(total.shape)
            shape[dim] = growth.source
            summed = total.new_zeros(shape)
            position = 0
            for run in growth.runs:
                summed.narrow(dim, run.start, run.length).add_(total.narrow(dim, position, run.length))
                position += run.length
            total = summed
    return total


def _copies(growth: Growth) -> int:
    return -(-growth.target // growth.source)
