"""Granite with sliding windows, and a sink for each head that takes a part of its attention."""

from hyperclone_cli.families.blocks import GATED_MLP
from hyperclone_cli.families.granite_moe import GRANITEMOESHARED
from hyperclone_cli.families.layer_rules import Listed, types_by_period
from hyperclone_cli.families.llama import GRANITE
from hyperclone_cli.families.vocabulary import bare, linear, parameter, stacked

_SINKS = {"model.layers.*.self_attn.sinks": parameter("heads")}
_LAYER_RULES = (types_by_period(place=0, length=4), Listed("layer_rope_theta"))
_MOE = "model.layers.*.block_sparse_moe"

GRANITE_SWA = GRANITE.variant(
    "granite_swa",
    known_as="Granite SWA",
    tensors=_SINKS,
    layer_rules=_LAYER_RULES,
)

GRANITEMOE_SWA = GRANITE.without(*GATED_MLP).variant(
    "granitemoe_swa",
    known_as="Granite SWA, mixtures",
    sizes=GRANITEMOESHARED.sizes,
    tensors={
        **{module: form for module, form in GRANITEMOESHARED.tensors.items() if "shared_mlp" in module},
        **_SINKS,
        f"{_MOE}.router": linear("experts", "embed"),
        f"{_MOE}.experts.gate_up_proj": stacked(bare(linear("experts ffn+ffn", "embed"))),
        f"{_MOE}.experts.down_proj": stacked(bare(linear("experts embed", "ffn"))),
    },
    routing=GRANITEMOESHARED.routing,
    layer_rules=_LAYER_RULES,
)

FAMILIES = (GRANITE_SWA, GRANITEMOE_SWA)
