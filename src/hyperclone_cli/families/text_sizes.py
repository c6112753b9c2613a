"""Sizes of the text models in wrappers where config.json leaves them out, as older files do: transformers' defaults."""

from __future__ import annotations


def _sizes(
    hidden: int, ffn: int, heads: int, layers: int, vocabulary: int, **others: int | None
) -> dict[str, int | None]:
    return {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        **others,
    }


TEXT_SIZES: dict[str, dict[str, int | None]] = {
    "llama": _sizes(4096, 11008, 32, 32, 32000),
    "mistral": _sizes(4096, 14336, 32, 32, 32000),
    "qwen2": _sizes(4096, 22016, 32, 32, 151936),
    "qwen3": _sizes(4096, 22016, 32, 32, 151936),
    "qwen3_moe": _sizes(2048, 6144, 32, 24, 151936),
    "phi3": _sizes(3072, 8192, 32, 32, 32064),
    "cohere2": _sizes(8192, 22528, 64, 40, 256000),
    "smollm3": _sizes(2048, 11008, 16, 36, 128256),
    "gemma": _sizes(3072, 24576, 16, 28, 256000),
    "gemma2": _sizes(2304, 9216, 8, 26, 256000),
    "gemma3_text": _sizes(2304, 9216, 8, 26, 262208),
    "gemma3n_text": _sizes(2048, 16384, 8, 35, 262400),
    "gemma4_text": _sizes(2304, 9216, 8, 30, 262144),
    "gemma4_unified_text": _sizes(2304, 9216, 8, 30, 262144),
    "qwen2_vl_text": _sizes(8192, 29568, 64, 80, 152064, num_key_value_heads=8, max_window_layers=80),
    "qwen2_5_vl_text": _sizes(8192, 29568, 64, 80, 152064, num_key_value_heads=8, max_window_layers=80),
    "qwen3_vl_text": _sizes(4096, 22016, 32, 32, 151936, num_key_value_heads=32, head_dim=128),
    "qwen3_vl_moe_text": _sizes(
        2048, 5632, 16, 24, 151936, num_key_value_heads=16, head_dim=None, moe_intermediate_size=1408, num_experts=60
    ),
    "qwen3_5_text": _sizes(4096, 12288, 16, 32, 248320),
    "qwen3_5_moe_text": _sizes(2048, 512, 16, 40, 248320),
    "llama4_text": _sizes(5120, 8192, 40, 48, 202048),
    "glm4v_text": _sizes(4096, 13696, 32, 40, 151552, num_key_value_heads=2),
}
"""model_type → config key → size."""

CAUSAL_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3n_text": "Gemma3nForCausalLM",
    "gemma4_text": "Gemma4ForCausalLM",
    "gemma4_unified_text": "Gemma4UnifiedForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "llama4_text": "Llama4ForCausalLM",
    "glm4": "Glm4ForCausalLM",
}
"""model_type → the class of transformers that makes logits."""
