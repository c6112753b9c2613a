"""Gemma 4: two types of layer with heads of two sizes, an embedding for each layer, and in some models experts.

Its layers may share the keys and values of an earlier one, and take their keys for values.
"""

from dataclasses import replace

from hyperclone_cli.families.blocks import GATED_MLP, NORMED_ATTENTION, SCALED_EMBEDDING_AND_HEAD, SIZES
from hyperclone_cli.families.layer_rules import Last, Listed, Overrides
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Layout, Limit, PerLayer
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import (
    bare,
    embedding,
    from_stream,
    in_layers,
    layer_scale,
    linear,
    norm,
    optional,
    parameter,
    post_norm,
    stacked,
    summed,
)

SANDWICH_NORMS = {
    "model.layers.*.input_layernorm": norm("embed"),
    "model.layers.*.post_attention_layernorm": post_norm("embed"),
    "model.layers.*.pre_feedforward_layernorm": norm("embed"),
    "model.layers.*.post_feedforward_layernorm": post_norm("embed"),
    "model.norm": norm("embed"),
}
# an embedding of its own for each layer, narrow, and kept as it is
EMBEDDING_PER_LAYER = {
    "model.embed_tokens_per_layer": embedding("*", "layers layer_input"),
    "model.per_layer_model_projection": from_stream(linear("layers layer_input", "embed", forward_power=-0.5)),
    "model.per_layer_projection_norm": norm("*"),
    "model.layers.*.per_layer_input_gate": from_stream(linear("*", "embed")),
    "model.layers.*.per_layer_projection": linear("embed", "*"),
    "model.layers.*.post_per_layer_input_norm": post_norm("embed"),
}
OWN_KEYS = ("model.layers.*.self_attn.k_proj", "model.layers.*.self_attn.k_norm")
OWN_VALUES = ("model.layers.*.self_attn.v_proj",)
SHARING_ATTENTION = {
    **NORMED_ATTENTION,
    **in_layers("keys/own", {module: NORMED_ATTENTION[module] for module in OWN_KEYS}),
    **in_layers("values/own", {module: NORMED_ATTENTION[module] for module in OWN_VALUES}),
}
_EXPERTS = {
    "model.layers.*.router.scale": bare(norm("embed")),
    "model.layers.*.router.proj": linear("experts", "embed", forward_power=-0.5),
    "model.layers.*.router.per_expert_scale": parameter("experts"),
    "model.layers.*.experts.gate_up_proj": stacked(bare(linear("experts moe_ffn+moe_ffn", "embed"))),
    "model.layers.*.experts.down_proj": stacked(bare(linear("experts embed", "moe_ffn"))),
    "model.layers.*.pre_feedforward_layernorm_2": norm("embed"),
    "model.layers.*.post_feedforward_layernorm_1": summed(post_norm("embed")),
    "model.layers.*.post_feedforward_layernorm_2": summed(post_norm("embed")),
}
_TINY = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 8,
    "global_head_dim": 24,
}
_TINY_SHARING = {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}

_PER_LAYER = PerLayer(
    keys={"full_attention": {"head_dim": "global_head_dim"}},
    kv_shared="num_kv_shared_layers",
    double_wide="use_double_wide_mlp",
)

GEMMA4 = Family(
    model_type="gemma4_text",
    known_as="Gemma 4 E2B and E4B (text)",
    tiny={**_TINY, **_TINY_SHARING, "hidden_size_per_layer_input": 12, "vocab_size_per_layer_input": 96},
    sizes={
        **SIZES,
        "moe_ffn": "moe_intermediate_size",
        "experts": "num_experts",
        "layer_input": "hidden_size_per_layer_input",
    },
    per_layer=_PER_LAYER,
    layer_rules=(
        Listed("layer_types", last="full_attention"),
        Overrides("per_layer_config"),
        Last("num_kv_shared_layers"),
    ),
    tensors={
        **SCALED_EMBEDDING_AND_HEAD,
        **SHARING_ATTENTION,
        **GATED_MLP,
        **{module: optional(form) for module, form in (EMBEDDING_PER_LAYER | _EXPERTS).items()},
        **SANDWICH_NORMS,
        "model.layers.*.layer_scalar": layer_scale(),
    },
    defaults={
        "global_head_dim": 512,
        "hidden_size_per_layer_input": 256,
    },
    routing=Routing(None, "top_k_experts"),
    positions=Rotary(constant_scale="1"),
    limits=(Limit("head_dim", "where the two types of layer have heads of two sizes"),),
)
KEYS_ARE_VALUES = GEMMA4.variant(
    "gemma4_text",
    layout=Layout("keys are values", {"attention_k_eq_v": True}),
    known_as="Gemma 4 31B and 26B A4B (text)",
    tiny={
        **_TINY,
        "hidden_size_per_layer_input": 0,
        "num_global_key_value_heads": 1,
        "enable_moe_block": True,
        "top_k_experts": 2,
    },
    per_layer=replace(
        _PER_LAYER,
        keys={"full_attention": {"head_dim": "global_head_dim", "kv_heads": "num_global_key_value_heads"}},
        keys_are_values=("full_attention",),
    ),
)

UNIFIED, UNIFIED_KEYS_ARE_VALUES = (
    family.without(*EMBEDDING_PER_LAYER, *_EXPERTS).variant(
        "gemma4_unified_text",
        known_as="Gemma 4 Unified (text)",
        sizes=SIZES,
        routing=None,
        tiny=_TINY | _TINY_SHARING | {"num_global_key_value_heads": 1},
    )
    for family in (GEMMA4, KEYS_ARE_VALUES)
)

FAMILIES = (KEYS_ARE_VALUES, GEMMA4, UNIFIED_KEYS_ARE_VALUES, UNIFIED)
