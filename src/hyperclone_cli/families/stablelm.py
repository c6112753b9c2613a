"""StableLM: Llama with LayerNorm, rotary positions in a part of each head, sequential or parallel blocks."""

from hyperclone_cli.axes import norm, optional
from hyperclone_cli.families.llama import ATTENTION, EMBEDDING_AND_HEAD, GATED_MLP, SIZES
from hyperclone_cli.families.table import Family, Limit

_NORMED = {"qk_layernorm": True}

STABLELM = Family(
    model_type="stablelm",
    sizes={axis: key for axis, key in SIZES.items() if axis != "head_dim"},
    tensors={
        **EMBEDDING_AND_HEAD,
        **ATTENTION,
        **GATED_MLP,
        "model.layers.*.input_layernorm": norm("embed"),
        "model.layers.*.post_attention_layernorm": optional(norm("embed")),
        "model.norm": norm("embed"),
    },
    defaults={
        "num_key_value_heads": 32,
        "partial_rotary_factor": 0.25,
        "qk_layernorm": False,
        "tie_word_embeddings": False,
    },
    norm="layer",
    rotary_fraction="partial_rotary_factor",
    limits=(
        Limit("heads", "where with qk_layernorm every head has a norm with a name of its own", _NORMED),
        Limit("head_dim", "where LayerNorm of queries and keys leaves no room for padding", _NORMED),
    ),
)

FAMILIES = (STABLELM,)
