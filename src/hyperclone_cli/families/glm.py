"""GLM 4 of two makes: Llama with gate and up fused, rotary positions on pairs, in glm4 a norm after each block too."""

from hyperclone_cli.families.llama import MISTRAL
from hyperclone_cli.families.positions import Rotary
from hyperclone_cli.families.vocabulary import linear, post_norm

GLM = MISTRAL.without("model.layers.*.mlp.gate_proj", "model.layers.*.mlp.up_proj").variant(
    "glm",
    known_as="GLM-4 9B",
    tensors={"model.layers.*.mlp.gate_up_proj": linear("ffn | ffn", "embed")},
    defaults={"partial_rotary_factor": 0.5},
    positions=Rotary("neighbours", "partial_rotary_factor"),
)

GLM4 = GLM.variant(
    "glm4",
    known_as="GLM-4 0414",
    tensors={
        "model.layers.*.post_self_attn_layernorm": post_norm("embed"),
        "model.layers.*.post_mlp_layernorm": post_norm("embed"),
    },
)

FAMILIES = (GLM, GLM4)
