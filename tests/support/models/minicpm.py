"""Latent attention (MLA) without experts: MiniCPM 3, whose logits are divided by the width, and Youtu LLM."""

from __future__ import annotations

from support.models.config import LATENT, MHA, UNTIED, Variant

MINICPM = {"dim_model_base": 16, "scale_emb": 3.0}

VARIANTS: dict[str, Variant] = {
    "minicpm3": Variant("minicpm3", MHA | LATENT | MINICPM),
    "minicpm3-untied": Variant(
        "minicpm3", MHA | LATENT | MINICPM | UNTIED | {"q_lora_rank": None, "attention_bias": True}
    ),
    "youtu": Variant("youtu", MHA | LATENT),
    "youtu-untied": Variant("youtu", MHA | LATENT | UNTIED | {"q_lora_rank": None, "attention_bias": True}),
}
