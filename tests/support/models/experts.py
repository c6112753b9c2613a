"""Mixtures of experts, in one tensor a matrix or one tensor a layer."""

from __future__ import annotations

from typing import Any

from support.models.config import (
    GQA,
    LATENT,
    MHA,
    MQA,
    MULTIPLIERS,
    QWEN_EXPERTS,
    QWEN_SHARED_EXPERT,
    TIED,
    UNTIED,
    WINDOWED,
    Variant,
)

LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
NUMBERED = {"num_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
GROUPED = {"n_group": 2, "topk_group": 1}
ERNIE = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 40}
PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
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

SEPARATE: dict[str, Variant] = {
    "mixtral": Variant("mixtral", GQA | LOCAL),
    "mixtral-tied": Variant(
        "mixtral", GQA | TIED | {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 8}
    ),
    "phimoe": Variant("phimoe", GQA | LOCAL | {"attention_bias": True, "lm_head_bias": True}),
    "phimoe-tied": Variant("phimoe", GQA | LOCAL | TIED),
    "qwen2_moe": Variant("qwen2_moe", GQA | QWEN_EXPERTS | QWEN_SHARED_EXPERT | {"mlp_only_layers": [0]}),
    "qwen2_moe-tied": Variant("qwen2_moe", MHA | QWEN_EXPERTS | QWEN_SHARED_EXPERT | TIED | {"norm_topk_prob": True}),
    "qwen3_moe": Variant(
        "qwen3_moe", GQA | QWEN_EXPERTS | {"head_dim": 16, "mlp_only_layers": [1], "attention_bias": True}
    ),
    "qwen3_moe-tied": Variant("qwen3_moe", GQA | QWEN_EXPERTS | TIED | {"head_dim": 16, "num_experts": 12}),
    "olmoe": Variant("olmoe", GQA | NUMBERED | {"clip_qkv": 2.0}),
    "olmoe-tied": Variant("olmoe", MHA | NUMBERED | TIED | {"attention_bias": True}),
    "glm4_moe": Variant(
        "glm4_moe", GQA | ROUTED | GROUPED | {"head_dim": 16, "attention_bias": True, "use_qk_norm": True}
    ),
    "glm4_moe-tied": Variant("glm4_moe", GQA | ROUTED | TIED | {"head_dim": 16, "n_shared_experts": 2}),
    "dots1": Variant("dots1", GQA | ROUTED | GROUPED | {"n_shared_experts": 2, "first_k_dense_replace": 1}),
    "ernie4_5_moe": Variant("ernie4_5_moe", GQA | ERNIE | {"moe_num_shared_experts": 2, "use_bias": True}),
    "ernie4_5_moe-untied": Variant(
        "ernie4_5_moe", MQA | ERNIE | UNTIED | {"moe_num_shared_experts": 0, "moe_layer_start_index": 0}
    ),
    "deepseek_v2": Variant("deepseek_v2", MHA | ROUTED | LATENT | GROUPED | {"topk_method": "group_limited_greedy"}),
    "deepseek_v2-lite-tied": Variant(
        "deepseek_v2", MHA | ROUTED | LATENT | TIED | {"q_lora_rank": None, "attention_bias": True}
    ),
    "deepseek_v3": Variant(
        "deepseek_v3", MHA | ROUTED | LATENT | GROUPED | {"n_routed_experts": 8, "n_shared_experts": 1}
    ),
    "deepseek_v3-tied": Variant("deepseek_v3", MHA | ROUTED | LATENT | GROUPED | TIED | {"attention_bias": True}),
}

FUSED = {f"{name} (fused experts)": variant._replace(fused_experts=True) for name, variant in SEPARATE.items()}
"""The same models in the names that transformers has in memory."""

ALWAYS_FUSED: dict[str, Variant] = {
    "granitemoe": Variant("granitemoe", GQA | LOCAL | MULTIPLIERS | UNTIED),
    "granitemoe-tied": Variant("granitemoe", MHA | LOCAL | MULTIPLIERS | TIED | {"attention_bias": True}),
    "granitemoeshared": Variant("granitemoeshared", GQA | LOCAL | {"shared_intermediate_size": 56}),
    "granitemoeshared-tied-none": Variant("granitemoeshared", MQA | LOCAL | TIED | {"shared_intermediate_size": 0}),
    "gpt_oss": Variant("gpt_oss", GQA | LOCAL | WINDOWED | {"head_dim": 16}),
    "gpt_oss-tied": Variant("gpt_oss", MHA | LOCAL | TIED | PLAIN_ROPE | {"head_dim": 12, "attention_bias": False}),
    "dbrx": Variant("dbrx", DBRX | {"attn_config": DBRX_ATTENTION, "ffn_config": DBRX_EXPERTS}),
    "dbrx-one-expert-of-four": Variant(
        "dbrx",
        DBRX | {"attn_config": DBRX_ATTENTION | {"clip_qkv": 1.0}, "ffn_config": DBRX_EXPERTS | {"moe_top_k": 1}},
    ),
}

VARIANTS = SEPARATE | FUSED | ALWAYS_FUSED
