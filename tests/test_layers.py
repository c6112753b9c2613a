"""Architectures whose layers differ: in the size of their heads, in their width, in what they take from each other."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from hyperclone_cli import clone_model, plan
from hyperclone_cli.axes import bare, embedding, linear, norm, parameter, stacked
from hyperclone_cli.clone import expand
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.request import Request
from hyperclone_cli.verifier import verify
from models_layers import VARIANTS

Sources = Callable[[str], Path]

GROWTHS = {
    "twice": Request(embed_mult=2, ffn_mult=2),
    "three times": Request(embed_mult=3, ffn_mult=3),
    "twice, uneven and noisy": Request(embed_mult=2, ffn_mult=2, mixing=Mixing("uneven", noise_snr_db=10)),
    "half as wide again": Request(embed_mult=1.5, mixing=Mixing(noise_snr_db=20)),
    "heads alone": Request(heads_mult=3, kv_heads_mult=2),
    "larger heads": Request(embed_mult=2, ffn_mult=2, head_dim_mult=2),
    "feed-forward alone": Request(ffn_mult=2.5),
}
TWO_SIZES = "two types of layer have heads of two sizes"
REFUSED: dict[tuple[str, str], str] = {
    **{(variant, "larger heads"): TWO_SIZES for variant in VARIANTS if variant.startswith("gemma4")},
    ("gemma3n-sparse", "feed-forward alone"): "a threshold is worked out from the mean and the spread",
}
"""What an architecture cannot have, and what it says; everything else is exact."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    @functools.cache
    def build(variant: str) -> Path:
        return models.build(VARIANTS[variant], tmp_path_factory.mktemp("source") / variant)

    return build


def assert_same_function(src: Path, out: Path) -> None:
    one, other = models.load(src), models.load(out)
    assert models.relative_error(models.logits(other), models.logits(one)) <= 1e-5
    assert torch.equal(models.decode(other), models.decode(one))


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_growth_is_the_same_function_or_refused(
    variant: str, growth: str, source: Sources, tmp_path: Path
) -> None:
    src, out = source(variant), tmp_path / "clone"
    if (variant, growth) in REFUSED:
        with pytest.raises(RequestError, match=REFUSED[variant, growth]):
            expand(src, out, GROWTHS[growth])
        return
    expand(src, out, GROWTHS[growth])
    assert_same_function(src, out)
    report = verify(out, weights_only=True)
    assert report.passed, report.failures


LAYER = "model.layers.*."
WRONG: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a router that takes no notice of its factor": (
        "gemma4-untied-experts",
        "twice",
        {"tensors": {LAYER + "router.proj": linear("experts", "embed")}},
    ),
    "a router's norm that is taken for a vector": (
        "gemma4-untied-experts",
        "half as wide again",
        {"tensors": {LAYER + "router.scale": parameter("embed")}},
    ),
    "gates and values taking turns": (
        "gemma4-keys-are-values-experts",
        "twice",
        {"tensors": {LAYER + "experts.gate_up_proj": stacked(bare(linear("experts moe_ffn 2", "embed")))}},
    ),
    "heads in the order of another group": (
        "gemma4-keys-are-values",
        "heads alone",
        {"tensors": {LAYER + "self_attn.q_proj": linear("group kv_heads query", "embed")}},
    ),
    "a gate that is copied, not shared out": (
        "gemma4",
        "twice",
        {"tensors": {LAYER + "per_layer_input_gate": embedding("*", "embed")}},
    ),
    "a gate that reads a norm": (
        "gemma4",
        "half as wide again",
        {"tensors": {LAYER + "per_layer_input_gate": linear("*", "embed")}},
    ),
    "streams weighed without the factor": (
        "gemma3n",
        "twice",
        {"tensors": {LAYER + "altup.modality_router": linear("*", "embed")}},
    ),
    "an input that no stream is added to": (
        "gemma3n",
        "half as wide again",
        {"tensors": {LAYER + "input_layernorm": norm("embed")}},
    ),
    "a threshold over unequal numbers of copies": ("gemma3n-sparse", "feed-forward alone", {"limits": ()}),
}
"""Tables that are nearly right: (variant, growth, what is wrong)."""


