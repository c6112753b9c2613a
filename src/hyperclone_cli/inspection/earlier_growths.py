"""The copies of a growth before the last: the weights of a clone's clone, folded back to the model between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.families.vocabulary import Role
from hyperclone_cli.planning.plan import Plan

if TYPE_CHECKING:
    import torch

    from hyperclone_cli.checkpoint.row_io import Read


def folded(plan: Plan, stored: Mapping[str, StoredTensor], read: Read) -> tuple[Mapping[str, StoredTensor], Read]:
    """The model that `plan` grew, as far as its clone tells: its tensors, and the function that reads their rows.

    Copies of what a matrix reads are summed, as they were shared out, and copies of what it writes are averaged: in a
    clone that was not trained that is the model itself. Layers that were new, and padding, are left out.

    stored, read  of the clone of `plan`, or of a checkpoint trained from it
    """
    from hyperclone_cli.writing.columns import sum_copies

    kept = [tensor for tensor in plan.tensors if tensor.layer is None or not plan.order[tensor.layer].new]
    grown = {tensor.source.name: tensor for tensor in reversed(kept)}

    def read_folded(source: StoredTensor, start: int, stop: int) -> torch.Tensor:
        tensor = grown[source.name]
        rows = read(tensor.like(stored[tensor.name]), 0, tensor.growths[0].target)
        for dimension, (growth, role) in enumerate(zip(tensor.growths, tensor.roles, strict=True)):
            if growth.grows:
                rows = sum_copies(rows, growth, role is Role.OUT, dimension)
        return rows[start:stop]

    return plan.source.tensors, read_folded
