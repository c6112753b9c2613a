"""Heads that have a norm each, stored as a tensor each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.writing.pipeline import expand

Sources = Callable[[str], Path]


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
