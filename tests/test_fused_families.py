"""Architectures that fuse or transpose their tensors: their blocks, their shapes on disk, and GPT-2's config."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from growths import GROWTHS
from hyperclone_cli.checkpoint.source import open_source
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.growth.request import Request
from hyperclone_cli.planning.planner import make_plan
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing import budget
from hyperclone_cli.writing.blocks import cut_blocks
from hyperclone_cli.writing.pipeline import expand
from models_fused import GPT

Sources = Callable[[str], Path]


@pytest.mark.parametrize("growth", ["three times", "half as wide again", "twice, uneven and noisy"])
def test_a_transposed_tensor_may_be_cut_into_blocks_anywhere(
    growth: str, source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expand(source("gpt2"), tmp_path / "whole", GROWTHS[growth])
    monkeypatch.setattr(budget, "LARGEST_BLOCK_BYTES", 5000)
    plan = expand(source("gpt2"), tmp_path / "cut", GROWTHS[growth])
    tensor = next(tensor for tensor in plan.tensors if tensor.source.transposed)
    assert len(cut_blocks(tensor, 5000)) > 3
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_shapes_are_those_on_disk(source: Sources) -> None:
    plan = make_plan(open_source(source("gpt2-untied-n_inner")), Request(embed_mult=2, ffn_mult=3))
    shapes = {tensor.name: tensor.shape for tensor in plan.tensors}
    assert shapes["transformer.h.0.attn.c_attn.weight"] == (96, 288)
    assert shapes["transformer.h.0.mlp.c_fc.weight"] == (96, 240)
    assert shapes["transformer.h.0.mlp.c_proj.weight"] == (240, 96)
    assert shapes["transformer.h.0.mlp.c_fc.bias"] == (240,)


def test_a_weight_that_is_not_transposed_is_refused_by_its_shape_on_disk(source: Sources, tmp_path: Path) -> None:
    src = models.edited(source("gpt2"), tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors["transformer.h.0.mlp.c_fc.weight"] = tensors["transformer.h.0.mlp.c_fc.weight"].T.contiguous()
    save_file(tensors, src / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"makes dimension 1 \(ffn\) 192, found shape \[192, 48\]"):
        expand(src, tmp_path / "clone", Request(embed_mult=2))


def assert_doubles(src: Path, clone: Path) -> dict[str, Any]:
    """Assert that twice the source is the same function; the clone's config."""
    expand(src, clone, GROWTHS["twice"])
    error = models.relative_error(models.logits(models.load(clone)), models.logits(models.load(src)))
    assert error <= 1e-5
    report = verify(clone)
    assert report.passed, report.failures
    config: dict[str, Any] = json.loads((clone / "config.json").read_text())
    return config


def test_a_number_may_go_by_another_name(source: Sources, tmp_path: Path) -> None:
    src = models.edited(source("gpt2"), tmp_path / "src", n_embd=None, hidden_size=48, n_head=4, num_attention_heads=4)
    config = assert_doubles(src, tmp_path / "clone")
    assert "n_embd" not in config
    assert [config[key] for key in ("hidden_size", "n_head", "num_attention_heads")] == [96, 8, 8]


def test_names_that_contradict_each_other_are_refused(source: Sources, tmp_path: Path) -> None:
    src = models.edited(source("gpt2"), tmp_path / "src", hidden_size=96)
    with pytest.raises(CheckpointError, match="n_embd 48 and hidden_size 96 contradict"):
        expand(src, tmp_path / "clone", GROWTHS["twice"])


def test_a_width_that_is_left_to_the_architecture_is_written_out(source: Sources, tmp_path: Path) -> None:
    assert json.loads((source("gpt2") / "config.json").read_text())["n_inner"] is None
    expand(source("gpt2"), tmp_path / "clone", Request(embed_mult=2))
    assert json.loads((tmp_path / "clone/config.json").read_text())["n_inner"] == 192


