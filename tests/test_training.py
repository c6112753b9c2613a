"""What docs/training.md says of training a clone, where a step or two can show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from hyperclone_cli import expand, plan
from hyperclone_cli.families import FAMILIES
from support import models

Sources = Callable[[str], Path]
RATE = 1e-3


def next_token_loss(model: Any) -> torch.Tensor:
    ids = models.tokens()
    return cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def moved(path: Path, name: str) -> torch.Tensor:
    """By how much one step of Adam at RATE changes a weight of the checkpoint."""
    model = models.load(path)
    weight: torch.Tensor = model.get_parameter(name)
    before = weight.detach().clone()
    next_token_loss(model).backward()  # type: ignore[no-untyped-call]
    torch.optim.Adam(model.parameters(), lr=RATE).step()
    return (weight - before).detach()


@pytest.mark.parametrize("variant", ["llama-gqa-tied", "qwen2"])
@pytest.mark.parametrize("copies", [2, 3])
def test_at_one_rate_adam_moves_a_symmetric_layer_as_many_times_as_far_as_there_are_copies(
    variant: str, copies: int, source: Sources, tmp_path: Path
) -> None:
    """A layer computes with the sum of the columns that read the copies of a unit, and each moves by the rate."""
    name = "model.layers.0.mlp.gate_proj.weight"
    expand(source(variant), tmp_path / "clone", embed_mult=copies, ffn_mult=copies, strategy="symmetric")
    before, after = moved(source(variant), name), moved(tmp_path / "clone", name)
    rows, columns = before.shape
    computed = after[:rows].reshape(rows, copies, columns).sum(1)
    assert float(computed.norm() / before.norm()) == pytest.approx(copies, rel=0.01)
    assert models.relative_error(computed, copies * before) < 0.05


@pytest.mark.parametrize("dropout, parted", [(0.0, False), (0.1, True)])
def test_dropout_makes_the_copies_of_opts_residual_stream_diverge_and_no_others(
    dropout: float, parted: bool, tmp_path: Path
) -> None:
    """It drops what layers write to the stream: copies of a feed-forward unit or of a head still have equal readers."""
    models.build("opt-125m", tmp_path / "source", dropout=dropout)
    expand(tmp_path / "source", tmp_path / "clone", embed_mult=2, ffn_mult=2, strategy="symmetric")
    model = models.load(tmp_path / "clone").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(3):
        next_token_loss(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    def apart(name: str, dimension: int) -> bool:
        return models.relative_error(*model.get_parameter(name).detach().chunk(2, dimension)) > 1e-4

    layer = "model.decoder.layers.0"
    assert apart("model.decoder.embed_tokens.weight", 1) == parted
    assert apart(f"{layer}.fc1.weight", 1) == parted
    assert apart(f"{layer}.fc2.weight", 0) == parted
    for name, dimension in (("fc1", 0), ("fc2", 1), ("self_attn.v_proj", 0), ("self_attn.out_proj", 1)):
        assert not apart(f"{layer}.{name}.weight", dimension)


WOKEN = ["llama-gqa-tied", "opt-125m", "pythia", "gemma3-gqa", "olmo2", "glm4", "exaone4", "qwen3_moe", "mamba2"]
"""Norms before the blocks of a layer, blocks side by side, norms behind blocks of every kind, experts, recurrence."""

STEP = 1e-4


def new_layers(model: Any, order: tuple[Any, ...]) -> dict[str, torch.nn.Parameter]:
    """The parameters of a clone's new layers, by name."""
    numbers = {f".{number}." for number, layer in enumerate(order) if layer.new}
    found = {name: weight for name, weight in model.named_parameters() if any(number in name for number in numbers)}
    return {name: weight for name, weight in found.items() if not name.endswith("k_proj.bias")}  # no score sees it


def loss_change(path: Path) -> float:
    """By how much one step of AdamW changes the loss of a checkpoint on the text of the step."""
    model = models.load(path)
    before = next_token_loss(model)
    before.backward()  # type: ignore[no-untyped-call]
    torch.optim.AdamW(model.parameters(), lr=STEP).step()
    return abs(float((next_token_loss(model) - before).detach()))


@pytest.mark.parametrize("variant", WOKEN)
def test_a_silent_layer_wakes_in_two_steps_and_disturbs_nothing(variant: str, source: Sources, tmp_path: Path) -> None:
    """The first gradient is that of what is at rest alone, the second that of everything in the layer."""
    made = expand(source(variant), tmp_path / "deeper", depth_mult=2, embed_mult=2, ffn_mult=2)
    expand(source(variant), tmp_path / "wider", embed_mult=2, ffn_mult=2)

    model = models.load(tmp_path / "deeper")
    layers = new_layers(model, made.order)
    at_rest = {name for name, weight in layers.items() if bool((weight == weight.flatten()[0]).all())}
    assert 0 < len(at_rest) < len(layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=STEP)
    for woken in (at_rest, set(layers)):
        optimizer.zero_grad()
        next_token_loss(model).backward()  # type: ignore[no-untyped-call]
        moving = {name for name, weight in layers.items() if weight.grad is not None and weight.grad.count_nonzero()}
        assert moving == woken
        optimizer.step()

    assert loss_change(tmp_path / "deeper") <= 3 * loss_change(tmp_path / "wider")


def test_behind_a_zeroed_writer_a_norm_magnifies_the_first_step(
    source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is why the norm is at rest there, and not the writer: the clone would verify, and break at once."""
    family = plan(source("olmo2")).family
    wrong = family.variant(family.model_type)
    writers = ("self_attn.o_proj", "mlp.down_proj")
    wrong.__dict__["silent"] = {f"model.layers.*.{writer}": 0.0 for writer in writers}
    expand(source("olmo2"), tmp_path / "right", depth_mult=2)
    monkeypatch.setitem(FAMILIES, family.name, wrong)
    expand(source("olmo2"), tmp_path / "wrong", depth_mult=2)
    models.assert_same_function(source("olmo2"), tmp_path / "wrong")
    assert loss_change(tmp_path / "wrong") > 10 * loss_change(tmp_path / "right")
