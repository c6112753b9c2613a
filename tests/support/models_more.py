"""Small random models of the architectures beyond the first tables, one or more variants of each."""

from __future__ import annotations

from support.models import GEMMA2, GQA, LLAMA3_ROPE, MHA, MQA, TIED, UNTIED, WINDOWED, Variant

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
LLAMA4_SCALING = {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.3,
}

DENSE: dict[str, Variant] = {
    "ministral": ("ministral", GQA | WINDOWED | {"head_dim": 16}),
    "ministral3": (
        "ministral3",
        GQA | {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4} | LLAMA4_SCALING},
    ),
    "ministral3-yarn-tied": ("ministral3", GQA | TIED | {"head_dim": 12, "rope_parameters": YARN | LLAMA4_SCALING}),
    "arcee": ("arcee", GQA | {"attention_bias": True, "mlp_bias": True}),
    "arcee-tied": ("arcee", MHA | TIED),
    "seed_oss": ("seed_oss", GQA | {"head_dim": 16, "attention_out_bias": True, "mlp_bias": True}),
    "cwm": ("cwm", GQA | WINDOWED | {"head_dim": 16, "rope_parameters": LLAMA3_ROPE}),
    "smollm3": ("smollm3", GQA | {"no_rope_layers": [1, 0]}),
    "ernie4_5": ("ernie4_5", GQA | {"head_dim": 16, "use_bias": True}),
    "ernie4_5-untied": ("ernie4_5", MQA | UNTIED | {"head_dim": 12}),
    "exaone4": ("exaone4", GQA | WINDOWED),
    "exaone4-tied": ("exaone4", MHA | TIED | {"layer_types": ["full_attention"] * 2}),
    "hunyuan": ("hunyuan_v1_dense", GQA | {"head_dim": 16, "attention_bias": True}),
    "hunyuan-tied": ("hunyuan_v1_dense", MHA | TIED | {"head_dim": 12}),
    "apertus": ("apertus", GQA | {"rope_parameters": LLAMA3_ROPE}),
    "apertus-tied": ("apertus", MHA | TIED | {"attention_bias": True}),
    "helium": ("helium", GQA | {"head_dim": 12, "attention_bias": True, "mlp_bias": True}),
    "helium-tied": ("helium", MHA | TIED | {"head_dim": 12}),
    "nemotron": ("nemotron", GQA | {"hidden_size": 64, "mlp_bias": True, "attention_bias": True}),
    "nemotron-tied": ("nemotron", MHA | TIED | {"hidden_size": 64}),
    "jais2": ("jais2", GQA),
    "jais2-tied": ("jais2", MHA | TIED | {"attention_bias": False, "mlp_bias": False}),
    "granite": ("granite", GQA | MULTIPLIERS | UNTIED),
    "granite-tied": ("granite", GQA | MULTIPLIERS | TIED | {"attention_bias": True, "mlp_bias": True}),
    "cohere": ("cohere", GQA | {"logit_scale": 0.25}),
    "cohere-qk-norm": ("cohere", GQA | UNTIED | {"logit_scale": 0.25, "use_qk_norm": True}),
    "cohere2": ("cohere2", GQA | WINDOWED | {"logit_scale": 0.25, "attention_bias": True}),
    "vaultgemma": ("vaultgemma", GQA | GEMMA2 | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
    "nanochat": ("nanochat", GQA | UNTIED),
    "nanochat-tied": ("nanochat", MHA | TIED | {"attention_bias": True}),
    "bitnet": ("bitnet", GQA | UNTIED),
    "bitnet-tied": ("bitnet", MHA | TIED),
}

LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
NUMBERED = {"num_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
QWEN = NUMBERED | {"moe_intermediate_size": 40}
SHARED = {"shared_expert_intermediate_size": 56}
ERNIE = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 40}
LATENT = {
    "q_lora_rank": 20,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "first_k_dense_replace": 1,
}
GROUPED = {"n_group": 2, "topk_group": 1}

MIXTURES: dict[str, Variant] = {
    "mixtral": ("mixtral", GQA | LOCAL),
    "mixtral-tied": ("mixtral", GQA | TIED | {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 8}),
    "phimoe": ("phimoe", GQA | LOCAL | {"attention_bias": True, "lm_head_bias": True}),
    "phimoe-tied": ("phimoe", GQA | LOCAL | TIED),
    "qwen2_moe": ("qwen2_moe", GQA | QWEN | SHARED | {"mlp_only_layers": [0]}),
    "qwen2_moe-tied": ("qwen2_moe", MHA | QWEN | SHARED | TIED | {"norm_topk_prob": True}),
    "qwen3_moe": ("qwen3_moe", GQA | QWEN | {"head_dim": 16, "mlp_only_layers": [1], "attention_bias": True}),
    "qwen3_moe-tied": ("qwen3_moe", GQA | QWEN | TIED | {"head_dim": 16, "num_experts": 12}),
    "olmoe": ("olmoe", GQA | NUMBERED | {"clip_qkv": 2.0}),
    "olmoe-tied": ("olmoe", MHA | NUMBERED | TIED | {"attention_bias": True}),
    "glm4_moe": ("glm4_moe", GQA | ROUTED | GROUPED | {"head_dim": 16, "attention_bias": True, "use_qk_norm": True}),
    "glm4_moe-tied": ("glm4_moe", GQA | ROUTED | TIED | {"head_dim": 16, "n_shared_experts": 2}),
    "dots1": ("dots1", GQA | ROUTED | GROUPED | {"n_shared_experts": 2, "first_k_dense_replace": 1}),
    "ernie4_5_moe": ("ernie4_5_moe", GQA | ERNIE | {"moe_num_shared_experts": 2, "use_bias": True}),
    "ernie4_5_moe-untied": (
        "ernie4_5_moe",
        MQA | ERNIE | UNTIED | {"moe_num_shared_experts": 0, "moe_layer_start_index": 0},
    ),
    "deepseek_v2": ("deepseek_v2", MHA | ROUTED | LATENT | GROUPED | {"topk_method": "group_limited_greedy"}),
    "deepseek_v2-lite-tied": (
        "deepseek_v2",
        MHA | ROUTED | LATENT | TIED | {"q_lora_rank": None, "attention_bias": True},
    ),
    "deepseek_v3": ("deepseek_v3", MHA | ROUTED | LATENT | GROUPED | {"n_routed_experts": 8, "n_shared_experts": 1}),
    "deepseek_v3-tied": ("deepseek_v3", MHA | ROUTED | LATENT | GROUPED | TIED | {"attention_bias": True}),
}

MINICPM = {"dim_model_base": 16, "scale_emb": 3.0}

LATENTS: dict[str, Variant] = {
    "minicpm3": ("minicpm3", MHA | LATENT | MINICPM),
    "minicpm3-untied": ("minicpm3", MHA | LATENT | MINICPM | UNTIED | {"q_lora_rank": None, "attention_bias": True}),
}

VARIANTS = DENSE | MIXTURES | LATENTS
