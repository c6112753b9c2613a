"""StableLM: Llama with LayerNorm, rotary positions in a part of each head, sequential or parallel blocks."""

from hyperclone_cli.families.blocks import sizes
from hyperclone_cli.families.llama import LLAMA
from hyperclone_cli.families.phi import NORMED_HEADS
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.statements import HeadRule, Layout
from hyperclone_cli.families.vocabulary import norm, numbered, optional, post_norm

STABLELM = LLAMA.variant(
    "stablelm",
    known_as="StableLM 3B, StableLM 2 1.6B",
    sizes=sizes("head_dim"),
    tensors={"model.layers.*.post_attention_layernorm": optional(norm("embed"))},
    defaults={"partial_rotary_factor": 0.25},
    norm="layer",
    positions=Rotary(fraction="partial_rotary_factor"),
    heads=HeadRule.FREE,
)
NORMED = STABLELM.variant(
    "stablelm",
    layout=Layout("query and key norms", {"qk_layernorm": True}),
    known_as="StableLM 2 12B",
    tensors={
        "model.layers.*.self_attn.q_layernorm.norms.*": numbered("heads", post_norm("query")),
        "model.layers.*.self_attn.k_layernorm.norms.*": numbered("kv_heads", post_norm("key")),
    },
    limits=(NORMED_HEADS,),
)

FAMILIES = (NORMED, STABLELM)
