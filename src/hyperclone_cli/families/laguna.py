"""Laguna: a mixture under attention whose heads have gates, and whose number of query heads layers may state."""

from hyperclone_cli.families.blocks import GATED_MLP, NORMED_ATTENTION, SELF_ATTENTION, gated_mlp, sizes
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import LAYER_TYPES, Listed
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.qwen_moe import EXPERTS
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Layout, PerLayer
from hyperclone_cli.families.vocabulary import in_layers, linear, parameter

_MLP = "model.layers.*.mlp"
_CORRECTION = f"{_MLP}.experts.e_score_correction_bias"
_SHARED = gated_mlp(f"{_MLP}.shared_expert", "shared_ffn")
_LISTED = "num_attention_heads_per_layer"

LAGUNA = MISTRAL.without(*GATED_MLP).variant(
    "laguna",
    known_as="Laguna",
    tiny={
        "num_experts_per_tok": 2,
        "num_attention_heads_per_layer": [4, 6],
        "mlp_layer_types": ["dense", "sparse"],
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": 8,
    },
    sizes=sizes(moe_ffn="moe_intermediate_size", shared_ffn="shared_expert_intermediate_size", experts="num_experts"),
    tensors={
        **NORMED_ATTENTION,
        f"{SELF_ATTENTION}.g_proj": linear("heads", "embed"),
        **in_layers("experts", EXPERTS | _SHARED | {_CORRECTION: parameter("experts")}),
        **in_layers("dense", GATED_MLP),
    },
    routing=Routing(8),
    per_layer=PerLayer(types="", listed={"heads": _LISTED}),
    layer_rules=(LAYER_TYPES, Listed("mlp_layer_types"), Listed(_LISTED)),
)
BY_UNIT = LAGUNA.variant(
    "laguna",
    layout=Layout("a gate for each unit", {"gating": "per-element"}),
    known_as='models with gating "per-element"',
    tensors={f"{SELF_ATTENTION}.g_proj": linear("heads value", "embed")},
)
_IN_MEMORY = {
    _CORRECTION: f"{_MLP}.gate.e_score_correction_bias",
    **{module: module.replace("shared_expert", "shared_experts") for module in _SHARED},
}

FAMILIES = tuple(table for family in (BY_UNIT, LAGUNA) for table in (fused(family, _IN_MEMORY), family))
