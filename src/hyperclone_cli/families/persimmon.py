"""Persimmon: LayerNorm before each block and, unless switched off, over each query and key; fused attention."""

from hyperclone_cli.families.gpt_neox import GPT_NEOX
from hyperclone_cli.families.phi import NORMED_HEADS
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family, Fold
from hyperclone_cli.families.vocabulary import embedding, linear, norm, optional, post_norm

PERSIMMON = Family(
    model_type="persimmon",
    known_as="Persimmon 8B",
    sizes=GPT_NEOX.sizes,
    tensors={
        "model.embed_tokens": embedding("vocab", "embed"),
        "model.layers.*.input_layernorm": norm("embed"),
        # a head's three parts lie together
        "model.layers.*.self_attn.query_key_value": linear("heads query+key+value", "embed"),
        "model.layers.*.self_attn.q_layernorm": optional(post_norm("query")),
        "model.layers.*.self_attn.k_layernorm": optional(post_norm("key")),
        "model.layers.*.self_attn.dense": linear("embed", "heads value"),
        "model.layers.*.post_attention_layernorm": norm("embed"),
        "model.layers.*.mlp.dense_h_to_4h": linear("ffn", "embed"),
        "model.layers.*.mlp.dense_4h_to_h": linear("embed", "ffn"),
        "model.final_layernorm": norm("embed"),
        "lm_head": optional(linear("vocab", "embed")),
    },
    defaults={"partial_rotary_factor": 0.5, "qk_layernorm": True, "tie_word_embeddings": False},
    norm="layer",
    positions=Rotary(fraction="partial_rotary_factor"),
    folds=(Fold("model.final_layernorm"),),
    limits=(NORMED_HEADS,),
)

FAMILIES = (PERSIMMON,)
