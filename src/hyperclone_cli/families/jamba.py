"""Jamba: Mamba in most layers, attention without positions in the others; mixtures of experts in every other one."""

from fractions import Fraction

from hyperclone_cli.families.blocks import ATTENTION, EMBEDDING_AND_HEAD, SIZES, gated_mlp, norms, under
from hyperclone_cli.families.layer_rules import Every
from hyperclone_cli.families.mamba import mixer
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.qwen_moe import experts
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import in_layers, norm

_MIXER_NORMS = {"dt_layernorm": norm("dt_rank"), "b_layernorm": norm("ssm_state"), "c_layernorm": norm("ssm_state")}

JAMBA = Family(
    model_type="jamba",
    known_as="Jamba 1.5 and 2",
    tiny={
        "mamba_d_state": 8,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts_per_tok": 2,
        "use_mamba_kernels": False,
    },
    sizes={**SIZES, "dt_rank": "mamba_dt_rank", "ssm_state": "mamba_d_state", "experts": "num_experts"},
    multiples={"inner": ("mamba_expand", "embed"), "dt_rank": (Fraction(1, 16), "embed")},
    aliases={"num_experts": ("num_local_experts",)},
    tensors={
        **EMBEDDING_AND_HEAD,
        **in_layers("mixer/mamba", under("model.layers.*.mamba", mixer("inner") | _MIXER_NORMS)),
        **in_layers("mixer/attention", ATTENTION),
        **in_layers("mlp/experts", experts("model.layers.*.feed_forward", "ffn", "router")),
        **in_layers("mlp/dense", gated_mlp("model.layers.*.feed_forward")),
        **norms("model.layers.*.input_layernorm", "model.layers.*.pre_ff_layernorm", "model.final_layernorm"),
    },
    layer_rules=(
        Every("attn_layer_period", offset="attn_layer_offset"),
        Every("expert_layer_period", offset="expert_layer_offset"),
    ),
    routing=Routing(2),
    positions=Learned(),
)

FAMILIES = (JAMBA,)