@pytest.mark.parametrize("variant, growth, changes", WRONG.values(), ids=list(WRONG))
def test_a_wrong_table_is_found_out(
    variant: str, growth: str, changes: dict[str, Any], source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, out = source(variant), tmp_path / "clone"
    family = plan(src).family
    assert changes.get("tensors", {}).keys() <= family.tensors.keys()
    kept = {"known_as": family.known_as, **changes}
    monkeypatch.setitem(FAMILIES, family.name, family.variant(family.model_type, **kept))
    expand(src, out, GROWTHS[growth])
    assert models.relative_error(models.logits(models.load(out)), models.logits(models.load(src))) > 1e-4
    assert any(failure.startswith("logits:") for failure in verify(out).failures)


def edited(src: Path, out: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    """A copy of a checkpoint with other tensors besides and another config; None takes a key out."""
    shutil.copytree(src, out)
    save_file(
        load_file(src / "model.safetensors") | (tensors or {}), out / "model.safetensors", metadata={"format": "pt"}
    )
    stated = json.loads((out / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps({key: item for key, item in stated.items() if item is not None}))
    return out


def test_both_spellings_of_a_config_make_the_same_clone(tmp_path: Path) -> None:
    model_type, kwargs = VARIANTS["gemma4-keys-are-values-borrowing"]
    heads = {"num_key_value_heads": 4, "num_global_key_value_heads": 2}
    saved = models.build((model_type, kwargs | heads), tmp_path / "saved")
    own = {"head_dim": 24, "num_key_value_heads": 2}
    assert json.loads((saved / "config.json").read_text())["per_layer_config"] == {"1": own, "3": own}
    spelt = edited(saved, tmp_path / "spelt", per_layer_config=None, global_head_dim=24, num_global_key_value_heads=2)

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
    assert_same_function(saved, tmp_path / "one")
    assert_same_function(spelt, tmp_path / "other")


def test_numbers_of_layers_may_be_padded(source: Sources, tmp_path: Path) -> None:
    """As transformers writes them for ten layers and more."""
    own = json.loads((source("gemma4") / "config.json").read_text())["per_layer_config"]
    padded = {f"0{number}": numbers for number, numbers in own.items()}
    made = plan(edited(source("gemma4"), tmp_path / "src", per_layer_config=padded), embed_mult=2)
    assert made.config["per_layer_config"] == padded
    assert made.layers[1]["value"].target == 24


def test_key_value_heads_of_a_layer_grow_as_nearly_alike_as_they_can(tmp_path: Path) -> None:
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_global_key_value_heads": 2}
    model_type, kwargs = VARIANTS["gemma4-keys-are-values"]
    src = models.build((model_type, kwargs | heads), tmp_path / "src")

    def grown(**options: Any) -> tuple[int, int, int]:
        config = plan(src, **options).config
        own = config["per_layer_config"]["1"]["num_key_value_heads"]
        return config["num_attention_heads"], config["num_key_value_heads"], own

    assert grown(embed_mult=2) == (16, 8, 4)
    assert grown(embed_mult=1.5) == (12, 6, 3)
    assert grown(num_heads=16, num_kv_heads=4) == (16, 4, 2)
    assert grown(num_heads=10, num_kv_heads=5) == (10, 5, 2)
    with pytest.raises(RequestError, match="8 heads over 2 key/value heads") as refused:
        plan(edited(src, tmp_path / "one", num_key_value_heads=1), num_heads=9)
    assert refused.value.hint == "A multiple of 8 heads works: --num-heads."


def test_what_a_borrowing_layer_has_on_disk_is_not_loaded_and_not_written(source: Sources, tmp_path: Path) -> None:
    """Checkpoints on the Hub have it; transformers leaves it out."""
    unused = {
        f"model.layers.{layer}.self_attn.{name}.weight": torch.ones(shape)
        for layer, size in ((2, 16), (3, 24))
        for name, shape in (("k_proj", (2 * size, 48)), ("v_proj", (2 * size, 48)), ("k_norm", (size,)))
    }
    src = edited(source("gemma4-borrowing"), tmp_path / "src", unused)
    made = expand(src, tmp_path / "clone", GROWTHS["twice"])
    assert made.dropped.keys() == unused.keys()
    assert not unused.keys() & load_file(tmp_path / "clone/model.safetensors").keys()
    assert_same_function(source("gemma4-borrowing"), tmp_path / "clone")


def test_the_cache_holds_what_each_layer_keeps(source: Sources) -> None:
    def tokens(variant: str) -> tuple[int, int]:
        before, after = plan(source(variant), embed_mult=2, ffn_mult=2).kv_cache_bytes()
        return before // 4, after // 4  # float32

    assert tokens("gemma4") == (2 * 2 * 2 * (16 + 24), 2 * 2 * 4 * (16 + 24))
    assert tokens("gemma4-borrowing") == (2 * 2 * (16 + 24), 2 * 4 * (16 + 24))
    assert tokens("gemma4-keys-are-values") == (2 * 2 * (2 * 16 + 24), 2 * 2 * (4 * 16 + 24))


def test_every_layer_keeps_its_part_of_the_feed_forward_width(source: Sources) -> None:
    assert plan(source("gemma3n-widths"), ffn_mult=1.5).config["intermediate_size"] == [120, 120, 96, 180]
    with pytest.raises(RequestError, match="the layers have widths of their own, from 64 to 120"):
        plan(source("gemma3n-widths"), intermediate_size=160)
    assert plan(source("gemma3n"), intermediate_size=160).config["intermediate_size"] == [160] * 4
    wide = {tensor.name: tensor.shape for tensor in plan(source("gemma4-borrowing"), intermediate_size=200).tensors}
    assert wide["model.layers.1.mlp.up_proj.weight"] == (200, 48)
    assert wide["model.layers.2.mlp.up_proj.weight"] == (400, 48)


def test_a_number_of_parameters_leads_to_whole_multiples_under_a_threshold(source: Sources) -> None:
    made = plan(source("gemma3n-sparse"), target_params="300K")
    assert made.config["intermediate_size"] in ([width] * 4 for width in (80, 160, 240, 320))
    assert made.config["hidden_size"] > 48


def test_one_width_for_all_layers_stays_one(source: Sources, tmp_path: Path) -> None:
    src = edited(source("gemma3n"), tmp_path / "src", intermediate_size=80)
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
        ("gemma4-borrowing", {"num_kv_shared_layers": 4}, "num_kv_shared_layers should be a whole number below 4"),
        ("gemma4-borrowing", {"num_kv_shared_layers": "two"}, "num_kv_shared_layers should be .* found 'two'"),
        ("gemma4-borrowing", {"num_kv_shared_layers": 0}, "missing tensors: model.layers.2.self_attn.k_norm"),
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
    src = edited(source(variant), tmp_path / "src", **config)
    with pytest.raises(CheckpointError, match=words):
        plan(src, embed_mult=2)


@pytest.mark.parametrize("variant", ["gemma4-keys-are-values-borrowing", "gemma3n-sparse"])
def test_the_same_from_memory(variant: str, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", GROWTHS["three times"])
    clone_model(models.load(source(variant)), embed_mult=3, ffn_mult=3).save_pretrained(tmp_path / "memory")
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("clone", "memory"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("variant", ["gemma4-borrowing", "gemma4-keys-are-values-experts", "gemma3n-sparse"])
def test_verify_passes(variant: str, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", GROWTHS["twice, uneven and noisy"])
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
