"""Inkling 2: Inkling's convolutions, and blocks that read a mean of the sums of all blocks before.

A learned query weighs these sums, in full layers one each for queries, keys and values, whose convolutions there are
read from the stream. In Inkling 2 Mini some layers run several times, and read from the pass before.
"""

from collections.abc import Mapping

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, norms, renamed, sizes
from hyperclone_cli.families.inkling import HEADS_BY_TYPE, HEADS_OF_TWO_SIZES
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Layout, Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import (
    Form,
    bare,
    depthwise,
    embedding,
    from_stream,
    gating,
    in_layers,
    in_some_layers,
    linear,
    parameter,
    post_norm,
    stacked,
    stream_query,
)

_LAYER = "model.layers.*"
_ATTENTION = f"{_LAYER}.self_attn"
_RELATIVE = f"{_ATTENTION}.relative_position_bias"
_EXPERTS = f"{_LAYER}.mlp.experts"
_KEYS_AND_VALUES = (("k_proj", "kv_heads key"), ("v_proj", "kv_heads value"))

_EVERYWHERE: dict[str, Form] = {
    **EMBEDDING_AND_HEAD,
    "model.embed_tokens.embed_norm": post_norm("embed"),
    f"{_LAYER}.mlp_input.query": stream_query("embed"),
    f"{_LAYER}.attention_input.query (of sliding layers)": in_some_layers(stream_query("embed")),
    f"{_LAYER}.attention_input.query (of full layers)": in_some_layers(stream_query("3", "embed")),
    "model.final_input.query": stream_query("embed"),
    f"{_ATTENTION}.q_proj.linear": linear("heads query", "embed"),
    f"{_ATTENTION}.q_proj.norm.scale": parameter("heads", "query"),
    f"{_ATTENTION}.sink_proj": linear("heads", "embed"),
    **{f"{_ATTENTION}.{name}.linear": linear(width, "embed") for name, width in _KEYS_AND_VALUES},
    f"{_RELATIVE}.linear": linear("heads relative", "embed"),
    f"{_RELATIVE}.norm.scale": parameter("heads", "relative"),
    f"{_RELATIVE}.proj": parameter("relative", "*"),
    f"{_ATTENTION}.o_proj.gate_proj": linear("heads value", "embed"),
    f"{_ATTENTION}.o_proj.linear": linear("embed", "heads value"),
    f"{_LAYER}.post_attention_convolution.conv1d": gating(depthwise("embed")),
    f"{_LAYER}.mlp.gate.weight": bare(linear("experts", "embed")),
    f"{_LAYER}.mlp.gate.e_score_correction_bias": parameter("experts"),
    f"{_EXPERTS}.down_proj": stacked(bare(linear("experts embed", "ffn"))),
    f"{_LAYER}.post_mlp_convolution.conv1d": gating(depthwise("embed")),
    **norms(f"{_LAYER}.post_attention_layernorm", "model.norm"),
    **in_layers(
        "sliding",
        {
            **norms(f"{_LAYER}.input_layernorm"),
            **{f"{_ATTENTION}.{name}.sconv.conv1d": depthwise(width) for name, width in _KEYS_AND_VALUES},
        },
    ),
    **in_layers(
        "full",
        {
            **norms(*(f"{_LAYER}.{name}_input_layernorm" for name in "qkv")),
            **{f"{_ATTENTION}.{name}.sconv.static_weight": parameter("*", width) for name, width in _KEYS_AND_VALUES},
        },
    ),
}
_TAPS = in_layers(
    "full", {f"{_ATTENTION}.{name}.sconv.weight_proj": linear("kv_heads taps", "embed") for name, _ in _KEYS_AND_VALUES}
)
_GATE: dict[str, tuple[str, Form]] = {
    "down_proj": ("down_weight", from_stream(linear("*", "2 embed"))),
    "forget_gate_proj": ("forget_weight", gating(linear("embed", "*"))),
    "message_gate_proj": ("gain_weight", gating(linear("embed", "*"))),
}
_GATED = {"q": "attn", "k": "k", "v": "v", "mlp": "mlp"}
"""What a pass before speaks to: the name in memory → that on disk."""


