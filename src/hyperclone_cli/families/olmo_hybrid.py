"""OLMo Hybrid: gated delta nets with norms before each block, and in some layers OLMo 2's attention, norms behind."""

from hyperclone_cli.families.blocks import (
    EMBEDDING_AND_HEAD,
    GATED_MLP,
    SELF_ATTENTION,
    attention,
    norms,
    qk_norms,
    sizes,
    under,
)
from hyperclone_cli.families.layer_rules import LAYER_TYPES
from hyperclone_cli.families.statements import Layout, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, depthwise, in_layers, linear, norm, parameter, post_norm

_KEYS, _VALUES = "delta_heads delta_key", "delta_values delta_value"
_TWO_PLACES = "where a norm that stands before a block in some layers stands behind one in others"
_LAYER = "model.layers.*"
_SEPARATE = {
    "q_conv1d": depthwise(_KEYS),
    "k_conv1d": depthwise(_KEYS),
    "v_conv1d": depthwise(_VALUES),
}
_TOGETHER = {"conv1d": depthwise(f"{_KEYS} | {_KEYS} | {_VALUES}")}


def _olmo_hybrid(layout: Layout, convolutions: dict[str, Form], first: str, second: str) -> Family:
    delta: dict[str, Form] = {
        "q_proj": linear(_KEYS, "embed"),
        "k_proj": linear(_KEYS, "embed"),
        "v_proj": linear(_VALUES, "embed"),
        "a_proj": linear("delta_values", "embed"),
        "b_proj": linear("delta_values", "embed"),
        "g_proj": linear(_VALUES, "embed"),
        "A_log": parameter("delta_values"),
        "dt_bias": parameter("delta_values"),
        "o_norm": norm("delta_value"),
        "o_proj": linear("embed", _VALUES),
    }
    return Family(
        model_type="olmo_hybrid",
        layout=layout,
        known_as="OLMo Hybrid",
        tiny={
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
        sizes=sizes(
            "head_dim",
            delta_heads="linear_num_key_heads",
            delta_values="linear_num_value_heads",
            delta_key="linear_key_head_dim",
            delta_value="linear_value_head_dim",
        ),
        tensors={
            **EMBEDDING_AND_HEAD,
            **in_layers(
                "delta",
                under(f"{_LAYER}.linear_attn", delta | convolutions) | norms(f"{_LAYER}.{first}"),
            ),
            **in_layers(
                "attention",
                attention(SELF_ATTENTION)
                | qk_norms(SELF_ATTENTION)
                | {
                    f"{SELF_ATTENTION}.q_norm": post_norm("heads query"),
                    f"{SELF_ATTENTION}.k_norm": post_norm("kv_heads key"),
                    f"{_LAYER}.post_feedforward_layernorm": post_norm("embed"),
                },
            ),
            **GATED_MLP,
            **norms(f"{_LAYER}.{second}", "model.norm"),
        },
        layer_rules=(LAYER_TYPES,),
        limits=(Limit("pads", _TWO_PLACES), Limit("layers", _TWO_PLACES)),
    )


FAMILIES = (
    _olmo_hybrid(
        Layout("in memory", module=f"{_LAYER}.linear_attn.conv1d"),
        _TOGETHER,
        "input_layernorm",
        "post_attention_layernorm",
    ),
    _olmo_hybrid(Layout(), _SEPARATE, "attention_layer_norm", "feedforward_layer_norm"),
)
