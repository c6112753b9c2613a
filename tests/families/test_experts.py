"""Mixtures of experts: the width of an expert, and all experts of a layer in one tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing import budget
from hyperclone_cli.writing.blocks import cut_blocks
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.growth_table import GROWTHS
from support.models.experts import FUSED

Sources = Callable[[str], Path]


@pytest.mark.parametrize("variant", FUSED)
def test_fused_experts_are_read_and_written_back_as_such(variant: str, source: Sources, tmp_path: Path) -> None:
    made = expand(source(variant), tmp_path / "clone", GROWTHS["twice"])
    assert made.family.layout.name == "fused experts"
    before, after = (load_file(path / "model.safetensors") for path in (source(variant), tmp_path / "clone"))
    assert after.keys() - {"lm_head.weight"} <= before.keys()


@pytest.mark.parametrize("growth", ["three times", "half as wide again", "twice, uneven and noisy"])
@pytest.mark.parametrize("variant", ["granitemoe", "gpt_oss", "dbrx"])
def test_experts_may_be_cut_into_blocks_anywhere(
    variant: str, growth: str, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expand(source(variant), tmp_path / "whole", GROWTHS[growth])
    monkeypatch.setattr(budget, "LARGEST_BLOCK_BYTES", 3000)
    made = expand(source(variant), tmp_path / "cut", GROWTHS[growth])
    experts = [tensor for tensor in made.tensors if tensor.stack and len(tensor.growths) == 2]
    assert experts
    for tensor in experts:
        of_one = tensor.growths[0].source // tensor.stack[0]
        assert max(block.stop - block.start for block in cut_blocks(tensor, 3000)) < of_one
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_shapes_are_those_on_disk(source: Sources) -> None:
    def shapes(variant: str, **options: Any) -> dict[str, tuple[int, ...]]:
        return {tensor.name: tensor.shape for tensor in plan(source(variant), **options).tensors}

    granite = shapes("granitemoe", embed_mult=2, ffn_mult=3)
    assert granite["model.layers.1.block_sparse_moe.input_linear.weight"] == (4, 480, 96)
    assert granite["model.layers.1.block_sparse_moe.output_linear.weight"] == (4, 96, 240)
    gpt_oss = shapes("gpt_oss", embed_mult=2, ffn_mult=3)
    assert gpt_oss["model.layers.1.mlp.experts.gate_up_proj"] == (4, 96, 480)
    assert gpt_oss["model.layers.1.mlp.experts.gate_up_proj_bias"] == (4, 480)
    assert gpt_oss["model.layers.1.mlp.experts.down_proj"] == (4, 240, 96)
    dbrx = shapes("dbrx", embed_mult=2, ffn_mult=3)
    assert dbrx["transformer.blocks.1.ffn.experts.mlp.w1"] == (480, 96)
    assert dbrx["transformer.blocks.1.ffn.experts.mlp.w2"] == (480, 96)


INPUT, OUTPUT, W1 = (
    "model.layers.0.block_sparse_moe.input_linear.weight",
    "model.layers.0.block_sparse_moe.output_linear.weight",
    "transformer.blocks.0.ffn.experts.mlp.w1",
)


@pytest.mark.parametrize(
    "variant, name, shape, config, words",
    [
        ("granitemoe", INPUT, (8, 80, 48), {}, r"expected matrices of 4 experts, found shape \[8, 80, 48\]"),
        ("granitemoe", INPUT, (4, 80, 48), {}, r"dimension 1 of all 4 experts .* 640, found shape \[4, 80, 48\]"),
        ("granitemoe", OUTPUT, (4, 48, 40), {}, r"makes dimension 2 \(ffn\) 80, found shape \[4, 48, 40\]"),
        ("granitemoe", OUTPUT, (4,), {}, r"expected matrices of 4 experts, found shape \[4\]"),
        ("granitemoe", "", (), {"num_local_experts": 5}, r"expected matrices of 5 experts, found shape \[4, "),
        ("dbrx", W1, (162, 48), {}, r"expected matrices of 4 experts, found shape \[162, 48\]"),
        ("dbrx", "", (), {"n_heads": 4, "num_attention_heads": 8}, "n_heads 4 and num_attention_heads 8 contradict"),
        ("dbrx", "", (), {"attn_config": {"kv_n_heads": "two"}, "num_key_value_heads": None}, "attn_config.kv_n_heads"),
        ("dbrx", "", (), {"ffn_config": 7}, r"makes dimension 1 of all 4 experts"),
    ],
)
def test_experts_that_config_json_does_not_describe_are_refused(
    variant: str, name: str, shape: tuple[int, ...], config: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    src = models.edited(
        source(variant),
        tmp_path / "src",
        lambda tensors: tensors.update({name: torch.zeros(shape)} if name else {}),
        **config,
    )
    with pytest.raises(CheckpointError, match=words):
        plan(src, embed_mult=2)


def test_experts_have_a_multiplier_of_their_own(source: Sources, tmp_path: Path) -> None:
    made = expand(source("qwen2_moe"), tmp_path / "clone", Request(ffn_mult=2, moe_ffn_mult=1.5))
    widths = {key: made.config[key] for key in made.config if key.endswith("intermediate_size")}
    assert widths == {
        "intermediate_size": 160,
        "moe_intermediate_size": 60,
        "shared_expert_intermediate_size": 84,
    }
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    with pytest.raises(RequestError, match="no experts with a width of their own"):
        plan(source("mixtral"), moe_ffn_mult=2)
    with pytest.raises(RequestError, match="--target-params chooses"):
        plan(source("qwen2_moe"), moe_ffn_mult=2, target_params="1M")
