"""Recurrent or convolutional layers, alone or in turns with attention."""

from __future__ import annotations

from support.models.config import (
    BASE,
    GQA,
    MHA,
    MQA,
    MULTIPLIERS,
    QWEN_EXPERTS,
    QWEN_SHARED_EXPERT,
    TIED,
    UNTIED,
    Variant,
)

MIXED = {"layer_types": ["conv", "full_attention"]}
JAMBA = {
    "mamba_d_state": 8,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
GRIFFIN = {"num_hidden_layers": 3, "attention_window_size": 8}
MAMBA = {key: BASE[key] for key in BASE if key not in ("intermediate_size", "num_attention_heads")} | {"state_size": 8}
MAMBA2 = MAMBA | {"num_heads": 8, "head_dim": 12, "chunk_size": 8}
SSM = {"mamba_n_heads": 8, "mamba_d_state": 8, "mamba_chunk_size": 8, "mamba_n_groups": 2}
FALCON_H1 = {
    "head_dim": 16,
    "mamba_d_ssm": 64,
    "mamba_norm_before_gate": False,
    "embedding_multiplier": 3.0,
    "lm_head_multiplier": 0.3,
    "key_multiplier": 0.7,
    "ssm_multipliers": [0.5, 1.1, 0.8, 0.9, 1.2],
    "mlp_multipliers": [0.8, 0.6],
}
GRANITE = MULTIPLIERS | {
    "num_local_experts": 0,
    "shared_intermediate_size": 56,
    "layer_types": ["linear_attention", "full_attention"],
}
RWKV = {key: BASE[key] for key in BASE if key not in ("num_attention_heads", "max_position_embeddings")} | {
    "num_hidden_layers": 4,
    "context_length": 64,
    "rescale_every": 2,
}
ZAMBA = {
    "num_hidden_layers": 3,
    "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
    "mamba_d_state": 8,
    "mamba_dt_rank": 5,
}
ZAMBA2 = {
    "layers_block_type": ["linear_attention", "hybrid"],
    "n_mamba_heads": 8,
    "mamba_d_state": 8,
    "chunk_size": 8,
    "adapter_rank": 6,
}
XLSTM = {key: BASE[key] for key in ("vocab_size", "num_hidden_layers", "bos_token_id", "eos_token_id")} | {
    "pad_token_id": 0,
    "hidden_size": 64,
    "num_heads": 4,
    "qk_dim_factor": 1.0,
    "ffn_proj_factor": 1.5,
    "ffn_round_up_to_multiple_of": 32,
    "chunk_size": 8,
}
DELTA = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,  # the fewer, the more alike are keys, and the worse conditioned is what they write
    "linear_value_head_dim": 12,
    "layer_types": ["linear_attention", "full_attention"],
}

VARIANTS: dict[str, Variant] = {
    "lfm2": Variant("lfm2", GQA | MIXED | {"block_auto_adjust_ff_dim": False}),
    "lfm2-adjusted-untied": Variant("lfm2", GQA | MIXED | UNTIED | {"block_multiple_of": 16, "conv_bias": True}),
    "jamba": Variant("jamba", GQA | JAMBA | {"expert_layer_offset": 0, "mamba_proj_bias": True}),
    "jamba-tied": Variant(
        "jamba", MHA | JAMBA | TIED | {"num_hidden_layers": 4, "mamba_dt_rank": 5, "attn_layer_period": 4}
    ),
    "recurrent_gemma": Variant("recurrent_gemma", MQA | GRIFFIN),
    "recurrent_gemma-untied": Variant(
        "recurrent_gemma",
        GQA | GRIFFIN | UNTIED | {"attention_bias": True, "logits_soft_cap": 5.0},
    ),
    "mamba": Variant("mamba", MAMBA),
    "mamba-untied": Variant("mamba", MAMBA | UNTIED | {"use_bias": True, "use_conv_bias": False, "expand": 3}),
    "falcon_mamba": Variant("falcon_mamba", MAMBA | {"use_bias": True}),
    "falcon_mamba-untied": Variant("falcon_mamba", MAMBA | UNTIED | {"time_step_rank": 5}),
    "mamba2": Variant("mamba2", MAMBA2 | {"n_groups": 1, "use_bias": True}),
    "mamba2-groups-tied": Variant("mamba2", MAMBA2 | TIED | {"n_groups": 2}),
    "bamba": Variant("bamba", GQA | SSM | {"attn_layer_indices": [1], "attention_bias": True, "mlp_bias": True}),
    "bamba-tied": Variant("bamba", MHA | SSM | TIED | {"attn_layer_indices": [0], "mamba_n_groups": 1}),
    "falcon_h1": Variant("falcon_h1", GQA | SSM | FALCON_H1 | {"mamba_rms_norm": True, "projectors_bias": True}),
    "falcon_h1-tied": Variant(
        "falcon_h1", GQA | SSM | FALCON_H1 | TIED | {"mamba_d_ssm": None, "mamba_proj_bias": True}
    ),
    "granitemoehybrid": Variant("granitemoehybrid", GQA | SSM | GRANITE | {"position_embedding_type": "rope"}),
    "granitemoehybrid-experts": Variant(
        "granitemoehybrid",
        GQA | SSM | GRANITE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "granitemoehybrid-tied": Variant("granitemoehybrid", MHA | SSM | GRANITE | TIED | {"mamba_n_groups": 1}),
    "rwkv": Variant("rwkv", RWKV),
    "rwkv-tied": Variant("rwkv", RWKV | TIED | {"intermediate_size": None}),
    "zamba": Variant("zamba", MHA | ZAMBA),
    "zamba-untied": Variant("zamba", GQA | ZAMBA | UNTIED | {"mamba_proj_bias": True}),
    "zamba2": Variant("zamba2", MHA | ZAMBA2 | {"use_mem_rope": True, "use_shared_attention_adapter": True}),
    "zamba2-untied": Variant("zamba2", GQA | ZAMBA2 | UNTIED | {"mamba_ngroups": 2, "add_bias_linear": True}),
    "xlstm": Variant("xlstm", XLSTM),
    "xlstm-tied": Variant("xlstm", XLSTM | TIED | {"use_bias": True, "add_out_norm": True, "gate_soft_cap": 5.0}),
    "qwen3_next": Variant("qwen3_next", GQA | QWEN_EXPERTS | QWEN_SHARED_EXPERT | DELTA | {"mlp_only_layers": [0]}),
    "qwen3_next-tied": Variant(
        "qwen3_next", MQA | QWEN_EXPERTS | QWEN_SHARED_EXPERT | DELTA | TIED | {"attention_bias": True}
    ),
    "qwen3_5": Variant("qwen3_5_text", GQA | DELTA),
    "qwen3_5-tied": Variant("qwen3_5_text", MHA | DELTA | TIED | {"attention_bias": True}),
}
