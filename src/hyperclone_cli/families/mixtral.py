"""Mixtral and Phi-3.5-MoE: every layer's feed-forward is a choice of experts as wide as `intermediate_size`."""

from hyperclone_cli.families.blocks import ATTENTION, EMBEDDING_AND_HEAD, NORMS, SIZES
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import linear

MIXTRAL = Family(
    model_type="mixtral",
    known_as="Mixtral",
    sizes={**SIZES, "experts": "num_local_experts"},
    tensors={
        **EMBEDDING_AND_HEAD,
        **ATTENTION,
        "model.layers.*.block_sparse_moe.gate": linear("experts", "embed"),
        "model.layers.*.block_sparse_moe.experts.*.w1": linear("ffn", "embed"),
        "model.layers.*.block_sparse_moe.experts.*.w3": linear("ffn", "embed"),
        "model.layers.*.block_sparse_moe.experts.*.w2": linear("embed", "ffn"),
        **NORMS,
    },
    defaults={"num_key_value_heads": 8, "num_local_experts": 8},
)

PHIMOE = MIXTRAL.variant("phimoe", known_as="Phi 3.5 MoE", defaults={"num_local_experts": 16}, norm="layer")

FAMILIES = (MIXTRAL, PHIMOE)
