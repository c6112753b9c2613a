"""Mixtral and Phi-3.5-MoE: every layer's feed-forward is a choice of experts as wide as `intermediate_size`."""

from hyperclone_cli.families.blocks import GATED_MLP, SIZES
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.vocabulary import linear

MIXTRAL = MISTRAL.without(*GATED_MLP).variant(
    "mixtral",
    known_as="Mixtral",
    sizes={**SIZES, "experts": "num_local_experts"},
    tensors={
        "model.layers.*.block_sparse_moe.gate": linear("experts", "embed"),
        "model.layers.*.block_sparse_moe.experts.*.w1": linear("ffn", "embed"),
        "model.layers.*.block_sparse_moe.experts.*.w3": linear("ffn", "embed"),
        "model.layers.*.block_sparse_moe.experts.*.w2": linear("embed", "ffn"),
    },
    routing=Routing(2),
)

PHIMOE = MIXTRAL.variant(
    "phimoe",
    known_as="Phi 3.5 MoE",
    norm="layer",
    routing=None,
    limits=(Limit("experts", "whose router chooses two, and each of them by a softmax of its own"),),
)

FAMILIES = (MIXTRAL, PHIMOE)
