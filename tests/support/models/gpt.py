"""GPT-2 and what came of it: transposed or fused tensors, and GPT-NeoX."""

from __future__ import annotations

from support.models.config import BASE, GPT, TIED, UNTIED, Variant

GPT_NEO = {key: BASE[key] for key in BASE if key not in ("num_hidden_layers", "num_attention_heads")} | {
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 8,
}
FULL_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}}
NEOX_JAPANESE = {key: BASE[key] for key in BASE if key != "intermediate_size"}

VARIANTS: dict[str, Variant] = {
    "gpt2": Variant("gpt2", GPT),
    "gpt2-untied-n_inner": Variant("gpt2", GPT | UNTIED | {"n_inner": 80}),
    "gpt2-scaled-by-layer": Variant("gpt2", GPT | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2-unscaled": Variant("gpt2", GPT | {"scale_attn_weights": False}),
    "openai-gpt": Variant("openai-gpt", GPT),
    "openai-gpt-untied": Variant("openai-gpt", GPT | UNTIED),
    "gpt_bigcode-mqa": Variant("gpt_bigcode", GPT),
    "gpt_bigcode-mha-untied": Variant("gpt_bigcode", GPT | UNTIED | {"multi_query": False, "n_inner": 80}),
    "gpt_neo": Variant("gpt_neo", GPT_NEO | {"intermediate_size": None}),
    "gpt_neo-untied": Variant("gpt_neo", GPT_NEO | UNTIED),
    "gptj": Variant("gptj", GPT | {"rotary_dim": 8}),
    "gptj-tied": Variant("gptj", GPT | TIED | {"rotary_dim": 4, "n_inner": 80}),
    "codegen": Variant("codegen", GPT | {"rotary_dim": 4, "n_embd": 96, "n_head": 8}),
    "codegen-tied": Variant("codegen", GPT | TIED | {"rotary_dim": 8, "n_inner": 80}),
    "pythia": Variant("gpt_neox", BASE | {"use_parallel_residual": True} | UNTIED),
    "pythia-tied": Variant("gpt_neox", BASE | TIED),
    "gpt_neox-sequential": Variant("gpt_neox", BASE | {"use_parallel_residual": False} | UNTIED),
    "gpt_neox-full-rotary": Variant("gpt_neox", BASE | FULL_ROTARY),
    "gpt_neox-no-attention-bias": Variant("gpt_neox", BASE | {"attention_bias": False} | TIED),
    "gpt_neox_japanese": Variant("gpt_neox_japanese", NEOX_JAPANESE),
    "gpt_neox_japanese-untied-twofold": Variant(
        "gpt_neox_japanese", NEOX_JAPANESE | UNTIED | {"intermediate_multiple_size": 2}
    ),
}
