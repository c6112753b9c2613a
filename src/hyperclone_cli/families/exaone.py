"""EXAONE: 3 is Llama, mostly under GPT-2's names; 4 has norms after each block, as OLMo 2; K-EXAONE is a mixture."""

from dataclasses import replace

from hyperclone_cli.families.blocks import GATED_MLP, NORMED_ATTENTION, ROTARY_BUFFERS, sizes
from hyperclone_cli.families.deepseek import DENSE_OR_SPARSE, MIXTURE
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import types_by_period
from hyperclone_cli.families.llama import LLAMA, MISTRAL
from hyperclone_cli.families.olmo import OLMO2
from hyperclone_cli.families.routing import in_groups
from hyperclone_cli.families.statements import Layout, NextToken
from hyperclone_cli.families.vocabulary import in_layers, parameter, post_norm

_PUBLISHED = {
    "model.embed_tokens": "transformer.wte",
    "model.layers": "transformer.h",
    "model.norm": "transformer.ln_f",
    "self_attn.o_proj": "self_attn.out_proj",
    "self_attn": "attn.attention",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "gate_proj": "c_fc_0",
    "up_proj": "c_fc_1",
    "down_proj": "c_proj",
}
"""Part of a name in memory → of the name on disk."""


def _published(module: str) -> str:
    for in_memory, on_disk in _PUBLISHED.items():
        module = module.replace(in_memory, on_disk)
    return module


EXAONE_IN_MEMORY = LLAMA.without(*ROTARY_BUFFERS).variant(
    "exaone",
    layout=Layout("names of Llama", module="model.embed_tokens"),
    known_as="EXAONE 3 and 3.5",
    aliases={"num_hidden_layers": ("num_layers",)},
)
EXAONE = replace(
    EXAONE_IN_MEMORY,
    layout=Layout(),
    tensors={_published(module): form for module, form in EXAONE_IN_MEMORY.tensors.items()},
)

EXAONE4 = OLMO2.variant(
    "exaone4",
    known_as="EXAONE 4",
    tensors={
        "model.layers.*.self_attn.q_norm": post_norm("query"),
        "model.layers.*.self_attn.k_norm": post_norm("key"),
        **ROTARY_BUFFERS,
    },
    layer_rules=(types_by_period("sliding_window_pattern"),),
)

_CORRECTION = "model.layers.*.mlp.e_score_correction_bias"
EXAONE_MOE = MISTRAL.without(*GATED_MLP).variant(
    "exaone_moe",
    known_as="K-EXAONE",
    tiny={"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    sizes=sizes(moe_ffn="moe_intermediate_size", experts="num_experts", shared="num_shared_experts"),
    tensors={**NORMED_ATTENTION, **MIXTURE, **in_layers("experts", {_CORRECTION: parameter("experts")})},
    layer_rules=(*EXAONE4.layer_rules, DENSE_OR_SPARSE),
    routing=in_groups(8),
    next_token=NextToken(names="mtp."),
)

FAMILIES = (
    EXAONE_IN_MEMORY,
    EXAONE,
    EXAONE4,
    fused(EXAONE_MOE, {_CORRECTION: "model.layers.*.mlp.gate.e_score_correction_bias"}),
    EXAONE_MOE,
)
