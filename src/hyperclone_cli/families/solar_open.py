"""Solar Open: GLM 4.5's mixture in every layer, under plain attention. Every width is that of an expert."""

from hyperclone_cli.families.blocks import GATED_MLP, gated_mlp, sizes
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.qwen_moe import experts
from hyperclone_cli.families.routing import in_groups
from hyperclone_cli.families.vocabulary import optional, parameter

_MLP = "model.layers.*.mlp"
_SHARED = gated_mlp(f"{_MLP}.shared_experts", "shared ffn")

SOLAR_OPEN = MISTRAL.without(*GATED_MLP).variant(
    "solar_open",
    known_as="Solar Open 100B",
    tiny={"num_experts_per_tok": 2},
    sizes=sizes(ffn="moe_intermediate_size", experts="n_routed_experts", shared="n_shared_experts"),
    tensors={
        **experts(_MLP, "ffn"),
        **{module: optional(form) for module, form in _SHARED.items()},
        f"{_MLP}.gate.e_score_correction_bias": parameter("experts"),
    },
    routing=in_groups(8),
)

FAMILIES = (fused(SOLAR_OPEN), SOLAR_OPEN)
