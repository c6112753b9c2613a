"""Qwen's mixtures of experts, Mellum, OLMoE and FlexOlmo: experts by number, in some layers or in all."""

from hyperclone_cli.families.blocks import GATED_MLP, SELF_ATTENTION, SIZES, gated_mlp, qk_norms, without_first_norm
from hyperclone_cli.families.layer_rules import LAYER_TYPES, Listed, Numbers
from hyperclone_cli.families.llama import LLAMA, QWEN2, QWEN3
from hyperclone_cli.families.olmo import CLIPPED_QUERIES, OLMO2
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import HeadRule, Limit, NextToken
from hyperclone_cli.families.vocabulary import Form, in_layers, linear, post_norm


def experts(prefix: str, width: str, router: str = "gate") -> dict[str, Form]:
    """A router under `prefix`, and the experts of some width that it chooses from."""
    return {f"{prefix}.{router}": linear("experts", "embed"), **gated_mlp(f"{prefix}.experts.*", width)}


EXPERTS = experts("model.layers.*.mlp", "moe_ffn")
SHARED_EXPERT = {
    "model.layers.*.mlp.shared_expert_gate": linear("1", "embed"),
    **gated_mlp("model.layers.*.mlp.shared_expert", "shared_ffn"),
}

DENSE_LAYERS = Numbers("mlp_only_layers", every="decoder_sparse_step")
QWEN3_MOE = QWEN3.without(*GATED_MLP).variant(
    "qwen3_moe",
    known_as="Qwen 3 MoE",
    tiny={"num_experts_per_tok": 2, "mlp_only_layers": [0]},
    sizes={**SIZES, "moe_ffn": "moe_intermediate_size", "experts": "num_experts"},
    aliases={"num_experts": ("num_local_experts",)},
    tensors={**in_layers("experts", EXPERTS), **in_layers("dense", GATED_MLP)},
    layer_rules=(DENSE_LAYERS,),
    routing=Routing(8),
)

MELLUM = QWEN3_MOE.variant(
    "mellum",
    known_as="Mellum 2",
    tiny={"num_experts_per_tok": 2, "mlp_layer_types": ["dense", "sparse"]},
    next_token=NextToken(names="mtp."),
    layer_rules=(LAYER_TYPES, Listed("mlp_layer_types")),
)

QWEN2_MOE = QWEN2.without(*GATED_MLP).variant(
    "qwen2_moe",
    known_as="Qwen 1.5 and 2 MoE",
    tiny=QWEN3_MOE.tiny,
    sizes={**QWEN3_MOE.sizes, "shared_ffn": "shared_expert_intermediate_size"},
    tensors={**in_layers("experts", EXPERTS | SHARED_EXPERT), **in_layers("dense", GATED_MLP)},
    layer_rules=(DENSE_LAYERS, LAYER_TYPES),
    routing=Routing(4),
    limits=(
        Limit(
            "layers", "where config.json does not list layer_types", {"use_sliding_window": True, "layer_types": None}
        ),
    ),
)

OLMOE = LLAMA.without(*GATED_MLP).variant(
    "olmoe",
    known_as="OLMoE",
    tiny={"num_experts_per_tok": 2},
    sizes={**SIZES, "experts": "num_experts"},
    tensors={
        **qk_norms(SELF_ATTENTION),
        # norms over all heads
        "model.layers.*.self_attn.q_norm": post_norm("heads query"),
        "model.layers.*.self_attn.k_norm": post_norm("kv_heads key"),
        **experts("model.layers.*.mlp", "ffn"),
    },
    heads=HeadRule.FILLS_EMBED,
    routing=Routing(8),
    limits=(CLIPPED_QUERIES,),
)

FLEX_OLMO = OLMO2.without(*GATED_MLP).variant(
    "flex_olmo",
    known_as="FlexOlmo",
    tiny={"num_experts_per_tok": 2},
    sizes=OLMOE.sizes,
    aliases={"num_experts": ("num_local_experts",)},
    tensors=without_first_norm(experts("model.layers.*.mlp", "ffn")),
    routing=Routing(5),
)

FAMILIES = (QWEN2_MOE, QWEN3_MOE, MELLUM, OLMOE, FLEX_OLMO)
