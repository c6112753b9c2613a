"""Which layer each layer of a clone copies, and what config.json says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from hyperclone_cli import plan
from hyperclone_cli.checkpoint.sizes import read_sizes
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES, Family
from hyperclone_cli.growth.depth import cloned_layers, grow_depth, grow_layer_rules
from hyperclone_cli.growth.proposal import Proposal
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier.self_check import tiny_config
from support import models

Sources = Callable[[str], Path]


def proposal_of(name: str, layers: int, config: dict[str, Any], **options: Any) -> Proposal:
    """A request to a model of so many layers, of which config.json says `config` too."""
    family = FAMILIES[name]
    stated = tiny_config(family) | {family.sizes["layers"]: layers} | config
    stated = {key: value for key, value in stated.items() if value is not None}
    return Proposal(Request(**options), family, stated, read_sizes(stated, family))


def order_of(proposal: Proposal) -> str:
    """The layers that a clone's layers copy, new ones in brackets."""
    order = cloned_layers(grow_depth(proposal))
    return " ".join(f"({layer.source})" if layer.new else str(layer.source) for layer in order)


@pytest.mark.parametrize(
    "layers, target, order, expected",
    [
        (4, 8, "interleave", "0 (0) 1 (1) 2 (2) 3 (3)"),
        (4, 6, "interleave", "0 1 (1) 2 3 (3)"),
        (4, 7, "interleave", "0 1 (1) 2 (2) 3 (3)"),
        (3, 8, "interleave", "0 (0) 1 (1) (1) 2 (2) (2)"),
        (4, 6, "top", "0 1 2 3 (2) (3)"),
        (4, 9, "top", "0 1 2 3 (3) (0) (1) (2) (3)"),
        (6, 8, "middle", "0 1 2 3 (2) (3) 4 5"),
        (32, 48, "middle", " ".join(map(str, [*range(24), *(f"({n})" for n in range(8, 24)), *range(24, 32)]))),
        (4, 8, "stack", "0 1 2 3 (0) (1) (2) (3)"),
        (4, 6, "stack", "0 1 2 3 (0) (1)"),
    ],
)
def test_new_layers_stand_where_the_order_says(layers: int, target: int, order: str, expected: str) -> None:
    assert order_of(proposal_of("llama", layers, {}, num_layers=target, depth_order=order)) == expected


def test_a_layer_is_silent_unless_it_is_a_plain_copy() -> None:
    for init in ("zero", "copy"):
        growth = grow_depth(proposal_of("llama", 2, {}, depth_mult=2, depth_init=init))
        assert [run.silent for run in growth.runs] == [False, init == "zero"] * 2


WINDOW, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"


