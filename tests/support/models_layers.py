"""Configurations of architectures whose layers differ in their widths and modules, for `models.build`."""

from __future__ import annotations

from typing import Any

from support.models import GQA, UNTIED, Variant

BOTH_TYPES: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 8,
    "head_dim": 16,
}
EMBEDDED: dict[str, Any] = {"hidden_size_per_layer_input": 12, "vocab_size_per_layer_input": 96}
GEMMA4 = GQA | BOTH_TYPES | {"global_head_dim": 24}
BORROWING = {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}
EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 40}
NO_EMBEDDING = {"hidden_size_per_layer_input": 0}
KEYS_ARE_VALUES = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
GEMMA3N = GQA | BOTH_TYPES | EMBEDDED | {"laurel_rank": 8, "num_kv_shared_layers": 0}
DENSE = {"activation_sparsity_pattern": [0.0] * 4}

GEMMA4_VARIANTS: dict[str, Variant] = {
    "gemma4": ("gemma4_text", GEMMA4 | EMBEDDED),
    "gemma4-borrowing": ("gemma4_text", GEMMA4 | EMBEDDED | BORROWING | {"final_logit_softcapping": 3.0}),
    "gemma4-untied-experts": ("gemma4_text", GEMMA4 | NO_EMBEDDING | EXPERTS | UNTIED),
    "gemma4-keys-are-values": ("gemma4_text", GEMMA4 | NO_EMBEDDING | KEYS_ARE_VALUES | {"attention_bias": True}),
    "gemma4-keys-are-values-experts": ("gemma4_text", GEMMA4 | NO_EMBEDDING | KEYS_ARE_VALUES | EXPERTS),
    "gemma4-keys-are-values-borrowing": ("gemma4_text", GEMMA4 | EMBEDDED | KEYS_ARE_VALUES | BORROWING),
}
GEMMA3N_VARIANTS: dict[str, Variant] = {
    "gemma3n": ("gemma3n_text", GEMMA3N | DENSE),
    "gemma3n-untied-borrowing": (
        "gemma3n_text",
        GEMMA3N | DENSE | UNTIED | {"num_kv_shared_layers": 2, "altup_correct_scale": False},
    ),
    "gemma3n-widths": ("gemma3n_text", GEMMA3N | DENSE | {"intermediate_size": [80, 80, 64, 120]}),
    "gemma3n-sparse": ("gemma3n_text", GEMMA3N | {"activation_sparsity_pattern": [0.6, 0.9, 0.0, 0.0]}),
}
VARIANTS = GEMMA4_VARIANTS | GEMMA3N_VARIANTS
