"""Layers that differ: in the size and number of their heads, in their width, in whose keys and values they use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.growth_table import GROWTHS

Sources = Callable[[str], Path]
PER_LAYER = [name for name in models.VARIANTS if name.startswith(("gemma3n", "gemma4", "inkling"))]


@pytest.mark.parametrize("variant", PER_LAYER)
def test_heads_grow_alone(variant: str, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", Request(heads_mult=3, kv_heads_mult=2))
    models.assert_same_function(source(variant), tmp_path / "clone")
    report = verify(tmp_path / "clone", weights_only=True)
    assert report.passed, report.failures


def test_both_spellings_of_a_config_make_the_same_clone(tmp_path: Path) -> None:
    heads: dict[str, Any] = {"num_key_value_heads": 4, "num_global_key_value_heads": 2}
    saved = models.build("gemma4-keys-are-values-shared-kv", tmp_path / "saved", **heads)
    own = {"head_dim": 24, "num_key_value_heads": 2}
    assert json.loads((saved / "config.json").read_text())["per_layer_config"] == {"1": own, "3": own}
    spelt = models.edited(
        saved, tmp_path / "spelt", per_layer_config=None, global_head_dim=24, num_global_key_value_heads=2
    )

    one = expand(saved, tmp_path / "one", GROWTHS["twice"])
    other = expand(spelt, tmp_path / "other", GROWTHS["twice"])
    grown = {"head_dim": 24, "num_key_value_heads": 4}
    assert one.config["per_layer_config"] == {"1": grown, "3": grown}
    assert (other.config["global_head_dim"], other.config["num_global_key_value_heads"]) == (24, 4)
    assert "per_layer_config" not in other.config
    for made in (one, other):
        assert (made.config["num_attention_heads"], made.config["num_key_value_heads"]) == (8, 8)
    files = [tmp_path / name / "model.safetensors" for name in ("one", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()
    models.assert_same_function(saved, tmp_path / "one")
    models.assert_same_function(spelt, tmp_path / "other")


def test_a_published_config_states_the_numbers_of_a_type_of_layer_under_their_own_names(
    source: Sources, tmp_path: Path
) -> None:
    """The heads and the latent ranks of dots3 note's layers with windows."""
    own = json.loads((source("dots3_note") / "config.json").read_text())["per_layer_config"]["1"]
    published = {f"swa_{key}": size for key, size in own.items()} | {"use_dsa": True}
    src = models.edited(source("dots3_note"), tmp_path / "src", per_layer_config=None, **published)
    made = expand(src, tmp_path / "clone", GROWTHS["twice"])
    grown = {"swa_num_attention_heads": 6, "swa_num_key_value_heads": 6}
    assert {key: made.config[key] for key in published} == published | grown
    models.assert_same_function(src, tmp_path / "clone")


def test_layer_numbers_in_the_config_may_be_padded_with_zeros(source: Sources, tmp_path: Path) -> None:
    """As transformers writes them for ten layers and more."""
    own = json.loads((source("gemma4") / "config.json").read_text())["per_layer_config"]
    padded = {f"0{number}": numbers for number, numbers in own.items()}
    made = plan(models.edited(source("gemma4"), tmp_path / "src", per_layer_config=padded), embed_mult=2)
    assert made.config["per_layer_config"] == padded
    assert made.layers[1]["value"].target == 24


def test_key_value_heads_of_a_layer_grow_as_nearly_alike_as_they_can(tmp_path: Path) -> None:
    heads: dict[str, Any] = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_global_key_value_heads": 2}
    src = models.build("gemma4-keys-are-values", tmp_path / "src", **heads)

    def grown(**options: Any) -> tuple[int, int, int]:
        config = plan(src, **options).config
        own = config["per_layer_config"]["1"]["num_key_value_heads"]
        return config["num_attention_heads"], config["num_key_value_heads"], own

    assert grown(embed_mult=2) == (16, 8, 4)
    assert grown(embed_mult=1.5) == (12, 6, 3)
    assert grown(num_heads=16, num_kv_heads=4) == (16, 4, 2)
    assert grown(num_heads=10, num_kv_heads=5) == (10, 5, 2)
    with pytest.raises(RequestError, match="8 heads over 2 key/value heads") as refused:
        plan(models.edited(src, tmp_path / "one", num_key_value_heads=1), num_heads=9)
    assert refused.value.hint == "A multiple of 8 heads works: --num-heads."


