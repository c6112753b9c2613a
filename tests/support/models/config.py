"""What the configs of several lineages are made of; sizes that no two axes share, so that a mix-up shows."""

from __future__ import annotations

from typing import Any, NamedTuple


class Variant(NamedTuple):
    """One configuration of an architecture, of which `models.build` makes a checkpoint."""

    model_type: str
    config: dict[str, Any]
    fused_experts: bool = False
    """Whether the experts of a layer are stored as one tensor, as transformers holds them in memory."""


BASE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": None,  # greedy decoding runs to its full length
    "pad_token_id": 0,
}
GQA = BASE | {"num_key_value_heads": 2}
MQA = BASE | {"num_key_value_heads": 1}
MHA = BASE | {"num_key_value_heads": 4}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}

GPT: dict[str, Any] = {
    "vocab_size": 96,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}

WINDOWED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
HALF_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.3,
}
LATENT = {
    "q_lora_rank": 20,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "first_k_dense_replace": 1,
}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
QWEN_SHARED_EXPERT = {"shared_expert_intermediate_size": 56}
