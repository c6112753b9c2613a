"""Llama's further relations: holes, spellings, experts with a width of their own, and the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import models
from hyperclone_cli import plan
from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand

Sources = Callable[[str], Path]


@pytest.mark.parametrize("tie", ["keep", "untie"])
def test_logits_that_are_divided_by_the_width_need_no_factor(
    tie: Literal["keep", "untie"], source: Sources, tmp_path: Path
) -> None:
    made = expand(source("minicpm3"), tmp_path / "clone", Request(embed_mult=3, tie_embeddings=tie))
    assert made.head.factor == 1.0
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


@pytest.mark.parametrize(
    "variant, lost, config, words",
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w3.weight", {}, "missing tensors: model.layers.1."),
        ("mixtral", "", {"num_local_experts": 3}, "of 3 experts; too many tensors: .*experts.3"),
        ("mixtral", "", {"num_local_experts": 5}, "of 5 experts; missing tensors: .*experts.4"),
        ("qwen2_moe", "model.layers.0.mlp.up_proj.weight", {}, "missing tensors: model.layers.0.mlp.up_proj.weight"),
        ("qwen2_moe", "model.layers.1.mlp.gate.weight", {}, "missing tensors: model.layers.1.mlp.gate.weight"),
        ("deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias", {}, "missing tensors: .*correction_bias"),
        ("apertus", "model.layers.0.mlp.act_fn.beta", {}, "missing tensors: model.layers.0.mlp.act_fn.beta"),
        ("cohere-qk-norm", "model.layers.1.self_attn.k_norm.weight", {}, "missing tensors: .*k_norm.weight"),
    ],
)
def test_a_checkpoint_with_holes_is_refused(
    variant: str, lost: str, config: dict[str, Any], words: str, source: Sources, tmp_path: Path
) -> None:
    src = models.edited(source(variant), tmp_path / "src", lambda tensors: tensors.pop(lost, None), **config)
    with pytest.raises(CheckpointError, match=words):
        plan(src, embed_mult=2)


@pytest.mark.parametrize("spelling", ["num_experts", "num_local_experts"])
def test_a_key_is_read_and_kept_as_the_file_spells_it(spelling: str, source: Sources, tmp_path: Path) -> None:
    """Qwen 3's mixtures on the Hub say num_experts, transformers now writes num_local_experts."""
    src = models.edited(source("qwen3_moe"), tmp_path / "src")
    text = (src / "config.json").read_text()
    (src / "config.json").write_text(text.replace('"num_local_experts"', f'"{spelling}"'))
    made = expand(src, tmp_path / "clone", Request(embed_mult=2))
    assert [key for key in made.config if key in ("num_experts", "num_local_experts")] == [spelling]
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


@pytest.mark.parametrize("variant, place", [("deepseek_v3", "layers.2"), ("ernie4_5_moe", "mtp_block.0")])
def test_layers_that_predict_further_tokens_are_left_out(
    variant: str, place: str, source: Sources, tmp_path: Path
) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("eh_proj.weight", "mlp.experts.0.up_proj.weight", "shared_head.norm.weight"):
            tensors[f"model.{place}.{name}"] = torch.ones(4)

    src = models.edited(source(variant), tmp_path / "src", add, num_nextn_predict_layers=1)
    made = expand(src, tmp_path / "clone", Request(embed_mult=2))
    assert len(made.dropped) == 3
    assert made.config["num_nextn_predict_layers"] == 0
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


def test_experts_have_a_multiplier_of_their_own(source: Sources, tmp_path: Path) -> None:
    made = expand(source("qwen2_moe"), tmp_path / "clone", Request(ffn_mult=2, moe_ffn_mult=1.5))
    widths = {key: made.config[key] for key in made.config if key.endswith("intermediate_size")}
    assert widths == {
        "intermediate_size": 160,
        "moe_intermediate_size": 60,
        "shared_expert_intermediate_size": 84,
    }
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    with pytest.raises(RequestError, match="no experts with a width of their own"):
        plan(source("mixtral"), moe_ffn_mult=2)
    with pytest.raises(RequestError, match="--target-params chooses"):
        plan(source("qwen2_moe"), moe_ffn_mult=2, target_params="1M")


def test_a_number_of_parameters_leads_to_a_mixture_of_that_size(source: Sources, tmp_path: Path) -> None:
    made = expand(source("qwen3_moe"), tmp_path / "clone", Request(target_params=400_000, multiple_of=8))
    assert abs(made.parameters()[1].total() / 400_000 - 1) <= 0.02


@pytest.mark.parametrize("variant, growth", [("deepseek_v3", 1), ("ernie4_5_moe", 2), ("ernie4_5_moe-untied", 1)])
def test_the_cache_grows_like_the_keys_that_it_holds(variant: str, growth: int, source: Sources) -> None:
    """DeepSeek caches one latent vector; a single key/value head stays single."""
    before, after = plan(source(variant), embed_mult=2).kv_cache_bytes()
    assert after == growth * before
