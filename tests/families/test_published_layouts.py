"""Layouts of published checkpoints that stock transformers reads and does not write."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from hyperclone_cli.verifier import verify
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.growth_table import GROWTHS

PARTS = {"self_attn": (0, "mixer"), "lambda_1": (0, "attn_alpha"), "mlp": (1, "mixer"), "lambda_2": (1, "mlp_alpha")}


def test_dory_counts_attention_and_feed_forward_as_a_layer_each(source: Callable[[str], Path], tmp_path: Path) -> None:
    def split(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".layers." in name]:
            layer, part, inside = re.fullmatch(r"backbone\.layers\.(\d+)\.(\w+)(.*)", name).groups()  # type: ignore[union-attr]
            place, published = PARTS[part]
            tensors[f"backbone.layers.{2 * int(layer) + place}.{published}{inside}"] = tensors.pop(name)

    src = models.edited(source("dory"), tmp_path / "src", split)
    made = expand(src, tmp_path / "clone", GROWTHS["three times"])
    assert made.family.layout.name == "as published"
    models.assert_same_function(src, tmp_path / "clone")
    assert verify(tmp_path / "clone", weights_only=True).passed
