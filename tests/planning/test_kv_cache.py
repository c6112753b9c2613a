"""The bytes of the KV cache for one token, before and after, are those that transformers fills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperclone_cli import plan
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.growth_table import GROWTHS

Sources = Callable[[str], Path]


@pytest.mark.parametrize("variant", ["codegen", "phi-gqa-tied-qk-norms", "gpt2", "falcon-40b"])
def test_the_cache_grows_as_transformers_fills_it(variant: str, source: Sources, tmp_path: Path) -> None:
    plan = expand(source(variant), tmp_path / "clone", GROWTHS["twice"])
    for path, planned in zip((source(variant), tmp_path / "clone"), plan.kv_cache_bytes(), strict=True):
        cache = models.load(path)(models.tokens(rows=1, length=10), use_cache=True).past_key_values
        assert sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) == 10 * planned


@pytest.mark.parametrize("variant", ["lfm2", "jamba", "falcon_h1", "qwen3_next", "mamba"])
def test_only_attention_layers_are_counted_in_the_cache(variant: str, source: Sources) -> None:
    before, after = plan(source(variant), embed_mult=2).kv_cache_bytes()
    cache = models.load(source(variant))(models.tokens(rows=1, length=10), use_cache=True).get("past_key_values")
    layers = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None] if cache else []
    assert before * 10 == sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert after == 2 * before


@pytest.mark.parametrize("variant, growth", [("deepseek_v3", 1), ("ernie4_5_moe", 2), ("ernie4_5_moe-untied", 1)])
def test_a_cache_of_latent_vectors_or_of_a_single_head_does_not_grow(
    variant: str, growth: int, source: Sources
) -> None:
    """DeepSeek caches one latent vector; a single key/value head stays single."""
    before, after = plan(source(variant), embed_mult=2).kv_cache_bytes()
    assert after == growth * before


def test_the_cache_holds_what_each_layer_keeps(source: Sources) -> None:
    def tokens(variant: str) -> tuple[int, int]:
        before, after = plan(source(variant), embed_mult=2, ffn_mult=2).kv_cache_bytes()
        return before // 4, after // 4  # float32

    assert tokens("gemma4") == (2 * 2 * 2 * (16 + 24), 2 * 2 * 4 * (16 + 24))
    assert tokens("gemma4-shared-kv") == (2 * 2 * (16 + 24), 2 * 4 * (16 + 24))
    assert tokens("gemma4-keys-are-values") == (2 * 2 * (2 * 16 + 24), 2 * 2 * (4 * 16 + 24))
