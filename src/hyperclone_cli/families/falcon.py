"""Falcon: LayerNorm, rotary or ALiBi positions, queries, keys and values fused in one of three layouts."""

from hyperclone_cli.families.blocks import mlp, sizes
from hyperclone_cli.families.positions import Alibi, Rotary
from hyperclone_cli.families.statements import Layout, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import embedding, linear, norm, optional

_ALIBI = {"alibi": True}
_HEAD_SIZE = Limit("head_dim", "where ALiBi's slopes are divided by the root of the head size", _ALIBI)
_SIZES = sizes("kv_heads", "head_dim", ffn="ffn_hidden_size")

# 7b: one key/value head, after the queries of all heads
FALCON = Family(
    model_type="falcon",
    known_as="Falcon 7B",
    sizes=_SIZES,
    fixed={"kv_heads": 1},
    multiples={"ffn": (4, "embed")},
    aliases={"hidden_size": ("n_embed",)},
    tensors={
        "transformer.word_embeddings": embedding("vocab", "embed"),
        "transformer.h.*.input_layernorm": optional(norm("embed")),
        "transformer.h.*.ln_attn": optional(norm("embed")),
        "transformer.h.*.ln_mlp": optional(norm("embed")),
        "transformer.h.*.self_attention.query_key_value": linear(
            "heads query | kv_heads key | kv_heads value", "embed"
        ),
        "transformer.h.*.self_attention.dense": linear("embed", "heads value"),
        "transformer.h.*.post_attention_layernorm": optional(norm("embed")),
        **mlp("transformer.h.*.mlp", "dense_h_to_4h", "dense_4h_to_h"),
        "transformer.ln_f": norm("embed"),
        "lm_head": optional(linear("vocab", "embed")),
    },
    norm="layer",
    limits=(
        Limit("heads", "where ALiBi gives every head a slope that depends on how many there are", _ALIBI),
        _HEAD_SIZE,
    ),
)
# 40b and 11b: in each key/value head its queries, its key, its value
GROUPED = FALCON.variant(
    "falcon",
    layout=Layout("new decoder", {"new_decoder_architecture": True}),
    known_as="Falcon 40B, 180B and 11B",
    sizes={**_SIZES, "kv_heads": "num_kv_heads"},
    fixed={},
    cache=("heads key", "heads value"),  # transformers repeats a group's key and value before it caches them
    tensors={"transformer.h.*.self_attention.query_key_value": linear("kv_heads group.query+key+value", "embed")},
)
# rw: in each head a query, a key and a value
MULTI_HEAD = FALCON.variant(
    "falcon",
    layout=Layout("multi-head", {"multi_query": False}),
    known_as="Falcon RW",
    aliases={"hidden_size": ("n_embed",), "num_attention_heads": ("num_kv_heads",)},
    fixed={},
    tensors={"transformer.h.*.self_attention.query_key_value": linear("heads query+key+value", "embed")},
    positions=Alibi(when=_ALIBI, otherwise=Rotary(), more_heads=True),
    limits=(_HEAD_SIZE,),
)

FAMILIES = (GROUPED, MULTI_HEAD, FALCON)
