"""Llama 4: experts in all layers or in every other one, in two tensors of (in, out), and a shared one beside them."""

from hyperclone_cli.families.blocks import GATED_MLP, SIZES, gated_mlp
from hyperclone_cli.families.layer_rules import LAYER_TYPES, Every, Listed, Numbers
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.vocabulary import bare, conv1d, in_layers, linear, stacked

_MLP = "model.layers.*.feed_forward"

LLAMA4 = MISTRAL.without(*GATED_MLP).variant(
    "llama4_text",
    known_as="Llama 4 Scout and Maverick (text)",
    tiny={"interleave_moe_layer_step": 2, "attention_chunk_size": 8},
    sizes={**SIZES, "ffn": "intermediate_size_mlp", "moe_ffn": "intermediate_size", "experts": "num_local_experts"},
    tensors={
        **in_layers("dense", gated_mlp(_MLP)),
        **in_layers(
            "experts",
            {
                f"{_MLP}.router": linear("experts", "embed"),
                f"{_MLP}.experts.gate_up_proj": stacked(bare(conv1d("embed", "experts moe_ffn+moe_ffn"))),
                f"{_MLP}.experts.down_proj": stacked(bare(conv1d("moe_ffn", "experts embed"))),
                **gated_mlp(f"{_MLP}.shared_expert", "moe_ffn"),
            },
        ),
    },
    # without `layer_types`, they follow from `no_rope_layers`
    layer_rules=(
        Listed("no_rope_layers", (Every("no_rope_layer_interval"), 0, 1)),
        LAYER_TYPES,
        Numbers("moe_layers", pattern=Every("interleave_moe_layer_step")),
    ),
    routing=Routing(1, alone={}),
    positions=Rotary("neighbours"),
    limits=(Limit("head_dim", "its norm of queries and keys, without weights, spans a head", {"use_qk_norm": True}),),
)

FAMILIES = (LLAMA4,)
