"""Architectures with laws of their own, such as paired heads or ALiBi."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.writing.pipeline import expand

Sources = Callable[[str], Path]


@pytest.mark.parametrize("variant, heads", [("bloom", "n_head"), ("mpt", "n_heads")])
def test_alibi_keeps_the_number_of_heads(variant: str, heads: str, source: Sources) -> None:
    made = plan(source(variant), embed_mult=3, ffn_mult=3)
    assert made.config[heads] == 4
    before, after = made.kv_cache_bytes()
    assert after == 3 * before
    with pytest.raises(RequestError, match="heads grow in size alone"):
        plan(source(variant), embed_mult=2, ffn_mult=2, num_heads=8)
    larger = plan(source(variant), target_params="1M")
    assert larger.config[heads] == 4
    assert larger.growths["embed"].target % larger.growths["embed"].source == 0


@pytest.mark.parametrize("variant, scale", [("mpt", 12**-0.5), ("mpt-scaled", 0.4)])
def test_larger_heads_are_made_up_for_where_the_config_scales_scores(
    variant: str, scale: float, source: Sources
) -> None:
    made = plan(source(variant), embed_mult=4, ffn_mult=4)
    assert made.config["attn_config"]["softmax_scale"] == scale / 4
    assert made.rounded() == []


def test_key_value_heads_stay_in_two_halves(source: Sources) -> None:
    assert plan(source("diffllama"), embed_mult=2).config["num_key_value_heads"] == 8
    with pytest.raises(RequestError, match="the number of key/value heads is even"):
        plan(source("diffllama-gqa-tied"), embed_mult=1.75, num_heads=14, num_kv_heads=7)


def test_every_new_head_has_a_norm_of_its_own(source: Sources, tmp_path: Path) -> None:
    expand(source("stablelm-12b"), tmp_path / "clone", Request(embed_mult=2, num_kv_heads=2))
    norms = "model.layers.1.self_attn.q_layernorm.norms.{}.weight"
    before, after = (load_file(path / "model.safetensors") for path in (source("stablelm-12b"), tmp_path / "clone"))
    names = [norms.format(head) for head in range(8)]
    assert sorted(name for name in after if "layers.1.self_attn.q_layernorm" in name) == names
    for head, copied in enumerate((0, 1, 0, 1, 2, 3, 2, 3)):  # two key/value heads, whose groups grow inside them
        assert torch.equal(after[norms.format(head)], before[norms.format(copied)])


@pytest.mark.parametrize("lost, words", [("q_layernorm.norms.3", "missing tensors: .*norms.3"), ("", "too many")])
def test_norms_of_other_heads_than_there_are_are_refused(
    lost: str, words: str, source: Sources, tmp_path: Path
) -> None:
    shutil.copytree(source("stablelm-12b"), tmp_path / "src")
    tensors = load_file(source("stablelm-12b") / "model.safetensors")
    norm = "model.layers.1.self_attn.q_layernorm.norms.4.weight"
    tensors = {name: tensors[name] for name in tensors if not lost or lost not in name}
    save_file(tensors if lost else tensors | {norm: torch.ones(12)}, tmp_path / "src/model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        plan(tmp_path / "src", embed_mult=2)


@pytest.mark.parametrize("multiple", [0, None, "4"])
def test_a_feed_forward_width_must_be_a_multiple(multiple: Any, source: Sources, tmp_path: Path) -> None:
    shutil.copytree(source("gpt_neox_japanese-untied-twofold"), tmp_path / "src")
    config = json.loads((tmp_path / "src/config.json").read_text()) | {"intermediate_multiple_size": multiple}
    (tmp_path / "src/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="intermediate_multiple_size should be a number above 0"):
        plan(tmp_path / "src", embed_mult=2)
