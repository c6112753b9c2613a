"""How similar the experts of a layer are that began as copies of one: of an expert, or of a part of a feed-forward."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.plan import Plan

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read


@dataclass(frozen=True)
class ExpertCopies:
    """The experts of one layer.

    layer   its number
    copies  how many experts are copies of one
    cosine  between two copies, the mean over all pairs and all matrices: 1 in a clone whose experts do not differ
    """

    layer: int
    copies: int
    cosine: float


def matrices_of_experts(plan: Plan) -> list[GrownTensor]:
    """The matrices of experts, where the clone has more experts than its source; else none."""
    if plan.request.num_experts is None:
        return []
    return [tensor for tensor in plan.tensors if tensor.kind.experts and len(tensor.growths) == 2]


def measure_experts(
    plan: Plan, stored: Mapping[str, StoredTensor], read: Read, advance: Callable[[], None] = lambda: None
) -> tuple[ExpertCopies, ...]:
    """Compare the experts in every layer of a checkpoint that `plan` led to, in order.

    Memory: one matrix of each expert that the source has, or of all experts of a layer where they lie in one tensor.
    `advance` is called after each matrix.
    """
    number = plan.request.num_experts
    if number is None:
        return ()
    different = plan.request.expert_granularity if plan.proposal.upcycling else plan.growths["experts"].source
    copies = number // different
    sums: dict[tuple[int, str, int], torch.Tensor] = {}
    for tensor in matrices_of_experts(plan):
        for expert, matrix in _matrices(tensor, read(tensor.like(stored[tensor.name]), 0, tensor.growths[0].target)):
            flat = matrix.double().flatten()
            key = (tensor.layer or 0, tensor.pattern, expert % different)
            direction = flat / flat.norm().clamp_min(1e-300)
            sums[key] = sums[key] + direction if key in sums else direction
        advance()
    cosines: dict[int, list[float]] = defaultdict(list)
    for (layer, *_), total in sums.items():
        if copies > 1:  # of c unit vectors, |their sum|² is c and twice the cosine of each pair
            cosines[layer].append((float(total.square().sum()) - copies) / (copies * (copies - 1)))
    return tuple(ExpertCopies(layer, copies, fmean(found)) for layer, found in sorted(cosines.items()))


def _matrices(tensor: GrownTensor, rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(number of an expert, its matrix) of a tensor that holds one, or all of a layer."""
    if tensor.stack:
        yield from enumerate(rows.view(tensor.kind.experts, -1, rows.shape[1]))
        return
    found = re.fullmatch(re.escape(tensor.pattern).replace(r"\*", r"(\d+)"), tensor.name)
    assert found is not None
    yield int(found[2]), rows
