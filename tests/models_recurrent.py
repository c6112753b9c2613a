"""Small random models of the architectures with recurrent or convolutional layers, for `models.build`."""

from __future__ import annotations

from models import BASE, GQA, MHA, MQA, TIED, UNTIED, Variant

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

VARIANTS: dict[str, Variant] = {
    "lfm2": ("lfm2", GQA | MIXED | {"block_auto_adjust_ff_dim": False}),
    "lfm2-adjusted-untied": ("lfm2", GQA | MIXED | UNTIED | {"block_multiple_of": 16, "conv_bias": True}),
    "jamba": ("jamba", GQA | JAMBA | {"expert_layer_offset": 0, "mamba_proj_bias": True}),
    "jamba-tied": ("jamba", MHA | JAMBA | TIED | {"num_hidden_layers": 4, "mamba_dt_rank": 5, "attn_layer_period": 4}),
    "recurrent_gemma": ("recurrent_gemma", MQA | GRIFFIN),
    "recurrent_gemma-untied": (
        "recurrent_gemma",
        GQA | GRIFFIN | UNTIED | {"attention_bias": True, "logits_soft_cap": 5.0},
    ),
    "mamba": ("mamba", MAMBA),
    "mamba-untied": ("mamba", MAMBA | UNTIED | {"use_bias": True, "use_conv_bias": False, "expand": 3}),
    "falcon_mamba": ("falcon_mamba", MAMBA | {"use_bias": True}),
    "falcon_mamba-untied": ("falcon_mamba", MAMBA | UNTIED | {"time_step_rank": 5}),
    "mamba2": ("mamba2", MAMBA2 | {"n_groups": 1, "use_bias": True}),
    "mamba2-groups-tied": ("mamba2", MAMBA2 | TIED | {"n_groups": 2}),
}
