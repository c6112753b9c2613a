"""LFM2 of Liquid AI: short gated convolutions, and in some layers attention with norms of queries and keys."""

from fractions import Fraction

from hyperclone_cli.families.llama import EMBEDDING_AND_HEAD, SIZES
from hyperclone_cli.families.table import Family, Fold, Stated
from hyperclone_cli.families.vocabulary import depthwise, in_layers, linear, norm, normed, post_norm

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
            {
                "model.layers.*.self_attn.q_proj": normed(linear("heads query", "embed")),
                "model.layers.*.self_attn.k_proj": normed(linear("kv_heads key", "embed")),
                "model.layers.*.self_attn.v_proj": linear("kv_heads value", "embed"),
                "model.layers.*.self_attn.out_proj": linear("embed", "heads value"),
                "model.layers.*.self_attn.q_layernorm": post_norm("query"),
                "model.layers.*.self_attn.k_layernorm": post_norm("key"),
            },
        ),
        "model.layers.*.feed_forward.w1": linear("ffn", "embed"),
        "model.layers.*.feed_forward.w3": linear("ffn", "embed"),
        "model.layers.*.feed_forward.w2": linear("embed", "ffn"),
        "model.layers.*.operator_norm": norm("embed"),
        "model.layers.*.ffn_norm": norm("embed"),
        "model.embedding_norm": norm("embed"),
    },
    defaults={
        "num_key_value_heads": 8,
        "head_dim": None,
        "block_auto_adjust_ff_dim": True,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
        "tie_word_embeddings": True,
    },
    folds=(Fold("model.embedding_norm"),),
)

FAMILIES = (LFM2,)
