"""LFM2 of Liquid AI: short gated convolutions, and in some layers attention with norms of queries and keys."""

from dataclasses import replace
from fractions import Fraction

from hyperclone_cli.families.blocks import EMBEDDING_AND_HEAD, SELF_ATTENTION, SIZES, attention, norms, qk_norms
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import LAYER_TYPES, First, Numbers
from hyperclone_cli.families.routing import UNLESS_NORMED, Routing
from hyperclone_cli.families.statements import Stated
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import depthwise, in_layers, linear, optional, parameter

LFM2 = Family(
    model_type="lfm2",
    known_as="LFM2",
    tiny={"layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
    sizes=SIZES,
    multiples={"inner": (1, "embed")},
    stated={
        "ffn": Stated(
            Fraction(2, 3),
            times="block_ffn_dim_multiplier",
            multiple="block_multiple_of",
            switch="block_auto_adjust_ff_dim",
        )
    },
    aliases={
        "hidden_size": ("block_dim", "conv_dim", "conv_dim_out"),
        "intermediate_size": ("block_ff_dim",),
        "num_attention_heads": ("num_heads",),
        "tie_word_embeddings": ("tie_embedding",),
    },
    tensors={
        **EMBEDDING_AND_HEAD,
        **in_layers(
            "conv",
            {
                "model.layers.*.conv.in_proj": linear("inner | inner | inner", "embed"),
                "model.layers.*.conv.conv": depthwise("inner"),
                "model.layers.*.conv.out_proj": linear("embed", "inner"),
            },
        ),
        **in_layers(
            "attention",
            attention(SELF_ATTENTION, out="out_proj") | qk_norms(SELF_ATTENTION, "q_layernorm", "k_layernorm"),
        ),
        "model.layers.*.feed_forward.w1": linear("ffn", "embed"),
        "model.layers.*.feed_forward.w3": linear("ffn", "embed"),
        "model.layers.*.feed_forward.w2": linear("embed", "ffn"),
        **norms("model.layers.*.operator_norm", "model.layers.*.ffn_norm", "model.embedding_norm"),
    },
    layer_rules=(LAYER_TYPES, Numbers("full_attn_idxs")),
)

_FFN = "model.layers.*.feed_forward"
_DENSE = {module: form for module, form in LFM2.tensors.items() if module.startswith(_FFN)}

LFM2_MOE = replace(
    LFM2,
    model_type="lfm2_moe",
    known_as="LFM2 8B A1B",
    tiny={"layer_types": ["conv", "full_attention"], "num_dense_layers": 1, "num_experts_per_tok": 2},
    sizes={**SIZES, "moe_ffn": "moe_intermediate_size", "experts": "num_experts"},
    stated={},
    aliases={},
    tensors={
        **{
            module: replace(form, layer_kind=form.layer_kind and f"mixer/{form.layer_kind}")
            for module, form in LFM2.without(*_DENSE).tensors.items()
        },
        **in_layers("mlp/dense", _DENSE),
        **in_layers(
            "mlp/experts",
            {
                f"{_FFN}.gate": linear("experts", "embed"),
                f"{_FFN}.expert_bias": optional(parameter("experts")),
                f"{_FFN}.experts.*.w1": linear("moe_ffn", "embed"),
                f"{_FFN}.experts.*.w3": linear("moe_ffn", "embed"),
                f"{_FFN}.experts.*.w2": linear("embed", "moe_ffn"),
            },
        ),
    },
    layer_rules=(LAYER_TYPES, First("num_dense_layers")),
    routing=Routing(4, alone=UNLESS_NORMED),
)

FAMILIES = (LFM2, fused(LFM2_MOE, experts=f"{_FFN}.experts"), LFM2_MOE)
