"""GPT-2 and GPT-BigCode (SantaCoder, StarCoder 1): LayerNorm before each block, learned positions, fused attention."""

from hyperclone_cli.families.blocks import causal_mask, mlp, norms
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.statements import Layout, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import conv1d, embedding, linear, optional

SIZES = {"embed": "n_embd", "ffn": "n_inner", "heads": "n_head", "vocab": "vocab_size", "layers": "n_layer"}
ALIASES = {
    "n_embd": ("hidden_size",),
    "n_head": ("num_attention_heads",),
    "n_layer": ("num_hidden_layers",),
    "n_positions": ("max_position_embeddings",),
}
EMBEDDING_AND_HEAD = {"transformer.wte": embedding("vocab", "embed"), "lm_head": optional(linear("vocab", "embed"))}
NORMS = norms("transformer.h.*.ln_1", "transformer.h.*.ln_2", "transformer.ln_f")

_UNSCALED = Limit(
    "head_dim", "where without scale_attn_weights no head size scales the scores", {"scale_attn_weights": False}
)

GPT2 = Family(
    model_type="gpt2",
    known_as="GPT-2, DistilGPT-2",
    sizes=SIZES,
    multiples={"ffn": (4, "embed")},
    aliases=ALIASES,
    context="n_positions",
    tensors={
        **EMBEDDING_AND_HEAD,
        "transformer.wpe": embedding("*", "embed"),
        "transformer.h.*.attn.c_attn": conv1d("embed", "heads query | heads key | heads value"),
        "transformer.h.*.attn.c_proj": conv1d("heads value", "embed"),
        **causal_mask("transformer.h.*.attn"),
        "transformer.h.*.mlp.c_fc": conv1d("embed", "ffn"),
        "transformer.h.*.mlp.c_proj": conv1d("ffn", "embed"),
        **NORMS,
    },
    defaults={
        "scale_attn_weights": True,
    },
    norm="layer",
    positions=Learned(),
    limits=(
        _UNSCALED,
        Limit("between", "where scores are divided by the layer's number", {"scale_attn_by_inverse_layer_idx": True}),
    ),
)

GPT_BIGCODE = GPT2.variant(
    "gpt_bigcode",
    layout=Layout("multi-head", {"multi_query": False}),
    known_as="models with multi_query false",
    aliases=ALIASES | {"n_head": ("num_attention_heads", "num_key_value_heads")},
    tensors={
        # a head's three parts lie together
        "transformer.h.*.attn.c_attn": linear("heads query+key+value", "embed"),
        "transformer.h.*.attn.c_proj": linear("embed", "heads value"),
        **mlp("transformer.h.*.mlp", "c_fc", "c_proj"),
    },
    limits=(_UNSCALED,),
)
MULTI_QUERY = GPT_BIGCODE.variant(
    "gpt_bigcode",
    layout=Layout(),
    known_as="SantaCoder, StarCoder 1",
    aliases=ALIASES,
    fixed={"kv_heads": 1},
    tensors={"transformer.h.*.attn.c_attn": linear("heads query | kv_heads key | kv_heads value", "embed")},
)

FAMILIES = (GPT2, GPT2.variant("gpt-sw3", known_as="GPT-SW3"), GPT_BIGCODE, MULTI_QUERY)
