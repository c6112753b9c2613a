"""Granite's mixtures: all experts of a layer in two tensors, with or without a shared one beside them."""

from hyperclone_cli.families.blocks import GATED_MLP, SIZES
from hyperclone_cli.families.llama import GRANITE
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.vocabulary import linear, optional, stacked

EXPERTS = {
    "model.layers.*.block_sparse_moe.router.layer": linear("experts", "embed"),
    "model.layers.*.block_sparse_moe.input_linear": stacked(linear("experts ffn+ffn", "embed")),
    "model.layers.*.block_sparse_moe.output_linear": stacked(linear("experts embed", "ffn")),
}

GRANITEMOE = GRANITE.without(*GATED_MLP).variant(
    "granitemoe",
    known_as="Granite 3 MoE",
    sizes={**SIZES, "experts": "num_local_experts"},
    tensors=EXPERTS,
    routing=Routing(2),
)

GRANITEMOESHARED = GRANITEMOE.variant(
    "granitemoeshared",
    known_as="Granite 3 MoE with a shared expert",
    sizes={**GRANITEMOE.sizes, "shared_ffn": "shared_intermediate_size"},
    tensors={
        "model.layers.*.shared_mlp.input_linear": optional(linear("shared_ffn+shared_ffn", "embed")),
        "model.layers.*.shared_mlp.output_linear": optional(linear("embed", "shared_ffn")),
    },
)

FAMILIES = (GRANITEMOE, GRANITEMOESHARED)
