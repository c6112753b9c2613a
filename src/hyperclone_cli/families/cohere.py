"""Cohere's Command R: attention and feed-forward side by side after one LayerNorm, rotary positions in pairs."""

from hyperclone_cli.families.layer_rules import Listed, types_by_period
from hyperclone_cli.families.llama import LLAMA
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.statements import HeadRule, Limit
from hyperclone_cli.families.vocabulary import head_norm, optional

COHERE2 = LLAMA.without("model.layers.*.post_attention_layernorm").variant(
    "cohere2",
    known_as="Command R7B, Command A",
    norm="layer",
    positions=Rotary("neighbours"),
    heads=HeadRule.FREE,
    layer_rules=(types_by_period("sliding_window_pattern", length=4),),
)

COHERE = COHERE2.variant(
    "cohere",
    known_as="Command R",
    layer_rules=(),
    tensors={
        "model.layers.*.self_attn.q_norm": optional(head_norm("heads", "query")),
        "model.layers.*.self_attn.k_norm": optional(head_norm("kv_heads", "key")),
    },
    limits=(Limit("head_dim", "its LayerNorm of each key leaves no room for padding", {"use_qk_norm": True}),),
)

COHERE_COMPASS = COHERE2.variant(
    "cohere_compass_text",
    known_as="North Micro Vision (text)",
    tiny={
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 8,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            "full_attention": None,
        },
    },
    positions=Rotary(),
    layer_rules=(Listed("layer_types"),),
)

FAMILIES = (COHERE, COHERE2, COHERE_COMPASS)
