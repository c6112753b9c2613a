"""Llama and its dense relations, with their spellings, scalars, biases, norms and positions."""

from __future__ import annotations

from support.models.config import GQA, LLAMA3_ROPE, MHA, MQA, MULTIPLIERS, TIED, UNTIED, WINDOWED, Variant

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

VARIANTS: dict[str, Variant] = {
    "llama-mha": Variant("llama", MHA | UNTIED),
    "llama-gqa-tied": Variant("llama", GQA | TIED),
    "llama-mqa": Variant("llama", MQA | UNTIED),
    "llama-head_dim-biases": Variant("llama", GQA | {"head_dim": 20, "attention_bias": True, "mlp_bias": True}),
    "llama3-rope": Variant("llama", GQA | TIED | {"rope_parameters": LLAMA3_ROPE}),
    "mistral": Variant("mistral", GQA | {"sliding_window": 8}),
    "ministral": Variant("ministral", GQA | WINDOWED | {"head_dim": 16}),
    "ministral3": Variant(
        "ministral3",
        GQA | {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4} | LLAMA4_SCALING},
    ),
    "ministral3-yarn-tied": Variant(
        "ministral3", GQA | TIED | {"head_dim": 12, "rope_parameters": YARN | LLAMA4_SCALING}
    ),
    "qwen2": Variant("qwen2", GQA | TIED | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": Variant("qwen3", GQA | TIED | {"head_dim": 16}),
    "olmo": Variant("olmo", GQA | UNTIED),
    "olmo-tied": Variant("olmo", GQA | TIED),
    "olmo-clip": Variant("olmo", MHA | {"clip_qkv": 0.5}),
    "olmo2": Variant("olmo2", GQA | UNTIED),
    "olmo2-tied-mha": Variant("olmo2", MHA | TIED),
    "olmo3": Variant("olmo3", GQA | WINDOWED),
    "arcee": Variant("arcee", GQA | {"attention_bias": True, "mlp_bias": True}),
    "arcee-tied": Variant("arcee", MHA | TIED),
    "internlm3-tied": Variant("internlm3", GQA | TIED | {"head_dim": 16}),
    "iquestcoder": Variant("iquestcoder", MHA | {"attention_bias": True, "mlp_bias": True}),
    "seed_oss": Variant("seed_oss", GQA | {"head_dim": 16, "attention_out_bias": True, "mlp_bias": True}),
    "cwm": Variant("cwm", GQA | WINDOWED | {"head_dim": 16, "rope_parameters": LLAMA3_ROPE}),
    "smollm3": Variant("smollm3", GQA | {"no_rope_layers": [1, 0]}),
    "ernie4_5": Variant("ernie4_5", GQA | {"head_dim": 16, "use_bias": True}),
    "ernie4_5-untied": Variant("ernie4_5", MQA | UNTIED | {"head_dim": 12}),
    "exaone4": Variant("exaone4", GQA | WINDOWED),
    "exaone4-tied": Variant("exaone4", MHA | TIED | {"layer_types": ["full_attention"] * 2}),
    "hunyuan": Variant("hunyuan_v1_dense", GQA | {"head_dim": 16, "attention_bias": True}),
    "hunyuan-tied": Variant("hunyuan_v1_dense", MHA | TIED | {"head_dim": 12}),
    "apertus": Variant("apertus", GQA | {"rope_parameters": LLAMA3_ROPE}),
    "apertus-tied": Variant("apertus", MHA | TIED | {"attention_bias": True}),
    "helium": Variant("helium", GQA | {"head_dim": 12, "attention_bias": True, "mlp_bias": True}),
    "helium-tied": Variant("helium", MHA | TIED | {"head_dim": 12}),
    "nemotron": Variant("nemotron", GQA | {"hidden_size": 64, "mlp_bias": True, "attention_bias": True}),
    "nemotron-tied": Variant("nemotron", MHA | TIED | {"hidden_size": 64}),
    "jais2": Variant("jais2", GQA),
    "jais2-tied": Variant("jais2", MHA | TIED | {"attention_bias": False, "mlp_bias": False}),
    "granite": Variant("granite", GQA | MULTIPLIERS | UNTIED),
    "granite-tied": Variant("granite", GQA | MULTIPLIERS | TIED | {"attention_bias": True, "mlp_bias": True}),
    "cohere": Variant("cohere", GQA | {"logit_scale": 0.25}),
    "cohere-qk-norm": Variant("cohere", GQA | UNTIED | {"logit_scale": 0.25, "use_qk_norm": True}),
    "cohere2": Variant("cohere2", GQA | WINDOWED | {"logit_scale": 0.25, "attention_bias": True}),
    "nanochat": Variant("nanochat", GQA | UNTIED),
    "nanochat-tied": Variant("nanochat", MHA | TIED | {"attention_bias": True}),
    "bitnet": Variant("bitnet", GQA | UNTIED),
    "bitnet-tied": Variant("bitnet", MHA | TIED),
    "diffllama": Variant("diffllama", MHA | UNTIED | {"attention_bias": True}),
    "diffllama-gqa-tied": Variant("diffllama", GQA | TIED | {"num_attention_heads": 8, "num_key_value_heads": 4}),
}
