"""Dory: all vectors have length 1, the residual stream, queries and keys, and what attention and feed-forward make.

Its norms have no weights and divide by the length, so each of n copies is 1/√n as large, and their eps weighs what it
did. Each block moves the stream some way towards what it makes, and some layers run several times.
"""

from collections.abc import Mapping
from fractions import Fraction

from hyperclone_cli.families.blocks import SIZES
from hyperclone_cli.families.statements import Layout, Limit, Stated
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import (
    Form,
    embedding,
    factor,
    from_stream,
    gating,
    in_layers,
    linear,
    optional,
    parameter,
)

_ATTENTION: dict[str, Form] = {
    "q_proj": from_stream(linear("heads query", "embed")),
    "k_proj": from_stream(linear("kv_heads key", "embed")),
    "v_proj": from_stream(linear("kv_heads value", "embed")),
    "gate_proj": gating(from_stream(linear("heads value", "embed", forward_power=0.5))),
    "sqk": parameter("heads query"),
    "s_gate": factor("heads value"),
    "o_proj": from_stream(linear("embed", "heads value")),
}
_FEED_FORWARD: dict[str, Form] = {
    "gate_proj": gating(from_stream(linear("ffn", "embed", forward_power=0.5))),
    "up_proj": from_stream(linear("ffn", "embed", forward_power=0.5)),
    "suv_gate": factor("ffn"),
    "suv_up": factor("ffn"),
    "down_proj": from_stream(linear("embed", "ffn")),
}
_GATE = {"gate_proj": "g_proj"}
"""Attention's gate has another name on disk."""


def _under(prefix: str, forms: Mapping[str, Form], names: Mapping[str, str]) -> dict[str, Form]:
    return {f"{prefix}.{names.get(name, name)}": form for name, form in forms.items()}


def _layers(prefix: str, names: Mapping[str, str]) -> dict[str, Form]:
    return {
        **_under(f"{prefix}.self_attn", _ATTENTION, names),
        **_under(f"{prefix}.mlp", _FEED_FORWARD, {}),
        f"{prefix}.lambda_1": factor("embed"),
        f"{prefix}.lambda_2": factor("embed"),
    }


def _dory(layout: Layout, embeddings: str, layers: Mapping[str, Form], stated: Mapping[str, Stated]) -> Family:
    return Family(
        model_type="dory",
        layout=layout,
        known_as="Nemotron Labs Dory 1",
        tiny={
            "num_hidden_layers": 8,
            "n_input_layers": 2,
            "n_recurrent_layers": 4,
            "n_output_layers": 2,
            "layer_types": ["sliding_attention", "mlp", "full_attention", "mlp"] * 2,
            "sliding_window": 8,
            "initializer_range": 1.0,  # what scales of this size are divided by
        },
        sizes=SIZES,
        stated=stated,
        tensors={
            embeddings: embedding("vocab", "embed"),
            **layers,
            "lm_head": optional(from_stream(linear("vocab", "embed"))),
            "lm_head.logit_scale": parameter("vocab"),
        },
        norm="length",
        limits=(
            Limit("ffn", "where a norm spans it, so its units are copied equally often"),
            Limit("head_dim", "whose queries and keys have length 1"),
            Limit("layers", "where each layer divides the residual stream by its length, none leaves it as it is"),
        ),
    )


_IN_PAIRS = {"layers": Stated(Fraction(1, 2))}
"""config.json counts attention and feed-forward as a layer each."""

FAMILIES = (
    _dory(
        Layout("in memory", module="model.embed_tokens"), "model.embed_tokens", _layers("model.layers.*", {}), _IN_PAIRS
    ),
    _dory(
        Layout("as published", module="backbone.layers.*.mixer.q_proj"),
        "backbone.embeddings",
        {
            **in_layers("attention", _under("backbone.layers.*.mixer", _ATTENTION, _GATE)),
            **in_layers("attention", {"backbone.layers.*.attn_alpha": factor("embed")}),
            **in_layers("feed-forward", _under("backbone.layers.*.mixer", _FEED_FORWARD, {})),
            **in_layers("feed-forward", {"backbone.layers.*.mlp_alpha": factor("embed")}),
        },
        {},
    ),
    _dory(Layout(), "backbone.embeddings", _layers("backbone.layers.*", _GATE), _IN_PAIRS),
)
