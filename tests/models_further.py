"""Configurations of architectures with laws of their own: paired heads, ALiBi; for `models.build`."""

from __future__ import annotations

from models import BASE, GQA, MHA, TIED, UNTIED, Variant

NEOX_JAPANESE = {key: BASE[key] for key in BASE if key != "intermediate_size"}

VARIANTS: dict[str, Variant] = {
    "diffllama": ("diffllama", MHA | UNTIED | {"attention_bias": True}),
    "diffllama-gqa-tied": ("diffllama", GQA | TIED | {"num_attention_heads": 8, "num_key_value_heads": 4}),
    "gpt_neox_japanese": ("gpt_neox_japanese", NEOX_JAPANESE),
    "gpt_neox_japanese-untied-twofold": (
        "gpt_neox_japanese",
        NEOX_JAPANESE | UNTIED | {"intermediate_multiple_size": 2},
    ),
}
