"""GPT-NeoX Japanese: GPT-NeoX without biases in its linear layers, but for one in the last attention."""

from hyperclone_cli.families.blocks import sizes
from hyperclone_cli.families.gpt_neox import modules
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import drop, in_layers, parameter

_ATTENTION = "gpt_neox_japanese.layers.*.attention"

GPT_NEOX_JAPANESE = Family(
    model_type="gpt_neox_japanese",
    known_as="GPT-NeoX Japanese",
    sizes=sizes("ffn", "kv_heads", "head_dim"),
    multiples={"ffn": ("intermediate_multiple_size", "embed")},
    tensors={
        **modules("gpt_neox_japanese"),
        **in_layers("inner", {f"{_ATTENTION}.rotary_emb.inv_freq": drop("recomputed from the config")}),
        **in_layers("last", {f"{_ATTENTION}.dense_bias": parameter("embed")}),
    },
    defaults={"intermediate_multiple_size": 4, "rotary_pct": 1.0, "tie_word_embeddings": True},
    norm="layer",
    positions=Rotary(fraction="rotary_pct"),
)

FAMILIES = (GPT_NEOX_JAPANESE,)
