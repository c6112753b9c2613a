"""Architectures that are refused by name, each with its reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, __version__

from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError
from hyperclone_cli.families import FAMILIES, REFUSED, find_family
from hyperclone_cli.verifier.self_check import randomise

BLT = ("encoder", "decoder", "global", "patcher")
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


@pytest.mark.skipif(__version__.startswith("5.23"), reason="that release refuses every config of such a model")
def test_a_draft_model_computes_nothing_by_itself() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 96}
    text: dict[str, Any] = {**sizes, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    text |= {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    config = AutoConfig.for_model("gemma4_assistant", text_config=text)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="inputs_embeds and shared_kv_states cannot be None"):
        model(torch.zeros(1, 4, dtype=torch.long))


def test_a_model_of_patches_has_four_widths_and_none_of_its_own() -> None:
    config = AutoConfig.for_model("blt")
    widths = {name: part.hidden_size for name in BLT if (part := getattr(config, f"{name}_config"))}
    assert len(set(widths.values())) > 1
    assert not hasattr(config, "hidden_size")


def test_an_encoder_with_a_causal_head_reads_later_tokens() -> None:
    """CPM-Ant's mask lets every token see all others."""
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "dim_head": 8, "dim_ff": 32, "num_hidden_layers": 1}
    config = AutoConfig.for_model("cpmant", **sizes, vocab_size=96, prompt_length=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model, seed=0)
    tokens = torch.arange(3, 11)[None]
    changed = tokens.clone()
    changed[0, -1] = 50
    with torch.no_grad():
        before, after = (model(ids, use_cache=False).logits[:, 0] for ids in (tokens, changed))
    assert not torch.allclose(before, after, atol=1e-4)


def test_hashed_attention_draws_random_rotations() -> None:
    """The same weights, the same text, and other numbers: there is no function to preserve."""
    config = AutoConfig.for_model(
        "reformer",
        is_decoder=True,
        attn_layers=["lsh"],
        hidden_size=32,
        num_attention_heads=2,
        attention_head_size=16,
        feed_forward_size=32,
        vocab_size=96,
        axial_pos_embds=False,
        max_position_embeddings=64,
        lsh_attn_chunk_length=8,
        num_buckets=4,
        is_training=False,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.arange(32)[None]
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(model(tokens, use_cache=False).logits)
    assert not torch.allclose(found[0], found[1], atol=1e-4)
