"""Mamba 2: state spaces in heads, whose number is all that grows; groups of heads share input and output matrices."""

from hyperclone_cli.families.blocks import norms, under
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, depthwise, embedding, linear, norm, optional, parameter

MIXER: dict[str, Form] = {
    "in_proj": linear("ssm_inner | ssm_inner | ssm_groups ssm_state | ssm_groups ssm_state | ssm_heads", "embed"),
    "conv1d": depthwise("ssm_inner | ssm_groups ssm_state | ssm_groups ssm_state"),
    "dt_bias": parameter("ssm_heads"),
    "A_log": parameter("ssm_heads"),
    "D": parameter("ssm_heads"),
    "norm": norm("ssm_inner"),
    "out_proj": linear("embed", "ssm_inner"),
}
# expand × hidden_size is head size × heads, so the hidden size cannot grow by less than a copy of each head
NORMED = Limit("pads", "where a norm spans the state space's heads, so each must be copied equally often")

MAMBA2 = Family(
    model_type="mamba2",
    known_as="Mamba 2, Mamba Codestral",
    tiny={"state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    sizes={
        "embed": "hidden_size",
        "ssm_heads": "num_heads",
        "ssm_value": "head_dim",
        "ssm_groups": "n_groups",
        "ssm_state": "state_size",
        "vocab": "vocab_size",
        "layers": "num_hidden_layers",
    },
    multiples={"ffn": ("expand", "embed"), "ssm_inner": ("expand", "embed")},
    tensors={
        "backbone.embeddings": embedding("vocab", "embed"),
        **under("backbone.layers.*.mixer", MIXER),
        **norms("backbone.layers.*.norm", "backbone.norm_f"),
        "lm_head": optional(linear("vocab", "embed")),
    },
    cache=(),
    positions=Learned(),
    limits=(NORMED,),
)

FAMILIES = (MAMBA2,)
