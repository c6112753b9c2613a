"""Persimmon: LayerNorm before each block and, unless switched off, over each query and key; fused attention."""

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, mlp, norms, sizes
from hyperclone_cli.families.phi import NORMED_HEADS
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import linear, optional, post_norm

PERSIMMON = Family(
    model_type="persimmon",
    known_as="Persimmon 8B",
    sizes=sizes("kv_heads", "head_dim"),
    tensors={
        **EMBEDDING_AND_HEAD,
        # a head's three parts lie together
        "model.layers.*.self_attn.query_key_value": linear("heads query+key+value", "embed"),
        "model.layers.*.self_attn.q_layernorm": optional(post_norm("query")),
        "model.layers.*.self_attn.k_layernorm": optional(post_norm("key")),
        "model.layers.*.self_attn.dense": linear("embed", "heads value"),
        **mlp("model.layers.*.mlp", "dense_h_to_4h", "dense_4h_to_h"),
        **norms("model.layers.*.input_layernorm", "model.layers.*.post_attention_layernorm", "model.final_layernorm"),
    },
    defaults={
        "partial_rotary_factor": 0.5,
    },
    norm="layer",
    positions=Rotary(fraction="partial_rotary_factor"),
    limits=(NORMED_HEADS,),
)

FAMILIES = (PERSIMMON,)