@pytest.mark.parametrize(
    "name, layers, config, options, expected",
    [
        # lists, which grow with the layers
        ("ministral", 2, {"layer_types": [WINDOW, FULL]}, {"num_layers": 3}, {"layer_types": [WINDOW, FULL, FULL]}),
        ("lfm2", 3, {"layer_types": None, "full_attn_idxs": [1]}, {"num_layers": 6}, {"full_attn_idxs": [2, 3]}),
        ("bamba", 2, {"attn_layer_indices": [1]}, {"depth_mult": 2}, {"attn_layer_indices": [2, 3]}),
        ("qwen3_moe", 3, {"mlp_only_layers": [0]}, {"depth_mult": 2}, {"mlp_only_layers": [0, 1]}),
        (
            "gemma4_unified_text",
            2,
            {
                "layer_types": [WINDOW, FULL],
                "per_layer_config": {"1": {"head_dim": 24}},
                "num_kv_shared_layers": 0,
            },
            {"depth_mult": 2},
            {"per_layer_config": {"2": {"head_dim": 24}, "3": {"head_dim": 24}}},
        ),
        # patterns that become lists
        ("gemma2", 3, {}, {"num_layers": 4}, {"layer_types": [WINDOW, FULL, WINDOW, WINDOW]}),
        ("gemma3_text", 2, {}, {"num_layers": 3}, {}),  # the first six have windows in any case
        ("cohere2", 4, {"sliding_window_pattern": 2}, {"depth_mult": 1.5}, {"layer_types": [WINDOW, FULL, FULL] * 2}),
        ("smollm3", 4, {}, {"depth_mult": 2}, {"no_rope_layers": [1, 1, 1, 1, 1, 1, 0, 0]}),
        (
            "qwen2",
            2,
            {"use_sliding_window": True, "max_window_layers": 1},
            {"depth_mult": 2},
            {"layer_types": [FULL] * 2 + [WINDOW] * 2},
        ),
        ("qwen2", 2, {"max_window_layers": 1}, {"depth_mult": 2}, {}),
        (
            "qwen3_5_text",
            4,
            {"layer_types": None, "full_attention_interval": 2},
            {"num_layers": 6},
            {"layer_types": [LINEAR, FULL, FULL] * 2},
        ),
        (
            "qwen3_moe",
            2,
            {"mlp_only_layers": [], "decoder_sparse_step": 2},
            {"depth_mult": 2},
            {"mlp_only_layers": [0, 1], "decoder_sparse_step": 1},
        ),
        ("gpt_neo", 2, {}, {"depth_mult": 2}, {"attention_types": [[["global", "global", "local", "local"], 1]]}),
        ("recurrent_gemma", 3, {}, {"num_layers": 4}, {"block_types": ["recurrent"] * 2 + ["attention"] * 2}),
        (
            "recurrent_gemma",
            3,
            {},
            {"num_layers": 5, "depth_order": "top"},
            {"block_types": ["recurrent", "recurrent", "attention", "recurrent", "attention"]},
        ),
        # numbers
        ("deepseek_v3", 2, {"first_k_dense_replace": 1}, {"depth_mult": 2}, {"first_k_dense_replace": 2}),
        (
            "ernie4_5_moe",
            2,
            {"moe_layer_end_index": 1},
            {"depth_mult": 2},
            {"moe_layer_start_index": 2, "moe_layer_end_index": 3},
        ),
        ("minicpm3", 4, {"scale_depth": 3}, {"depth_mult": 4}, {"scale_depth": 6.0}),
        ("minicpm3", 4, {"scale_depth": None}, {"depth_mult": 4}, {"scale_depth": 2.8}),
        ("rwkv", 12, {}, {"depth_mult": 2}, {"rescale_every": 12}),
        ("rwkv", 5, {}, {"num_layers": 6}, {"rescale_every": 7}),
        # periods
        ("jamba", 4, {}, {"num_layers": 6}, {}),
    ],
)  # fmt: skip
def test_config_says_of_each_layer_what_it_said_of_the_one_that_it_copies(
    name: str, layers: int, config: dict[str, Any], options: dict[str, Any], expected: dict[str, Any]
) -> None:
    proposal = proposal_of(name, layers, config, **options)
    grown = grow_layer_rules(proposal.config, proposal, cloned_layers(grow_depth(proposal)))
    changed = {key: value for key, value in grown.items() if proposal.config.get(key) != value}
    assert {key: changed.get(key) for key in expected} == expected
    assert set(changed) <= {*expected, "layer_types"}


STACK_5 = {"num_layers": 5, "depth_order": "stack"}


