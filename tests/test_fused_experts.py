"""Mixtures that keep all experts of a layer in one tensor: the same function at every growth, or a stated refusal."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from hyperclone_cli import budget, clone_model, expander, plan
from hyperclone_cli.axes import Form, bare, conv1d, embedding, linear, parameter, stacked
from hyperclone_cli.clone import expand
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.inspector import inspect
from hyperclone_cli.mixing import Mixing
from hyperclone_cli.request import Request
from hyperclone_cli.verifier import verify
from models_fused_experts import FUSED, VARIANTS

Sources = Callable[[str], Path]

GROWTHS = {
    "twice": Request(embed_mult=2, ffn_mult=2),
    "three times": Request(embed_mult=3, ffn_mult=3),
    "twice, uneven and noisy": Request(embed_mult=2, ffn_mult=2, mixing=Mixing("uneven", noise_snr_db=10)),
    "half as wide again": Request(embed_mult=1.5),
    "larger heads": Request(embed_mult=2, ffn_mult=2, head_dim_mult=2),
    "feed-forward alone": Request(ffn_mult=2.5),
}
CLIPPED = "clip_qkv would clip"
REFUSED: dict[tuple[str, str], str] = {
    ("deepseek_v3 (fused experts)", "larger heads"): "read from latent vectors",
    ("gpt_oss", "larger heads"): "rotary positions of type 'yarn'",
    ("dbrx", "larger heads"): CLIPPED,
    ("dbrx-one-expert-of-four", "larger heads"): CLIPPED,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    @functools.cache
    def build(variant: str) -> Path:
        path = tmp_path_factory.mktemp("source") / variant
        return models.build((VARIANTS | FUSED)[variant], path, save_original_format=variant not in FUSED)

    return build


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


SAMPLED = {"phimoe", "qwen2_moe"}
"""Mixtures that have every growth tried in their fused form too; the others grow twofold and threefold."""


@pytest.mark.parametrize(
    "variant, growth",
    [
        (variant, growth)
        for variant in FUSED
        for growth in GROWTHS
        if growth in ("twice", "three times") or variant.removesuffix(" (fused experts)") in SAMPLED
    ],
)
def test_fused_experts_are_read_and_written_back_as_such(
    variant: str, growth: str, source: Sources, tmp_path: Path
) -> None:
    src, out = source(variant), tmp_path / "clone"
    if (variant, growth) in REFUSED:
        with pytest.raises(RequestError, match=REFUSED[variant, growth]):
            expand(src, out, GROWTHS[growth])
        return
    made = expand(src, out, GROWTHS[growth])
    assert made.family.layout == "fused experts"
    assert (
        load_file(out / "model.safetensors").keys() - {"lm_head.weight"} <= load_file(src / "model.safetensors").keys()
    )
    assert_same_function(src, out)


def assert_same_function(src: Path, out: Path) -> None:
    one, other = models.load(src), models.load(out)
    assert models.relative_error(models.logits(other), models.logits(one)) <= 1e-5
    assert torch.equal(models.decode(other), models.decode(one))
    report = verify(out, weights_only=True)
    assert report.passed, report.failures


GRANITE, GPT_OSS = "model.layers.*.block_sparse_moe.", "model.layers.*.mlp.experts."
DBRX = "transformer.blocks.*.ffn."

MISTAKES: dict[str, tuple[str, dict[str, Form]]] = {
    "gates and values taking turns": (
        "granitemoe",
        {GRANITE + "input_linear": stacked(linear("experts ffn 2", "embed"))},
    ),
    "all gates, then all values": (
        "gpt_oss",
        {
            GPT_OSS + "gate_up_proj": stacked(bare(conv1d("embed", "experts ffn+ffn"))),
            GPT_OSS + "gate_up_proj_bias": stacked(parameter("experts ffn+ffn")),
        },
    ),
    "biases that are left together": (
        "gpt_oss",
        {GPT_OSS + "gate_up_proj_bias": stacked(parameter("experts ffn+ffn"))},
    ),
    "units outside experts": ("dbrx", {DBRX + "experts.mlp.w1": stacked(bare(linear("ffn experts", "embed")))}),
    "a router that is copied, not shared out": (
        "granitemoe-tied",
        {GRANITE + "router.layer": embedding("experts", "embed")},
    ),
    "keys whose units lie outside heads": (
        "granitemoe-tied",
        {"model.layers.*.self_attn.k_proj": linear("key kv_heads", "embed")},
    ),
    "sinks of heads in another order": ("gpt_oss", {"model.layers.*.self_attn.sinks": parameter("group kv_heads")}),
}
"""Tables that are nearly right: (variant, what is wrong)."""


@pytest.mark.parametrize("variant, tensors", MISTAKES.values(), ids=list(MISTAKES))
def test_a_wrong_table_is_found_out(
    variant: str, tensors: dict[str, Form], source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, out = source(variant), tmp_path / "clone"
    family = FAMILIES[VARIANTS[variant][0]]
    assert tensors.keys() <= family.tensors.keys()
    monkeypatch.setitem(FAMILIES, family.name, family.variant(family.model_type, tensors=tensors))
    expand(src, out, GROWTHS["twice"])
    assert models.relative_error(models.logits(models.load(out)), models.logits(models.load(src))) > 1e-3
    assert any(failure.startswith("logits:") for failure in verify(out).failures)


@pytest.mark.parametrize("growth", ["three times", "half as wide again", "twice, uneven and noisy"])
@pytest.mark.parametrize("variant", ["granitemoe", "gpt_oss", "dbrx"])
def test_experts_may_be_cut_into_blocks_anywhere(
    variant: str, growth: str, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expand(source(variant), tmp_path / "whole", GROWTHS[growth])
    monkeypatch.setattr(budget, "LARGEST_BLOCK_BYTES", 3000)
    made = expand(source(variant), tmp_path / "cut", GROWTHS[growth])
    experts = [tensor for tensor in made.tensors if tensor.stack and len(tensor.growths) == 2]
    assert experts
    for tensor in experts:
        of_one = tensor.growths[0].source // tensor.stack[0]
        assert max(block.stop - block.start for block in expander.blocks(tensor, 3000)) < of_one
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


@pytest.mark.parametrize("variant", ["granitemoeshared", "gpt_oss", "dbrx"])
def test_experts_are_the_same_from_bin_files_and_in_memory(variant: str, source: Sources, tmp_path: Path) -> None:
    request = GROWTHS["three times"]
    expand(source(variant), tmp_path / "clone", request)
    expected = load_file(tmp_path / "clone/model.safetensors")

    shutil.copytree(source(variant), tmp_path / "bin", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(source(variant) / "model.safetensors"), tmp_path / "bin/pytorch_model.bin")
    expand(tmp_path / "bin", tmp_path / "from bin", request)
    found = load_file(tmp_path / "from bin/model.safetensors")

    clone_model(models.load(source(variant)), embed_mult=3, ffn_mult=3).save_pretrained(tmp_path / "memory")
    saved = load_file(tmp_path / "memory/model.safetensors")
    for tensors in (found, saved):
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_shapes_are_those_on_disk(source: Sources) -> None:
    def shapes(variant: str, **options: Any) -> dict[str, tuple[int, ...]]:
        return {tensor.name: tensor.shape for tensor in plan(source(variant), **options).tensors}

    granite = shapes("granitemoe", embed_mult=2, ffn_mult=3)
    assert granite["model.layers.1.block_sparse_moe.input_linear.weight"] == (4, 480, 96)
    assert granite["model.layers.1.block_sparse_moe.output_linear.weight"] == (4, 96, 240)
    gpt_oss = shapes("gpt_oss", embed_mult=2, ffn_mult=3)
    assert gpt_oss["model.layers.1.mlp.experts.gate_up_proj"] == (4, 96, 480)
    assert gpt_oss["model.layers.1.mlp.experts.gate_up_proj_bias"] == (4, 480)
    assert gpt_oss["model.layers.1.mlp.experts.down_proj"] == (4, 240, 96)
    dbrx = shapes("dbrx", embed_mult=2, ffn_mult=3)
    assert dbrx["transformer.blocks.1.ffn.experts.mlp.w1"] == (480, 96)
    assert dbrx["transformer.blocks.1.ffn.experts.mlp.w2"] == (480, 96)


@pytest.mark.parametrize("variant", ["granitemoe", "gpt_oss", "dbrx"])
def test_the_copies_in_experts_are_told_apart(variant: str, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "alike", replace(GROWTHS["twice"], mixing=Mixing("symmetric")))
    expand(source(variant), tmp_path / "noisy", GROWTHS["twice, uneven and noisy"])
    for name, alike in (("alike", True), ("noisy", False)):
        found = inspect(tmp_path / name, gradients=True)
        assert found.gradients is not None
        assert found.gradients.largest_difference is not None
        assert (found.gradients.largest_difference < 1e-3) is alike
        inner = [layer for layer in found.layers if layer.part == "feed-forward"]
        assert len(inner) == 2
        for layer in inner:
            assert layer.outputs is not None
            assert layer.inputs is not None
            assert (min(layer.outputs, layer.inputs) > 0.999999) is alike


def edited(src: Path, out: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    """A copy of a checkpoint with some other tensors and another config; None takes a key out."""
    shutil.copytree(src, out)
    save_file(load_file(src / "model.safetensors") | tensors, out / "model.safetensors", metadata={"format": "pt"})
    stated = json.loads((out / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps({key: item for key, item in stated.items() if item is not None}))
    return out


INPUT, OUTPUT, W1 = (
    "model.layers.0.block_sparse_moe.input_linear.weight",
    "model.layers.0.block_sparse_moe.output_linear.weight",
    "transformer.blocks.0.ffn.experts.mlp.w1",
)


@pytest.mark.parametrize(
    "variant, name, shape, config, words",
    [
        ("granitemoe", INPUT, (8, 80, 48), {}, r"expected matrices of 4 experts, found shape \[8, 80, 48\]"),
        ("granitemoe", INPUT, (4, 80, 48), {}, r"dimension 1 of all 4 experts .* 640, found shape \[4, 80, 48\]"),
        ("granitemoe", OUTPUT, (4, 48, 40), {}, r"makes dimension 2 \(ffn\) 80, found shape \[4, 48, 40\]"),
        ("granitemoe", OUTPUT, (4,), {}, r"expected matrices of 4 experts, found shape \[4\]"),
        ("granitemoe", "", (), {"num_local_experts": 5}, r"expected matrices of 5 experts, found shape \[4, "),
        ("dbrx", W1, (162, 48), {}, r"expected matrices of 4 experts, found shape \[162, 48\]"),
        ("dbrx", "", (), {"n_heads": 4, "num_attention_heads": 8}, "n_heads 4 and num_attention_heads 8 contradict"),
        ("dbrx", "", (), {"attn_config": {"kv_n_heads": "two"}, "num_key_value_heads": None}, "attn_config.kv_n_heads"),
        ("dbrx", "", (), {"ffn_config": 7}, r"makes dimension 1 of all 4 experts"),
    ],
)
def test_experts_that_config_json_does_not_describe_are_refused(
    variant: str, name: str, shape: tuple[int, ...], config: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    src = edited(source(variant), tmp_path / "src", {name: torch.zeros(shape)} if name else {}, **config)
    with pytest.raises(CheckpointError, match=words):
        plan(src, embed_mult=2)


def test_a_number_inside_another_object_is_changed_there_and_nowhere_else(source: Sources) -> None:
    made = plan(source("dbrx"), embed_mult=2, ffn_mult=3, num_kv_heads=2)
    before = json.loads((source("dbrx") / "config.json").read_text())
    grown = before["ffn_config"] | {"hidden_size": 96, "ffn_hidden_size": 120}
    assert made.config == before | {"d_model": 96, "n_heads": 8, "ffn_config": grown}


def test_a_width_that_the_config_repeats_is_written_where_it_had_a_default(source: Sources, tmp_path: Path) -> None:
    ffn_config = json.loads((source("dbrx") / "config.json").read_text())["ffn_config"]
    del ffn_config["hidden_size"]
    made = plan(edited(source("dbrx"), tmp_path / "src", {}, ffn_config=ffn_config), embed_mult=2)
    assert made.config["ffn_config"]["hidden_size"] == 96


@pytest.mark.parametrize("variant", ["granitemoe-tied", "gpt_oss", "dbrx", "phimoe (fused experts)"])
def test_verify_passes(variant: str, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", GROWTHS["twice, uneven and noisy"])
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


def test_the_shape_that_a_number_of_parameters_leads_to_is_named_wherever_the_config_states_it(source: Sources) -> None:
    note = plan(source("dbrx"), target_params=400_000).notes[0]
    assert "d_model 108, ffn_config.ffn_hidden_size 128" in note