def test_every_layer_keeps_its_part_of_the_feed_forward_width(source: Sources) -> None:
    assert plan(source("gemma3n-widths"), ffn_mult=1.5).config["intermediate_size"] == [120, 120, 96, 180]
    with pytest.raises(RequestError, match="the layers have widths of their own, from 64 to 120"):
        plan(source("gemma3n-widths"), intermediate_size=160)
    assert plan(source("gemma3n"), intermediate_size=160).config["intermediate_size"] == [160] * 4
    wide = {tensor.name: tensor.shape for tensor in plan(source("gemma4-shared-kv"), intermediate_size=200).tensors}
    assert wide["model.layers.1.mlp.up_proj.weight"] == (200, 48)
    assert wide["model.layers.2.mlp.up_proj.weight"] == (400, 48)


def test_one_width_for_all_layers_stays_one(source: Sources, tmp_path: Path) -> None:
    src = models.edited(source("gemma3n"), tmp_path / "src", intermediate_size=80)
    assert plan(src, ffn_mult=2).config["intermediate_size"] == 160


@pytest.mark.parametrize(
    "variant, config, words",
    [
        ("gemma4", {"layer_types": None}, "layer_types should list the kinds of attention of 4 layers, found None"),
        ("gemma4", {"layer_types": ["full_attention"]}, "of 4 layers, found 1 of them"),
        ("gemma4", {"num_hidden_layers": 10**12}, "of 1000000000000 layers, found 4 of them"),
        ("gemma4", {"per_layer_config": {"first": {}}}, "per_layer_config should have, under the numbers of layers"),
        (
            "gemma4",
            {"per_layer_config": {"4": {}}},
            "per_layer_config should have, under the numbers of layers below 4",
        ),
        ("gemma4", {"per_layer_config": {"1": {"head_dim": "24"}}}, "head_dim should be a whole number.*'24'"),
        ("gemma4", {"per_layer_config": {}}, r"makes dimension 0 \(key\) 16, found shape \[24\]"),
        ("gemma4-shared-kv", {"num_kv_shared_layers": 4}, "num_kv_shared_layers should be a whole number below 4"),
        ("gemma4-shared-kv", {"num_kv_shared_layers": "two"}, "num_kv_shared_layers should be .* found 'two'"),
        ("gemma4-shared-kv", {"num_kv_shared_layers": 0}, "missing tensors: model.layers.2.self_attn.k_norm"),
        ("gemma4-keys-are-values", {"attention_k_eq_v": False}, "missing tensors: model.layers.1.self_attn.v_proj"),
        ("gemma4-untied-experts", {"num_experts": None}, "expected matrices of 0 experts"),
        ("gemma3n", {"intermediate_size": [80, 80]}, "intermediate_size should be one number, or one for each of 4"),
        ("gemma3n", {"intermediate_size": []}, r"intermediate_size should be a whole number from 1 up, found \[\]"),
        ("gemma3n", {"intermediate_size": [80, 80, "80", 80]}, "intermediate_size should be a whole number.*'80'"),
        ("gemma4", {"layer_types": [[], {}, 1, None]}, r"layer_types should list .* found \[\[\], {}, 1, None\]"),
        ("gemma4", {"per_layer_config": [24]}, "per_layer_config should have"),
        ("gemma3n", {"layer_types": 4}, "layer_types should list .* found 4"),
    ],
)
def test_layers_that_config_json_does_not_describe_are_refused(
    variant: str, config: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    src = models.edited(source(variant), tmp_path / "src", **config)
    with pytest.raises(CheckpointError, match=words):
        plan(src, embed_mult=2)
