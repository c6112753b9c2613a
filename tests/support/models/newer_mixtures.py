"""Mixtures that came after those in `experts`, in one tensor a matrix or one tensor a layer, and their kin."""

from __future__ import annotations

from typing import Any

from support.models.config import BASE, GQA, LATENT, MHA, MQA, MULTIPLIERS, TIED, UNTIED, WINDOWED, Variant

CHOSEN: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 40}
NUMBERED = CHOSEN | {"num_experts": 4}
ROUTED = CHOSEN | {"n_routed_experts": 4}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
PARTLY_DENSE = {"mlp_layer_types": ["dense", "sparse"]}
HEADS = {"head_dim": 16}
MLA = {key: size for key, size in LATENT.items() if key != "first_k_dense_replace"}
COHERE = GQA | HEADS | WINDOWED | {"num_experts": 4, "num_experts_per_tok": 2, "logit_scale": 0.25}

INDEXER = {"n_group": 1, "topk_group": 1, "index_n_heads": 3, "index_head_dim": 16, "index_topk": 9}
DOTS3: dict[str, Any] = MLA | {
    "n_routed_experts": 4,
    "shared_experts_intermediate_size": 28,
    "head_dim": 20,
    "sliding_window": 8,
    "layer_types": ["indexed_attention", "sliding_attention"],
    "per_layer_config": {
        1: {
            **{"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 22, "v_head_dim": 12},
            **{"qk_nope_head_dim": 16, "qk_rope_head_dim": 6, "q_lora_rank": 24, "kv_lora_rank": 14},
        }
    },
}
LINEAR = ["linear_attention", "full_attention"]
CONVOLUTION = {"layer_types": ["conv", "full_attention"]}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 12,
}
NEMOTRON: dict[str, Any] = HEADS | {
    "num_hidden_layers": 4,
    "layers_block_type": [*LINEAR, "moe", "mlp"],
    "n_routed_experts": 4,
    "moe_shared_expert_intermediate_size": 56,
    "mamba_num_heads": 8,
    "mamba_head_dim": 12,
    "n_groups": 2,
    "ssm_state_size": 8,
    "chunk_size": 8,
}
WORD_GROUPS: dict[str, Any] = {
    "shared_expert_intermediate_size": 56,
    "layer_types": ["linear_attention", "indexed_attention"],
    "hc_count": 3,
    "hc_lowrank": 10,
    "ple_layer_ids": [1],
    "ple_embed_dim": 24,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 40,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 2,
    "indexer_n_heads": 3,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 6,
    "indexer_compress_ratio": 2,
    "eos_token_id": 95,
}
KIMI = {
    "num_local_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "linear_head_dim": 20,
    "linear_num_heads": 6,
    "layer_types": LINEAR,
}
GROUPED = {"n_group": 2, "topk_group": 1}
MIMO = {
    "head_dim": 24,
    "v_head_dim": 10,
    "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 8,
}
LONGCAT: dict[str, Any] = {key: MHA[key] for key in MHA if key not in ("num_hidden_layers", "intermediate_size")} | {
    **MLA,
    "num_layers": 2,
    "head_dim": 8,
    "ffn_hidden_size": 80,
    "expert_ffn_hidden_size": 40,
    "n_routed_experts": 4,
    "zero_expert_num": 3,
    "moe_topk": 2,
}
DEEPSEEK_V4 = {
    "num_hidden_layers": 3,
    "head_dim": 16,
    "q_lora_rank": 20,
    "moe_intermediate_size": 40,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "o_groups": 2,
    "o_lora_rank": 10,
    "index_n_heads": 3,
    "index_head_dim": 16,
    "index_topk": 3,
    "hc_mult": 3,
    "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
    "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
    "mlp_layer_types": ["hash_moe", "moe", "moe"],
    "sliding_window": 8,
    "partial_rotary_factor": 0.5,
}
COMPASS = {
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "full_attention": None,
    }
}
INKLING: dict[str, Any] = HEADS | {
    "swa_num_attention_heads": 6,
    "swa_num_key_value_heads": 3,
    "swa_head_dim": 12,
    "d_rel": 5,
    "rel_extent": 8,
    "sliding_window_size": 8,
    "log_scaling_n_floor": 4,
    "layer_types": ["hybrid_sliding", "hybrid"],
}
INKLING2: dict[str, Any] = INKLING | {
    "num_hidden_layers": 4,
    "layer_types": ["hybrid_sliding", "hybrid"] * 2,
    "n_layers_per_attn_res_block": 2,
    "unpadded_vocab_size": 90,
    "qk_l2_clip_threshold": 3.0,
    "rel_l2_clip_threshold": 2.0,
}
LOOPED = {
    "loop_layer_index_start": 2,
    "loop_layer_index_end": 4,
    "loop_num_passes": 2,
    "loop_gate_rank": 7,
    "route_scale": 0.3,  # the more experts add, the more does a pass magnify rounding
}
ZAYA: dict[str, Any] = HEADS | {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_experts": 4,
    "moe_intermediate_size": 40,
    "router_hidden_size": 12,
    "layer_types": ["hybrid", "hybrid_sliding"],
    "sliding_window": 8,
}
DORY: dict[str, Any] = HEADS | {
    "num_hidden_layers": 4,
    "n_input_layers": 1,
    "n_recurrent_layers": 2,
    "n_output_layers": 1,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 8,
    "initializer_range": 1.0,  # what scales of this size are divided by
}
JETMOE = {key: size for key, size in GQA.items() if key != "num_attention_heads"} | LOCAL | {"kv_channels": 12}

