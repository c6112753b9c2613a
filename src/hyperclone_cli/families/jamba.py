"""Jamba: Mamba in most layers, attention without positions in the others; mixtures of experts in every other one."""

from fractions import Fraction

from hyperclone_cli.families.blocks import ATTENTION, EMBEDDING_AND_HEAD, SIZES, gated_mlp, norms
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.qwen_moe import experts
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import depthwise, in_layers, linear, norm, parameter

JAMBA = Family(
    model_type="jamba",
    known_as="Jamba 1.5 and 2",
    tiny={"mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts_per_tok": 2},
    sizes={**SIZES, "dt_rank": "mamba_dt_rank", "ssm_state": "mamba_d_state", "experts": "num_experts"},
    multiples={"inner": ("mamba_expand", "embed"), "dt_rank": (Fraction(1, 16), "embed")},
    aliases={"num_experts": ("num_local_experts",)},
    tensors={
        **EMBEDDING_AND_HEAD,
        **in_layers(
            "mixer/mamba",
            {
                "model.layers.*.mamba.in_proj": linear("inner | inner", "embed"),
                "model.layers.*.mamba.conv1d": depthwise("inner"),
                "model.layers.*.mamba.x_proj": linear("dt_rank | ssm_state | ssm_state", "inner"),
                "model.layers.*.mamba.dt_layernorm": norm("dt_rank"),
                "model.layers.*.mamba.b_layernorm": norm("ssm_state"),
                "model.layers.*.mamba.c_layernorm": norm("ssm_state"),
                "model.layers.*.mamba.dt_proj": linear("inner", "dt_rank"),
                "model.layers.*.mamba.A_log": parameter("inner", "ssm_state"),
                "model.layers.*.mamba.D": parameter("inner"),
                "model.layers.*.mamba.out_proj": linear("embed", "inner"),
            },
        ),
        **in_layers("mixer/attention", ATTENTION),
        **in_layers("mlp/experts", experts("model.layers.*.feed_forward", "ffn", "router")),
        **in_layers("mlp/dense", gated_mlp("model.layers.*.feed_forward")),
        **norms("model.layers.*.input_layernorm", "model.layers.*.pre_ff_layernorm", "model.final_layernorm"),
    },
    defaults={"num_key_value_heads": 8, "mamba_d_state": 16, "mamba_expand": 2, "num_experts": 16},
    positions=Learned(),
)

FAMILIES = (JAMBA,)
