"""MiniMax M2: Mixtral's experts with a correction to the choice of the router, and norms over all heads."""

from hyperclone_cli.families.blocks import SELF_ATTENTION, qk_norms
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.mixtral import MIXTRAL
from hyperclone_cli.families.vocabulary import parameter, post_norm

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
    defaults={"head_dim": 128, "num_local_experts": 256},
)

_IN_MEMORY = {f"{_MOE}.{name}": f"model.layers.*.mlp.{name}" for name in ("gate", "e_score_correction_bias")}

FAMILIES = (fused(MINIMAX_M2, _IN_MEMORY), MINIMAX_M2)
