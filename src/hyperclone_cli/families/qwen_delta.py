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
)
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.qwen_moe import EXPERTS, SHARED_EXPERT
from hyperclone_cli.families.table import Family, NextToken
from hyperclone_cli.families.vocabulary import Form, depthwise, in_layers, linear, norm, normed, parameter

_DELTA: dict[str, Form] = {
    "model.layers.*.linear_attn.conv1d": depthwise(
        "delta_heads delta_key | delta_heads delta_key | delta_values delta_value"
    ),
    "model.layers.*.linear_attn.dt_bias": parameter("delta_values"),
    "model.layers.*.linear_attn.A_log": parameter("delta_values"),
    "model.layers.*.linear_attn.norm": norm("delta_value"),
    "model.layers.*.linear_attn.out_proj": linear("embed", "delta_values delta_value"),
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
_TINY = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 12,
    "layer_types": ["linear_attention", "full_attention"],
}
_DEFAULTS = {
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "partial_rotary_factor": 0.25,
}

QWEN3_NEXT = Family(
    model_type="qwen3_next",
    known_as="Qwen3-Next",
    tiny={**_TINY, "num_experts_per_tok": 2, "mlp_only_layers": [0]},
    sizes={
        **_SIZES,
        "moe_ffn": "moe_intermediate_size",
        "shared_ffn": "shared_expert_intermediate_size",
        "experts": "num_experts",
    },
    aliases={"num_experts": ("num_local_experts",)},
    tensors={
        **EMBEDDING_AND_HEAD,
        **in_layers(
            "mixer/delta",
            {
                **_DELTA,
                # key head by key head
                "model.layers.*.linear_attn.in_proj_qkvz": linear(
                    "delta_heads delta_key+delta_key+delta_group.delta_value+delta_group.delta_value", "embed"
                ),
                "model.layers.*.linear_attn.in_proj_ba": linear("delta_heads delta_group+delta_group", "embed"),
            },
        ),
        **in_layers("mixer/attention", _ATTENTION),
        **in_layers("mlp/experts", EXPERTS | SHARED_EXPERT),
        **in_layers("mlp/dense", GATED_MLP),
        **PLUS_ONE_NORMS,
    },
    defaults={
        **_DEFAULTS,
        "num_key_value_heads": 2,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 512,
    },
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
        **in_layers(
            "delta",
            {
                **_DELTA,
                # one part after another
                "model.layers.*.linear_attn.in_proj_qkv": linear(
                    "delta_heads delta_key | delta_heads delta_key | delta_values delta_value", "embed"
                ),
                "model.layers.*.linear_attn.in_proj_z": linear("delta_values delta_value", "embed"),
                "model.layers.*.linear_attn.in_proj_b": linear("delta_values", "embed"),
                "model.layers.*.linear_attn.in_proj_a": linear("delta_values", "embed"),
            },
        ),
        **in_layers("attention", _ATTENTION),
        **GATED_MLP,
        **PLUS_ONE_NORMS,
    },
    defaults={**_DEFAULTS, "num_key_value_heads": 4},
    positions=Rotary(fraction="partial_rotary_factor"),
    next_token=NextToken("mtp_num_hidden_layers", "mtp."),
)

FAMILIES = (QWEN3_NEXT, QWEN3_5)
