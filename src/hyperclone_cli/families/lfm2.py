"""LFM2 of Liquid AI: short gated convolutions, and in some layers attention with norms of queries and keys."""

from fractions import Fraction

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, SELF_ATTENTION, SIZES, attention, norms, qk_norms
from hyperclone_cli.families.layer_rules import LAYER_TYPES, Numbers
from hyperclone_cli.families.table import Family, Stated
from hyperclone_cli.families.vocabulary import depthwise, in_layers, linear

LFM2 = Family(
    model_type="lfm2",
    known_as="LFM2",
    tiny={"layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
    sizes=SIZES,
    multiples={"inner": (1, "embed")},
    stated={
        "ffn": Stated(
            Fraction(2, 3),
            times="block_ffn_dim_multiplier",
            multiple="block_multiple_of",
            switch="block_auto_adjust_ff_dim",
        )
    },
    aliases={
        "hidden_size": ("block_dim", "conv_dim", "conv_dim_out"),
        "intermediate_size": ("block_ff_dim",),
        "num_attention_heads": ("num_heads",),
        "tie_word_embeddings": ("tie_embedding",),
    },
    tensors={
        **EMBEDDING_AND_HEAD,
        **in_layers(
            "conv",
            {
                "model.layers.*.conv.in_proj": linear("inner | inner | inner", "embed"),
                "model.layers.*.conv.conv": depthwise("inner"),
                "model.layers.*.conv.out_proj": linear("embed", "inner"),
            },
        ),
        **in_layers(
            "attention",
            attention(SELF_ATTENTION, out="out_proj") | qk_norms(SELF_ATTENTION, "q_layernorm", "k_layernorm"),
        ),
        "model.layers.*.feed_forward.w1": linear("ffn", "embed"),
        "model.layers.*.feed_forward.w3": linear("ffn", "embed"),
        "model.layers.*.feed_forward.w2": linear("embed", "ffn"),
        **norms("model.layers.*.operator_norm", "model.layers.*.ffn_norm", "model.embedding_norm"),
    },
    defaults={
        "num_key_value_heads": 8,
        "block_auto_adjust_ff_dim": True,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
        "tie_word_embeddings": True,
    },
    layer_rules=(LAYER_TYPES, Numbers("full_attn_idxs")),
)

FAMILIES = (LFM2,)
