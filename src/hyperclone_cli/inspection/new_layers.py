"""How far the new layers of a clone have woken: what they add to the residual stream, told from their weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.planning.grown_tensor import GrownTensor
from hyperclone_cli.planning.plan import Plan

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read


@dataclass(frozen=True)
class NewLayer:
    """A layer that the clone has and its source has not.

    layer    its number
    copy_of  the number of the layer beside it that it is a copy of
    woken    L2 norm of the weights that were at rest over that of the same weights in the other layer: 0 in a clone,
             about 1 in a layer that adds as much to the residual stream. Weights of norms that multiply by 1 + w count
             as 1 + w
    """

    layer: int
    copy_of: int
    woken: float


def at_rest(plan: Plan) -> list[GrownTensor]:
    """The tensors that made the new layers of a clone silent. A scalar of the whole layer is none of them."""
    return [tensor for tensor in plan.tensors if tensor.silent and tensor.elements > 1]


def measure_new_layers(plan: Plan, stored: Mapping[str, StoredTensor], read: Read) -> tuple[NewLayer, ...]:
    """Measure every layer of a checkpoint that was silent in the clone of `plan`, in order."""
    originals = {layer.source: number for number, layer in enumerate(plan.order) if not layer.new}
    planned = {tensor.name: tensor for tensor in plan.tensors}
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for tensor in at_rest(plan):
        assert tensor.layer is not None
        original = originals[plan.order[tensor.layer].source]
        twin = planned[tensor.name.replace(f".{tensor.layer}.", f".{original}.", 1)]
        for place, one in enumerate((tensor, twin)):
            weight: torch.Tensor = read(one.like(stored[one.name]), 0, one.growths[0].target)
            sums[tensor.layer][place] += float((weight.double() - tensor.rest).square().sum())
    return tuple(
        NewLayer(number, originals[plan.order[number].source], sqrt(own / other) if other else 0.0)
        for number, (own, other) in sorted(sums.items())
    )
