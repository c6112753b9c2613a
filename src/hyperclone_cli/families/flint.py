"""Flint: Qwen 3's mixture with a sink for each head, and a shared expert beside the chosen ones."""

from hyperclone_cli.families.blocks import GATED_MLP, NORMED_ATTENTION, gated_mlp, sizes
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import LAYER_TYPES
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.qwen_moe import DENSE_LAYERS, experts
from hyperclone_cli.families.routing import UNLESS_NORMED, Routing
from hyperclone_cli.families.vocabulary import in_layers, parameter

_SINKS = "model.layers.*.self_attn.softmax_offset"
_MLP = "model.layers.*.mlp"

FLINT = MISTRAL.without(*GATED_MLP).variant(
    "flint",
    known_as="Flint",
    tiny={"num_experts_per_tok": 2, "mlp_only_layers": [0]},
    sizes=sizes(moe_ffn="moe_intermediate_size", shared_ffn="shared_expert_intermediate_size", experts="num_experts"),
    aliases={"num_experts": ("num_local_experts",)},
    tensors={
        **NORMED_ATTENTION,
        _SINKS: parameter("heads"),
        **in_layers("experts", experts(_MLP, "moe_ffn") | gated_mlp(f"{_MLP}.shared_expert", "shared_ffn")),
        **in_layers("dense", GATED_MLP),
    },
    layer_rules=(DENSE_LAYERS, LAYER_TYPES),
    routing=Routing(6, alone=UNLESS_NORMED),
)

FAMILIES = (fused(FLINT, {_SINKS: "model.layers.*.self_attn.sinks"}), FLINT)
