"""GPT-NeoX and Pythia: LayerNorm, parallel or sequential residual, one fused query/key/value matrix.

GPT-NeoX Japanese has no biases in its linear layers, but for one in the last attention.
"""

from hyperclone_cli.families.blocks import causal_mask, mlp, norms, sizes
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, bias, drop, embedding, in_layers, linear, optional


def _modules(prefix: str) -> dict[str, Form]:
    """The modules of GPT-NeoX and of its Japanese relation, under the base model's name."""
    return {
        f"{prefix}.embed_in": embedding("vocab", "embed"),
        # a head's three parts lie together
        f"{prefix}.layers.*.attention.query_key_value": linear("heads query+key+value", "embed"),
        f"{prefix}.layers.*.attention.dense": linear("embed", "heads value"),
        f"{prefix}.layers.*.attention.rotary_emb.inv_freq": drop("recomputed from the config"),
        **mlp(f"{prefix}.layers.*.mlp", "dense_h_to_4h", "dense_4h_to_h"),
        **norms(f"{prefix}.layers.*.input_layernorm", f"{prefix}.layers.*.post_attention_layernorm"),
        **norms(f"{prefix}.final_layer_norm"),
        "embed_out": optional(linear("vocab", "embed")),
    }


GPT_NEOX = Family(
    model_type="gpt_neox",
    known_as="Pythia, GPT-NeoX 20B",
    sizes=sizes("kv_heads", "head_dim"),
    tensors={
        **_modules("gpt_neox"),
        **causal_mask("gpt_neox.layers.*.attention"),
        "gpt_neox.rotary_emb.inv_freq": drop("recomputed from the config"),
        "lm_head": optional(linear("vocab", "embed")),  # the same head, as some exporters name it
    },
    defaults={"rotary_pct": 0.25},
    norm="layer",
    positions=Rotary(fraction="rotary_pct"),
)

_ATTENTION = "gpt_neox_japanese.layers.*.attention"

GPT_NEOX_JAPANESE = Family(
    model_type="gpt_neox_japanese",
    known_as="GPT-NeoX Japanese",
    sizes=sizes("ffn", "kv_heads", "head_dim"),
    multiples={"ffn": ("intermediate_multiple_size", "embed")},
    tensors={
        **_modules("gpt_neox_japanese"),
        **in_layers("inner", {f"{_ATTENTION}.rotary_emb.inv_freq": drop("recomputed from the config")}),
        **in_layers("last", {f"{_ATTENTION}.dense_bias": bias("embed")}),
    },
    defaults={
        "rotary_pct": 1.0,
    },
    norm="layer",
    positions=Rotary(fraction="rotary_pct"),
    limits=(Limit("last", "where the last layer alone has a bias in its attention"),),
)

FAMILIES = (GPT_NEOX, GPT_NEOX_JAPANESE)
