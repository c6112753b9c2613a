"""A.X K1 and K2: DeepSeek's latent attention and mixture. K1 has a norm after the experts, K2 gates norms and heads."""

from hyperclone_cli.families.blocks import under
from hyperclone_cli.families.deepseek import DEEPSEEK_V3, DENSE_OR_SPARSE
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import LAYER_TYPES
from hyperclone_cli.families.routing import in_groups
from hyperclone_cli.families.sparse_attention import DEEPSEEK_V32
from hyperclone_cli.families.vocabulary import (
    Form,
    gating,
    in_layers,
    linear,
    norm,
    post_norm,
    without_post_norm,
)

_LAYER = "model.layers.*"
_WRITERS = (f"{_LAYER}.self_attn.o_proj", f"{_LAYER}.mlp.down_proj")

AXK1 = DEEPSEEK_V3.variant(
    "axk1",
    known_as="A.X K1",
    tensors={
        **in_layers("experts", {f"{_LAYER}.post_mlp_layernorm": post_norm("embed")}),
        **{module: without_post_norm(DEEPSEEK_V3.tensors[module]) for module in _WRITERS},
    },
    defaults={"first_k_dense_replace": 1},
    layer_rules=(DENSE_OR_SPARSE,),
)

# the output of the norm is multiplied by what two matrices make of it
_GATED_NORM: dict[str, Form] = {
    "norm": norm("embed"),
    "W_down": linear("*", "embed"),
    "W_up": gating(linear("embed", "*")),
}
_AFTER_ATTENTION = f"{_LAYER}.post_attention_layernorm"
_QUERY = f"{_LAYER}.self_attn.q_b_proj"

AXK2 = DEEPSEEK_V32.without(f"{_LAYER}.input_layernorm", f"{_LAYER}.self_attn.q_proj").variant(
    "axk2",
    known_as="A.X K2",
    tensors={
        # a head's query and its gate, from the latent vector after and before its norm
        _QUERY: linear("heads nope+rope+value", "2 q_latent"),
        **under(f"{_LAYER}.input_layernorm", _GATED_NORM),
        **in_layers("experts", under(_AFTER_ATTENTION, _GATED_NORM)),
        **in_layers("dense", {_AFTER_ATTENTION: norm("embed")}),
    },
    defaults={
        "first_k_dense_replace": 1,
    },
    layer_rules=(DENSE_OR_SPARSE, LAYER_TYPES),
    routing=in_groups(8, None, None),
)
_GATES = (f"{_LAYER}.input_layernorm", _AFTER_ATTENTION)
_IN_MEMORY = {
    _QUERY: f"{_LAYER}.self_attn.q_gate_proj",
    **{f"{gate}.W_down": f"{gate}.mlp.fc1" for gate in _GATES},
    **{f"{gate}.W_up": f"{gate}.mlp.fc2" for gate in _GATES},
}

FAMILIES = (
    fused(AXK1, {f"{_LAYER}.post_mlp_layernorm": f"{_LAYER}.mlp.post_mlp_layernorm"}),
    AXK1,
    fused(AXK2, _IN_MEMORY),
    AXK2,
)
