"""Doge: a mask of attention that is worked out from the values, a weight on each residual connection, tiny experts."""

from dataclasses import replace

from hyperclone_cli.families.blocks import NORMED_ATTENTION, sizes
from hyperclone_cli.families.llama import LLAMA
from hyperclone_cli.families.vocabulary import embedding, factor, linear, optional, parameter, without_post_norm

_LAYER = "model.layers.*"
_RESIDUAL = replace(factor("embed"), at_rest=1.0)

DOGE = LLAMA.variant(
    "doge",
    known_as="Doge",
    sizes=sizes("head_dim"),
    tensors={
        **NORMED_ATTENTION,
        f"{_LAYER}.self_attn.A": parameter("kv_heads"),
        f"{_LAYER}.self_attn.dt_proj": linear("kv_heads", "kv_heads value"),
        f"{_LAYER}.input_residual": _RESIDUAL,
        f"{_LAYER}.post_attention_residual": _RESIDUAL,
        # an expert is one unit: what it reads of the stream, and what it writes
        f"{_LAYER}.mlp.router_gate": optional(linear("*", "embed")),
        f"{_LAYER}.mlp.down_embed": optional(linear("*", "embed")),
        f"{_LAYER}.mlp.up_embed": optional(without_post_norm(embedding("*", "embed"))),
    },
)

FAMILIES = (DOGE,)
