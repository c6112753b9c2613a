"""Kolibri: norms before and after each block, a mixture in every layer with one shared expert."""

from hyperclone_cli.families.blocks import GATED_MLP, NORMED_ATTENTION, gated_mlp, sizes
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import types_by_period
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.qwen_moe import experts
from hyperclone_cli.families.routing import UNLESS_NORMED, Routing
from hyperclone_cli.families.vocabulary import parameter, post_norm

_LAYER = "model.layers.*"

KOLIBRI1 = MISTRAL.without(*GATED_MLP).variant(
    "kolibri1",
    known_as="Kolibri 1",
    tiny={"num_experts_per_tok": 2},
    sizes=sizes(ffn="moe_intermediate_size", shared_ffn="shared_expert_intermediate_size", experts="num_experts"),
    aliases={"num_experts": ("num_local_experts",)},
    tensors={
        **NORMED_ATTENTION,
        f"{_LAYER}.post_attn_norm": post_norm("embed"),
        f"{_LAYER}.post_ffn_norm": post_norm("embed"),
        **experts(f"{_LAYER}.mlp", "ffn"),
        f"{_LAYER}.moe.router.expert_bias": parameter("experts"),
        **gated_mlp(f"{_LAYER}.mlp.shared_experts", "shared_ffn"),
    },
    layer_rules=(types_by_period(length=5),),
    routing=Routing(6, alone=UNLESS_NORMED),
)

_IN_MEMORY = {
    f"{_LAYER}.post_attn_norm": f"{_LAYER}.post_self_attn_layernorm",
    f"{_LAYER}.post_ffn_norm": f"{_LAYER}.post_mlp_layernorm",
    f"{_LAYER}.moe.router.expert_bias": f"{_LAYER}.mlp.gate.e_score_correction_bias",
}

FAMILIES = (fused(KOLIBRI1, _IN_MEMORY), KOLIBRI1)
