"""Architectures that are refused by name, each with its reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families import FAMILIES, REFUSED, find_family

SUPPORTED = {family.model_type for family in FAMILIES.values()}


@pytest.mark.parametrize("model_type", REFUSED)
def test_an_architecture_is_refused_with_the_reason(model_type: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"{model_type!r} is not supported: {REFUSED[model_type]}")):
        find_family({"model_type": model_type})


def test_what_is_refused_is_real_and_not_supported() -> None:
    assert REFUSED.keys() <= set(CONFIG_MAPPING)
    assert not REFUSED.keys() & SUPPORTED


def test_an_architecture_that_is_named_instead_is_supported() -> None:
    named = {name for reason in REFUSED.values() for name in re.findall("'(.*)'", reason)}
    assert {"llama", "gemma3_text", "qwen2"} <= named <= SUPPORTED


def test_the_reason_comes_before_anything_else_that_is_wrong(tmp_path: Path) -> None:
    """A model of images keeps its numbers elsewhere; what it lacks is not the point."""
    (tmp_path / "config.json").write_text('{"model_type": "glm4v_moe", "text_config": {"hidden_size": 640}}')
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="reads more than text; of text alone, the nearest is 'glm4_moe'"):
        plan(tmp_path, embed_mult=2)
