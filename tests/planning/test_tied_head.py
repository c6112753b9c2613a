"""Tied embeddings: kept, given up, or stored as two tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models

Sources = Callable[[str], Path]
DOUBLE = Request(embed_mult=2, ffn_mult=2)


def says_tied(clone: Path) -> bool:
    """What a clone's config.json says."""
    tied: bool = json.loads((clone / "config.json").read_text())["tie_word_embeddings"]
    return tied


@pytest.mark.parametrize("variant", ["gemma3-mqa", "qwen3", "opt-350m", "pythia-tied", "olmo-tied"])
def test_a_tie_can_be_given_up(variant: str, source: Sources, tmp_path: Path) -> None:
    plan = expand(source(variant), tmp_path / "clone", Request(embed_mult=3, tie_embeddings="untie"))
    assert says_tied(tmp_path / "clone") is False
    assert not plan.head.tied
    assert verify(tmp_path / "clone").passed


def test_a_tie_is_kept_where_transformers_zeroes_the_row_of_the_padding_token_as_it_loads(tmp_path: Path) -> None:
    """The row is stored, and a head of its own would have it. Without a padding token the tie can be given up."""
    untied = Request(embed_mult=3, tie_embeddings="untie")
    src = models.build("youtu", tmp_path / "src")
    assert not models.load(src).get_input_embeddings().weight[0].count_nonzero()
    with pytest.raises(RequestError, match="a head of its own: not in youtu, where transformers zeroes"):
        expand(src, tmp_path / "clone", untied)
    assert not (tmp_path / "clone").exists()
    config = json.loads((src / "config.json").read_text())
    (src / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    expand(src, tmp_path / "clone", untied)
    assert says_tied(tmp_path / "clone") is False
    assert verify(tmp_path / "clone").passed


def test_a_tied_head_that_is_stored_twice_is_written_once(tmp_path: Path) -> None:
    src = models.build("llama-gqa-tied", tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    plan = expand(src, tmp_path / "clone", DOUBLE)
    assert set(plan.dropped) == {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"}
    assert verify(tmp_path / "clone").passed


def test_a_tied_head_that_is_stored_with_other_numbers_is_a_head_of_its_own(tmp_path: Path) -> None:
    """Transformers uses the stored head then, whatever the config says."""
    src = models.build("llama-gqa-tied", tmp_path / "src")
    tensors = load_file(src / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    expand(src, tmp_path / "clone", DOUBLE)
    assert says_tied(tmp_path / "clone") is False
    assert verify(tmp_path / "clone").passed


@pytest.mark.parametrize("tie", ["keep", "untie"])
def test_logits_that_are_divided_by_the_width_need_no_factor(
    tie: Literal["keep", "untie"], source: Sources, tmp_path: Path
) -> None:
    made = expand(source("minicpm3"), tmp_path / "clone", Request(embed_mult=3, tie_embeddings=tie))
    assert made.head.factor == 1.0
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
