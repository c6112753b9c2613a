"""GPT-NeoX Japanese: GPT-NeoX without biases in its linear layers, but for one in the last attention."""

from hyperclone_cli.families.gpt_neox import GPT_NEOX
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family, Fold
from hyperclone_cli.families.vocabulary import drop, embedding, in_layers, linear, norm, optional, parameter

GPT_NEOX_JAPANESE = Family(
    model_type="gpt_neox_japanese",
    known_as="GPT-NeoX Japanese",
    sizes={axis: key for axis, key in GPT_NEOX.sizes.items() if axis != "ffn"},
    multiples={"ffn": ("intermediate_multiple_size", "embed")},
    tensors={
        "gpt_neox_japanese.embed_in": embedding("vocab", "embed"),
        "gpt_neox_japanese.layers.*.input_layernorm": norm("embed"),
        "gpt_neox_japanese.layers.*.attention.query_key_value": linear("heads query+key+value", "embed"),
        "gpt_neox_japanese.layers.*.attention.dense": linear("embed", "heads value"),
        **in_layers(
            "inner",
            {"gpt_neox_japanese.layers.*.attention.rotary_emb.inv_freq": drop("recomputed from the config")},
        ),
        **in_layers("last", {"gpt_neox_japanese.layers.*.attention.dense_bias": parameter("embed")}),
        "gpt_neox_japanese.layers.*.post_attention_layernorm": norm("embed"),
        "gpt_neox_japanese.layers.*.mlp.dense_h_to_4h": linear("ffn", "embed"),
        "gpt_neox_japanese.layers.*.mlp.dense_4h_to_h": linear("embed", "ffn"),
        "gpt_neox_japanese.final_layer_norm": norm("embed"),
        "embed_out": optional(linear("vocab", "embed")),
    },
    defaults={"intermediate_multiple_size": 4, "rotary_pct": 1.0, "tie_word_embeddings": True},
    norm="layer",
    positions=Rotary(fraction="rotary_pct"),
    prefix="gpt_neox_japanese",
    embedding="gpt_neox_japanese.embed_in",
    head="embed_out",
    folds=(Fold("gpt_neox_japanese.final_layer_norm"),),
)

FAMILIES = (GPT_NEOX_JAPANESE,)
