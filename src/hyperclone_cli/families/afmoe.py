"""AFM's mixtures: norms before and after each block, a gate on each head's output; with mup_enabled, √hidden_size."""

from hyperclone_cli.families.blocks import (
    GATED_MLP,
    NORMED_ATTENTION,
    SCALED_EMBEDDING_AND_HEAD,
    gated_mlp,
    norms,
    sizes,
)
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import First, types_by_period
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.qwen_moe import experts
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Layout
from hyperclone_cli.families.vocabulary import in_layers, linear, optional, parameter, post_norm

_MLP = "model.layers.*.mlp"
_SHARED = gated_mlp(f"{_MLP}.shared_experts", "shared moe_ffn")

AFMOE = MISTRAL.without(*GATED_MLP).variant(
    "afmoe",
    known_as="Trinity",
    tiny={"num_experts_per_tok": 2, "num_dense_layers": 1},
    sizes=sizes(moe_ffn="moe_intermediate_size", experts="num_experts", shared="num_shared_experts"),
    tensors={
        **NORMED_ATTENTION,
        "model.layers.*.self_attn.gate_proj": linear("heads value", "embed"),
        "model.layers.*.post_attention_layernorm": post_norm("embed"),
        **norms("model.layers.*.pre_mlp_layernorm"),
        "model.layers.*.post_mlp_layernorm": post_norm("embed"),
        **in_layers(
            "experts",
            {
                **experts(_MLP, "moe_ffn", "router.gate"),
                f"{_MLP}.expert_bias": parameter("experts"),
                **{module: optional(form) for module, form in _SHARED.items()},
            },
        ),
        **in_layers("dense", GATED_MLP),
    },
    layer_rules=(First("num_dense_layers"), types_by_period("global_attn_every_n_layers")),
    routing=Routing(6),
)
SCALED = AFMOE.variant(
    "afmoe",
    layout=Layout("scaled embeddings", {"mup_enabled": True}),
    known_as="models with mup_enabled true",
    tensors=SCALED_EMBEDDING_AND_HEAD,
)

FAMILIES = (fused(SCALED), SCALED, fused(AFMOE), AFMOE)
