"""Tensors of a checkpoint that its model does not use: they are left out of the clone, and the plan names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli import plan
from hyperclone_cli.growth.request import Request
from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.growth_table import GROWTHS

Sources = Callable[[str], Path]


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


def test_a_head_that_predicts_further_tokens_is_left_out(source: Sources, tmp_path: Path) -> None:
    src = models.edited(
        source("qwen3_5"), tmp_path / "src", lambda tensors: tensors.update({"mtp.fc.weight": torch.ones(4)})
    )
    assert list(expand(src, tmp_path / "clone", Request(embed_mult=2)).dropped) == ["mtp.fc.weight"]
    models.load(tmp_path / "clone")


@pytest.mark.parametrize("digits", [3, 30, 5000])
def test_a_layer_of_whichever_number_beyond_those_of_the_config_is_left_out(
    digits: int, source: Sources, tmp_path: Path
) -> None:
    name = f"model.layers.{'9' * digits}.mlp.up_proj.weight"
    src = models.edited(source("llama-mha"), tmp_path / "src", lambda tensors: tensors.update({name: torch.ones(4)}))
    assert list(plan(src, embed_mult=2).dropped) == [name]


def test_keys_and_values_of_layers_that_share_those_of_others_are_left_out(source: Sources, tmp_path: Path) -> None:
    """Checkpoints on the Hub have them; transformers does not load them."""
    unused = {
        f"model.layers.{layer}.self_attn.{name}.weight": torch.ones(shape)
        for layer, size in ((2, 16), (3, 24))
        for name, shape in (("k_proj", (2 * size, 48)), ("v_proj", (2 * size, 48)), ("k_norm", (size,)))
    }
    src = models.edited(source("gemma4-shared-kv"), tmp_path / "src", lambda tensors: tensors.update(unused))
    made = expand(src, tmp_path / "clone", GROWTHS["twice"])
    assert made.dropped.keys() == unused.keys()
    assert not unused.keys() & load_file(tmp_path / "clone/model.safetensors").keys()
    models.assert_same_function(source("gemma4-shared-kv"), tmp_path / "clone")


def test_the_causal_masks_of_gpt2_on_the_hub_are_left_out(source: Sources, tmp_path: Path) -> None:
    """Without the base model's prefix, and with the causal masks that old versions saved."""
    src = models.edited(source("gpt2"), tmp_path / "src")
    tensors = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(src / "model.safetensors").items()
    }
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64).tril() for layer in range(2)}
    save_file(tensors | masks, src / "model.safetensors", metadata={"format": "pt"})
    plan = expand(src, tmp_path / "clone", GROWTHS["twice"])
    assert set(plan.dropped) == set(masks)
    assert models.logit_error(source("gpt2"), tmp_path / "clone") <= 1e-5