SEPARATE: dict[str, Variant] = {
    "sarvam_mla": Variant("sarvam_mla", MHA | ROUTED | LATENT | {"q_lora_rank": None}),
    "glm4_moe_lite-tied": Variant("glm4_moe_lite", MHA | ROUTED | MLA | PARTLY_DENSE | TIED),
    "axk1": Variant("axk1", MHA | ROUTED | MLA | PARTLY_DENSE | {"n_group": 2, "topk_group": 1}),
    "solar_open": Variant("solar_open", GQA | ROUTED | HEADS | {"n_shared_experts": 2}),
    "mellum-tied": Variant("mellum", GQA | NUMBERED | HEADS | WINDOWED | PARTLY_DENSE | TIED),
    "flex_olmo": Variant("flex_olmo", GQA | {"num_experts": 4, "num_experts_per_tok": 2}),
    "minimax_m2": Variant("minimax_m2", GQA | LOCAL | HEADS),
    "hunyuan_v1_moe-tied": Variant("hunyuan_v1_moe", GQA | HEADS | TIED | {"num_experts": 4, "moe_topk": 2}),
    "hy_v3": Variant("hy_v3", GQA | NUMBERED | HEADS | PARTLY_DENSE | {"num_shared_experts": 2}),
    "afmoe-scaled": Variant("afmoe", GQA | NUMBERED | HEADS | WINDOWED | {"num_dense_layers": 1, "mup_enabled": True}),
    "afmoe-tied": Variant("afmoe", GQA | NUMBERED | HEADS | WINDOWED | TIED | {"num_dense_layers": 0}),
    "kolibri1": Variant("kolibri1", GQA | NUMBERED | HEADS | WINDOWED | {"shared_expert_intermediate_size": 56}),
    "exaone_moe": Variant("exaone_moe", GQA | NUMBERED | HEADS | PARTLY_DENSE | {"num_shared_experts": 2}),
    "cohere2_moe": Variant("cohere2_moe", COHERE | {"num_shared_experts": 2}),
    "cohere2_moe-dense-layers-rms-untied": Variant(
        "cohere2_moe",
        COHERE | UNTIED | PARTLY_DENSE | {"prefix_dense_intermediate_size": 72, "rms_norm_eps": 1e-5},
    ),
    "lfm2_moe": Variant(
        "lfm2_moe", GQA | NUMBERED | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1}
    ),
    "aria_text": Variant("aria_text", GQA | {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 2}),
    "flint-tied": Variant(
        "flint",
        GQA | NUMBERED | HEADS | WINDOWED | TIED | {"shared_expert_intermediate_size": 56, "mlp_only_layers": [0]},
    ),
    "deepseek_v32": Variant("deepseek_v32", MHA | ROUTED | MLA | PARTLY_DENSE | INDEXER),
    "glm_moe_dsa-tied": Variant(
        "glm_moe_dsa", MHA | ROUTED | MLA | PARTLY_DENSE | INDEXER | TIED | {"indexer_types": ["full", "shared"]}
    ),
    "beam": Variant(
        "beam",
        GQA | NUMBERED | HEADS | WINDOWED | PARTLY_DENSE | {"n_group": 2, "topk_group": 1, "attention_bias": True},
    ),
    "dots3_note": Variant("dots3_note_text", MHA | CHOSEN | PARTLY_DENSE | INDEXER | DOTS3),
    "dots3_note-tied": Variant(
        "dots3_note_text",
        MHA
        | CHOSEN
        | PARTLY_DENSE
        | INDEXER
        | DOTS3
        | TIED
        | {"layer_types": ["indexed_attention"] * 2, "per_layer_config": {}, "attention_bias": True},
    ),
    "axk2": Variant("axk2", MHA | ROUTED | MLA | PARTLY_DENSE | INDEXER | {"gated_norm_rank": 6}),
    "hy_v4": Variant(
        "hy_v4", MHA | ROUTED | MLA | PARTLY_DENSE | INDEXER | {"indexer_types": ["full", "shared"], "hc_mult": 3}
    ),
    "sarvam_moe-tied": Variant("sarvam_moe", GQA | ROUTED | HEADS | TIED | {"first_k_dense_replace": 1}),
    "lfm3": Variant("lfm3", GQA | HEADS | CONVOLUTION),
    "lfm3-plain-untied": Variant(
        "lfm3", GQA | HEADS | CONVOLUTION | UNTIED | {"use_sandwich_norm": False, "conv_bias": True}
    ),
    "lara_mini": Variant(
        "lara_mini",
        GQA
        | NUMBERED
        | HEADS
        | DELTA
        | {"shared_expert_intermediate_size": 56, "sliding_window": 8}
        | {"layer_types": ["linear_attention", "sliding_attention"]},
    ),
    "olmo_hybrid": Variant("olmo_hybrid", GQA | DELTA | {"linear_value_head_dim": 16, "layer_types": LINEAR}),
    "nemotron_h": Variant("nemotron_h", GQA | CHOSEN | NEMOTRON),
    "exaone-tied": Variant("exaone", GQA | TIED),
    "kimi_linear-tied": Variant("kimi_linear", MHA | CHOSEN | MLA | PARTLY_DENSE | KIMI | TIED),
    "bailing_hybrid": Variant(
        "bailing_hybrid",
        MHA | NUMBERED | MLA | PARTLY_DENSE | GROUPED | {"q_lora_rank": None, "head_dim": 20, "layer_types": LINEAR},
    ),
    "mimo_v2_flash": Variant("mimo_v2_flash", GQA | ROUTED | PARTLY_DENSE | MIMO),
    "mimo_v2_flash-tied": Variant("mimo_v2_flash", MQA | ROUTED | PARTLY_DENSE | MIMO | TIED),
    "laguna": Variant(
        "laguna",
        GQA
        | NUMBERED
        | HEADS
        | WINDOWED
        | PARTLY_DENSE
        | {"shared_expert_intermediate_size": 56, "num_attention_heads_per_layer": [4, 6]},
    ),
    "laguna-gates-of-units-tied": Variant(
        "laguna",
        GQA
        | NUMBERED
        | HEADS
        | WINDOWED
        | PARTLY_DENSE
        | TIED
        | {"shared_expert_intermediate_size": 56, "gating": "per-element", "attention_bias": True},
    ),
    "deepseek_v4": Variant("deepseek_v4", BASE | DEEPSEEK_V4),
    "deepseek_v4-tied": Variant("deepseek_v4", BASE | DEEPSEEK_V4 | TIED | {"num_attention_heads": 6, "o_groups": 3}),
    "hrm_text": Variant("hrm_text", BASE | HEADS | {"H_cycles": 2, "L_cycles": 2}),
    "hrm_text-tied": Variant("hrm_text", BASE | HEADS | {"H_cycles": 1, "L_cycles": 3} | TIED),
    "inkling2": Variant("inkling2_text", GQA | ROUTED | INKLING2),
    "inkling2_loop": Variant("inkling2_loop_text", GQA | ROUTED | INKLING2 | LOOPED),
    "qwen4_exp": Variant("qwen4_exp_text", GQA | NUMBERED | HEADS | DELTA | WORD_GROUPS),
    "qwen4_exp-tied": Variant(
        "qwen4_exp_text", GQA | NUMBERED | HEADS | DELTA | WORD_GROUPS | TIED | {"ple_layer_ids": None}
    ),
    "dory": Variant("dory", GQA | DORY),
    "dory-tied": Variant("dory", MHA | DORY | TIED | {"attention_bias": True, "mlp_bias": True}),
    "longcat_flash": Variant("longcat_flash", LONGCAT),
    "longcat_flash-tied": Variant("longcat_flash", LONGCAT | TIED | {"zero_expert_num": 0, "attention_bias": True}),
    "minimax": Variant("minimax", GQA | LOCAL | {"layer_types": LINEAR, "block_size": 8, "mlp_alpha_factor": 1.5}),
    "minimax-tied": Variant("minimax", MHA | LOCAL | TIED | {"layer_types": LINEAR[::-1], "block_size": 8}),
}

