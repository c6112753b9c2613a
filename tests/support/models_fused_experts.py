"""Configurations of the mixtures that keep all experts of a layer in one tensor, for `models.build`."""

from __future__ import annotations

from typing import Any

from support.models import GQA, MHA, MQA, TIED, UNTIED, WINDOWED, Variant
from support.models_more import LOCAL, MIXTURES, MULTIPLIERS

DBRX: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 48,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 64,
    "eos_token_id": None,
    "pad_token_id": 0,
}
DBRX_ATTENTION = {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}
DBRX_EXPERTS = {"hidden_size": 48, "ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 2}
PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}

VARIANTS: dict[str, Variant] = {
    "granitemoe": ("granitemoe", GQA | LOCAL | MULTIPLIERS | UNTIED),
    "granitemoe-tied": ("granitemoe", MHA | LOCAL | MULTIPLIERS | TIED | {"attention_bias": True}),
    "granitemoeshared": ("granitemoeshared", GQA | LOCAL | {"shared_intermediate_size": 56}),
    "granitemoeshared-tied-none": ("granitemoeshared", MQA | LOCAL | TIED | {"shared_intermediate_size": 0}),
    "gpt_oss": ("gpt_oss", GQA | LOCAL | WINDOWED | {"head_dim": 16}),
    "gpt_oss-tied": ("gpt_oss", MHA | LOCAL | TIED | PLAIN_ROPE | {"head_dim": 12, "attention_bias": False}),
    "dbrx": ("dbrx", DBRX | {"attn_config": DBRX_ATTENTION, "ffn_config": DBRX_EXPERTS}),
    "dbrx-one-expert-of-four": (
        "dbrx",
        DBRX | {"attn_config": DBRX_ATTENTION | {"clip_qkv": 1.0}, "ffn_config": DBRX_EXPERTS | {"moe_top_k": 1}},
    ),
}

FUSED = {f"{name} (fused experts)": variant for name, variant in MIXTURES.items()}
"""What is built with `save_original_format=False`, in the names that transformers has in memory."""
