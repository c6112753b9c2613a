"""A.X K1: DeepSeek V3's attention and mixture, with a norm after the experts of a layer."""

from hyperclone_cli.families.deepseek import DEEPSEEK_V3, DENSE_OR_SPARSE
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.vocabulary import in_layers, post_norm, without_post_norm

_WRITERS = ("model.layers.*.self_attn.o_proj", "model.layers.*.mlp.down_proj")

AXK1 = DEEPSEEK_V3.variant(
    "axk1",
    known_as="A.X K1",
    tensors={
        **in_layers("experts", {"model.layers.*.post_mlp_layernorm": post_norm("embed")}),
        **{module: without_post_norm(DEEPSEEK_V3.tensors[module]) for module in _WRITERS},
    },
    defaults={"n_routed_experts": 192, "first_k_dense_replace": 1},
    layer_rules=(DENSE_OR_SPARSE,),
)

FAMILIES = (
    fused(AXK1, {"model.layers.*.post_mlp_layernorm": "model.layers.*.mlp.post_mlp_layernorm"}),
    AXK1,
)
