"""Gemma 1 to 4. From 3n on, layers differ in their widths and modules, and some share keys and values."""

from __future__ import annotations

from typing import Any

from support.models.config import GQA, MQA, UNTIED, Variant

GEMMA = {"head_dim": 16}
GEMMA2 = GEMMA | {
    "query_pre_attn_scalar": 20,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
SOFTCAPPED = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}

BOTH_TYPES: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 8,
    "head_dim": 16,
}
EMBEDDED: dict[str, Any] = {"hidden_size_per_layer_input": 12, "vocab_size_per_layer_input": 96}
GEMMA4 = GQA | BOTH_TYPES | {"global_head_dim": 24}
SHARED_KV = {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}
EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 40}
NO_EMBEDDING = {"hidden_size_per_layer_input": 0}
KEYS_ARE_VALUES = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
GEMMA3N = GQA | BOTH_TYPES | EMBEDDED | {"laurel_rank": 8, "num_kv_shared_layers": 0}
DENSE = {"activation_sparsity_pattern": [0.0] * 4}

VARIANTS: dict[str, Variant] = {
    "gemma-mqa": Variant("gemma", MQA | GEMMA),
    "gemma-gqa": Variant("gemma", GQA | GEMMA),
    "gemma2": Variant("gemma2", GQA | GEMMA2 | SOFTCAPPED),
    "vaultgemma": Variant("vaultgemma", GQA | GEMMA2 | SOFTCAPPED),
    "gemma3-mqa": Variant("gemma3_text", MQA | GEMMA2),
    "gemma3-gqa": Variant("gemma3_text", GQA | GEMMA2),
    "gemma3n": Variant("gemma3n_text", GEMMA3N | DENSE),
    "gemma3n-untied-shared-kv": Variant(
        "gemma3n_text", GEMMA3N | DENSE | UNTIED | {"num_kv_shared_layers": 2, "altup_correct_scale": False}
    ),
    "gemma3n-widths": Variant("gemma3n_text", GEMMA3N | DENSE | {"intermediate_size": [80, 80, 64, 120]}),
    "gemma3n-sparse": Variant("gemma3n_text", GEMMA3N | {"activation_sparsity_pattern": [0.6, 0.9, 0.0, 0.0]}),
    "gemma4": Variant("gemma4_text", GEMMA4 | EMBEDDED),
    "gemma4-shared-kv": Variant("gemma4_text", GEMMA4 | EMBEDDED | SHARED_KV | {"final_logit_softcapping": 3.0}),
    "gemma4-untied-experts": Variant("gemma4_text", GEMMA4 | NO_EMBEDDING | EXPERTS | UNTIED),
    "gemma4-keys-are-values": Variant(
        "gemma4_text", GEMMA4 | NO_EMBEDDING | KEYS_ARE_VALUES | {"attention_bias": True}
    ),
    "gemma4-keys-are-values-experts": Variant("gemma4_text", GEMMA4 | NO_EMBEDDING | KEYS_ARE_VALUES | EXPERTS),
    "gemma4-keys-are-values-shared-kv": Variant("gemma4_text", GEMMA4 | EMBEDDED | KEYS_ARE_VALUES | SHARED_KV),
}