IN_MEMORY = {f"{name} (in memory)": variant._replace(fused_experts=True) for name, variant in SEPARATE.items()}
"""The same models in the names that transformers has in memory."""

OTHERS: dict[str, Variant] = {
    "cohere_compass_text": Variant("cohere_compass_text", GQA | HEADS | WINDOWED | COMPASS),
    "cohere_compass_text-untied": Variant(
        "cohere_compass_text", GQA | HEADS | WINDOWED | COMPASS | UNTIED | {"logit_scale": 0.25}
    ),
    "granite_swa": Variant("granite_swa", GQA | MULTIPLIERS | WINDOWED),
    "granitemoe_swa": Variant(
        "granitemoe_swa", GQA | LOCAL | MULTIPLIERS | WINDOWED | {"shared_intermediate_size": 56}
    ),
    "hyperclovax": Variant("hyperclovax", GQA | MULTIPLIERS | {"head_dim": 12}),
    "hyperclovax-tied": Variant("hyperclovax", GQA | TIED | {"head_dim": 12, "use_post_norm": False}),
    "apertus1p5_text": Variant("apertus1p5_text", GQA),
    "minimax_m3_vl_text": Variant(
        "minimax_m3_vl_text",
        GQA
        | LOCAL
        | HEADS
        | PARTLY_DENSE
        | {"dense_intermediate_size": 72, "shared_intermediate_size": 56}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ),
    "zaya": Variant("zaya", BASE | ZAYA),
    "zaya-untied": Variant("zaya", BASE | ZAYA | UNTIED | {"attention_bias": True, "lm_head_bias": True}),
    "inkling": Variant("inkling_text", GQA | ROUTED | PARTLY_DENSE | INKLING),
    "modernbert-decoder": Variant("modernbert-decoder", MHA | WINDOWED | {"local_attention": 8}),
    "modernbert-decoder-untied-biases": Variant(
        "modernbert-decoder",
        MHA
        | WINDOWED
        | UNTIED
        | {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True},
    ),
    "doge": Variant("doge", GQA | {"attention_bias": True}),
    "doge-experts-tied": Variant(
        "doge", GQA | TIED | {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 3, "keep_window_size": 10}
    ),
    "jetmoe": Variant("jetmoe", JETMOE),
    "jetmoe-untied": Variant("jetmoe", JETMOE | UNTIED),
}

VARIANTS = SEPARATE | IN_MEMORY | OTHERS
