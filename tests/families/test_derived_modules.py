"""What a family reads off its own table: embedding, head, the base model's name, the norm before the head."""

from __future__ import annotations

import pytest

from hyperclone_cli.families import FAMILIES


@pytest.mark.parametrize(
    "name, embedding, head, prefix, carriers",
    [
        ("llama", "model.embed_tokens", "lm_head", "model", ["model.norm"]),
        ("gpt_neox", "gpt_neox.embed_in", "embed_out", "gpt_neox", ["gpt_neox.final_layer_norm"]),
        ("bloom", "transformer.word_embeddings", "lm_head", "transformer", ["transformer.ln_f"]),
        ("gemma4_text", "model.embed_tokens", "lm_head", "model", ["model.norm"]),
        ("rwkv", "rwkv.embeddings", "head", "rwkv", ["rwkv.ln_out"]),
        ("openai-gpt", "transformer.tokens_embed", "lm_head", "transformer", ["transformer.h.-1.ln_2"]),
        ("olmo", "model.embed_tokens", "lm_head", "model", []),
    ],
)
def test_modules_outside_the_layers_are_found(
    name: str, embedding: str, head: str, prefix: str, carriers: list[str]
) -> None:
    family = FAMILIES[name]
    assert (family.embedding, family.head, family.prefix) == (embedding, head, prefix)
    assert [fold.module for fold in family.carriers] == carriers


def test_only_one_norm_stands_before_the_head() -> None:
    found = {name: family.carriers for name, family in FAMILIES.items() if not family.folds}
    assert [name for name, carriers in found.items() if len(carriers) > 1] == []
