"""A checkpoint that lacks tensors is refused, and the message names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError
from support import models

Sources = Callable[[str], Path]


RECURRENT = [
    ("jamba", "model.layers.0.mamba.D"),
    ("jamba", "model.layers.1.self_attn.v_proj.weight"),
    ("jamba", "model.layers.0.feed_forward.router.weight"),
    ("jamba", "model.layers.1.feed_forward.up_proj.weight"),
    ("lfm2", "model.layers.0.conv.conv.weight"),
    ("rwkv", "rwkv.blocks.0.pre_ln.weight"),
    ("rwkv", "rwkv.blocks.2.attention.time_decay"),
    ("falcon_h1", "model.layers.1.mamba.norm.weight"),
    ("qwen3_next", "model.layers.0.linear_attn.dt_bias"),
]


@pytest.mark.parametrize(
    "variant, lost, config, words",
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w3.weight", {}, "missing tensors: model.layers.1."),
        ("mixtral", "", {"num_local_experts": 3}, "of 3 experts; too many tensors: .*experts.3"),
        ("mixtral", "", {"num_local_experts": 5}, "of 5 experts; missing tensors: .*experts.4"),
        ("qwen2_moe", "model.layers.0.mlp.up_proj.weight", {}, "missing tensors: model.layers.0.mlp.up_proj.weight"),
        ("qwen2_moe", "model.layers.1.mlp.gate.weight", {}, "missing tensors: model.layers.1.mlp.gate.weight"),
        ("deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias", {}, "missing tensors: .*correction_bias"),
        ("apertus", "model.layers.0.mlp.act_fn.beta", {}, "missing tensors: model.layers.0.mlp.act_fn.beta"),
        *((variant, lost, {}, f"missing tensors: {lost}") for variant, lost in RECURRENT),
        ("cohere-qk-norm", "model.layers.1.self_attn.k_norm.weight", {}, "missing tensors: .*k_norm.weight"),
    ],
)
def test_a_checkpoint_with_holes_is_refused(
    variant: str, lost: str, config: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    src = models.edited(source(variant), tmp_path / "src", lambda tensors: tensors.pop(lost, None), **config)
    with pytest.raises(CheckpointError, match=words):
        plan(src, embed_mult=2)
