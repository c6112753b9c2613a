"""Configurations of the architectures that fuse or transpose their tensors, for `models.build`."""

from __future__ import annotations

from typing import Any

from support.models import BASE, GQA, MHA, MQA, TIED, UNTIED, Variant

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
GPT_NEO = {key: BASE[key] for key in BASE if key not in ("num_hidden_layers", "num_attention_heads")} | {
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 8,
}
FALCON = {key: BASE[key] for key in BASE if key != "intermediate_size"}
FALCON_40B = FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}
FALCON_MHA = FALCON | {"multi_query": False, "parallel_attn": False, "bias": True}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    "partial_rotary_factor": 0.75,
}
HALF_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}

VARIANTS: dict[str, Variant] = {
    "gpt2": ("gpt2", GPT),
    "gpt2-untied-n_inner": ("gpt2", GPT | UNTIED | {"n_inner": 80}),
    "gpt2-scaled-by-layer": ("gpt2", GPT | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2-unscaled": ("gpt2", GPT | {"scale_attn_weights": False}),
    "openai-gpt": ("openai-gpt", GPT),
    "openai-gpt-untied": ("openai-gpt", GPT | UNTIED),
    "gpt_bigcode-mqa": ("gpt_bigcode", GPT),
    "gpt_bigcode-mha-untied": ("gpt_bigcode", GPT | UNTIED | {"multi_query": False, "n_inner": 80}),
    "gpt_neo": ("gpt_neo", GPT_NEO | {"intermediate_size": None}),
    "gpt_neo-untied": ("gpt_neo", GPT_NEO | UNTIED),
    "gptj": ("gptj", GPT | {"rotary_dim": 8}),
    "gptj-tied": ("gptj", GPT | TIED | {"rotary_dim": 4, "n_inner": 80}),
    "codegen": ("codegen", GPT | {"rotary_dim": 4, "n_embd": 96, "n_head": 8}),
    "codegen-tied": ("codegen", GPT | TIED | {"rotary_dim": 8, "n_inner": 80}),
    "falcon-7b": ("falcon", FALCON),
    "falcon-7b-untied": ("falcon", FALCON | UNTIED | {"ffn_hidden_size": 80}),
    "falcon-40b": ("falcon", FALCON_40B),
    "falcon-11b": ("falcon", FALCON_40B | {"num_ln_in_parallel_attn": 1, "ffn_hidden_size": 80}),
    "falcon-mha-rope": ("falcon", FALCON_MHA),
    "falcon-rw": ("falcon", FALCON_MHA | {"alibi": True}),
    "phi": ("phi", MHA),
    "phi-gqa-tied-qk-norms": ("phi", GQA | TIED | {"qk_layernorm": True} | HALF_ROTARY),
    "phi3": ("phi3", GQA | UNTIED | {"sliding_window": 8}),
    "phi3-mha-tied": ("phi3", MHA | TIED),
    "phi3-longrope": (
        "phi3",
        GQA | {"hidden_size": 64, "original_max_position_embeddings": 16, "rope_scaling": LONGROPE},
    ),
    "glm": ("glm", GQA | {"head_dim": 16}),
    "glm-tied-mqa": ("glm", MQA | TIED | {"head_dim": 16, "attention_bias": False}),
    "glm4": ("glm4", GQA | {"head_dim": 16}),
    "glm4-tied": ("glm4", GQA | TIED | {"head_dim": 16}),
    "starcoder2": ("starcoder2", GQA | {"sliding_window": 8}),
    "starcoder2-untied-no-bias": ("starcoder2", MQA | UNTIED | {"use_bias": False}),
    "stablelm": ("stablelm", MHA | HALF_ROTARY),
    "stablelm-parallel-tied-biases": (
        "stablelm",
        GQA | TIED | HALF_ROTARY | {"use_qkv_bias": True, "use_parallel_residual": True},
    ),
    "persimmon": ("persimmon", BASE),
    "persimmon-tied-no-qk-norms": ("persimmon", BASE | TIED | {"qk_layernorm": False}),
    "biogpt": ("biogpt", BASE),
    "biogpt-untied-unscaled": ("biogpt", BASE | UNTIED | {"scale_embedding": False}),
}
