"""Mamba and Falcon Mamba: gated selective state spaces in place of attention and feed-forward alike.

The width of a block, `intermediate_size`, is free. Falcon Mamba's norms of time steps, input and output
matrices have no weights.
"""

from fractions import Fraction

from hyperclone_cli.families.blocks import norms, sizes, under
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, depthwise, embedding, linear, optional, parameter


def mixer(width: str) -> dict[str, Form]:
    """A selective state space of some width, each unit with a state of its own."""
    return {
        "in_proj": linear(f"{width} | {width}", "embed"),
        "conv1d": depthwise(width),
        "x_proj": linear("dt_rank | ssm_state | ssm_state", width),
        "dt_proj": linear(width, "dt_rank"),
        "A_log": parameter(width, "ssm_state"),
        "D": parameter(width),
        "out_proj": linear("embed", width),
    }


MAMBA = Family(
    model_type="mamba",
    known_as="Mamba 130m to 2.8b",
    tiny={"state_size": 8},
    sizes=sizes("heads", "kv_heads", "head_dim", ssm_state="state_size", dt_rank="time_step_rank"),
    multiples={"ffn": ("expand", "embed"), "dt_rank": (Fraction(1, 16), "embed")},
    aliases={"hidden_size": ("d_model",), "intermediate_size": ("d_inner",), "num_hidden_layers": ("n_layer",)},
    tensors={
        "backbone.embeddings": embedding("vocab", "embed"),
        **under("backbone.layers.*.mixer", mixer("ffn")),
        **norms("backbone.layers.*.norm", "backbone.norm_f"),
        "lm_head": optional(linear("vocab", "embed")),
    },
    cache=(),
    positions=Learned(),
)

FAMILIES = (MAMBA, MAMBA.variant("falcon_mamba", known_as="Falcon Mamba 7B"))
