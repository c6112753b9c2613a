"""Mamba and Falcon Mamba: gated selective state spaces in place of attention and feed-forward alike.

The width of a block, `intermediate_size`, is free. Falcon Mamba's norms of time steps, input and output
matrices have no weights.
"""

from fractions import Fraction

from hyperclone_cli.families.blocks import sizes
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import depthwise, embedding, linear, norm, optional, parameter

MAMBA = Family(
    model_type="mamba",
    known_as="Mamba 130m to 2.8b",
    tiny={"state_size": 8},
    sizes=sizes("heads", "kv_heads", "head_dim", ssm_state="state_size", dt_rank="time_step_rank"),
    multiples={"ffn": ("expand", "embed"), "dt_rank": (Fraction(1, 16), "embed")},
    aliases={
        "hidden_size": ("d_model",),
        "intermediate_size": ("d_inner",),
        "num_hidden_layers": ("n_layer",),
    },
    tensors={
        "backbone.embeddings": embedding("vocab", "embed"),
        "backbone.layers.*.norm": norm("embed"),
        "backbone.layers.*.mixer.in_proj": linear("ffn | ffn", "embed"),
        "backbone.layers.*.mixer.conv1d": depthwise("ffn"),
        "backbone.layers.*.mixer.x_proj": linear("dt_rank | ssm_state | ssm_state", "ffn"),
        "backbone.layers.*.mixer.dt_proj": linear("ffn", "dt_rank"),
        "backbone.layers.*.mixer.A_log": parameter("ffn", "ssm_state"),
        "backbone.layers.*.mixer.D": parameter("ffn"),
        "backbone.layers.*.mixer.out_proj": linear("embed", "ffn"),
        "backbone.norm_f": norm("embed"),
        "lm_head": optional(linear("vocab", "embed")),
    },
    defaults={"expand": 2, "state_size": 16, "tie_word_embeddings": True},
    cache=(),
    positions=Learned(),
)

FAMILIES = (MAMBA, MAMBA.variant("falcon_mamba", known_as="Falcon Mamba 7B"))
