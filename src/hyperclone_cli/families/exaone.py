"""EXAONE 4: norms after each block, as in OLMo 2, but over each query and key."""

from hyperclone_cli.families.blocks import ROTARY_BUFFERS
from hyperclone_cli.families.layer_rules import types_by_period
from hyperclone_cli.families.olmo import OLMO2
from hyperclone_cli.families.vocabulary import post_norm

EXAONE4 = OLMO2.variant(
    "exaone4",
    known_as="EXAONE 4",
    tensors={
        "model.layers.*.self_attn.q_norm": post_norm("query"),
        "model.layers.*.self_attn.k_norm": post_norm("key"),
        **ROTARY_BUFFERS,
    },
    defaults={"num_key_value_heads": 32, "sliding_window_pattern": 4},
    layer_rules=(types_by_period("sliding_window_pattern"),),
)

FAMILIES = (EXAONE4,)
