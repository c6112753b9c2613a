"""Kimi Linear and Ling 3: delta nets with a decay for each channel, in some layers latent attention, and a mixture.

Ling 3's delta nets have as many heads as its attention, and gates in one matrix each.
"""

from dataclasses import replace

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, NORMS, SELF_ATTENTION, renamed, under
from hyperclone_cli.families.deepseek import (
    CORRECTION,
    DEEPSEEK_V2,
    DENSE_OR_SPARSE,
    LATENT_ATTENTION,
    LATENT_SIZES,
    MIXTURE,
)
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import Every, Listed, Numbers, types_by_period
from hyperclone_cli.families.routing import Routing
from hyperclone_cli.families.statements import Layout, NextToken
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import Form, apart, depthwise, in_layers, linear, norm, parameter

_EXPERTS = {"moe_ffn": "moe_intermediate_size", "experts": "num_experts", "shared": "num_shared_experts"}
_ALIASES = {
    "num_attention_heads": ("num_key_value_heads",),
    "num_experts": ("num_local_experts",),
    "num_shared_experts": ("n_shared_experts",),
    "model_max_length": ("max_position_embeddings",),
}
_TINY = {
    "linear_num_heads": 4,
    "linear_head_dim": 16,
    "num_experts_per_token": 2,
    "num_expert_group": 2,
    "topk_group": 1,
    "layer_types": ["linear_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse"],
}


def _routing(groups: int, chosen: int) -> Routing:
    """DeepSeek V3's router under these models' keys."""
    return Routing(
        8,
        "num_experts_per_token",
        alone={"moe_renormalize": False},
        groups={"num_expert_group": groups, "topk_group": chosen},
    )


def _delta(heads: str, gates: dict[str, Form], rates: Form, in_memory: bool) -> dict[str, Form]:
    """A delta net with so many heads, whose decay is read through `gates` and `rates`."""
    width = f"{heads} delta_key"
    decay = {"dt_bias": parameter(width), "A_log": rates} | {k: form for k, form in gates.items() if k[0] == "f"}
    convolutions = {f"{name}_conv1d": depthwise(width) for name in "qkv"}
    if in_memory:
        decay = under("forget_gate", decay)
        convolutions = {"conv1d": depthwise(f"{width} | {width} | {width}")}
    return {
        **{f"{name}_proj": linear(width, "embed") for name in "qkv"},
        **convolutions,
        **decay,
        **{name: form for name, form in gates.items() if name[0] == "g"},
        "b_proj": linear(heads, "embed"),
        "o_norm": norm("delta_key"),
        "o_proj": linear("embed", width),
    }


def _tensors(delta: dict[str, Form], **latent: Form) -> dict[str, Form]:
    return {
        **EMBEDDING_AND_HEAD,
        **apart("mixer/delta", under(SELF_ATTENTION, delta)),
        **in_layers("mixer/latent", LATENT_ATTENTION | under(SELF_ATTENTION, latent)),
        **MIXTURE,
        **CORRECTION,
        **NORMS,
    }


_THROUGH_A_RANK = {
    f"{gate}_{place}_proj": form
    for gate in "fg"
    for place, form in (("a", linear("delta_key", "embed")), ("b", linear("delta_heads delta_key", "delta_key")))
}
_KIMI = [
    _tensors(_delta("delta_heads", _THROUGH_A_RANK, parameter("1", "1", "delta_heads", "1"), in_memory))
    for in_memory in (False, True)
]
_KIMI_NAMES = {
    ".mlp.": ".block_sparse_moe.",
    "experts.*.gate_proj": "experts.*.w1",
    "experts.*.up_proj": "experts.*.w3",
    "experts.*.down_proj": "experts.*.w2",
}

KIMI_LINEAR = Family(
    model_type="kimi_linear",
    known_as="Kimi Linear 48B A3B",
    tiny=_TINY,
    sizes={**LATENT_SIZES, **_EXPERTS, "delta_heads": "linear_num_heads", "delta_key": "linear_head_dim"},
    aliases={
        **_ALIASES,
        "linear_num_heads": ("linear_attn_config.num_heads",),
        "linear_head_dim": ("linear_attn_config.head_dim",),
    },
    context="model_max_length",
    tensors=renamed(_KIMI[0], _KIMI_NAMES),
    defaults={
        "first_k_dense_replace": 1,
    },
    layer_rules=(
        DENSE_OR_SPARSE,
        Listed(
            "layer_types",
            (
                Numbers("linear_attn_config.full_attn_layers", first=1, pattern=Every("", 0, length=4, after=1)),
                "full_attention",
                "linear_attention",
            ),
        ),
    ),
    routing=_routing(1, 1),
    cache=DEEPSEEK_V2.cache,
    limits=DEEPSEEK_V2.limits,
)

_LING_GATES = {"f_proj": linear("heads delta_key", "embed"), "g_proj": linear("heads delta_key", "embed")}
_LING = [
    _tensors(_delta("heads", _LING_GATES, parameter("heads"), in_memory), g_proj=linear("heads", "embed"))
    for in_memory in (False, True)
]
_LING_NAMES = {
    "embed_tokens": "word_embeddings",
    ".self_attn.": ".attention.",
    ".attention.o_proj": ".attention.dense",
    "e_score_correction_bias": "expert_bias",
}
_SAVED = Layout("saved by transformers", {"linear_head_dim": ...})

BAILING_HYBRID = Family(
    model_type="bailing_hybrid",
    known_as="Ling 3",
    tiny=_TINY,
    sizes={**LATENT_SIZES, **_EXPERTS, "delta_key": "head_dim"},
    aliases={**_ALIASES, "num_attention_heads": ("num_key_value_heads", "linear_num_heads")},
    context="model_max_length",
    tensors=renamed(_LING[0], _LING_NAMES),
    defaults={
        "first_k_dense_replace": 2,
    },
    layer_rules=(DENSE_OR_SPARSE, types_by_period("layer_group_size", other="linear")),
    routing=_routing(8, 4),
    cache=DEEPSEEK_V2.cache,
    limits=DEEPSEEK_V2.limits,
    next_token=NextToken("num_nextn_predict_layers"),
)


_LING_SAVED = BAILING_HYBRID.variant(
    "bailing_hybrid",
    layout=_SAVED,
    known_as="models with linear_head_dim",
    sizes={**BAILING_HYBRID.sizes, "delta_key": "linear_head_dim"},
)

FAMILIES = (
    fused(replace(KIMI_LINEAR, tensors=_KIMI[1])),
    KIMI_LINEAR,
    fused(replace(_LING_SAVED, tensors=_LING[1])),
    _LING_SAVED,
    BAILING_HYBRID,
)
