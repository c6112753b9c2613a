"""A source directory: which weights are read, under which names, and which files go along with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from hyperclone_cli.checkpoint.source import SIDE_FILES, matches_any
from hyperclone_cli.families import FAMILIES
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models

DOUBLE = Request(embed_mult=2, ffn_mult=2)


@pytest.mark.parametrize("model_type", dict.fromkeys(family.model_type for family in FAMILIES.values()))
def test_every_file_of_an_architectures_tokenizer_goes_along(model_type: str) -> None:
    name = TOKENIZER_MAPPING_NAMES.get(model_type)
    tokenizer = getattr(transformers, name or "PreTrainedTokenizerFast")
    assert [file for file in tokenizer.vocab_files_names.values() if not matches_any(file, SIDE_FILES)] == []


def test_the_single_file_is_read_where_there_is_an_index_too(tmp_path: Path) -> None:
    """As transformers does."""
    src = models.build("qwen3", tmp_path / "src", max_shard_size="60KB")
    other = models.build("qwen3", tmp_path / "other")
    tensors = {name: tensor * 1.5 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    expand(src, tmp_path / "clone", DOUBLE)
    assert verify(tmp_path / "clone").passed


@pytest.mark.parametrize("variant, prefix", [("opt-350m", "model."), ("pythia", "gpt_neox."), ("qwen3", "model.")])
def test_names_without_the_base_models_prefix_are_understood(variant: str, prefix: str, tmp_path: Path) -> None:
    src = models.build(variant, tmp_path / "src")
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(src / "model.safetensors").items()}
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    expand(src, tmp_path / "clone", DOUBLE)
    assert verify(tmp_path / "clone").passed
