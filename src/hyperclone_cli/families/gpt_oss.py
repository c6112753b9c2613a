"""gpt-oss in 16 bits: all experts of a layer in two tensors of (in, out), gate and value by turns; attention sinks."""

from hyperclone_cli.families.blocks import GATED_MLP, SIZES
from hyperclone_cli.families.layer_rules import types_by_period
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.vocabulary import bare, bias, conv1d, linear, parameter, stacked

GPT_OSS = MISTRAL.without(*GATED_MLP).variant(
    "gpt_oss",
    known_as="gpt-oss, dequantised",
    sizes={**SIZES, "experts": "num_local_experts"},
    tensors={
        "model.layers.*.self_attn.sinks": parameter("heads"),
        "model.layers.*.mlp.router": linear("experts", "embed"),
        "model.layers.*.mlp.experts.gate_up_proj": stacked(bare(conv1d("embed", "experts ffn 2"))),
        "model.layers.*.mlp.experts.gate_up_proj_bias": stacked(parameter("experts ffn 2")),
        "model.layers.*.mlp.experts.down_proj": stacked(bare(conv1d("ffn", "experts embed"))),
        "model.layers.*.mlp.experts.down_proj_bias": stacked(bias("experts embed")),
    },
    layer_rules=(types_by_period(length=2),),
    routing=Routing(4),
)

FAMILIES = (GPT_OSS,)
