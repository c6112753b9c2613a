"""BLOOM and MPT: LayerNorm, and ALiBi, whose slopes depend on how many heads there are: heads grow in size alone."""

from hyperclone_cli.families.blocks import mlp, norms
from hyperclone_cli.families.gpt2 import EMBEDDING_AND_HEAD
from hyperclone_cli.families.positions import Alibi
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import embedding, linear, optional, post_norm

BLOOM = Family(
    model_type="bloom",
    known_as="BLOOM, BLOOMZ",
    sizes={"embed": "hidden_size", "heads": "n_head", "vocab": "vocab_size", "layers": "n_layer"},
    multiples={"ffn": (4, "embed")},
    aliases={"hidden_size": ("n_embed",), "n_head": ("num_attention_heads",), "n_layer": ("num_hidden_layers",)},
    context="seq_length",
    tensors={
        "transformer.word_embeddings": embedding("vocab", "embed"),
        "transformer.word_embeddings_layernorm": post_norm("embed"),
        # a head's three parts lie together
        "transformer.h.*.self_attention.query_key_value": linear("heads query+key+value", "embed"),
        "transformer.h.*.self_attention.dense": linear("embed", "heads value"),
        **mlp("transformer.h.*.mlp", "dense_h_to_4h", "dense_4h_to_h"),
        **norms("transformer.h.*.input_layernorm", "transformer.h.*.post_attention_layernorm", "transformer.ln_f"),
        "lm_head": optional(linear("vocab", "embed")),
    },
    norm="layer",
    positions=Alibi(),
    limits=(
        Limit(
            "layers",
            "where each layer adds to the norm of the stream, so that none leaves the stream as it is",
            {"apply_residual_connection_post_layernorm": True},
        ),
    ),
)

MPT = Family(
    model_type="mpt",
    known_as="MPT",
    sizes={"embed": "d_model", "heads": "n_heads", "vocab": "vocab_size", "layers": "n_layers"},
    multiples={"ffn": (4, "embed")},
    aliases={"d_model": ("hidden_size",), "n_heads": ("num_attention_heads",), "n_layers": ("num_hidden_layers",)},
    context="max_seq_len",
    tensors={
        **EMBEDDING_AND_HEAD,
        "transformer.blocks.*.attn.Wqkv": linear("heads query | heads key | heads value", "embed"),
        "transformer.blocks.*.attn.out_proj": linear("embed", "heads value"),
        **mlp("transformer.blocks.*.ffn", "up_proj", "down_proj"),
        **norms("transformer.blocks.*.norm_1", "transformer.blocks.*.norm_2", "transformer.norm_f"),
    },
    norm="layer",
    positions=Alibi(stated_scale="attn_config.softmax_scale"),
)

FAMILIES = (BLOOM, MPT)
