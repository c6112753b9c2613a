"""BLOOM and MPT, whose positions are ALiBi's slopes."""

from __future__ import annotations

from typing import Any

from support.models.config import UNTIED, Variant

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

VARIANTS: dict[str, Variant] = {
    "bloom": Variant("bloom", BLOOM),
    "bloom-untied-six-heads": Variant(
        "bloom", BLOOM | UNTIED | {"n_head": 6, "apply_residual_connection_post_layernorm": True}
    ),
    "mpt": Variant("mpt", MPT),
    "mpt-untied-six-heads-clipped": Variant("mpt", MPT | UNTIED | {"n_heads": 6, "attn_config": {"clip_qkv": 1.0}}),
    "mpt-scaled": Variant("mpt", MPT | {"attn_config": {"softmax_scale": 0.4}}),
}
