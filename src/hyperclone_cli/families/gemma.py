"""Gemma: norms that multiply by (1 + weight), embeddings multiplied by √hidden_size, always tied."""

from hyperclone_cli.families.blocks import PLUS_ONE_NORMS, SCALED_EMBEDDING_AND_HEAD, SELF_ATTENTION, qk_norms
from hyperclone_cli.families.layer_rules import types_by_period
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.statements import HeadRule
from hyperclone_cli.families.vocabulary import norm, post_norm

GEMMA = MISTRAL.variant(
    "gemma",
    known_as="Gemma 1",
    tensors={**SCALED_EMBEDDING_AND_HEAD, **PLUS_ONE_NORMS},
)

GEMMA2 = GEMMA.variant(
    "gemma2",
    known_as="Gemma 2",
    tensors={
        "model.layers.*.post_attention_layernorm": post_norm("embed", plus_one=True),
        "model.layers.*.pre_feedforward_layernorm": norm("embed", plus_one=True),
        "model.layers.*.post_feedforward_layernorm": post_norm("embed", plus_one=True),
    },
    heads=HeadRule.DIVIDES_EMBED,
    positions=Rotary(constant_scale="query_pre_attn_scalar"),
    layer_rules=(types_by_period(length=2),),
)

FAMILIES = (
    GEMMA,
    GEMMA2,
    GEMMA2.variant(
        "gemma3_text",
        known_as="Gemma 3 270M and 1B",
        tensors=qk_norms(SELF_ATTENTION, plus_one=True),
        layer_rules=(types_by_period("sliding_window_pattern", length=6),),
    ),
    GEMMA2.without("model.layers.*.post_attention_layernorm", "model.layers.*.post_feedforward_layernorm").variant(
        "vaultgemma", known_as="VaultGemma"
    ),
)
