"""Hunyuan's mixtures: V1 has norms of queries and keys after their rotary positions, V3 before."""

from hyperclone_cli.families.blocks import GATED_MLP, NORMED_ATTENTION, gated_mlp, sizes
from hyperclone_cli.families.deepseek import DENSE_OR_SPARSE
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.llama import HUNYUAN, MISTRAL
from hyperclone_cli.families.qwen_moe import experts
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.vocabulary import in_layers, parameter

_MLP = "model.layers.*.mlp"

HUNYUAN_MOE = HUNYUAN.without(*GATED_MLP).variant(
    "hunyuan_v1_moe",
    known_as="Hunyuan A13B",
    tiny={"moe_topk": 2},
    sizes=sizes(experts="num_experts"),
    aliases={"num_experts": ("num_local_experts",)},
    tensors={**experts(_MLP, "ffn", "gate.wg"), **gated_mlp(f"{_MLP}.shared_mlp")},
    routing=Routing(1, "moe_topk"),
)

HY_V3 = MISTRAL.without(*GATED_MLP).variant(
    "hy_v3",
    known_as="Hunyuan 3",
    tiny={"num_experts_per_tok": 2},
    sizes=sizes(moe_ffn="moe_intermediate_size", experts="num_experts", shared="num_shared_experts"),
    aliases={"num_experts": ("num_local_experts",)},
    tensors={
        **NORMED_ATTENTION,
        **in_layers(
            "experts",
            {
                **experts(_MLP, "moe_ffn", "router.gate"),
                f"{_MLP}.expert_bias": parameter("experts"),
                **gated_mlp(f"{_MLP}.shared_mlp", "shared moe_ffn"),
            },
        ),
        **in_layers("dense", GATED_MLP),
    },
    defaults={
        "first_k_dense_replace": 1,
    },
    layer_rules=(DENSE_OR_SPARSE,),
    routing=Routing(8),
)

_IN_MEMORY = {
    f"{_MLP}.router.gate": f"{_MLP}.gate",
    f"{_MLP}.expert_bias": f"{_MLP}.e_score_correction_bias",
    **{f"{_MLP}.shared_mlp.{name}": f"{_MLP}.shared_experts.{name}" for name in ("gate_proj", "up_proj", "down_proj")},
}

FAMILIES = (fused(HUNYUAN_MOE), HUNYUAN_MOE, fused(HY_V3, _IN_MEMORY), HY_V3)
