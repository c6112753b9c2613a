"""What the README says of training a clone, where a step or two can show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import models
from hyperclone_cli import expand

Sources = Callable[[str], Path]
RATE = 1e-3


def moved(path: Path, name: str) -> torch.Tensor:
    """By how much one step of Adam at RATE changes a weight of the checkpoint."""
    model = models.load(path)
    weight: torch.Tensor = model.get_parameter(name)
    before = weight.detach().clone()
    ids = models.tokens()
    cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
    torch.optim.Adam(model.parameters(), lr=RATE).step()
    return (weight - before).detach()


@pytest.mark.parametrize("variant", ["llama-gqa-tied", "qwen2"])
@pytest.mark.parametrize("copies", [2, 3])
def test_at_one_rate_adam_moves_a_symmetric_layer_as_many_times_as_far_as_there_are_copies(
    variant: str, copies: int, source: Sources, tmp_path: Path
) -> None:
    """A layer computes with the sum of the columns that read the copies of a unit, and each moves by the rate."""
    name = "model.layers.0.mlp.gate_proj.weight"
    expand(source(variant), tmp_path / "clone", embed_mult=copies, ffn_mult=copies)
    before, after = moved(source(variant), name), moved(tmp_path / "clone", name)
    rows, columns = before.shape
    computed = after[:rows].reshape(rows, copies, columns).sum(1)
    assert float(computed.norm() / before.norm()) == pytest.approx(copies, rel=0.01)
    assert models.relative_error(computed, copies * before) < 0.05