_IN_MEMORY = {
    **_EVERYWHERE,
    **_TAPS,
    "model.embed_tokens": embedding("padded_vocab", "embed"),
    f"{_EXPERTS}.gate_up_proj": stacked(bare(linear("experts ffn+ffn", "embed"))),
}
_ON_DISK = {
    **_EVERYWHERE,
    **{module: bare(form) for module, form in _TAPS.items()},
    f"{_EXPERTS}.gate_up_proj": stacked(bare(linear("experts ffn 2", "embed"))),
}
_NAMES = {
    "model.": "model.llm.",
    "lm_head": "model.llm.unembed",
    ".embed_tokens.embed_norm": ".embed_norm",
    ".embed_tokens": ".embed",
    ".layers.*.attention_input.query": ".attn_res.attn_queries.*",
    ".layers.*.mlp_input.query": ".attn_res.mlp_queries.*",
    ".final_input.query": ".attn_res.output_query",
    ".conv1d": "",
    ".post_attention_convolution": ".attn_sconv",
    ".post_mlp_convolution": ".mlp_sconv",
    ".input_layernorm": ".attn_norm",
    "_input_layernorm": "_input_norm",
    ".post_attention_layernorm": ".mlp_norm",
    ".e_score_correction_bias": ".bias",
    ".experts.gate_up_proj": ".experts.w13_weight",
    ".experts.down_proj": ".experts.w2_weight",
    ".self_attn": ".attn",
    ".relative_position_bias.linear": ".wr_du",
    ".relative_position_bias.norm": ".rel_l2_clip",
    ".relative_position_bias": ".rel_logits_proj",
    ".q_proj.linear": ".wq_du",
    ".q_proj.norm": ".q_l2_clip",
    ".k_proj.linear": ".wk_dv",
    ".k_proj.sconv": ".k_sconv",
    ".v_proj.linear": ".wv_dv",
    ".v_proj.sconv": ".v_sconv",
    ".static_weight": ".static_w",
    ".o_proj.linear": ".wo_ud",
    ".o_proj.gate_proj": ".gate_attn",
    ".sink_proj": ".attn_sink_proj",
}
"""Parts of names in memory → those on disk, where the queries of attention count from the second layer."""


def _inkling2(layout: Layout, tensors: dict[str, Form], vocab: Mapping[str, str]) -> Family:
    return Family(
        model_type="inkling2_text",
        layout=layout,
        known_as="Inkling 2 Small (text)",
        tiny={
            "num_hidden_layers": 4,
            "layer_types": ["hybrid_sliding", "hybrid"] * 2,
            "n_layers_per_attn_res_block": 2,
            "num_experts_per_tok": 2,
            "sliding_window_size": 8,
            "rel_extent": 8,
            "unpadded_vocab_size": 96,
            "swa_num_attention_heads": 6,
            "swa_num_key_value_heads": 3,
            "swa_head_dim": 12,
        },
        sizes=sizes(
            ffn="moe_intermediate_size",
            experts="n_routed_experts",
            relative="d_rel",
            taps="conv_kernel_size",
            **vocab,
        ),
        aliases={
            "n_routed_experts": ("num_local_experts",),
            "max_position_embeddings": ("model_max_length",),
            "conv_kernel_size": ("sconv_kernel_size",),
        },
        tensors=tensors,
        logits="unpadded_vocab_size",
        per_layer=HEADS_BY_TYPE,
        routing=Routing(8),
        positions=Learned(),
        limits=(
            HEADS_OF_TWO_SIZES,
            Limit("layers", "where each block reads a mean of all sums before it, which more layers would change"),
        ),
    )


_PADDED = {"vocab": "unpadded_vocab_size", "padded_vocab": "vocab_size"}
_LAYOUT = Layout("in memory", module="model.final_input.query")
INKLING2 = (_inkling2(_LAYOUT, _IN_MEMORY, _PADDED), _inkling2(Layout(), renamed(_ON_DISK, _NAMES), {}))

_LOOP = (
    {
        "model.message_input.query": stream_query("*", "*", "embed"),
        **{
            f"{_LAYER}.{block}_message_gate.{name}": in_some_layers(form)
            for block in _GATED
            for name, (_, form) in _GATE.items()
        },
    },
    {
        "model.llm.middle_cycle_cross_pass_queries": stream_query("*", "embed"),
        "model.llm.middle_cycle_cross_pass_kv_queries": stream_query("*", "embed"),
        **{
            f"model.llm.layers.*.controllers.{block}.{name}": in_some_layers(bare(form))
            for block in _GATED.values()
            for name, form in _GATE.values()
        },
    },
)
INKLING2_LOOP = tuple(
    family.variant(
        "inkling2_loop_text",
        known_as="Inkling 2 Mini (text)",
        tiny={
            **family.tiny,
            "layer_types": ["hybrid_sliding", "hybrid_sliding", "hybrid", "hybrid"],
            "n_layers_per_attn_res_block": 1,
            "loop_layer_index_start": 1,
            "loop_layer_index_end": 3,
            "loop_num_passes": 2,
            "loop_gate_rank": 7,
            "route_scale": 0.3,  # the more experts add, the more does a pass magnify rounding
        },
        tensors=more,
    )
    for family, more in zip(INKLING2, _LOOP, strict=True)
)

FAMILIES = (*INKLING2, *INKLING2_LOOP)