@pytest.mark.parametrize(
    "name, layers, config, options, message, hint",
    [
        ("openai-gpt", 2, {}, {"depth_mult": 2}, "norms follow the residual sum", "Leave"),
        ("opt", 2, {"do_layer_norm_before": False}, {"depth_mult": 2}, "norms follow the residual sum", "Leave"),
        ("gemma3n_text", 4, {}, {"depth_mult": 2}, "mixes several residual streams", "Leave"),
        ("diffllama", 2, {}, {"depth_mult": 2}, "λ depends on the layer's number", "--depth-order top works"),
        ("gpt2", 2, {"scale_attn_by_inverse_layer_idx": True}, {"depth_mult": 2}, "divided by the layer", "top works"),
        ("gpt_neox_japanese", 4, {}, {"depth_mult": 1.5}, "the last layer alone has a bias", "middle works"),
        ("deepseek_v3", 2, {}, {"depth_mult": 2, "depth_order": "top"}, "first_k_dense_replace", "interleave works"),
        ("jamba", 4, {}, {"num_layers": 5}, "attn_layer_period", "stack works"),
        ("jamba", 6, {"attn_layer_period": 4}, {"num_layers": 9}, "attn_layer_period", "--num-layers 10"),
        ("rwkv", 12, {}, {"depth_mult": 2, "depth_order": "top"}, "rescale_every", "interleave works"),
        ("gemma4_text", 4, {}, {"depth_mult": 1.5}, "share the keys and values", "--depth-order top works"),
        ("gemma4_unified_text", 4, {"num_kv_shared_layers": 0}, STACK_5, "layer_types", "interleave works"),
        ("qwen2_moe", 2, {"use_sliding_window": True}, {"depth_mult": 2}, "does not list layer_types", "Leave"),
        ("llama", 4, {}, {"num_layers": 3}, "takes nothing away", "At least 4"),
        ("llama", 4, {}, {"depth_mult": 1.1}, "4 in whole units", "--num-layers"),
        ("llama", 4, {}, {"depth_mult": 60000}, "layers, 16384 at most", ""),
    ],
)  # fmt: skip
def test_a_number_or_an_order_that_cannot_be_is_refused_with_one_that_can(
    name: str, layers: int, config: dict[str, Any], options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        grow_depth(proposal_of(name, layers, config, **options))
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    "name, config, message",
    [
        ("ministral", {"layer_types": [FULL]}, "layer_types should tell the kinds of 2 layers, found 1"),
        ("ministral", {"layer_types": "full"}, "layer_types should be a list"),
        ("bamba", {"attn_layer_indices": ["1"]}, "attn_layer_indices should list numbers of layers"),
        ("deepseek_v3", {"first_k_dense_replace": "1"}, "first_k_dense_replace should be a whole number"),
        ("jamba", {"attn_layer_period": 0}, "attn_layer_period should be a number of layers, found 0"),
        ("recurrent_gemma", {"block_types": []}, "block_types should list kinds of layers"),
        ("gpt_neo", {"attention_types": [3]}, "attention_types should list"),
        ("minicpm3", {"scale_depth": "2"}, "scale_depth should be a number"),
    ],
)
def test_layers_that_are_told_apart_by_nonsense_are_refused(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        grow_depth(proposal_of(name, 2, config, depth_mult=2))


BY_PATTERN = [
    family
    for family in FAMILIES.values()
    if family.wrapping is None
    and any(rule.key == "layer_types" and getattr(rule, "pattern", None) for rule in family.layer_rules)
]


@pytest.mark.parametrize("family", BY_PATTERN, ids=lambda family: family.name)
def test_patterns_are_those_of_transformers(family: Family) -> None:
    """The list that transformers makes of a config without one."""
    windows = {"use_sliding_window": True} if "qwen" in family.name else {}
    stated = {"num_hidden_layers": 30, "sliding_window": 64, "max_window_layers": 20, **windows}
    made = AutoConfig.for_model(family.model_type, **stated).layer_types

    def value(key: str) -> Any:
        return family.value(stated, key)

    rule = next(rule for rule in reversed(family.layer_rules) if rule.key == "layer_types")
    assert len(set(made)) == 2
    assert list(rule.kinds(value, 30)) == made


def test_options_of_new_layers_mean_nothing_without_any() -> None:
    with pytest.raises(RequestError, match="are for new layers"):
        Request(depth_order="top")


def test_a_plan_counts_the_new_layers(source: Sources) -> None:
    made = plan(source("llama-gqa-tied"), depth_mult=2)
    before, after = made.parameters()
    assert {part: after[part] / before[part] for part in after} == {
        "attention": 2, "feed-forward": 2, "norms": 9 / 5, "embedding": 1,
    }  # fmt: skip
    assert made.kv_cache_bytes()[1] == 2 * made.kv_cache_bytes()[0]
    assert made.as_json()["function_preserving"] is True


def test_layers_that_share_keys_cache_none(source: Sources) -> None:
    made = plan(source("gemma4-shared-kv"), num_layers=6, depth_order="top")
    assert made.config["num_kv_shared_layers"] == 4
    assert made.kv_cache_bytes()[0] == made.kv_cache_bytes()[1]


def test_a_model_in_memory_is_known_by_the_same_rules(source: Sources) -> None:
    from hyperclone_cli import clone_model

    for variant in ("gemma3-gqa", "qwen3_moe-tied", "gemma4-keys-are-values"):
        model = models.load(source(variant))
        grown = clone_model(model, depth_mult=2)
        assert grown.config.num_hidden_layers == 2 * model.config.num_hidden_layers
        assert models.relative_error(models.logits(grown), models.logits(model)) <= 1e-5
