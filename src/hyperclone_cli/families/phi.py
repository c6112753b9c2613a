"""Phi: Phi-1 to 2 with LayerNorm and parallel blocks; Phi-3 and 4, which are Llama with fused matrices."""

from hyperclone_cli.families.llama import EMBEDDING_AND_HEAD, SIZES
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family, Fold, HeadRule, Layout, Limit
from hyperclone_cli.families.vocabulary import embedding, linear, norm, optional, post_norm

NORMED_HEADS = Limit(
    "head_dim", "where LayerNorm of queries and keys leaves no room for padding", {"qk_layernorm": True}
)

PHI = Family(
    model_type="phi",
    known_as="Phi 1 to 2",
    sizes=SIZES,
    tensors={
        "model.embed_tokens": embedding("vocab", "embed"),
        "model.layers.*.input_layernorm": norm("embed"),
        "model.layers.*.self_attn.q_proj": linear("heads query", "embed"),
        "model.layers.*.self_attn.k_proj": linear("kv_heads key", "embed"),
        "model.layers.*.self_attn.v_proj": linear("kv_heads value", "embed"),
        "model.layers.*.self_attn.dense": linear("embed", "heads value"),
        "model.layers.*.mlp.fc1": linear("ffn", "embed"),
        "model.layers.*.mlp.fc2": linear("embed", "ffn"),
        "model.final_layernorm": norm("embed"),
        "lm_head": optional(linear("vocab", "embed")),
    },
    defaults={
        "num_key_value_heads": None,
        "head_dim": None,
        "partial_rotary_factor": 0.5,
        "qk_layernorm": False,
        "tie_word_embeddings": False,
    },
    norm="layer",
    positions=Rotary(fraction="partial_rotary_factor"),
    folds=(Fold("model.final_layernorm"),),
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
        "model.layers.*.input_layernorm": norm("embed"),
        "model.layers.*.self_attn.qkv_proj": linear("heads query | kv_heads key | kv_heads value", "embed"),
        "model.layers.*.self_attn.o_proj": linear("embed", "heads value"),
        "model.layers.*.post_attention_layernorm": norm("embed"),
        "model.layers.*.mlp.gate_up_proj": linear("ffn | ffn", "embed"),
        "model.layers.*.mlp.down_proj": linear("embed", "ffn"),
        "model.norm": norm("embed"),
    },
    defaults={"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
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
