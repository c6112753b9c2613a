"""Configurations of architectures with laws of their own: paired heads, ALiBi; for `models.build`."""

from __future__ import annotations

from typing import Any

from support.models import BASE, GQA, MHA, TIED, UNTIED, Variant
from support.models_fused import HALF_ROTARY

NEOX_JAPANESE = {key: BASE[key] for key in BASE if key != "intermediate_size"}

BLOOM: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
MPT: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 48,
    "n_layers": 2,
    "n_heads": 4,
    "max_seq_len": 64,
    "eos_token_id": None,
    "pad_token_id": 0,
}
HEAD_NORMS = HALF_ROTARY | {"qk_layernorm": True}

VARIANTS: dict[str, Variant] = {
    "diffllama": ("diffllama", MHA | UNTIED | {"attention_bias": True}),
    "diffllama-gqa-tied": ("diffllama", GQA | TIED | {"num_attention_heads": 8, "num_key_value_heads": 4}),
    "gpt_neox_japanese": ("gpt_neox_japanese", NEOX_JAPANESE),
    "gpt_neox_japanese-untied-twofold": (
        "gpt_neox_japanese",
        NEOX_JAPANESE | UNTIED | {"intermediate_multiple_size": 2},
    ),
    "stablelm-12b": ("stablelm", GQA | HEAD_NORMS | {"use_parallel_residual": True}),
    "stablelm-12b-tied-mha": ("stablelm", MHA | TIED | HEAD_NORMS | {"use_qkv_bias": True}),
    "bloom": ("bloom", BLOOM),
    "bloom-untied-six-heads": (
        "bloom",
        BLOOM | UNTIED | {"n_head": 6, "apply_residual_connection_post_layernorm": True},
    ),
    "mpt": ("mpt", MPT),
    "mpt-untied-six-heads-clipped": ("mpt", MPT | UNTIED | {"n_heads": 6, "attn_config": {"clip_qkv": 1.0}}),
    "mpt-scaled": ("mpt", MPT | {"attn_config": {"softmax_scale": 0.4}}),
}
