"""How many files a clone is written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.synthetic import hollow
from hyperclone_cli import plan


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 0.34 GB, all holes, whose largest tensor is a fifth of it."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32_000, "hidden_size": 1024,
        "intermediate_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 16, "tie_word_embeddings": False,
    }  # fmt: skip
    names = {f"self_attn.{letter}_proj": (1024, 1024) for letter in "qkvo"}
    names |= {"mlp.gate_proj": (4096, 1024), "mlp.up_proj": (4096, 1024), "mlp.down_proj": (1024, 4096)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32_000, 1024)}
    for layer in range(6):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in names.items()}
        shapes |= {f"model.layers.{layer}.{norm}_layernorm.weight": (1024,) for norm in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (1024,), "lm_head.weight": (32_000, 1024)}
    return hollow(tmp_path_factory.mktemp("shards") / "source", config, shapes, shards=1)


@pytest.mark.parametrize(
    "options, files",
    [
        ({}, 1),
        ({"embed_mult": 2, "ffn_mult": 2}, 4),
        ({"embed_mult": 2, "ffn_mult": 2, "max_shard_size": "50GB"}, 1),
        ({"max_shard_size": "100MB"}, 4),
    ],
)
def test_a_clone_over_a_gigabyte_has_four_files_or_more_unless_a_size_is_given(
    options: dict[str, Any], files: int, source: Path
) -> None:
    found = plan(source, **options)
    assert len(found.shards) >= files if files > 1 else len(found.shards) == 1
    assert max(sum(found.named[name].nbytes for name in names) for names in found.shards.values()) <= 1.2e9
    assert sorted(name for names in found.shards.values() for name in names) == sorted(found.named)
