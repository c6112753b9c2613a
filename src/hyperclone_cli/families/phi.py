"""Phi: Phi-1 to 2 with LayerNorm and parallel blocks; Phi-3 and 4, which are Llama with fused matrices."""

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, NORMS, SELF_ATTENTION, SIZES, attention, mlp, norms
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.statements import HeadRule, Layout, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import linear, post_norm

NORMED_HEADS = Limit(
    "head_dim", "where LayerNorm of queries and keys leaves no room for padding", {"qk_layernorm": True}
)

PHI = Family(
    model_type="phi",
    known_as="Phi 1 to 2",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **attention(SELF_ATTENTION, out="dense"),
        **mlp("model.layers.*.mlp", "fc1", "fc2"),
        **norms("model.layers.*.input_layernorm", "model.final_layernorm"),
    },
    defaults={"partial_rotary_factor": 0.5},
    norm="layer",
    positions=Rotary(fraction="partial_rotary_factor"),
)
NORMED = PHI.variant(
    "phi",
    layout=Layout("query and key norms", {"qk_layernorm": True}),
    known_as="models with qk_layernorm true",
    tensors={
        "model.layers.*.self_attn.q_layernorm": post_norm("query"),
        "model.layers.*.self_attn.k_layernorm": post_norm("key"),
    },
    limits=(NORMED_HEADS,),
    heads=HeadRule.FILLS_EMBED,  # the norms are as long as hidden_size / heads, whatever head_dim says
)

PHI3 = Family(
    model_type="phi3",
    known_as="Phi 3 and 4",
    sizes=SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        "model.layers.*.self_attn.qkv_proj": linear("heads query | kv_heads key | kv_heads value", "embed"),
        "model.layers.*.self_attn.o_proj": linear("embed", "heads value"),
        "model.layers.*.mlp.gate_up_proj": linear("ffn | ffn", "embed"),
        "model.layers.*.mlp.down_proj": linear("embed", "ffn"),
        **NORMS,
    },
)

LONG_ROPE = PHI3.variant(
    "phi3",
    layout=Layout("long rope", {"rope_parameters.rope_type": "longrope"}),
    known_as="Phi 3 and 4 with rope of type longrope",
    aliases={"rope_parameters.rope_type": ("rope_scaling.rope_type", "rope_scaling.type")},
    tiny={"rope_parameters.short_factor": [1.0] * 8, "rope_parameters.long_factor": [2.0] * 8},
    heads=HeadRule.FILLS_EMBED,  # its factors are as many as hidden_size / heads calls for, whatever head_dim says
)

FAMILIES = (NORMED, PHI, LONG_ROPE, PHI3)
