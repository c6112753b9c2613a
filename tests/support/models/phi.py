"""Phi, Phi-3 and others in whose heads a part of the units turns: GLM, StableLM, Persimmon; StarCoder 2."""

from __future__ import annotations

from support.models.config import BASE, GQA, HALF_ROTARY, MHA, MQA, TIED, UNTIED, Variant

LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    "partial_rotary_factor": 0.75,
}
HEAD_NORMS = HALF_ROTARY | {"qk_layernorm": True}

VARIANTS: dict[str, Variant] = {
    "phi": Variant("phi", MHA),
    "phi-gqa-tied-qk-norms": Variant("phi", GQA | TIED | HEAD_NORMS),
    "phi3": Variant("phi3", GQA | UNTIED | {"sliding_window": 8}),
    "phi3-mha-tied": Variant("phi3", MHA | TIED),
    "phi3-longrope": Variant(
        "phi3", GQA | {"hidden_size": 64, "original_max_position_embeddings": 16, "rope_scaling": LONGROPE}
    ),
    "glm": Variant("glm", GQA | {"head_dim": 16}),
    "glm-tied-mqa": Variant("glm", MQA | TIED | {"head_dim": 16, "attention_bias": False}),
    "glm4": Variant("glm4", GQA | {"head_dim": 16}),
    "glm4-tied": Variant("glm4", GQA | TIED | {"head_dim": 16}),
    "starcoder2": Variant("starcoder2", GQA | {"sliding_window": 8}),
    "starcoder2-untied-no-bias": Variant("starcoder2", MQA | UNTIED | {"use_bias": False}),
    "stablelm": Variant("stablelm", MHA | HALF_ROTARY),
    "stablelm-parallel-tied-biases": Variant(
        "stablelm", GQA | TIED | HALF_ROTARY | {"use_qkv_bias": True, "use_parallel_residual": True}
    ),
    "stablelm-12b": Variant("stablelm", GQA | HEAD_NORMS | {"use_parallel_residual": True}),
    "stablelm-12b-tied-mha": Variant("stablelm", MHA | TIED | HEAD_NORMS | {"use_qkv_bias": True}),
    "persimmon": Variant("persimmon", BASE),
    "persimmon-tied-no-qk-norms": Variant("persimmon", BASE | TIED | {"qk_layernorm": False}),
}
