"""OLMo 1 to 3: norms without weights at first, then norms after each block and over all heads."""

from hyperclone_cli.families.blocks import (
    ATTENTION,
    EMBEDDING_AND_HEAD,
    GATED_MLP,
    SELF_ATTENTION,
    SIZES,
    attention,
    qk_norms,
    without_first_norm,
)
from hyperclone_cli.families.table import Family, Limit
from hyperclone_cli.families.vocabulary import norm, post_norm

CLIPPED_QUERIES = Limit("head_dim", "its clip_qkv would clip scaled queries elsewhere", {"clip_qkv": ...})

OLMO = Family(
    model_type="olmo",
    known_as="OLMo 1",
    sizes=SIZES,
    tensors={**EMBEDDING_AND_HEAD, **ATTENTION, **GATED_MLP},  # its norms have no weights
    norm="layer",
    limits=(Limit("pads", "its norms have no weights that could make up for the padding"), CLIPPED_QUERIES),
)

OLMO2 = Family(
    model_type="olmo2",
    known_as="OLMo 2",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **without_first_norm(attention(SELF_ATTENTION) | qk_norms(SELF_ATTENTION) | GATED_MLP),
        "model.layers.*.self_attn.q_norm": post_norm("heads query"),
        "model.layers.*.self_attn.k_norm": post_norm("kv_heads key"),
        "model.layers.*.post_attention_layernorm": post_norm("embed"),
        "model.layers.*.post_feedforward_layernorm": post_norm("embed"),
        "model.norm": norm("embed"),
    },
)

FAMILIES = (OLMO, OLMO2, OLMO2.variant("olmo3", known_as="OLMo 3"))
