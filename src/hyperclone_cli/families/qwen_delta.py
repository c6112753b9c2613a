"""Qwen3-Next and Qwen 3.5: gated delta nets in three layers of four, attention with a gate on its output in the fourth.

All norms multiply by (1 + weight) but the delta nets' own. Value heads come in groups, one for each key head.
"""

from hyperclone_cli.families.blocks import (
    ATTENTION,
    EMBEDDING_AND_HEAD,
    GATED_MLP,
    PLUS_ONE_NORMS,
    SELF_ATTENTION,
    SIZES,
    qk_norms,
    under,
)
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import types_by_period
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.qwen_moe import DENSE_LAYERS, EXPERTS, QWEN2_MOE, QWEN3_MOE, SHARED_EXPERT, experts
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import NextToken
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, depthwise, in_layers, linear, norm, normed, parameter

_PARTS = "delta_heads delta_key | delta_heads delta_key | delta_values delta_value"
DELTA: dict[str, Form] = {
    "conv1d": depthwise(_PARTS),
    "dt_bias": parameter("delta_values"),
    "A_log": parameter("delta_values"),
    "norm": norm("delta_value"),
    "out_proj": linear("embed", "delta_values delta_value"),
}
_KEY_HEAD_BY_KEY_HEAD = {
    "in_proj_qkvz": linear("delta_heads delta_key+delta_key+delta_group.delta_value+delta_group.delta_value", "embed"),
    "in_proj_ba": linear("delta_heads delta_group+delta_group", "embed"),
}
PART_BY_PART = {
    "in_proj_qkv": linear(_PARTS, "embed"),
    "in_proj_z": linear("delta_values delta_value", "embed"),
    "in_proj_b": linear("delta_values", "embed"),
    "in_proj_a": linear("delta_values", "embed"),
}
_ATTENTION = {
    **ATTENTION,
    **qk_norms(SELF_ATTENTION, plus_one=True),
    "model.layers.*.self_attn.q_proj": normed(linear("heads query+value", "embed")),  # and the output's gate
}
_SIZES = {
    **SIZES,
    "delta_heads": "linear_num_key_heads",
    "delta_values": "linear_num_value_heads",
    "delta_key": "linear_key_head_dim",
    "delta_value": "linear_value_head_dim",
}
_LAYER_TYPES = types_by_period("full_attention_interval", length=4, other="linear")
_TINY = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 12,
    "layer_types": ["linear_attention", "full_attention"],
}
_DEFAULTS = {"partial_rotary_factor": 0.25}

QWEN3_NEXT = Family(
    model_type="qwen3_next",
    known_as="Qwen3-Next",
    tiny={**_TINY, **QWEN3_MOE.tiny},
    sizes={**_SIZES, **QWEN2_MOE.sizes},
    aliases=QWEN3_MOE.aliases,
    tensors={
        **EMBEDDING_AND_HEAD,
        **in_layers("mixer/delta", under("model.layers.*.linear_attn", DELTA | _KEY_HEAD_BY_KEY_HEAD)),
        **in_layers("mixer/attention", _ATTENTION),
        **in_layers("mlp/experts", EXPERTS | SHARED_EXPERT),
        **in_layers("mlp/dense", GATED_MLP),
        **PLUS_ONE_NORMS,
    },
    layer_rules=(DENSE_LAYERS, _LAYER_TYPES),
    routing=Routing(10),
    defaults=_DEFAULTS,
    positions=Rotary(fraction="partial_rotary_factor"),
    next_token=NextToken(names="mtp."),
)

QWEN3_5 = Family(
    model_type="qwen3_5_text",
    known_as="Qwen 3.5 (text)",
    tiny=_TINY,
    sizes=_SIZES,
    tensors={
        **EMBEDDING_AND_HEAD,
        **in_layers("delta", under("model.layers.*.linear_attn", DELTA | PART_BY_PART)),
        **in_layers("attention", _ATTENTION),
        **GATED_MLP,
        **PLUS_ONE_NORMS,
    },
    layer_rules=(_LAYER_TYPES,),
    defaults=_DEFAULTS,
    positions=Rotary(fraction="partial_rotary_factor"),
    next_token=NextToken("mtp_num_hidden_layers", "mtp."),
)

QWEN3_5_MOE = QWEN3_5.without(*GATED_MLP).variant(
    "qwen3_5_moe_text",
    known_as="Qwen 3.5 MoE (text)",
    tiny={**_TINY, "num_experts_per_tok": 2},
    sizes={
        **_SIZES,
        "ffn": "moe_intermediate_size",
        "shared_ffn": "shared_expert_intermediate_size",
        "experts": "num_experts",
    },
    aliases=QWEN3_MOE.aliases,
    tensors={**experts("model.layers.*.mlp", "ffn"), **SHARED_EXPERT},
    routing=Routing(8),
)

FAMILIES = (fused(QWEN3_5_MOE), QWEN3_NEXT, QWEN3_5, QWEN3_5_MOE)
