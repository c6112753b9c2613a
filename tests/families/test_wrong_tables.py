"""A table with one mistake makes a clone that differs: stock transformers shows it, and `verify` fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli import plan
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.families.positions import Alibi, Learned, Rotary
from hyperclone_cli.families.statements import Fold
from hyperclone_cli.families.table import Family
from hyperclone_cli.families.vocabulary import (
    Form,
    bare,
    conv1d,
    convolution,
    depthwise,
    embedding,
    from_stream,
    gating,
    in_some_layers,
    linear,
    norm,
    numbered,
    optional,
    parameter,
    post_norm,
    stacked,
)
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.growth_table import GROWTHS

LAYER, GPT, MAMBA = "model.layers.*.", "transformer.h.*.", "backbone.layers.*.mixer."
GPT_OSS, DBRX = "model.layers.*.mlp.experts.", "transformer.blocks.*.ffn.experts.mlp."
HEAD_BY_HEAD, PART_BY_PART = "heads query+key+value", "heads query | heads key | heads value"

TENSORS: dict[str, tuple[str, str, Mapping[str, Form]]] = {
    # fused attention
    "attention head by head": ("gpt2", "twice", {GPT + "attn.c_attn": conv1d("embed", HEAD_BY_HEAD)}),
    "attention part by part": ("gpt_bigcode-mha-untied", "twice", {GPT + "attn.c_attn": linear(PART_BY_PART, "embed")}),
    "attention part by part, in Japanese": (
        "gpt_neox_japanese",
        "twice",
        {"gpt_neox_japanese.layers.*.attention.query_key_value": linear(PART_BY_PART, "embed")},
    ),
    "groups part by part": (
        "falcon-40b",
        "twice",
        {GPT + "self_attention.query_key_value": linear("heads query | kv_heads key | kv_heads value", "embed")},
    ),
    "a delta net's parts one after another": (
        "qwen3_next",
        "twice",
        {
            LAYER + "linear_attn.in_proj_qkvz": linear(
                "delta_heads delta_key+delta_key | delta_values delta_value+delta_value", "embed"
            )
        },
    ),
    "the gates of all heads after their queries": (
        "qwen3_5",
        "twice",
        {LAYER + "self_attn.q_proj": linear("heads query | heads value", "embed")},
    ),
    # the order of heads
    "units outside heads": (
        "deepseek_v3",
        "twice",
        {LAYER + "self_attn.kv_b_proj": linear("nope+value heads", "kv_latent")},
    ),
    "keys whose units lie outside heads": (
        "granitemoe-tied",
        "twice",
        {LAYER + "self_attn.k_proj": linear("key kv_heads", "embed")},
    ),
    "heads in the order of another group": (
        "gemma4-keys-are-values",
        "twice",
        {LAYER + "self_attn.q_proj": linear("group kv_heads query", "embed")},
    ),
    "sinks of heads in another order": ("gpt_oss", "twice", {LAYER + "self_attn.sinks": parameter("group kv_heads")}),
    "heads one after another, not in two halves": (
        "diffllama-gqa-tied",
        "twice",
        {LAYER + "self_attn.q_proj": linear("heads query", "embed")},
    ),
    "a pair that writes its halves apart": (
        "diffllama",
        "twice",
        {LAYER + "self_attn.o_proj": linear("embed", "2 kv_pairs group value")},
    ),
    "norms in the order of another group": (
        "stablelm-12b",
        "twice",
        {LAYER + "self_attn.q_layernorm.norms.*": numbered("group kv_heads", post_norm("query"))},
    ),
    "heads in blocks, not blocks in heads": (
        "recurrent_gemma",
        "twice",
        {LAYER + "temporal_block.rg_lru.recurrent_param": parameter("block heads")},
    ),
    # feed-forward layers and experts
    "gate and up unit by unit": ("phi3", "twice", {LAYER + "mlp.gate_up_proj": linear("ffn 2", "embed")}),
    "gates and values taking turns": (
        "granitemoe",
        "twice",
        {LAYER + "block_sparse_moe.input_linear": stacked(linear("experts ffn 2", "embed"))},
    ),
    "gates and values of Gemma 4 taking turns": (
        "gemma4-keys-are-values-experts",
        "twice",
        {LAYER + "experts.gate_up_proj": stacked(bare(linear("experts moe_ffn 2", "embed")))},
    ),
    "all gates, then all values": (
        "gpt_oss",
        "twice",
        {
            GPT_OSS + "gate_up_proj": stacked(bare(conv1d("embed", "experts ffn+ffn"))),
            GPT_OSS + "gate_up_proj_bias": stacked(parameter("experts ffn+ffn")),
        },
    ),
    "biases that are left together": (
        "gpt_oss",
        "twice",
        {GPT_OSS + "gate_up_proj_bias": stacked(parameter("experts ffn+ffn"))},
    ),
    "units outside experts": ("dbrx", "twice", {DBRX + "w1": stacked(bare(linear("ffn experts", "embed")))}),
    "shared experts inside a unit": (
        "ernie4_5_moe",
        "twice",
        {LAYER + "mlp.shared_experts.gate_proj": optional(linear("moe_ffn shared", "embed"))},
    ),
    # what is copied, and what is shared out
    "a router that is copied": ("mixtral", "twice", {LAYER + "block_sparse_moe.gate": embedding("experts", "embed")}),
    "a router of fused experts that is copied": (
        "granitemoe-tied",
        "twice",
        {LAYER + "block_sparse_moe.router.layer": embedding("experts", "embed")},
    ),
    "a router of a hybrid that is copied": (
        "jamba",
        "twice",
        {LAYER + "feed_forward.router": embedding("experts", "embed")},
    ),
    "a router that takes no notice of its factor": (
        "gemma4-untied-experts",
        "twice",
        {LAYER + "router.proj": linear("experts", "embed")},
    ),
    "a router's norm that is taken for a vector": (
        "gemma4-untied-experts",
        "half as wide again",
        {LAYER + "router.scale": parameter("embed")},
    ),
    "a gate that is copied": ("gemma4", "twice", {LAYER + "per_layer_input_gate": embedding("*", "embed")}),
    "streams weighed without the factor": (
        "gemma3n",
        "twice",
        {LAYER + "altup.modality_router": linear("*", "embed")},
    ),
    "a state space's inputs that are copied": (
        "mamba",
        "twice",
        {MAMBA + "x_proj": embedding("dt_rank | ssm_state | ssm_state", "ffn")},
    ),
    # recurrent layers
    "three parts unit by unit": ("lfm2", "twice", {LAYER + "conv.in_proj": linear("inner 3", "embed")}),
    "input and gate unit by unit": ("mamba", "twice", {MAMBA + "in_proj": linear("ffn 2", "embed")}),
    "groups in heads, not heads in groups": (
        "mamba2-groups-tied",
        "twice",
        {MAMBA + "A_log": parameter("ssm_group ssm_groups")},
    ),
    "the state's matrices before its input": (
        "bamba",
        "twice",
        {LAYER + "mamba.conv1d": depthwise("ssm_groups ssm_state | ssm_groups ssm_state | ssm_inner")},
    ),
    # newer mixtures
    "gates of heads in the order of another group": (
        "lfm3",
        "twice",
        {LAYER + "self_attn.gate_proj": optional(linear("group kv_heads", "embed"))},
    ),
    "biases of gates in the order of another group": (
        "beam",
        "twice",
        {LAYER + "self_attn.gate_bias": parameter("group kv_heads")},
    ),
    "sinks of Granite in the order of another group": (
        "granite_swa",
        "twice",
        {LAYER + "self_attn.sinks": parameter("group kv_heads")},
    ),
    "queries and their gates outside heads": (
        "axk2",
        "twice",
        {LAYER + "self_attn.q_b_proj": linear("nope+rope+value heads", "2 q_latent")},
    ),
    "a gated norm's matrix taken for a writer of the stream": (
        "axk2",
        "half as wide again",
        {LAYER + "input_layernorm.W_up": linear("embed", "*")},
    ),
    "streams inside the width": (
        "hy_v4",
        "twice",
        {LAYER + "hc_pre.hc_mlp_layer.hc_fn": from_stream(bare(linear("*", "embed streams")))},
    ),
    "streams thought to be normed": (
        "hy_v4",
        "half as wide again",
        {LAYER + "hc_pre.hc_mlp_layer.hc_fn": bare(linear("*", "streams embed"))},
    ),
    "an output gate after the rates of a delta net": (
        "lara_mini",
        "twice",
        {
            LAYER + "linear_attn.in_proj": linear(
                "delta_heads delta_key | delta_heads delta_key | delta_values delta_value"
                " | delta_values | delta_values | delta_values delta_value",
                "embed",
            )
        },
    ),
    "queries, keys and values group by group": (
        "sarvam_moe-tied",
        "twice",
        {LAYER + "attention.query_key_value": linear("kv_heads group.query+key+value", "embed")},
    ),
    "a choice of experts that is copied": (
        "nemotron_h",
        "twice",
        {"backbone.layers.*.mixer.gate": embedding("experts", "embed")},
    ),
    "a mask read from units outside heads": (
        "doge",
        "twice",
        {LAYER + "self_attn.dt_proj": linear("kv_heads", "value kv_heads")},
    ),
    "a residual weight that is scaled as the stream": (
        "doge",
        "half as wide again",
        {LAYER + "input_residual": parameter("embed")},
    ),
    "(1 + w) of MiniMax taken for w": (
        "minimax_m3_vl_text",
        "half as wide again",
        {"model.norm": norm("embed")},
    ),
    "queries of an expert outside heads": (
        "jetmoe",
        "twice",
        {LAYER + "self_attention.experts.input_linear": stacked(linear("experts query heads", "embed"))},
    ),
    "an expert's gate and up in turns": (
        "aria_text",
        "twice",
        {LAYER + "mlp.experts.fc1": stacked(conv1d("embed", "experts ffn 2"))},
    ),
    "twice the keys, pair outside head": (
        "mimo_v2_flash",
        "twice",
        {LAYER + "self_attn.k_proj (mixer/sliding)": linear("group_parts kv_heads key", "embed")},
    ),
    "decays of units outside heads": (
        "kimi_linear-tied",
        "twice",
        {LAYER + "self_attn.f_b_proj (mixer/delta)": linear("delta_key delta_heads", "delta_key")},
    ),
    "gates of units outside heads": (
        "laguna-gates-of-units-tied",
        "twice",
        {LAYER + "self_attn.g_proj": linear("value heads", "embed")},
    ),
    "queries without the root of the width": (
        "longcat_flash",
        "twice",
        {LAYER + "self_attn.1.q_b_proj": linear("heads nope+rope", "q_latent")},
    ),
    "latent vectors without the root of the width": (
        "dots3_note",
        "twice",
        {LAYER + "self_attn.kv_b_proj": linear("heads nope+value", "kv_latent")},
    ),
    "a shortcut that is no writer of the stream": (
        "longcat_flash",
        "half as wide again",
        {LAYER + "post_attention_layernorm.0": norm("embed")},
    ),
    "heads of a group's matrix in another order": (
        "deepseek_v4",
        "twice",
        {LAYER + "attn.wo_a": linear("*", "value group_part")},
    ),
    "a shared layer that reads the stream unit by unit": (
        "zamba2",
        "twice",
        {LAYER + "shared_transformer.self_attn.q_proj": in_some_layers(linear("heads 2 query", "embed 2"))},
    ),
    "halves of heads outside heads": (
        "zamba2",
        "twice",
        {LAYER + "shared_transformer.self_attn.o_proj": in_some_layers(linear("embed", "2 heads value"))},
    ),
    "input and gate one after another": (
        "zamba",
        "twice",
        {LAYER + "mamba.in_proj": linear("2 mamba_inner", "embed")},
    ),
    "values of a memory outside heads": (
        "xlstm",
        "twice",
        {"backbone.blocks.*.mlstm_layer.ogate_preact": linear("lstm_value lstm_heads", "embed")},
    ),
    "decays in the order of another group": (
        "minimax",
        "twice",
        {LAYER + "self_attn.slope_rate": parameter("group kv_heads", "1", "1")},
    ),
    "a stream that no norm has made": (
        "minimax",
        "half as wide again",
        {LAYER + "input_layernorm": norm("embed")},
    ),
    "parts of distances outside heads": (
        "inkling",
        "twice",
        {LAYER + "self_attn.r_proj": linear("relative heads", "embed")},
    ),
    "values of a convolution outside heads": (
        "inkling",
        "twice",
        {LAYER + "self_attn.v_sconv.conv1d": depthwise("value kv_heads")},
    ),
    "a convolution that writes what passes through it": (
        "inkling",
        "half as wide again",
        {LAYER + "attn_sconv.conv1d": depthwise("embed")},
    ),
    "taps of a convolution outside heads": (
        "inkling2",
        "twice",
        {"model.llm.layers.*.attn.k_sconv.weight_proj": bare(linear("taps kv_heads", "embed"))},
    ),
    "a query whose product grows with the width": (
        "inkling2",
        "twice",
        {"model.llm.attn_res.mlp_queries.*": parameter("embed")},
    ),
    "a pass's gate thought to read a norm with weights": (
        "inkling2_loop",
        "half as wide again",
        {"model.llm.layers.*.controllers.mlp.down_weight": in_some_layers(bare(linear("*", "2 embed")))},
    ),
    "stream and message unit by unit": (
        "inkling2_loop",
        "twice",
        {"model.llm.layers.*.controllers.v.down_weight": in_some_layers(from_stream(bare(linear("*", "embed 2"))))},
    ),
    "heads one after another, not in those of two tokens": (
        "zaya",
        "twice",
        {LAYER + "self_attn.qkv_proj.q_proj": linear("heads query", "embed")},
    ),
    "queries and keys of a convolution head by head": (
        "zaya",
        "twice",
        {LAYER + "self_attn.qkv_proj.conv_qk_grouped": convolution("2 kv_pairs group.query+key", 3)},
    ),
    "a scale of the residual stream that writes it": (
        "zaya",
        "half as wide again",
        {LAYER + "post_mlp_residual_scale.residual_scale": parameter("embed")},
    ),
    "streams unit by unit": (
        "qwen4_exp",
        "twice",
        {LAYER + "attn_hyper_connection.input_mix_weight_up": gating(linear("embed streams", "*"))},
    ),
    "a sum of products without the root of the width": (
        "qwen4_exp",
        "twice",
        {LAYER + "ple.norm_key": in_some_layers(norm("streams embed", plus_one=True))},
    ),
    "a gate that no root of the width multiplies": (
        "dory",
        "twice",
        {"backbone.layers.*.self_attn.g_proj": gating(from_stream(linear("heads value", "embed")))},
    ),
    "a gate that carries the length of a feed-forward": (
        "dory",
        "twice",
        {"backbone.layers.*.mlp.gate_proj": from_stream(linear("ffn", "embed", forward_power=0.5))},
    ),
    # norms, and what reads them
    "w taken for (1 + w)": ("jais2-tied", "twice", {"model.norm": norm("embed", plus_one=True)}),
    "(1 + w) taken for w": ("nemotron-tied", "twice", {"model.norm": norm("embed")}),
    "(1 + w) of a hybrid taken for w": ("qwen3_5-tied", "twice", {"model.norm": norm("embed")}),
    "a gate thought to read a norm": (
        "exaone4",
        "half as wide again",
        {LAYER + "mlp.gate_proj": linear("ffn", "embed")},
    ),
    "a gate of one layer's input thought to read a norm": (
        "gemma4",
        "half as wide again",
        {LAYER + "per_layer_input_gate": linear("*", "embed")},
    ),
    "an input that no stream is added to": (
        "gemma3n",
        "half as wide again",
        {LAYER + "input_layernorm": norm("embed")},
    ),
    "no root of the width on the embeddings": ("biogpt", "twice", {"biogpt.embed_tokens": embedding("vocab", "embed")}),
    "the root of the width as it is, not as bfloat16 has it": (
        "recurrent_gemma",
        "three times",
        {"model.embed_tokens": embedding("vocab", "embed", forward_power=0.5)},
    ),
}
"""(variant, a growth that tells the wrong table from the right one, tensors in a form that they do not have)."""

RULES: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "lengths taken for root mean squares": ("dory", "twice", {"norm": "rms"}),
    "rotary pairs taken for halves": ("ernie4_5", "larger heads", {"positions": Rotary("halves")}),
    "rotary pairs of a part taken for halves": ("gptj", "larger heads", {"positions": Rotary("halves")}),
    "rotary halves taken for pairs": ("smollm3", "larger heads", {"positions": Rotary("neighbours")}),
    "rotary halves of a part taken for pairs": (
        "phi",
        "larger heads",
        {"positions": Rotary("neighbours", "partial_rotary_factor")},
    ),
    "a constant attention scale taken for a head's": ("granite-tied", "larger heads", {"positions": Rotary()}),
    "scores taken as scaled": ("gpt_neo", "larger heads", {"positions": Learned()}),
    "scores scaled twice": ("mpt-scaled", "twice", {"positions": Alibi()}),
    "scaled queries, which are clipped elsewhere": ("mpt-untied-six-heads-clipped", "twice", {"positions": Alibi()}),
    "LayerNorm taken for RMSNorm": ("phimoe", "half as wide again", {"norm": "rms"}),
    "padding of zeros under LayerNorm": ("gpt2", "half as wide again", {"norm": "rms"}),
    "ALiBi as if the number of heads did not matter": ("bloom", "twice", {"positions": Learned()}),
    "ALiBi as if heads were alike": ("falcon-rw", "twice", {"positions": Rotary()}),
    "a threshold over unequal numbers of copies": ("gemma3n-sparse", "feed-forward alone", {"limits": ()}),
    "the first norm of the last block before the head": (
        "openai-gpt",
        "twice",
        {"folds": (Fold("transformer.h.-1.ln_1"),)},
    ),
    "the last block's norm taken for the final one": ("rwkv-tied", "twice", {"folds": (Fold("rwkv.blocks.3.ln2"),)}),
    "attention without its four blocks": (
        "codegen",
        "twice",
        {"tensors": {GPT + "attn.qkv_proj": linear("heads query | heads value | heads key", "embed")}, "fixed": {}},
    ),
    "rotary units that do not grow with the head": (
        "gptj",
        "larger heads",
        {"sizes": {axis: size for axis, size in FAMILIES["gptj"].sizes.items() if axis != "rotary"}},
    ),
}
"""(variant, growth, what else the table says wrongly)."""


def assert_fails_verification(
    src: Path, clone: Path, growth: str, family: Family, changes: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_place(family, changes, monkeypatch)
    expand(src, clone, GROWTHS[growth])
    assert models.logit_error(src, clone) > 1e-3
    assert any(failure.startswith("logits:") for failure in verify(clone, new_tokens=1).failures)


def put_in_place(family: Family, changes: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"layout": family.layout, "known_as": family.known_as}
    monkeypatch.setitem(FAMILIES, family.name, family.variant(family.model_type, **{**kept, **changes}))


def wrong_tensors(family: Family, tensors: Mapping[str, Form]) -> dict[str, Any]:
    """Changes to a table that give these tensors a wrong form."""
    return {
        "tensors": {name: replace(form, layer_kind=family.tensors[name].layer_kind) for name, form in tensors.items()}
    }


@pytest.mark.parametrize("variant, growth, tensors", TENSORS.values(), ids=list(TENSORS))
def test_a_table_with_a_wrong_tensor_fails_verification(
    variant: str,
    growth: str,
    tensors: Mapping[str, Form],
    source: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = plan(source(variant)).family
    changes = wrong_tensors(family, tensors)
    assert_fails_verification(source(variant), tmp_path / "clone", growth, family, changes, monkeypatch)


@pytest.mark.parametrize("variant, growth, changes", RULES.values(), ids=list(RULES))
def test_a_table_with_a_wrong_rule_fails_verification(
    variant: str,
    growth: str,
    changes: Mapping[str, Any],
    source: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert_fails_verification(
        source(variant), tmp_path / "clone", growth, plan(source(variant)).family, changes, monkeypatch
    )


IN_16_BITS = {
    **{name: (*made[:2], {"tensors": made[2]}) for name, made in TENSORS.items()},
    **RULES,
}
SMALL = {
    "a router that takes no notice of its factor",
    "a router's norm that is taken for a vector",
    "a gate of one layer's input thought to read a norm",
    "the root of the width as it is, not as bfloat16 has it",
    "a threshold over unequal numbers of copies",
    "taps of a convolution outside heads",
    "a gate that carries the length of a feed-forward",
}
"""Faults that are smaller than what rounding to bfloat16 does to the source: float32 alone shows them."""


@pytest.mark.parametrize(
    "name",
    [name if name.startswith("a router") else pytest.param(name, marks=pytest.mark.stress) for name in IN_16_BITS],
)
def test_rounding_to_16_bits_excuses_no_wrong_table(
    name: str, source: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, growth, changes = IN_16_BITS[name]
    family = plan(source(variant)).family
    if name in TENSORS:
        changes = wrong_tensors(family, changes["tensors"])
    put_in_place(family, changes, monkeypatch)
    expand(source(variant), tmp_path / "clone", replace(GROWTHS[growth], dtype="bfloat16", mixing=Mixing("uneven")))
    report = verify(tmp_path / "clone", new_tokens=1)
    assert report.logits is not None
    assert report.passed is (report.logits.relative_error <= report.logits.floor) is (name in SMALL)
    assert report.before_rounding is None or not report.before_rounding.passed
