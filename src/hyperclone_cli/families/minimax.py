"""MiniMax 1 and M2: Mixtral's experts. M2 corrects the choice of the router, and has norms over all heads.

MiniMax 1 has lightning attention in some layers, whose decays, one for each head, are in the checkpoint; and each norm
takes the place of the residual stream.
"""

from hyperclone_cli.families.blocks import ATTENTION, NORMS, SELF_ATTENTION, norms, qk_norms, under, without_first_norm
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import types_by_period
from hyperclone_cli.families.mixtral import MIXTRAL
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.vocabulary import in_layers, linear, norm, parameter, post_norm

_MOE = "model.layers.*.block_sparse_moe"

MINIMAX_M2 = MIXTRAL.variant(
    "minimax_m2",
    known_as="MiniMax M2",
    tiny={"num_experts_per_tok": 2},
    tensors={
        **qk_norms(SELF_ATTENTION),
        "model.layers.*.self_attn.q_norm": post_norm("heads query"),
        "model.layers.*.self_attn.k_norm": post_norm("kv_heads key"),
        f"{_MOE}.e_score_correction_bias": parameter("experts"),
    },
    aliases={"num_local_experts": ("num_experts",)},
    routing=Routing(8),
)

_LIGHTNING = {
    "qkv_proj": linear("heads query+key+value", "embed"),
    "output_gate": linear("heads value", "embed"),
    "norm": norm("heads value"),
    "out_proj": linear("embed", "heads value"),
    "slope_rate": parameter("heads", "1", "1"),
    "query_decay": parameter("heads", "*", "1"),
    "key_decay": parameter("heads", "*", "1"),
    "diagonal_decay": parameter("1", "heads", "*", "*"),
}
MINIMAX = MIXTRAL.variant(
    "minimax",
    known_as="MiniMax Text 01, M1",
    tiny={"num_experts_per_tok": 2, "layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    tensors={
        **dict.fromkeys(NORMS, post_norm("embed")),
        **norms("model.norm"),
        **without_first_norm(
            {module: form for module, form in MIXTRAL.tensors.items() if module.startswith(_MOE)}
            | in_layers("attention", ATTENTION)
            | in_layers("lightning", under(SELF_ATTENTION, _LIGHTNING))
        ),
    },
    layer_rules=(types_by_period(place=0, length=2, other="linear"),),
    limits=(
        Limit("head_dim", "where lightning attention does not divide its scores by the root of the head size"),
        Limit("layers", "where each norm takes the place of the residual stream, no layer leaves it as it is"),
    ),
)

_IN_MEMORY = {f"{_MOE}.{name}": f"model.layers.*.mlp.{name}" for name in ("gate", "e_score_correction_bias")}

FAMILIES = (fused(MINIMAX, _IN_MEMORY), MINIMAX, fused(MINIMAX_M2, _IN_MEMORY), MINIMAX_M2)
