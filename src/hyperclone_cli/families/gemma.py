"""Gemma: norms that multiply by (1 + weight), embeddings multiplied by √hidden_size, always tied."""

from hyperclone_cli.families.llama import ATTENTION, GATED_MLP, NORMED_ATTENTION, SIZES
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family, HeadRule
from hyperclone_cli.families.vocabulary import embedding, linear, norm, optional, post_norm

GEMMA = Family(
    model_type="gemma",
    known_as="Gemma 1",
    sizes=SIZES,
    tensors={
        "model.embed_tokens": embedding("vocab", "embed", forward_power=0.5),
        "lm_head": optional(linear("vocab", "embed")),
        **ATTENTION,
        **GATED_MLP,
        "model.layers.*.input_layernorm": norm("embed", plus_one=True),
        "model.layers.*.post_attention_layernorm": norm("embed", plus_one=True),
        "model.norm": norm("embed", plus_one=True),
    },
    defaults={"num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True},
)

GEMMA2 = GEMMA.variant(
    "gemma2",
    known_as="Gemma 2",
    tensors={
        "model.layers.*.post_attention_layernorm": post_norm("embed", plus_one=True),
        "model.layers.*.pre_feedforward_layernorm": norm("embed", plus_one=True),
        "model.layers.*.post_feedforward_layernorm": post_norm("embed", plus_one=True),
    },
    defaults={"num_key_value_heads": 4},
    heads=HeadRule.DIVIDES_EMBED,
    positions=Rotary(constant_scale="query_pre_attn_scalar"),
)

GEMMA3 = GEMMA2.variant(
    "gemma3_text",
    known_as="Gemma 3 270M and 1B",
    tensors={
        **NORMED_ATTENTION,
        "model.layers.*.self_attn.q_norm": post_norm("query", plus_one=True),
        "model.layers.*.self_attn.k_norm": post_norm("key", plus_one=True),
    },
)

VAULTGEMMA = GEMMA.without("model.layers.*.post_attention_layernorm").variant(
    "vaultgemma",
    known_as="VaultGemma",
    tensors={"model.layers.*.pre_feedforward_layernorm": norm("embed", plus_one=True)},
    defaults={"num_key_value_heads": 4},
    heads=HeadRule.DIVIDES_EMBED,
    positions=Rotary(constant_scale="query_pre_attn_scalar"),
)

FAMILIES = (GEMMA, GEMMA2, GEMMA3, VAULTGEMMA)