def test_the_file_of_gpt2_on_the_hub(source: Sources, tmp_path: Path) -> None:
    """Without the base model's prefix, and with the causal masks that old versions saved."""
    src = models.edited(source("gpt2"), tmp_path / "src")
    tensors = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(src / "model.safetensors").items()
    }
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64).tril() for layer in range(2)}
    save_file(tensors | masks, src / "model.safetensors", metadata={"format": "pt"})
    plan = expand(src, tmp_path / "clone", GROWTHS["twice"])
    assert set(plan.dropped) == set(masks)
    logits = models.logits(models.load(source("gpt2")))
    assert models.relative_error(models.logits(models.load(tmp_path / "clone")), logits) <= 1e-5


@pytest.mark.parametrize("variant", ["gpt_bigcode-mqa", "falcon-7b"])
def test_a_single_key_value_head_stays_single(variant: str, source: Sources, tmp_path: Path) -> None:
    before, after = make_plan(open_source(source(variant)), GROWTHS["twice"]).kv_cache_bytes()
    assert before == after
    with pytest.raises(RequestError, match="the number of key/value heads is no choice"):
        expand(source(variant), tmp_path / "clone", Request(embed_mult=2, num_kv_heads=2))


@pytest.mark.parametrize("variant", ["phi-gqa-tied-qk-norms", "phi3-longrope"])
def test_heads_fill_the_width_where_something_is_sized_by_it(variant: str, source: Sources) -> None:
    with pytest.raises(RequestError, match="hidden_size is heads × head size"):
        make_plan(open_source(source(variant)), Request(embed_mult=2, num_heads=4))
    with pytest.raises(RequestError, match="hidden_size is heads × head size"):
        make_plan(open_source(source(variant)), Request(embed_mult=1.125))


def test_long_rope_is_known_by_its_old_names(source: Sources, tmp_path: Path) -> None:
    rope = json.loads((source("phi3-longrope") / "config.json").read_text())["rope_parameters"]
    for name in ("type", "rope_type"):
        old = {key: rope[key] for key in ("short_factor", "long_factor")} | {name: "longrope"}
        src = models.edited(source("phi3-longrope"), tmp_path / name, rope_parameters=None, rope_scaling=old)
        assert make_plan(open_source(src), Request(embed_mult=2)).family.layout == "long rope"


def test_a_config_that_transformers_would_refuse_is_the_requests_fault(
    source: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES["phi3 (long rope)"]
    monkeypatch.setitem(FAMILIES, family.name, replace(family, heads_fill_embed=False))
    with pytest.raises(RequestError, match=r"transformers refuses the config: .*short_factor"):
        expand(source("phi3-longrope"), tmp_path / "clone", Request(embed_mult=2, num_heads=4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variant", ["codegen", "phi-gqa-tied-qk-norms", "gpt2", "falcon-40b"])
def test_the_cache_grows_as_transformers_fills_it(variant: str, source: Sources, tmp_path: Path) -> None:
    plan = expand(source(variant), tmp_path / "clone", GROWTHS["twice"])
    for path, planned in zip((source(variant), tmp_path / "clone"), plan.kv_cache_bytes(), strict=True):
        cache = models.load(path)(models.tokens(rows=1, length=10), use_cache=True).past_key_values
        assert sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) == 10 * planned


@pytest.mark.parametrize("variant", ["gpt2", "gptj", "falcon-40b", "phi3"])
def test_a_number_of_parameters_leads_to_the_closest_shape(variant: str, source: Sources, tmp_path: Path) -> None:
    expand(source(variant), tmp_path / "clone", Request(target_params="600K", multiple_of=8))
    assert abs(models.load(tmp_path / "clone").num_parameters() / 600_000 - 1) <= 0.05
    report = verify(tmp_path / "clone", weights_only=True)
    assert report.passed, report.failures


def test_bfloat16_halves_of_a_transposed_tensor_are_exact(tmp_path: Path) -> None:
    src = models.build(("gpt2", GPT), tmp_path / "src", torch.bfloat16)
    plan = expand(src, tmp_path / "clone", GROWTHS["twice"])
    assert plan.rounded() == []
    weight = load_file(src / "model.safetensors")["transformer.h.1.mlp.c_proj.weight"]
    grown = load_file(tmp_path / "clone/model.safetensors")["transformer.h.1.mlp.c_proj.weight"]
    assert torch.equal(grown, torch.cat([torch.cat([weight, 0 * weight]), torch.cat([weight / 2] * 2)], 1))
