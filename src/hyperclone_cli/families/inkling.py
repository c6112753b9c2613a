"""Inkling: short convolutions on keys, values and what each block adds, and a bias for each distance from the query.

Its two types of layer have heads of their own. The router scores the shared experts beside those it chooses.
"""

from hyperclone_cli.families.blocks import (
    EMBEDDING_AND_HEAD,
    GATED_MLP,
    NORMED_ATTENTION,
    NORMS,
    ROTARY_BUFFERS,
    SELF_ATTENTION,
    sizes,
)
from hyperclone_cli.families.layer_rules import LAYER_TYPES, First, Listed
from hyperclone_cli.families.positions import Learned
from hyperclone_cli.families.statements import Limit, NextToken, PerLayer
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import (
    bare,
    depthwise,
    gating,
    in_layers,
    linear,
    parameter,
    post_norm,
    stacked,
)

_LAYER = "model.layers.*"
_MLP = f"{_LAYER}.mlp"

HEADS_BY_TYPE = PerLayer(
    keys={
        "hybrid_sliding": {
            "heads": "swa_num_attention_heads",
            "kv_heads": "swa_num_key_value_heads",
            "head_dim": "swa_head_dim",
        }
    }
)
HEADS_OF_TWO_SIZES = Limit("head_dim", "where the two types of layer have heads of two sizes")

_ATTENTION = {module: form for module, form in NORMED_ATTENTION.items() if module not in ROTARY_BUFFERS}
_SHARED = {
    "gate_proj": linear("shared moe_ffn", "embed"),
    "up_proj": linear("shared moe_ffn", "embed"),
    "down_proj": linear("shared embed", "moe_ffn"),
}

INKLING = Family(
    model_type="inkling_text",
    known_as="Inkling (text)",
    tiny={
        "num_experts_per_tok": 2,
        "layer_types": ["hybrid_sliding", "hybrid"],
        "mlp_layer_types": ["dense", "sparse"],
        "sliding_window_size": 8,
        "rel_extent": 8,
        "swa_num_attention_heads": 6,
        "swa_num_key_value_heads": 3,
        "swa_head_dim": 12,
    },
    sizes=sizes(
        relative="d_rel", moe_ffn="moe_intermediate_size", experts="n_routed_experts", shared="n_shared_experts"
    ),
    aliases={"n_routed_experts": ("num_local_experts",), "max_position_embeddings": ("model_max_length",)},
    tensors={
        **EMBEDDING_AND_HEAD,
        "model.embed_tokens.embed_norm": post_norm("embed"),
        **_ATTENTION,
        f"{SELF_ATTENTION}.r_proj": linear("heads relative", "embed"),
        f"{SELF_ATTENTION}.rel_logits_proj.proj": parameter("relative", "*"),
        f"{SELF_ATTENTION}.k_sconv.conv1d": depthwise("kv_heads key"),
        f"{SELF_ATTENTION}.v_sconv.conv1d": depthwise("kv_heads value"),
        **dict.fromkeys((f"{_LAYER}.attn_sconv.conv1d", f"{_LAYER}.mlp_sconv.conv1d"), gating(depthwise("embed"))),
        **in_layers("dense", GATED_MLP | {f"{_MLP}.global_scale": parameter("1")}),
        **in_layers(
            "sparse",
            {
                f"{_MLP}.gate": linear("experts+shared", "embed"),
                f"{_MLP}.gate.global_scale": parameter("1"),
                f"{_MLP}.gate.e_score_correction_bias": parameter("experts"),
                f"{_MLP}.experts.gate_up_proj": stacked(bare(linear("experts moe_ffn+moe_ffn", "embed"))),
                f"{_MLP}.experts.down_proj": stacked(bare(linear("experts embed", "moe_ffn"))),
                **{f"{_MLP}.shared_experts.{name}": stacked(bare(form)) for name, form in _SHARED.items()},
            },
        ),
        **NORMS,
    },
    logits="unpadded_vocab_size",
    per_layer=HEADS_BY_TYPE,
    layer_rules=(LAYER_TYPES, Listed("mlp_layer_types", (First("dense_mlp_idx"), "dense", "sparse"))),
    defaults={"dense_mlp_idx": 0},
    positions=Learned(),
    next_token=NextToken("num_mtp_layers", "mtp."),
    limits=(HEADS_OF_TWO_SIZES,),
)

FAMILIES = (INKLING,)
