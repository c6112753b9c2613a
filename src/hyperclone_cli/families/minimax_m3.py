"""MiniMax M3's text model: experts in two tensors, some layers dense, and an indexer of blocks in some."""

from hyperclone_cli.families.blocks import GATED_MLP, PLUS_ONE_NORMS, qk_norms, sizes
from hyperclone_cli.families.layer_rules import LAYER_TYPES, Listed
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.vocabulary import bare, in_layers, linear, parameter, stacked

_ATTENTION, _MLP = "model.layers.*.self_attn", "model.layers.*.mlp"

MINIMAX_M3 = MISTRAL.without(*GATED_MLP).variant(
    "minimax_m3_vl_text",
    known_as="MiniMax M3 (text)",
    tiny={"num_experts_per_tok": 2, "mlp_layer_types": ["dense", "sparse"]},
    sizes=sizes(
        ffn="dense_intermediate_size",
        moe_ffn="intermediate_size",
        shared_ffn="shared_intermediate_size",
        experts="num_local_experts",
    ),
    tensors={
        **PLUS_ONE_NORMS,
        **qk_norms(_ATTENTION, plus_one=True),
        **in_layers(
            "experts",
            {
                f"{_MLP}.gate": linear("experts", "embed"),
                f"{_MLP}.gate.e_score_correction_bias": parameter("experts"),
                f"{_MLP}.experts.gate_up_proj": stacked(bare(linear("experts moe_ffn+moe_ffn", "embed"))),
                f"{_MLP}.experts.down_proj": stacked(bare(linear("experts embed", "moe_ffn"))),
                f"{_MLP}.shared_experts.gate_up_proj": linear("shared_ffn | shared_ffn", "embed"),
                f"{_MLP}.shared_experts.down_proj": linear("embed", "shared_ffn"),
            },
        ),
        **in_layers(
            "dense",
            {f"{_MLP}.gate_up_proj": linear("ffn | ffn", "embed"), f"{_MLP}.down_proj": linear("embed", "ffn")},
        ),
    },
    layer_rules=(LAYER_TYPES, Listed("mlp_layer_types")),
    routing=Routing(4),
)

FAMILIES = (MINIMAX_M3,)
