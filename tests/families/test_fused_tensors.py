"""Tensors that are fused or transposed: their blocks, and their shapes on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli.checkpoint.open_source import open_source
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.writing import budget
from hyperclone_cli.writing.blocks import cut_blocks
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.growth_table import GROWTHS

Sources = Callable[[str], Path]


@pytest.mark.parametrize("growth", ["three times", "half as wide again", "twice, uneven and noisy"])
def test_a_transposed_tensor_may_be_cut_into_blocks_anywhere(
    growth: str, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expand(source("gpt2"), tmp_path / "whole", GROWTHS[growth])
    monkeypatch.setattr(budget, "LARGEST_BLOCK_BYTES", 5000)
    plan = expand(source("gpt2"), tmp_path / "cut", GROWTHS[growth])
    tensor = next(tensor for tensor in plan.tensors if tensor.source.transposed)
    assert len(cut_blocks(tensor, 5000)) > 3
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_shapes_are_those_on_disk(source: Sources) -> None:
    plan = make_plan(open_source(source("gpt2-untied-n_inner")), Request(embed_mult=2, ffn_mult=3))
    shapes = {tensor.name: tensor.shape for tensor in plan.tensors}
    assert shapes["transformer.h.0.attn.c_attn.weight"] == (96, 288)
    assert shapes["transformer.h.0.mlp.c_fc.weight"] == (96, 240)
    assert shapes["transformer.h.0.mlp.c_proj.weight"] == (240, 96)
    assert shapes["transformer.h.0.mlp.c_fc.bias"] == (240,)


def test_a_weight_that_is_not_transposed_is_refused_by_its_shape_on_disk(source: Sources, tmp_path: Path) -> None:
    src = models.edited(source("gpt2"), tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors["transformer.h.0.mlp.c_fc.weight"] = tensors["transformer.h.0.mlp.c_fc.weight"].T.contiguous()
    save_file(tensors, src / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"makes dimension 1 \(ffn\) 192, found shape \[192, 48\]"):
        expand(src, tmp_path / "clone", Request(embed_mult=2))


def test_bfloat16_halves_of_a_transposed_tensor_are_exact(tmp_path: Path) -> None:
    src = models.build("gpt2", tmp_path / "src", torch.bfloat16)
    plan = expand(src, tmp_path / "clone", GROWTHS["twice"])
    assert plan.rounded() == []
    weight = load_file(src / "model.safetensors")["transformer.h.1.mlp.c_proj.weight"]
    grown = load_file(tmp_path / "clone/model.safetensors")["transformer.h.1.mlp.c_proj.weight"]
    assert torch.equal(grown, torch.cat([torch.cat([weight, 0 * weight]), torch.cat([weight / 2] * 2)], 1))
