"""ZAYA: queries and keys pass convolutions over time, and half of the values are those of the token before.

A head's key has the mean of its queries added. Both sides of each residual sum have a scale and a bias, and each
layer's router reads what that of the layer before has read.
"""

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, NORMS, sizes, under
from hyperclone_cli.families.layer_rules import LAYER_TYPES
from hyperclone_cli.families.statements import HeadRule, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import (
    Form,
    bare,
    bias,
    convolution,
    depthwise,
    factor,
    in_some_layers,
    linear,
    norm,
    parameter,
    stacked,
)

_LAYER = "model.layers.*"
_HEADS, _KEY_HEADS = "2 kv_pairs group", "2 kv_pairs"
_QUERIES_AND_KEYS = f"{_HEADS} query | {_KEY_HEADS} key"
_SUM = {
    "hidden_states_scale": factor("embed"),
    "hidden_states_bias": bias("embed"),
    "residual_scale": factor("embed"),
    "residual_bias": bias("embed"),
}
_ATTENTION: dict[str, Form] = {
    "qkv_proj.q_proj": linear(f"{_HEADS} query", "embed"),
    "qkv_proj.k_proj": linear(f"{_KEY_HEADS} key", "embed"),
    "qkv_proj.v_proj_current": linear("kv_pairs value", "embed"),
    "qkv_proj.v_proj_delayed": linear("kv_pairs value", "embed"),
    "qkv_proj.conv_qk_depthwise": depthwise(_QUERIES_AND_KEYS),
    "qkv_proj.conv_qk_grouped": convolution(_QUERIES_AND_KEYS, 3),
    "qk_norm.temp": parameter(_KEY_HEADS),
    "o_proj": linear("embed", f"{_HEADS} value"),
}
_ROUTER = {
    "down_proj": linear("*", "embed"),
    "router_states_scale": in_some_layers(parameter("*")),
    "router_mlp.norm": norm("*"),
    "router_mlp.fc1": linear("*", "*"),
    "router_mlp.fc2": linear("*", "*"),
    "router_mlp.out_proj": linear("*", "*"),
    "balancing_biases": parameter("*"),
}

ZAYA = Family(
    model_type="zaya",
    known_as="ZAYA1",
    tiny={
        "num_experts_per_tok": 1,
        "router_hidden_size": 12,
        "layer_types": ["hybrid", "hybrid_sliding"],
        "sliding_window": 8,
    },
    sizes=sizes(ffn="moe_intermediate_size", experts="num_experts"),
    tensors={
        **EMBEDDING_AND_HEAD,
        "model.input_hidden_states_scale": factor("embed"),
        "model.input_hidden_states_bias": bias("embed"),
        **under(f"{_LAYER}.self_attn", _ATTENTION),
        **under(f"{_LAYER}.post_attention_residual_scale", _SUM),
        **under(f"{_LAYER}.mlp.gate", _ROUTER),
        f"{_LAYER}.mlp.experts.gate_up_proj": stacked(bare(linear("experts ffn+ffn", "embed"))),
        f"{_LAYER}.mlp.experts.down_proj": stacked(bare(linear("experts embed", "ffn"))),
        **under(f"{_LAYER}.post_mlp_residual_scale", _SUM),
        **NORMS,
    },
    heads=HeadRule.PAIRED,
    mean_of_group=True,
    layer_rules=(LAYER_TYPES,),
    limits=(
        Limit("head_dim", "whose convolutions read all units of a head"),
        Limit("layers", "where each router reads what the router of the layer before has read"),
    ),
)

FAMILIES = (ZAYA,)
