"""Beam: norms before and after each block, a gate on each head's output; what a layer adds is scaled by its number."""

from hyperclone_cli.families.blocks import GATED_MLP, NORMED_ATTENTION, norms, sizes
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.qwen_moe import EXPERTS
from hyperclone_cli.families.routing import in_groups
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.vocabulary import in_layers, linear, parameter, post_norm

_LAYER = "model.layers.*"

BEAM = MISTRAL.without(*GATED_MLP).variant(
    "beam",
    known_as="Beam",
    tiny={"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "mlp_layer_types": ["dense", "sparse"]},
    sizes=sizes(moe_ffn="moe_intermediate_size", experts="num_experts"),
    tensors={
        **NORMED_ATTENTION,
        f"{_LAYER}.self_attn.gate_proj": linear("heads value", "embed"),
        f"{_LAYER}.self_attn.gate_bias": parameter("heads"),
        f"{_LAYER}.post_attention_layernorm": post_norm("embed"),
        **norms(f"{_LAYER}.pre_feedforward_layernorm"),
        f"{_LAYER}.post_feedforward_layernorm": post_norm("embed"),
        **in_layers("experts", {**EXPERTS, f"{_LAYER}.mlp.gate.e_score_correction_bias": parameter("experts")}),
        **in_layers("dense", GATED_MLP),
    },
    routing=in_groups(8, 8, 4),
    limits=(Limit("layers", "where the residual stream is scaled by a root of the layer's number"),),
)

FAMILIES = (fused(BEAM), BEAM)
