"""GPT-NeoX and Pythia: LayerNorm, parallel or sequential residual, one fused query/key/value matrix."""

from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family, Fold
from hyperclone_cli.families.vocabulary import drop, embedding, linear, norm, optional

GPT_NEOX = Family(
    model_type="gpt_neox",
    known_as="Pythia, GPT-NeoX 20B",
    sizes={
        "embed": "hidden_size",
        "ffn": "intermediate_size",
        "heads": "num_attention_heads",
        "vocab": "vocab_size",
        "layers": "num_hidden_layers",
    },
    tensors={
        "gpt_neox.embed_in": embedding("vocab", "embed"),
        "gpt_neox.layers.*.input_layernorm": norm("embed"),
        # a head's three parts lie together
        "gpt_neox.layers.*.attention.query_key_value": linear("heads query+key+value", "embed"),
        "gpt_neox.layers.*.attention.dense": linear("embed", "heads value"),
        "gpt_neox.layers.*.attention.bias": drop("causal mask, rebuilt on load"),
        "gpt_neox.layers.*.attention.masked_bias": drop("causal mask, rebuilt on load"),
        "gpt_neox.layers.*.attention.rotary_emb.inv_freq": drop("recomputed from the config"),
        "gpt_neox.rotary_emb.inv_freq": drop("recomputed from the config"),
        "gpt_neox.layers.*.post_attention_layernorm": norm("embed"),
        "gpt_neox.layers.*.mlp.dense_h_to_4h": linear("ffn", "embed"),
        "gpt_neox.layers.*.mlp.dense_4h_to_h": linear("embed", "ffn"),
        "gpt_neox.final_layer_norm": norm("embed"),
        "embed_out": optional(linear("vocab", "embed")),
        "lm_head": optional(linear("vocab", "embed")),  # the same head, as some exporters name it
    },
    defaults={"tie_word_embeddings": False, "rotary_pct": 0.25},
    norm="layer",
    positions=Rotary(fraction="rotary_pct"),
    prefix="gpt_neox",
    embedding="gpt_neox.embed_in",
    head="embed_out",
    folds=(Fold("gpt_neox.final_layer_norm"),),
)

FAMILIES = (GPT_NEOX,)
