"""BitNet b1.58 before quantisation: norms also before the last matrix of each block."""

from hyperclone_cli.families.llama import LLAMA
from hyperclone_cli.families.table import HeadRule
from hyperclone_cli.families.vocabulary import norm

BITNET = LLAMA.variant(
    "bitnet",
    known_as="BitNet before quantisation",
    tensors={
        "model.layers.*.self_attn.attn_sub_norm": norm("heads value"),
        "model.layers.*.mlp.ffn_sub_norm": norm("ffn"),
    },
    defaults={"num_key_value_heads": 5},
    heads=HeadRule.FILLS_EMBED,
)

FAMILIES = (BITNET,)
