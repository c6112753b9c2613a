"""Lara mini: gated delta nets whose parts lie in one matrix, attention with windows, and a mixture in every layer."""

from hyperclone_cli.families.blocks import (
    EMBEDDING_AND_HEAD,
    NORMED_ATTENTION,
    NORMS,
    gated_mlp,
    sizes,
    under,
)
from hyperclone_cli.families.layer_rules import Listed
from hyperclone_cli.families.qwen_delta import DELTA, PART_BY_PART
from hyperclone_cli.families.routing import UNLESS_NORMED, Routing
from hyperclone_cli.families.statements import Layout
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, bare, in_layers, linear, norm, stacked

_MLP = "model.layers.*.mlp"
_DELTA = {name: form for name, form in DELTA.items() if name != "norm"}
_KEYS, _VALUES = "delta_heads delta_key", "delta_values delta_value"


def _lara(layout: Layout, delta: dict[str, Form]) -> Family:
    return Family(
        model_type="lara_mini",
        layout=layout,
        known_as="Lara mini",
        tiny={
            "num_experts_per_tok": 2,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 12,
            "layer_types": ["linear_attention", "sliding_attention"],
            "sliding_window": 8,
        },
        sizes=sizes(
            ffn="moe_intermediate_size",
            shared_ffn="shared_expert_intermediate_size",
            experts="num_experts",
            delta_heads="linear_num_key_heads",
            delta_values="linear_num_value_heads",
            delta_key="linear_key_head_dim",
            delta_value="linear_value_head_dim",
        ),
        aliases={"num_experts": ("num_local_experts",)},
        tensors={
            **EMBEDDING_AND_HEAD,
            **in_layers("delta", under("model.layers.*.linear_attn", _DELTA | delta)),
            **in_layers("attention", NORMED_ATTENTION),
            f"{_MLP}.gate": linear("experts", "embed"),
            f"{_MLP}.experts.gate_up_proj": stacked(bare(linear("experts ffn+ffn", "embed"))),
            f"{_MLP}.experts.down_proj": stacked(bare(linear("experts embed", "ffn"))),
            **gated_mlp(f"{_MLP}.shared_expert", "shared_ffn"),
            **NORMS,
        },
        routing=Routing(4, alone=UNLESS_NORMED),
        layer_rules=(Listed("layer_types"),),
    )


_PARTS = f"{_KEYS} | {_KEYS} | {_VALUES} | {_VALUES} | delta_values | delta_values"

FAMILIES = (
    _lara(
        Layout("in memory", module="model.layers.*.linear_attn.in_proj_qkv"),
        {**PART_BY_PART, "norm": norm("delta_value")},
    ),
    _lara(Layout(), {"in_proj": linear(_PARTS, "embed"), "out_norm": norm("delta_value")}),
)
