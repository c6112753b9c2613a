"""OLMo 1 to 3: norms without weights at first, then norms after each block and over all heads."""

from hyperclone_cli.families.blocks import (
    GATED_MLP,
    NORMS,
    ROTARY_BUFFERS,
    SELF_ATTENTION,
    attention,
    qk_norms,
    without_first_norm,
)
from hyperclone_cli.families.layer_rules import types_by_period
from hyperclone_cli.families.llama import LLAMA
from hyperclone_cli.families.statements import HeadRule, Limit
from hyperclone_cli.families.vocabulary import post_norm

NO_WEIGHTS = Limit("pads", "its norms have no weights that could make up for the padding")
CLIPPED_QUERIES = Limit("head_dim", "its clip_qkv would clip scaled queries elsewhere", {"clip_qkv": ...})

OLMO = LLAMA.without(*NORMS).variant(
    "olmo",
    known_as="OLMo 1",
    norm="layer",
    heads=HeadRule.FREE,
    limits=(NO_WEIGHTS, CLIPPED_QUERIES),
)

OLMO2 = LLAMA.without("model.layers.*.input_layernorm", *ROTARY_BUFFERS).variant(
    "olmo2",
    known_as="OLMo 2",
    tensors={
        **without_first_norm(attention(SELF_ATTENTION) | qk_norms(SELF_ATTENTION) | GATED_MLP),
        "model.layers.*.self_attn.q_norm": post_norm("heads query"),
        "model.layers.*.self_attn.k_norm": post_norm("kv_heads key"),
        "model.layers.*.post_attention_layernorm": post_norm("embed"),
        "model.layers.*.post_feedforward_layernorm": post_norm("embed"),
    },
    heads=HeadRule.FREE,
)

OLMO3 = OLMO2.variant("olmo3", known_as="OLMo 3", layer_rules=(types_by_period(length=4),))

FAMILIES = (OLMO, OLMO2, OLMO3)
