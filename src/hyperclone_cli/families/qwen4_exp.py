"""Qwen 4 Exp: Qwen 3.5's mixture with several residual streams, an indexer, and embeddings of word groups.

Before each block the streams are normalised one by one, weighed unit by unit and averaged. Hashes of the last tokens
choose the embeddings that some layers add to all streams.
"""

from dataclasses import replace

from hyperclone_cli.families.blocks import SELF_ATTENTION, under
from hyperclone_cli.families.fused import fused
from hyperclone_cli.families.layer_rules import Every, Listed
from hyperclone_cli.families.qwen_delta import QWEN3_5_MOE
from hyperclone_cli.families.statements import Limit
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import (
    Form,
    depthwise,
    gating,
    in_some_layers,
    kept,
    linear,
    norm,
)

_LAYER = "model.layers.*"
_STREAMS = "streams embed"
_MIXER: dict[str, Form] = {
    "hc_norm": norm(_STREAMS, plus_one=True),
    "input_mix_weight_down": linear("*", _STREAMS),
    "input_mix_weight_up": gating(linear(_STREAMS, "*")),
}
_CONNECTION = {**_MIXER, "block_inject_weight": linear("streams", _STREAMS)}
_WORD_GROUPS: dict[str, Form] = {
    "key_proj": linear(_STREAMS, "*"),
    "value_proj": linear("embed", "*"),
    # multiplied with `norm_query`, summed over the width, and divided by its root
    "norm_key": replace(norm(_STREAMS, plus_one=True), forward_power=0.5),
    "norm_query": norm(_STREAMS, plus_one=True),
    "norm_conv": norm(_STREAMS, plus_one=True),
    "conv1d": depthwise(_STREAMS),
}
_INDEXER: dict[str, Form] = {
    "index_qk_proj": linear("*", "embed"),
    "q_layernorm": norm("*"),
    "k_layernorm": norm("*"),
}
_NORMS = ("model.norm", f"{_LAYER}.input_layernorm", f"{_LAYER}.post_attention_layernorm")

QWEN4_EXP: Family = QWEN3_5_MOE.without(*_NORMS).variant(
    "qwen4_exp_text",
    known_as="Qwen 4 Exp (text)",
    tiny={
        **QWEN3_5_MOE.tiny,
        "layer_types": ["linear_attention", "indexed_attention"],
        "hc_lowrank": 10,
        "ple_layer_ids": [1],
        "ple_embed_dim": 24,
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 40,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
        "indexer_n_heads": 3,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 6,
        "indexer_compress_ratio": 2,
    },
    sizes={**QWEN3_5_MOE.sizes, "streams": "hc_count"},
    tensors={
        **{
            f"{SELF_ATTENTION}.indexer.{name}": replace(form, layer_kind="attention") for name, form in _INDEXER.items()
        },
        **under(f"{_LAYER}.attn_hyper_connection", _CONNECTION),
        **under(f"{_LAYER}.mlp_hyper_connection", _CONNECTION),
        **{f"{_LAYER}.ple.{name}": in_some_layers(form) for name, form in _WORD_GROUPS.items()},
        **under("model.hyper_connection_mixer", _MIXER),
    },
    whole={f"{_LAYER}.ple.ple_embedding": in_some_layers(kept("embedding"))},
    layer_rules=(
        Listed("layer_types", (Every("full_attention_interval", length=4), "indexed_attention", "linear_attention")),
    ),
    limits=(
        Limit("pads", "where embeddings of word groups pass a silu before they are added", {"ple_layer_ids": ...}),
        Limit("layers", "where each layer mixes several residual streams, none leaves them as they are"),
        Limit("head_dim", "its indexer takes the rotary positions of a head"),
    ),
)

FAMILIES = (fused(QWEN4_EXP), QWEN4_EXP)
